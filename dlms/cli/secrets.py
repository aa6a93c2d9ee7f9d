"""Secrets on a command line: as they are, from a file (`@FILE`), or from the environment. Never shown again.

Arguments are seen by every user of the machine, so `@FILE` and the environment are the ways for real keys.
"""

from __future__ import annotations

from pathlib import Path

import click

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
