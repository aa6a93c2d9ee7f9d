"""The passphrase of an encrypted key: from a file, the environment or a prompt. Never from the command line, which
every user of the machine can read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from updateagent.errors import REQUEST, RequestError

VARIABLE = "DCU_PACK_PASSPHRASE"
PASSPHRASE_BYTES_MAX = 1023  # what OpenSSL's own programs take
_META = f"{__name__}.file"


def _remember(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    context.meta[_META] = value


option = click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_remember,
    expose_value=False,
    help=f"Its first line is the passphrase of an encrypted key. Else {VARIABLE}, or a prompt.",
)
"""For every command that signs."""


def passphrase(key: Path, *, new: bool = False) -> bytes:
    """The passphrase of the key in this file, which is about to be made if `new`. Raises `RequestError`."""
    context = click.get_current_context(silent=True)
    file: Path | None = None if context is None else context.meta.get(_META)
    said = os.environb.get(VARIABLE.encode())
    if file is not None:
        try:
            with file.open("rb") as opened:
                said = opened.readline(PASSPHRASE_BYTES_MAX + 2).rstrip(b"\r\n")
        except OSError as error:
            raise RequestError(REQUEST, f"{file}: {error.strerror or error}") from error
    elif said is None and asks():
        said = click.prompt(f"Passphrase of {key}", hide_input=True, err=True, confirmation_prompt=new).encode()
    if said is None:
        raise RequestError(
            REQUEST, f"{key}: an encrypted key needs --passphrase-file, {VARIABLE}, or a terminal to ask at"
        )
    if not 0 < len(said) <= PASSPHRASE_BYTES_MAX:
        raise RequestError(REQUEST, f"{key}: a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes")
    return said


def asks() -> bool:
    """Whether somebody is there to ask."""
    return sys.stdin.isatty()
