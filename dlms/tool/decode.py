"""`dlms decode`: octets from an argument, a file or stdin, as a readable tree."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dlms.errors import DlmsError
from dlms.explain.apdus import Keys
from dlms.explain.node import Node
from dlms.explain.streams import explain_bytes, explain_trace
from dlms.tool.secrets import read_hex
from dlms.tool.show import echo_json
from dlms.trace import FILE_BYTES_MAX, HEADER, parse_trace

_HEX_NOISE = str.maketrans("", "", " \t\r\n:-,")


def _title(name: str, text: str | None) -> bytes | None:
    return read_hex(name, text) or None


@click.command(short_help="Explain frames, APDUs and values.")
@click.argument("what", metavar="HEX|FILE|-")
@click.option("--ek", envvar="DLMS_EK", help="encryption key, HEX or @FILE; also $DLMS_EK")
@click.option("--ak", envvar="DLMS_AK", help="authentication key, HEX or @FILE; also $DLMS_AK")
@click.option("--dedicated-key", help="HEX or @FILE, where no AARQ in the same input brings it")
@click.option("--system-title", help="the client's, where no AARQ in the same input says it")
@click.option("--server-title", help="the meter's, where no AARE in the same input says it")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def decode(
    what: str,
    ek: str | None,
    ak: str | None,
    dedicated_key: str | None,
    system_title: str | None,
    server_title: str | None,
    as_json: bool,
) -> None:
    """Explain frames, APDUs and values: HDLC, wrapper or bare, in hexadecimal or from a file, or a whole trace."""
    keys = Keys(
        read_hex("ek", ek),
        read_hex("ak", ak),
        read_hex("dedicated-key", dedicated_key),
        _title("system-title", system_title),
        _title("server-title", server_title),
    )
    nodes = _explain(what, keys)
    if as_json:
        echo_json([node.as_json() for node in nodes])
    else:
        for node in nodes:
            click.echo("\n".join(node.lines()))


def _explain(what: str, keys: Keys) -> list[Node]:
    content = _content(what)
    text = content.decode("latin-1")
    if text.startswith(HEADER):
        try:
            return explain_trace(parse_trace(text), keys)
        except DlmsError as error:
            raise click.UsageError(str(error)) from error
    octets = _hex(text)
    if octets is None and content == what.encode():
        raise click.UsageError(f"{what[:40]!r} is neither hexadecimal nor a file")
    return explain_bytes(content if octets is None else octets, keys)


def _content(what: str) -> bytes:
    if what == "-":
        return sys.stdin.buffer.read(FILE_BYTES_MAX)
    try:
        with Path(what).open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except (OSError, ValueError):
        return what.encode()


def _hex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text.translate(_HEX_NOISE))
    except ValueError:
        return None
