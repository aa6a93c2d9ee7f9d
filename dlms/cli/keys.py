"""Secrets and keys on a command line. Never shown again.

A secret is given as it is, from a file (`@FILE`), or from the environment; a key of an elliptic curve in a PEM file.
Arguments are seen by every user of the machine, so files and the environment are the ways for real keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

SECRET_BYTES_MAX = 4096


def read_secret(text: str) -> bytes:
    """What `TEXT` or `@FILE` gives; one line end at the end of a file is not part of it. Raises `click.UsageError`."""
    if not text.startswith("@"):
        return text.encode()
    try:
        with Path(text[1:]).open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"{text}: {error.strerror}") from error
    if len(content) > SECRET_BYTES_MAX:
        raise click.UsageError(f"{text}: longer than {SECRET_BYTES_MAX} bytes")
    return content.removesuffix(b"\n").removesuffix(b"\r")


def read_hex(name: str, text: str | None) -> bytes:
    """A key in hexadecimal, from the argument or a file; empty when there is none. Raises `click.UsageError`, which
    does not repeat the key."""
    if text is None:
        return b""
    try:
        return bytes.fromhex(read_secret(text).decode("ascii"))
    except ValueError as error:
        raise click.UsageError(f"--{name} is not hexadecimal") from error


def read_private(name: str, path: Path | None) -> EllipticCurvePrivateKey | None:
    """The private key of an elliptic curve in a PEM file. Raises `click.UsageError`."""
    if path is None:
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_pem(name, path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise click.UsageError(f"--{name} {path} is no private key without a passphrase, in PEM") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise click.UsageError(f"--{name} {path} is no key of an elliptic curve")
    return key


def read_public(name: str, path: Path | None) -> EllipticCurvePublicKey | None:
    """The public key of an elliptic curve in a PEM file. Raises `click.UsageError`."""
    if path is None:
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_pem(name, path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise click.UsageError(f"--{name} {path} is no public key, in PEM") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise click.UsageError(f"--{name} {path} is no key of an elliptic curve")
    return key


def _pem(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SECRET_BYTES_MAX)
    except OSError as error:
        raise click.UsageError(f"--{name} {path}: {error.strerror}") from error
