"""What the commands that talk to a meter share: the options, the `Meter` they make, and the exit codes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from dlms.cli.base_node import NodePort
from dlms.cli.protection import Protection, grouped, make_auth, make_security, protection_options
from dlms.client.meter import Meter, Trace
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import ClockPolicy
from dlms.errors import DlmsError, LinkError, LocalError
from dlms.link.mode_e.port import ModeE, open_mode_e
from dlms.link.port import Port, SerialPort, open_port
from dlms.link.registry import DATA_LINKS
from dlms.link.trace import ReplayPort, TraceWriter, read_trace
from dlms.security.counters import FileCounters
from dlms.security.settings import InvocationCounters, MemoryCounters, Security

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

EXIT_REFUSED = 1  # the meter said no, or talked nonsense
EXIT_LINK = 3  # nobody answered, or the line failed
DEVIATIONS = {"standard": 1, "opposite": -1, "none": 0}


@dataclass(frozen=True, slots=True)
class Connection:
    """The options of every command that talks to a meter."""

    url: str
    link: str
    client: int
    server: str
    node: int | None
    dedicated: bool
    general_glo: bool
    counter: int
    counter_file: Path | None
    info_max: int
    window: int
    pdu_size: int
    baudrate: int
    timeout_s: float | None
    mode_e: bool
    mode_e_address: str
    short_names: bool
    utc_offset: int | None
    deviation: str
    trace: Path | None
    replay: Path | None
    protection: Protection

    def __post_init__(self) -> None:
        if not self.url and self.replay is None:
            raise click.UsageError("Missing option '--url'.")


_OPTIONS = (
    click.option("--url", default="", help="socket://host:port, udp://host:port, rfc2217://host:port, /dev/ttyUSB0"),
    click.option("--link", type=click.Choice(list(DATA_LINKS)), default="hdlc", show_default=True),
    click.option("--client", type=click.IntRange(0, 0xFFFF), default=16, show_default=True, help="client SAP"),
    click.option("--server", default="1", show_default=True, help="SAP, or for HDLC UPPER/LOWER"),
    click.option("--node", type=click.IntRange(1, 0xFFFF), help="with --link llc: the node behind the base node"),
    click.option("--dedicated", is_flag=True, help="a key for this one association"),
    click.option("--general-glo", is_flag=True, help="general-glo and -ded instead of the forms of each service"),
    click.option("--counter", type=click.IntRange(0, 0xFFFFFFFF), default=0, help="first invocation counter to use"),
    click.option("--counter-file", type=click.Path(path_type=Path), help="invocation counters, kept between runs"),
    click.option("--info-max", type=click.IntRange(1, 2030), default=128, show_default=True, help="HDLC information"),
    click.option("--window", type=click.IntRange(1, 7), default=1, show_default=True, help="HDLC window"),
    click.option("--pdu-size", type=click.IntRange(64, 0xFFFF), default=1024, show_default=True),
    click.option("--baudrate", type=click.IntRange(300), default=9600, show_default=True),
    click.option("--timeout-s", type=click.FloatRange(0.01), help="for an answer"),
    click.option(
        "--mode-e",
        is_flag=True,
        help="open at 300 baud (IEC 62056-21); --baudrate is the limit",
    ),
    click.option("--mode-e-address", default="", help="with --mode-e: the meter's number, where several share a loop"),
    click.option("--short-names", is_flag=True, help="short-name referencing"),
    click.option(
        "--utc-offset", type=click.IntRange(-840, 840), help="minutes east of UTC, of a clock that does not say"
    ),
    click.option(
        "--deviation",
        type=click.Choice(list(DEVIATIONS)),
        default="standard",
        show_default=True,
        help="how the meter counts from UTC: as the standard, with the other sign, or not at all",
    ),
    click.option("--trace", type=click.Path(path_type=Path), help="record what crosses the port"),
    click.option("--replay", type=click.Path(path_type=Path), help="talk to a recorded trace instead of a port"),
)


def connection_options(function: FunctionT) -> FunctionT:
    """Adds the options and passes them as one `connection`."""
    return grouped("connection", Connection, (*_OPTIONS, protection_options))(function)


@contextlib.contextmanager
def open_connection(connection: Connection) -> Iterator[tuple[Port, Trace | None]]:
    """The port and, with `--trace`, the function that records. Raises `DlmsError`, `click.UsageError`."""
    writer = None
    if connection.trace is not None:
        try:
            writer = TraceWriter(connection.trace)
        except OSError as error:
            raise click.UsageError(f"--trace {connection.trace}: {error.strerror}") from error
    try:
        port = _open_port(connection)
        try:
            yield port, None if writer is None else writer.note
        finally:
            port.close()
    finally:
        if writer is not None:
            writer.close()


def _open_port(connection: Connection) -> Port:
    if connection.replay is not None:
        return ReplayPort(read_trace(connection.replay))
    if connection.mode_e:
        mode_e = ModeE(connection.mode_e_address)
        return open_mode_e(connection.url, connection.baudrate, mode_e)
    return open_port(connection.url, connection.baudrate)


@contextlib.contextmanager
def open_meter(connection: Connection) -> Iterator[Meter]:
    """The meter, associated. Raises `DlmsError`, `click.UsageError`."""
    auth = make_auth(connection.protection)
    security = _security(connection)
    with open_connection(connection) as (below, note):
        port = below
        if not DATA_LINKS[connection.link].on_port:
            if connection.node is None:
                raise click.UsageError("--link llc needs --node: the meter behind the base node")
            port = NodePort(below, connection.client, connection.node)
        meter = Meter(
            connection.url or "loop://",  # where there is no line there is no time for octets
            link=connection.link,
            client=connection.client,
            server=connection.server,
            auth=auth,
            security=security,
            pdu_size=connection.pdu_size,
            info_max=connection.info_max,
            window=connection.window,
            baudrate=below.baudrate if isinstance(below, SerialPort) else connection.baudrate,
            timeout_s=connection.timeout_s,
            port=port,
            trace=note,
            short_names=connection.short_names,
            clock=ClockPolicy(DEVIATIONS[connection.deviation], connection.utc_offset),
        )
        with meter:
            yield meter
        if security is not None and isinstance(security.counters, FileCounters):
            security.counters.close()


def _security(connection: Connection) -> Security | None:
    security = make_security(connection.protection, _counters(connection))
    if security is None or not (connection.dedicated or connection.general_glo):
        return security
    try:
        return replace(security, dedicated=connection.dedicated, general=connection.general_glo)
    except LocalError as error:
        raise click.UsageError(str(error)) from error


def _counters(connection: Connection) -> InvocationCounters:
    if connection.counter_file is None:
        return MemoryCounters(connection.counter)
    return FileCounters(connection.counter_file, connection.counter)


@contextlib.contextmanager
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


def reference(text: str) -> AttributeRef | Obis:
    """What people write, read before a meter is asked. Raises `LocalError`."""
    return AttributeRef.parse(text) if "/" in text else Obis.parse(text)
