"""The commands that change a meter: set, action, image."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import click

from dlms import axdr
from dlms.axdr import Data
from dlms.cli.connect import EXIT_REFUSED, Connection, connection_options, exits, json_option, open_meter, reference
from dlms.cli.keys import read_hex
from dlms.cli.show import echo_json, plain, value_text
from dlms.client.meter import Meter
from dlms.client.reading import ItemFailed
from dlms.cosem.obis import MethodRef
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError
from dlms.xdlms.apdu.common import AccessError

IMAGE_BYTES_MAX = 64 << 20
_TYPED = re.compile(r"[a-z]+\d*=.*|null", re.DOTALL)  # a wrong TYPE is told, not written as text


_INTEGERS = axdr.tags_by_name(axdr.INTEGER_TAGS)
_FLOATS = axdr.tags_by_name(axdr.FLOAT_TAGS)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _moment(text: str) -> Data:
    return axdr.octets(CosemDateTime.from_datetime(datetime.fromisoformat(text)).emit())


_OTHERS: dict[str, Callable[[str], Data]] = {
    "null": lambda _text: axdr.null(),
    "bool": lambda text: axdr.boolean(_BOOLEANS[text.lower()]),
    "oct": lambda text: axdr.octets(bytes.fromhex(text)),
    "str": axdr.visible,
    "utf8": axdr.utf8,
    "bits": axdr.bits,
    "dt": _moment,
    "axdr": lambda text: axdr.decode(bytes.fromhex(text)),
}
TYPES = (*_OTHERS, *_INTEGERS, *_FLOATS)


def parse_value(text: str) -> Data:
    """`TYPE=VALUE` as a value. `oct` and `axdr` (a whole encoded value) are hexadecimal, `dt` is ISO 8601 and becomes
    the octet-string that clocks take. Raises `LocalError`, `DecodeError`."""
    kind, equals, rest = text.partition("=")
    if not equals and kind != "null":
        raise LocalError(f"{text!r}: write TYPE=VALUE, with TYPE one of {', '.join(TYPES)}")
    try:
        if kind in _INTEGERS:
            return Data(_INTEGERS[kind], int(rest, 0))
        if kind in _FLOATS:
            return Data(_FLOATS[kind], float(rest))
        maker = _OTHERS.get(kind)
        if maker is None:
            raise LocalError(f"{kind!r} is not a type: use {', '.join(TYPES)}")
        return maker(rest)
    except (ValueError, KeyError) as error:
        raise LocalError(f"{rest!r} is no value of type {kind}") from error


def readings_of(text: str) -> list[object]:
    """What a value on the command line can mean, best first: TYPE=VALUE, JSON, or text for the declared type.

    Raises `DlmsError` for a VALUE that is none of its TYPE.
    """
    if _TYPED.fullmatch(text):
        return [parse_value(text)]
    try:
        return [_with_types(json.loads(text, parse_float=Decimal)), text]
    except ValueError:
        return [text]


def _with_types(value: object) -> object:
    """JSON in which a string may be TYPE=VALUE, for members whose type is a choice."""
    if isinstance(value, str) and value.partition("=")[0] in TYPES and value != "null":
        return parse_value(value)
    if isinstance(value, list):
        return [_with_types(member) for member in value]
    if isinstance(value, dict):
        return {name: _with_types(member) for name, member in value.items()}
    return value


def _first_that_fits(values: list[object], use: Callable[[object], object]) -> object:
    """Use the value in the last reading that fits, so that plain text goes before JSON.

    Raises the `LocalError` about the best reading when none fits; nothing was sent then.
    """
    failure = LocalError("no value")
    for value in reversed(values):
        try:
            return use(value)
        except LocalError as error:
            failure = error
    raise failure


@click.command("set")
@click.argument("item", metavar="CODE|CLASS/CODE/ATTRIBUTE")
@click.argument("value", metavar="VALUE|TYPE=VALUE")
@json_option
@connection_options
def set_value(connection: Connection, item: str, value: str, as_json: bool) -> None:
    """Write one attribute.

    VALUE is written in the attribute's declared type, a number in the attribute's unit, structures and arrays as JSON
    with the names that `read` shows, octets in hexadecimal. TYPE=VALUE says the type: u16=900, oct=00ff,
    dt=2026-03-01T00:00:00Z, axdr= and a whole encoded value.

    \b
    dlms set 8/0.0.1.0.0.255/2 2026-03-01T00:00:00+01:00
    dlms set 1/0.0.96.1.0.255/2 oct=30313233
    dlms set 22/0.0.15.0.0.255/4 '[{"time": "00:00:00", "date": "****-**-01"}]'
    """
    with exits():
        wanted, values = reference(item), readings_of(value)
        error: str | None = None
        with open_meter(connection) as meter:
            ref = meter.ref(wanted)
            try:
                _first_that_fits(values, lambda each: meter.set(ref, each))
            except ItemFailed as failed:
                error = failed.code
    if as_json:
        echo_json({"obis": str(ref.obis), "class_id": ref.class_id, "attribute": ref.attribute, "error": error})
    else:
        click.echo(f"{ref}  {error or 'written'}")
    if error:
        raise SystemExit(EXIT_REFUSED)


@click.command("action")
@click.argument("method", metavar="CLASS/CODE/METHOD")
@click.argument("value", metavar="[VALUE|TYPE=VALUE]", required=False)
@json_option
@connection_options
def action(connection: Connection, method: str, value: str | None, as_json: bool) -> None:
    """Call one method; what it gives back is shown. VALUE as for `set`.

    \b
    dlms action 70/0.0.96.3.10.255/1             disconnect the customer
    dlms action 9/0.0.10.0.106.255/1 2           run script 2
    dlms action 8/0.0.1.0.0.255/6 -30            move the clock back by 30 seconds
    """
    with exits():
        ref = MethodRef.parse(method)
        values: list[object] = [None] if value is None else readings_of(value)
        error: str | None = None
        returned: object = None
        with open_meter(connection) as meter:
            try:
                returned = _first_that_fits(values, lambda each: meter.action(ref, each))
            except ItemFailed as failed:
                error = failed.code
    told = returned.text if isinstance(returned, AccessError) else plain(returned)
    if as_json:
        found = {"obis": str(ref.obis), "class_id": ref.class_id, "method": ref.method}
        echo_json({**found, "returned": told, "error": error})
    else:
        click.echo(f"{ref}  {error or 'done'}" + ("" if returned is None else f"  {value_text(returned)}"))
    if error:
        raise SystemExit(EXIT_REFUSED)


@click.command("image")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--identifier", required=True, help="image identifier as the maker tells it, TEXT or 0xHEX")
@click.option("--signature", help="HEX; the meter must tell the same of its image before it is activated")
@click.option("--activate", is_flag=True, help="switch to the image once the meter has verified it")
@click.option("--resume", is_flag=True, help="go on with a transfer of the same image that was left unfinished")
@connection_options
def image(
    connection: Connection, file: Path, identifier: str, signature: str | None, activate: bool, resume: bool
) -> None:
    """Bring the image in FILE to a meter, have it verified, and with --activate switch to it."""
    with exits():
        content = _content(file)
        name = read_hex("identifier", identifier[2:]) if identifier.startswith("0x") else identifier.encode()
        expected = None if signature is None else read_hex("signature", signature)
        with open_meter(connection) as meter:
            _transfer(meter, content, name, expected, activate=activate, resume=resume)
    click.echo(f"{len(content)} bytes verified" + (" and activated" if activate else ""))


def _transfer(
    meter: Meter, content: bytes, name: bytes, signature: bytes | None, *, activate: bool, resume: bool
) -> None:
    shown = -1
    seen = sys.stderr.isatty()

    def progress(sent: int, blocks: int) -> None:
        nonlocal shown
        percent = 100 * sent // blocks
        if seen and percent != shown:
            shown = percent
            click.echo(f"\rblock {sent} of {blocks}, {percent} %", err=True, nl=sent == blocks)

    meter.image.transfer(content, name, activate=activate, resume=resume, signature=signature, progress=progress)


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > IMAGE_BYTES_MAX:
            raise click.UsageError(f"{file}: longer than {IMAGE_BYTES_MAX} bytes")
        return file.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from error
