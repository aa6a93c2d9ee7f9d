"""What the serial simulators share: options, the loop over port, control socket and deadlines, and common commands."""

from __future__ import annotations

import argparse
import contextlib
import selectors
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.sim.control import ControlServer
from tests.sim.faults import Faults
from tests.sim.meters import SimMeter
from tests.sim.serialport import SimPort

TICK_S = 0.5  # the loop looks up at least that often


class Device(Protocol):
    """Whatever sits at the far end of the line, sans-IO."""

    meters: dict[str, SimMeter]
    faults: Faults

    def receive(self, data: bytes, now: float) -> None: ...

    def take_bursts(self) -> list[bytes]: ...

    def next_deadline(self) -> float | None: ...

    def on_deadline(self, now: float) -> None: ...

    def describe(self, meter: SimMeter) -> dict[str, object]: ...

    def command(self, command: dict[str, object], now: float) -> dict[str, object]: ...


def parse_arguments(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The options that every simulator has, beside the parser's own."""
    parser.add_argument("--link", type=Path, required=True, help="symbolic link to the terminal, made at start")
    parser.add_argument("--control", type=Path, required=True, help="unix socket for commands")
    parser.add_argument("--list", type=Path, required=True, help="reading list: the objects of every meter")
    parser.add_argument("--phases", type=int, choices=(1, 3), default=3)
    parser.add_argument("--password-file", type=Path, help="require low level security with this password")
    parser.add_argument("--pdu-size", type=int, default=1024)
    return parser.parse_args(argv)


def handle_common(device: Device, command: dict[str, object], now: float) -> dict[str, object]:
    """The commands of every simulator; the others go to the device."""
    match command.get("cmd"):
        case "meters":
            return {"meters": [{"id": meter.id, **device.describe(meter)} for meter in device.meters.values()]}
        case "values":
            meter = device.meters[str(command["meter"])]
            return {"values": meter.records(), "volatile": meter.volatile()}
        case "advance":
            for meter in device.meters.values():
                meter.advance(int(str(command["wh"])))
            return {"ok": True}
        case "faults":
            device.faults.set(command)
            return {"ok": True}
        case _:
            return device.command(command, now)


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


def serve(device: Device, link: Path, control_path: Path) -> None:
    """Run until SIGTERM. Prints READY when the terminal and the control socket are usable."""
    port = SimPort(link)
    selector = selectors.DefaultSelector()
    selector.register(port.master, selectors.EVENT_READ, lambda: device.receive(port.read(), time.monotonic()))
    control = ControlServer(control_path, selector, lambda command: handle_common(device, command, time.monotonic()))
    try:
        with _until_signal() as received:
            sys.stdout.write("READY\n")
            sys.stdout.flush()
            while not received:
                _turn(device, port, selector)
    finally:
        control.close()
        port.close()
        selector.close()


def _turn(device: Device, port: SimPort, selector: selectors.BaseSelector) -> None:
    deadline = device.next_deadline()
    wait_s = TICK_S if deadline is None else min(TICK_S, max(0.0, deadline - time.monotonic()))
    for key, _ in selector.select(wait_s):
        key.data()
    now = time.monotonic()
    deadline = device.next_deadline()
    if deadline is not None and deadline <= now:
        device.on_deadline(now)
    for burst in device.take_bursts():
        port.write(burst)
    port.flush()
