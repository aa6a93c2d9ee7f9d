"""The commands that ask a meter: discover, read, profile."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from dlms.cli.connect import (
    EXIT_LINK,
    EXIT_REFUSED,
    Connection,
    connection_options,
    exits,
    json_option,
    open_connection,
    open_meter,
    reference,
)
from dlms.cli.show import echo_json, plain, result_json, result_text, value_text
from dlms.client.meter import Meter
from dlms.client.profile import ProfileRow
from dlms.client.reading import Failed, Reading
from dlms.cosem.associations import ObjectInfo
from dlms.cosem.classes import attribute_name, interface_class, method_name
from dlms.cosem.dictionary import describe
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import LinkError, LocalError, PeerError
from dlms.link.datalink import LinkDown, LinkUp
from dlms.link.hdlc.frames import HdlcAddress
from dlms.link.hdlc.primary import HdlcClientLink
from dlms.link.port import Port
from dlms.simulator.reading_list import refs_from_csv

SCAN_TIMEOUT_S = 0.5
SCAN_ADDRESSES_MAX = 16384


@click.command()
@click.argument("items", nargs=-1, metavar="[CODE|CLASS/CODE/ATTRIBUTE]...")
@click.option("--codes", type=click.Path(path_type=Path), help="CSV with a column obis, and perhaps cls and attr")
@json_option
@connection_options
def read(connection: Connection, items: tuple[str, ...], codes: Path | None, as_json: bool) -> None:
    """Read attributes: by OBIS code (its usual class, attribute 2) or as 3/1.0.1.8.0.255/2."""
    with exits():
        wanted = [reference(item) for item in items]
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
    failed = [result for result in results if isinstance(result, Failed)]
    broken = next((result.cause for result in failed if result.cause is not None), None)
    if broken is not None:
        click.echo(f"dlms: {broken}", err=True)
        raise SystemExit(EXIT_LINK if isinstance(broken, LinkError) else EXIT_REFUSED)
    if len(failed) == len(results):
        raise SystemExit(EXIT_REFUSED)


def _list_refs(codes: Path | None) -> list[AttributeRef]:
    if codes is None:
        return []
    try:
        return refs_from_csv(codes)
    except OSError as error:
        raise click.UsageError(f"--codes {codes}: {error.strerror}") from error


@click.command()
@click.argument("code")
@click.option("--since", help="rows captured from then on: ISO 8601, UTC where it says no zone, or 3h, 2d ago")
@click.option("--until", help="rows captured up to then")
@click.option("--entries", help="FIRST-LAST, counted from 1; LAST 0 is the last of the buffer")
@click.option("--csv", "as_csv", is_flag=True, help="print CSV, each row as soon as it has come")
@json_option
@connection_options
def profile(
    connection: Connection,
    code: str,
    since: str | None,
    until: str | None,
    entries: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Read the rows of a profile, such as 1.0.99.1.0.255; all of them, by time, or by entry.

    \b
    dlms profile 1.0.99.1.0.255 --since 1d --csv > yesterday.csv
    dlms profile 0.0.99.98.0.255 --entries 1-20
    """
    with exits():
        obis, chosen = Obis.parse(code), _entries(entries)
        first, last = _instant("since", since), _instant("until", until)
        rows: list[ProfileRow] = []
        write = None if as_json else csv.writer(sys.stdout).writerow if as_csv else _tabbed
        with open_meter(connection) as meter:
            for row in meter.profile(obis, since=first, until=last, entries=chosen):
                if write is None:
                    rows.append(row)
                    continue
                if not rows:
                    rows.append(row)
                    write(_column_names(row))
                write([value.hex() if isinstance(value, bytes) else value_text(value) for value in row.values])
    if as_json:
        echo_json(_profile_json(obis, rows))


def _tabbed(cells: Sequence[object]) -> None:
    click.echo("\t".join(str(cell) for cell in cells))


def _profile_json(obis: Obis, rows: list[ProfileRow]) -> dict[str, object]:
    columns = [
        {"obis": str(column.ref.obis), "class_id": column.ref.class_id, "attribute": column.ref.attribute,
         "unit": column.unit or None}
        for column in (rows[0].columns if rows else ())
    ]  # fmt: skip
    return {"obis": str(obis), "columns": columns, "rows": [[plain(value) for value in row.values] for row in rows]}


_AGO = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _instant(option: str, text: str | None) -> datetime | None:
    """ISO 8601, or so long ago."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise LocalError(f"--{option} {text!r}: write 2026-03-01T00:00, or 3h or 2d for so long ago") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _column_names(row: ProfileRow) -> list[str]:
    return [f"{column.ref}" + (f" [{column.unit}]" if column.unit else "") for column in row.columns]


def _entries(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdigit() or not last.isdigit() or int(first) < 1:
        raise LocalError(f"--entries {text!r}: write FIRST-LAST")
    return int(first), int(last)


@click.command()
@click.option("--scan", help="FIRST-LAST: ask these HDLC addresses who is there, instead of one meter what it has")
@click.option("--values", is_flag=True, help="read attribute 2 of every object that may be read")
@click.option("--rights", is_flag=True, help="show what may be done with each attribute and method")
@json_option
@connection_options
def discover(connection: Connection, scan: str | None, values: bool, rights: bool, as_json: bool) -> None:
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
        for line in _rights(info) if rights else ():
            click.echo(f"      {line}")


def _rights(info: ObjectInfo) -> Iterator[str]:
    """One line per attribute and method: number, name, what this association may do."""
    for number in sorted(info.attributes):
        may = ("r" if info.readable(number) else "-") + ("w" if info.writable(number) else "-")
        selectors = info.selectors.get(number, ())
        tail = f"  selectors {', '.join(map(str, selectors))}" if selectors else ""
        yield f"{number:>3}  {may}  {attribute_name(info.class_id, number, info.version)}{tail}"
    for number in sorted(info.methods):
        name = method_name(info.class_id, number, info.version)
        yield f"{number:>+3}  {'x' if info.callable(number) else '-'}   {name}"


def _values_of(meter: Meter, found: list[ObjectInfo]) -> dict[tuple[int, Obis], Reading | Failed]:
    wanted = [info for info in found if info.readable(2) and info.class_id not in (7, 12, 15)]
    results = meter.read_many([AttributeRef(info.class_id, info.obis, 2) for info in wanted])
    return {(info.class_id, info.obis): result for info, result in zip(wanted, results, strict=True)}


def _short(reading: Reading | Failed) -> str:
    if isinstance(reading, Failed):
        return reading.error
    value = reading.value
    if isinstance(value, list | dict):
        return f"({len(value)})"
    return f"{value_text(value)} {reading.unit}".rstrip()


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
