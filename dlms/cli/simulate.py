"""`dlms simulate`: a meter on a TCP port, a UDP port or a pseudo-terminal, with faults on demand."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from dlms.cli.listeners import Listener, MakeServer, Server, open_listener
from dlms.cli.protection import Protection, grouped, make_auth, make_security, protection_options
from dlms.codes import SERVER_CONFORMANCE, Conformance
from dlms.errors import DlmsError, LocalError
from dlms.link.datalink import PUBLIC_CLIENT
from dlms.link.mode_e.meter import ModeEMeter
from dlms.link.mode_e.opening import Identification
from dlms.link.options import LinkOptions
from dlms.link.registry import DATA_LINKS
from dlms.security.settings import Auth, MemoryCounters, NoAuth, Security
from dlms.server.rights import MANAGEMENT, USUAL_RIGHTS, Rights
from dlms.simulator.line_faults import LineFaults, SlowLine
from dlms.simulator.meter import SERIAL_MAX, SimulatedMeter
from dlms.simulator.reading_list import rows_from_csv

BUILT_IN_LIST = Path(__file__).with_name("simulated.csv")
TICK_S = 0.5
SYSTEM_TITLE = "53494d3000000001"  # where none is given
ADVANCE_S = 60.0  # of the meter's time: registers move this often
INACTIVITY_S = 120.0  # with mode E a lost client may not keep the meter at its speed (default of the HDLC setup class)


@contextlib.contextmanager
def _until_signal() -> Iterator[list[int]]:
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


SERVED = tuple(name for name, link in DATA_LINKS.items() if link.serve is not None)


@dataclass(frozen=True, slots=True)
class Simulation:
    """The options that say what the meter is, and how bad its line."""

    link: str
    server: str
    serial: int
    phases: str
    codes: Path | None
    gbt: bool
    pdu_size: int
    info_max: int
    window: int
    mode_e: bool
    loss: float
    flip: float
    reorder: float
    bad_fcs: float
    duplicate: float
    latency_s: float
    late: float
    late_s: float
    silent: bool
    seed: int
    advance_wh: int
    speed: float
    inactivity_s: float | None
    rights: str
    protection: Protection


_OPTIONS = (
    click.option(
        "--link",
        type=click.Choice(SERVED),
        default="hdlc",
        show_default=True,
    ),
    click.option("--server", default="1", show_default=True, help="SAP; for HDLC also UPPER/LOWER; for llc the node"),
    click.option("--serial", type=click.IntRange(1, SERIAL_MAX), default=1, show_default=True),
    click.option("--phases", type=click.Choice(("1", "3")), default="3", show_default=True),
    click.option("--codes", type=click.Path(path_type=Path), help="a reading list; a small one is built in"),
    protection_options,
    click.option("--gbt", is_flag=True, help="grant general block transfer (some clients propose it and cannot do it)"),
    click.option("--pdu-size", type=click.IntRange(64, 0xFFFF), default=1024, show_default=True),
    click.option("--info-max", type=click.IntRange(1, 2030), default=128, show_default=True),
    click.option("--window", type=click.IntRange(1, 7), default=1, show_default=True),
    click.option("--mode-e", is_flag=True, help="on a pseudo-terminal: wait for the opening at 300 baud first"),
    click.option("--loss", type=click.FloatRange(0, 1), default=0.0, help="share of bursts swallowed, each way"),
    click.option("--flip", type=click.FloatRange(0, 1), default=0.0, help="share of bursts with one bit flipped"),
    click.option("--reorder", type=click.FloatRange(0, 1), default=0.0, help="share of HDLC windows out of order"),
    click.option(
        "--bad-fcs", type=click.FloatRange(0, 1), default=0.0, help="share of frames with a wrong FCS ending in 7E"
    ),
    click.option("--duplicate", type=click.FloatRange(0, 1), default=0.0, help="share of bursts that come twice"),
    click.option("--latency-s", type=click.FloatRange(0, 60), default=0.0, help="until an answer leaves"),
    click.option("--late", type=click.FloatRange(0, 1), default=0.0, help="share of answers that take --late-s longer"),
    click.option("--late-s", type=click.FloatRange(0, 600), default=5.0, show_default=True),
    click.option("--silent", is_flag=True, help="hear, and say nothing"),
    click.option("--seed", type=int, default=1, show_default=True, help="of the faults"),
    click.option("--advance-wh", type=click.IntRange(0), default=0, help="energy per minute"),
    click.option(
        "--speed",
        type=click.FloatRange(0, 100_000),
        default=1.0,
        help="of the meter's clock: 60 is a minute per second",
    ),
    click.option(
        "--inactivity-s", type=click.FloatRange(1), help="forget a client, or hang up, after so long a silence"
    ),
    click.option(
        "--rights",
        type=click.Choice(("all", "usual")),
        default="all",
        show_default=True,
        help="usual: client 16 is public and needs no proof, 2 reads, 1 manages, others are refused",
    ),
)


@click.command()
@click.option("--listen", default="tcp://127.0.0.1:4059", show_default=True, help="also udp://host:port, pty:PATH")
@grouped("simulation", Simulation, _OPTIONS)
def simulate(simulation: Simulation, listen: str) -> None:
    """Be a meter until interrupted."""
    try:
        if simulation.mode_e and (not DATA_LINKS[simulation.link].mode_e or not listen.startswith("pty:")):
            raise LocalError("--mode-e is for --link hdlc on pty:PATH, which has a speed")
        meter = _meter(simulation)
        make_server = _server_maker(simulation, meter, packet=listen.startswith("udp:"))
        make_server()  # wrong options are said now, not to the first client
        listener = open_listener(listen, make_server)
    except (DlmsError, OSError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{meter.id} listening on {listener.name}")
    try:
        _serve(listener, meter, simulation.advance_wh, simulation.speed)
    finally:
        listener.close()


def _meter(simulation: Simulation) -> SimulatedMeter:
    """The meter that the options describe.

    Raises `DlmsError`, `OSError` for a list that cannot be read, `click.UsageError`.
    """
    rows = rows_from_csv(simulation.codes or BUILT_IN_LIST)
    protection = simulation.protection
    if protection.system_title is None:
        protection = replace(protection, system_title=SYSTEM_TITLE)
    security = make_security(protection, MemoryCounters())
    proofs, keys, allowed = _clients(simulation.rights, make_auth(protection), security)
    return SimulatedMeter(
        simulation.serial,
        rows,
        phases=int(simulation.phases),
        auth=proofs,
        security=keys,
        rights=allowed,
        pdu_size=simulation.pdu_size,
        conformance=SERVER_CONFORMANCE if simulation.gbt else SERVER_CONFORMANCE & ~Conformance.GENERAL_BLOCK_TRANSFER,
        now=_clock(simulation.speed),
    )


def _server_maker(simulation: Simulation, meter: SimulatedMeter, *, packet: bool) -> MakeServer:
    """Every server has a link of its own; the faults are drawn from one seed for all of them."""
    rng = random.Random(simulation.seed)  # noqa: S311 (faults, not secrets)
    faults = LineFaults(
        simulation.loss,
        simulation.flip,
        simulation.reorder,
        simulation.bad_fcs,
        simulation.duplicate,
        simulation.silent,
        rng,
    )
    inactivity_s = simulation.inactivity_s
    if simulation.mode_e and inactivity_s is None:
        inactivity_s = INACTIVITY_S

    serve = DATA_LINKS[simulation.link].serve
    if serve is None:
        raise LocalError(f"--link {simulation.link} has no meter's side here")
    options = LinkOptions(
        server=simulation.server,
        info_max=simulation.info_max,
        window=simulation.window,
        packet=packet,
        inactivity_s=inactivity_s,
    )

    def make_server() -> Server:
        made = serve(options)
        line = SlowLine(simulation.latency_s, simulation.late, simulation.late_s, rng)
        return Server(made, meter, faults, line, inactivity_s, mode_e_opening(meter) if simulation.mode_e else None)

    return make_server


def mode_e_opening(meter: SimulatedMeter) -> ModeEMeter:
    """The meter's side of the mode E opening, up to 19200 baud; on a loop the meter's number is its serial number."""
    return ModeEMeter(Identification(meter.id[:3], "6", meter.id, offers_hdlc=True), str(meter.serial))


def _serve(listener: Listener, meter: SimulatedMeter, advance_wh: int, speed: float) -> None:
    moved_at = time.monotonic()
    step_s = ADVANCE_S / speed if speed else float("inf")
    with _until_signal() as received:
        while not received:
            listener.serve_once(TICK_S)
            steps = int((time.monotonic() - moved_at) // step_s)
            moved_at += steps * step_s if steps else 0.0
            meter.advance(advance_wh * steps)
            meter.tick()


def _clock(speed: float) -> Callable[[], datetime]:
    """Civil time that begins now and goes on at this speed."""
    began, started = datetime.now(UTC), time.monotonic()
    return lambda: began + timedelta(seconds=(time.monotonic() - started) * speed)


_Keys = Security | dict[int, Security] | None


def _clients(
    rights: str, proof: Auth, security: Security | None
) -> tuple[Auth | dict[int, Auth], _Keys, Rights | dict[int, Rights]]:
    """What each client must prove, its keys, and what it may do."""
    if rights == "all":
        return proof, security, MANAGEMENT
    proofs = {client: NoAuth() if client == PUBLIC_CLIENT else proof for client in USUAL_RIGHTS}
    keys = {client: security for client in USUAL_RIGHTS if client != PUBLIC_CLIENT and security is not None}
    return proofs, keys, USUAL_RIGHTS
