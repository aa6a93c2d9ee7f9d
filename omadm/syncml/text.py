"""Base64 and numbers in character data: read liberally, written canonically."""

from __future__ import annotations

import base64
import binascii
import re

from omadm.syncml.element import Element
from omadm.syncml.errors import SyncmlError

DIGITS_MAX = 10  # 32 bits
# All but Char of XML 1.0, named one by one: the complement of Char takes ten times as long to compile.
NO_XML_CHAR = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes | None:
    """Decode base64, ignoring white space; None when it is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def repeatable(text: str) -> bool:
    """Whether both encodings can carry a text that a peer sent, in an answer that refers to it."""
    return NO_XML_CHAR.search(text) is None


def integer(element: Element | None, what: str, where: str) -> int | None:
    """A decimal number of at most 32 bits; `None` for a missing or empty element. Raises `SyncmlError`."""
    if element is None:
        return None
    text = element.text().strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        raise SyncmlError(what, f"{where}/{element.name}", f"{text[:20]!r} is not a number")
    return int(text)
