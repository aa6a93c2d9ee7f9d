"""What an address of a server or of a device must be: a URL that every program reads alike. Sans-IO.

A space or a control character is dropped by one program and cut off at by another, and a fragment is never sent: who
writes one means something else than what would be called.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit


class AddressError(ValueError):
    """A text that is no usable address. The message says what is wrong, and does not repeat the address, which can
    carry a token."""


def check_address(text: str, schemes: Sequence[str] = ("https",), *, user: bool = True, ascii_max: int = 0) -> None:
    """Check that this is the absolute URL of a host, without spaces, control characters and a fragment.

    Without `schemes` any scheme will do; without `user` it must not name one; with `ascii_max` it has so many
    characters at most, all of ASCII. Raises `AddressError`.
    """
    if not text:
        raise AddressError("is empty")
    if " " in text:
        raise AddressError("holds a space")
    if not text.isprintable():
        raise AddressError("holds a control character")
    if "#" in text:
        raise AddressError("has a fragment (#)")
    try:
        parts = urlsplit(text)
        usable = bool(parts.scheme) and bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # brackets that do not close, a port that is no number or above 65535
        raise AddressError("is no URL with a host and a port that exist") from error
    if schemes and parts.scheme not in schemes:
        raise AddressError(f"is no {' or '.join(schemes)} URL")
    if not usable:
        raise AddressError("is no URL with a host and a port that exist")
    if not user and parts.username is not None:
        raise AddressError("names a user")
    if ascii_max and not text.isascii():
        raise AddressError("holds a character that is not ASCII")
    if 0 < ascii_max < len(text):
        raise AddressError(f"has more than {ascii_max} characters")
