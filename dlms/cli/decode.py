"""`dlms decode`: octets from an argument, a file or stdin, as a readable tree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlms.cli.keys import read_hex, read_private, read_public
from dlms.cli.show import echo_json
from dlms.errors import DlmsError
from dlms.explain.apdus import Keys
from dlms.explain.node import Node
from dlms.explain.streams import explain_bytes, explain_trace
from dlms.link.trace import FILE_BYTES_MAX, HEADER, parse_trace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_PEM = click.Path(path_type=Path)
_HEX_NOISE = str.maketrans("", "", " \t\r\n:-,")


def _title(name: str, text: str | None) -> bytes | None:
    return read_hex(name, text) or None


def _publics(name: str, paths: tuple[Path, ...]) -> tuple[EllipticCurvePublicKey, ...]:
    return tuple([key for path in paths if (key := read_public(name, path))])


@click.command()
@click.argument("what", metavar="HEX|FILE|-")
@click.option("--ek", envvar="DLMS_EK", help="encryption key, HEX or @FILE; also $DLMS_EK")
@click.option("--ak", envvar="DLMS_AK", help="authentication key, HEX or @FILE; also $DLMS_AK")
@click.option("--dedicated-key", help="HEX or @FILE, where no AARQ in the same input brings it")
@click.option("--system-title", help="the client's, where no AARQ in the same input says it")
@click.option("--server-title", help="the meter's, where no AARE in the same input says it")
@click.option("--broadcast-key", envvar="DLMS_BROADCAST_KEY", help="HEX or @FILE; also $DLMS_BROADCAST_KEY")
@click.option("--master-key", envvar="DLMS_MASTER_KEY", help="HEX or @FILE; also $DLMS_MASTER_KEY")
@click.option("--agreement-key", type=_PEM, multiple=True, help="a private key agreement key of either side, PEM")
@click.option("--peer-agreement-key", type=_PEM, multiple=True, help="a public key agreement key, PEM")
@click.option("--peer-key", type=_PEM, multiple=True, help="a public signing key, PEM: says whose signature is good")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def decode(
    what: str,
    ek: str | None,
    ak: str | None,
    dedicated_key: str | None,
    system_title: str | None,
    server_title: str | None,
    broadcast_key: str | None,
    master_key: str | None,
    agreement_key: tuple[Path, ...],
    peer_agreement_key: tuple[Path, ...],
    peer_key: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Explain frames, APDUs and values: HDLC, wrapper or bare, in hexadecimal or from a file, or a whole trace."""
    keys = Keys(
        read_hex("ek", ek),
        read_hex("ak", ak),
        read_hex("dedicated-key", dedicated_key),
        _title("system-title", system_title),
        _title("server-title", server_title),
        read_hex("broadcast-key", broadcast_key),
        read_hex("master-key", master_key),
        tuple([key for path in agreement_key if (key := read_private("agreement-key", path))]),
        _publics("peer-agreement-key", peer_agreement_key),
        _publics("peer-key", peer_key),
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
