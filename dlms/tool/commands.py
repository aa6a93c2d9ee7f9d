"""The commands that talk to a meter: discover, read, profile, set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from dlms.client import ItemFailed, Meter
from dlms.cosem.classes import interface_class
from dlms.cosem.dictionary import describe
from dlms.cosem.obis import AttributeRef, Obis
from dlms.datalink import LinkDown, LinkUp
from dlms.discovery import ObjectInfo
from dlms.errors import DlmsError, LinkError, LocalError, PeerError
from dlms.hdlc import HdlcAddress
from dlms.hdlc_link import HdlcClientLink
from dlms.objects import rows_from_csv
from dlms.port import Port
from dlms.profiles import ProfileRow
from dlms.reading import Failed, Reading
from dlms.tool.connect import Connection, connection_options, open_connection, open_meter
from dlms.tool.show import echo_json, plain, result_json, result_text
from dlms.tool.values import parse_value

EXIT_REFUSED = 1  # the meter said no, or talked nonsense
EXIT_LINK = 3  # nobody answered, or the line failed
SCAN_TIMEOUT_S = 0.5
SCAN_ADDRESSES_MAX = 16384


@contextmanager
def exits() -> Iterator[None]:
    """What went wrong as one line on stderr and an exit code: 1 refused, 2 usage, 3 line."""
    try:
        yield
    except LinkError as error:
        click.echo(f"dlms: {error}", err=True)
        raise SystemExit(EXIT_LINK) from error
    except LocalError as error:
        raise click.UsageError(str(error)) from error
    except DlmsError as error:
        click.echo(f"dlms: {error}", err=True)
        raise SystemExit(EXIT_REFUSED) from error


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """Adds `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(function)


@click.command()
@click.argument("items", nargs=-1, metavar="[CODE|CLASS/CODE/ATTRIBUTE]...")
@click.option("--codes", type=click.Path(path_type=Path), help="a reading list: CSV with obis, cls, attr, ...")
@json_option
@connection_options
def read(connection: Connection, items: tuple[str, ...], codes: Path | None, as_json: bool) -> None:
    """Read attributes: by OBIS code (its usual class, attribute 2) or as 3/1.0.1.8.0.255/2."""
    with exits():
        wanted = [_reference(item) for item in items]
        refs = _list_refs(codes)
        if not items and not refs:
            raise click.UsageError("name what to read, or give --codes")
        with open_meter(connection) as meter:
            results = meter.read_many([*(meter.ref(item) for item in wanted), *refs])
    if as_json:
        echo_json({"results": [result_json(result) for result in results]})
    else:
        for result in results:
            click.echo(result_text(result))
    if all(isinstance(result, Failed) for result in results):
        raise SystemExit(EXIT_REFUSED)


def _reference(text: str) -> AttributeRef | Obis:
    """What people write, read before a meter is asked. Raises `LocalError`."""
    return AttributeRef.parse(text) if "/" in text else Obis.parse(text)


def _list_refs(codes: Path | None) -> list[AttributeRef]:
    if codes is None:
        return []
    try:
        return [AttributeRef(row.class_id, row.obis, row.attribute) for row in rows_from_csv(codes)]
    except OSError as error:
        raise click.UsageError(f"--codes {codes}: {error.strerror}") from error


@click.command()
@click.argument("code")
@click.option("--since", type=click.DateTime(), help="UTC; rows captured from then on")
@click.option("--until", type=click.DateTime(), help="UTC; rows captured up to then")
@click.option("--entries", help="FIRST-LAST, counted from 1; LAST 0 is the newest")
@json_option
@connection_options
def profile(
    connection: Connection,
    code: str,
    since: datetime | None,
    until: datetime | None,
    entries: str | None,
    as_json: bool,
) -> None:
    """Read the rows of a profile, such as 1.0.99.1.0.255; all of them, by time, or by entry."""
    with exits():
        obis, chosen = Obis.parse(code), _entries(entries)
        since = since.replace(tzinfo=UTC) if since else None
        until = until.replace(tzinfo=UTC) if until else None
        rows: list[ProfileRow] = []
        with open_meter(connection) as meter:
            for row in meter.profile(obis, since=since, until=until, entries=chosen):
                if not as_json and not rows:
                    click.echo("\t".join(_column_names(row)))
                rows.append(row)
                if not as_json:
                    click.echo("\t".join(str(plain(value)) for value in row.values))
    if as_json:
        columns = [
            {"obis": str(column.ref.obis), "class_id": column.ref.class_id, "attribute": column.ref.attribute,
             "unit": column.unit or None}
            for column in (rows[0].columns if rows else ())
        ]  # fmt: skip
        echo_json(
            {"obis": str(obis), "columns": columns, "rows": [[plain(value) for value in row.values] for row in rows]}
        )


def _column_names(row: ProfileRow) -> list[str]:
    return [f"{column.ref}" + (f" [{column.unit}]" if column.unit else "") for column in row.columns]


def _entries(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdigit() or not last.isdigit() or int(first) < 1:
        raise LocalError(f"--entries {text!r}: write FIRST-LAST")
    return int(first), int(last)


@click.command("set")
@click.argument("item", metavar="CODE|CLASS/CODE/ATTRIBUTE")
@click.argument("value", metavar="TYPE=VALUE")
@json_option
@connection_options
def set_value(connection: Connection, item: str, value: str, as_json: bool) -> None:
    """Write one attribute: `dlms set 1/0.0.96.1.0.255/2 oct=30313233`."""
    with exits():
        wanted, data = _reference(item), parse_value(value)
        error: str | None = None
        with open_meter(connection) as meter:
            ref = meter.ref(wanted)
            try:
                meter.set(ref, data)
            except ItemFailed as failed:
                error = failed.code
    if as_json:
        echo_json({"obis": str(ref.obis), "class_id": ref.class_id, "attribute": ref.attribute, "error": error})
    else:
        click.echo(f"{ref}  {error or 'written'}")
    if error:
        raise SystemExit(EXIT_REFUSED)


@click.command()
@click.option("--scan", help="FIRST-LAST: ask these HDLC addresses who is there, instead of one meter what it has")
@click.option("--values", is_flag=True, help="read attribute 2 of every object that may be read")
@json_option
@connection_options
def discover(connection: Connection, scan: str | None, values: bool, as_json: bool) -> None:
    """List the objects of a meter, or with --scan the meters on an HDLC bus."""
    with exits():
        if scan is not None:
            _scan(connection, scan, as_json)
            return
        with open_meter(connection) as meter:
            found = meter.discover()
            readings = _values_of(meter, found) if values else {}
    if as_json:
        echo_json({"objects": [_object_json(info, readings) for info in found]})
        return
    for info in found:
        known = interface_class(info.class_id, info.version)
        name = known.name if known else f"class {info.class_id}"
        reading = readings.get((info.class_id, info.obis))
        tail = "" if reading is None else f"  = {_short(reading)}"
        click.echo(f"{info.class_id:>4}  {info.obis!s:<18} {name:<24} {describe(info.obis)}{tail}")


def _values_of(meter: Meter, found: list[ObjectInfo]) -> dict[tuple[int, Obis], Reading | Failed]:
    wanted = [info for info in found if info.readable(2) and info.class_id not in (7, 15)]
    results = meter.read_many([AttributeRef(info.class_id, info.obis, 2) for info in wanted])
    return {(info.class_id, info.obis): result for info, result in zip(wanted, results, strict=True)}


def _short(reading: Reading | Failed) -> str:
    if isinstance(reading, Failed):
        return reading.error
    return f"{plain(reading.value)} {reading.unit}".rstrip()


def _object_json(info: ObjectInfo, readings: dict[tuple[int, Obis], Reading | Failed]) -> dict[str, object]:
    found: dict[str, object] = {
        "class_id": info.class_id,
        "version": info.version,
        "obis": str(info.obis),
        "meaning": describe(info.obis) or None,
        "attributes": {str(number): mode for number, mode in sorted(info.attributes.items())},
        "methods": {str(number): mode for number, mode in sorted(info.methods.items())},
    }
    reading = readings.get((info.class_id, info.obis))
    return found if reading is None else {**found, "reading": result_json(reading)}


def _scan(connection: Connection, text: str, as_json: bool) -> None:
    if connection.link != "hdlc":
        raise click.UsageError("--scan is for --link hdlc")
    first, _, last = text.partition("-")
    if (
        not first.isdigit()
        or not (last or first).isdigit()
        or not 0 <= int(last or first) - int(first) < SCAN_ADDRESSES_MAX
    ):
        raise click.UsageError(f"--scan {text!r}: write FIRST-LAST")
    present: list[str] = []
    with open_connection(connection) as (port, _):
        for address in range(int(first), int(last or first) + 1):
            found = _address(connection.server, address)
            if _answers(port, HdlcClientLink(
                connection.client,
                found,
                ack_timeout_s=connection.timeout_s or SCAN_TIMEOUT_S,
                retries=1,
                octet_s=10 / connection.baudrate,
            )):  # fmt: skip
                present.append(str(found))
                if not as_json:
                    click.echo(str(found))
    if as_json:
        echo_json({"addresses": present})


def _address(server: str, number: int) -> HdlcAddress:
    """`number` as the physical device below the logical one of `--server`, or alone where `--server` has one part."""
    upper, slash, _ = server.partition("/")
    return HdlcAddress(int(upper), number) if slash else HdlcAddress(number)


def _answers(port: Port, link: HdlcClientLink) -> bool:
    """Whether a meter takes or refuses a connection at the link's address. Raises `LinkError`."""
    link.connect(time.monotonic())
    here = False
    while True:
        output = link.take_output()
        if output:
            port.write(output)
        while (event := link.next_event()) is not None:
            if isinstance(event, LinkUp):
                here = True
                link.disconnect(time.monotonic())
            elif isinstance(event, LinkDown):
                return here or isinstance(event.error, PeerError)
        deadline = link.next_deadline()
        data = port.read(0.0 if deadline is None else max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        if data is None:
            raise LinkError("the port was closed")
        if data:
            link.receive(data, now)
        link.on_deadline(now)
