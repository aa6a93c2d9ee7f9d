"""HDLC meters on one RS-485 bus, on a terminal.

    python -m tests.sim.rs485_bus --link PATH --control SOCK --addresses 17,18 --list CSV --phases 3

Every meter hears every byte and answers what is addressed to it: as `17` (one octet) and as `1/17` (logical device 1,
physical device 17). Commands of the control socket beside the common ones: `leave` takes a meter off the bus, `join`
puts it back.
"""

from __future__ import annotations

import argparse

from dlms.codes import Apdu
from dlms.errors import LocalError
from dlms.link.datalink import ApduReceived
from dlms.link.hdlc.frames import FrameType, HdlcDecoder, HdlcFrame
from dlms.link.hdlc.primary import HdlcServerLink
from tests.sim.faults import Faults
from tests.sim.meters import CONFIRM_TAGS, SimMeter, make_meters
from tests.sim.simulator import parse_arguments, serve

LOGICAL_DEVICE = 1


class Station:
    """One meter on the bus."""

    def __init__(self, meter: SimMeter, address: int, info_max: int, window: int) -> None:
        self.meter = meter
        self.address = address
        self.connected = True
        aliases = (f"{LOGICAL_DEVICE}/{address}",)
        self.link = HdlcServerLink(address, aliases=aliases, info_max=info_max, window=window)
        self.pushed: list[bytes] = []  # what is said before the next answer of an association
        self.confirms: list[bytes] = []  # what came in the conversation and was no request

    def run(self, now: float) -> None:
        """Carry what the link has to the meter, and the meter's answers back."""
        while (event := self.link.next_event()) is not None:
            if not isinstance(event, ApduReceived):
                self.meter.forget_clients()
                continue
            if event.apdu[0] in CONFIRM_TAGS:
                self.confirms.append(event.apdu)
                continue
            try:
                if event.apdu[0] != Apdu.AARQ:
                    pushed, self.pushed = self.pushed, []
                    for apdu in pushed:
                        self.link.send(apdu, now)
                for answer in self.meter.receive_apdu(self.link.client or 0, event.apdu, now):
                    self.link.send(answer, now)
            except LocalError:
                return  # the client disconnected behind its request


class Bus:
    """All stations, sans-IO."""

    def __init__(self, stations: list[Station]) -> None:
        self.stations = stations
        self.meters = {station.meter.id: station.meter for station in stations}
        self.faults = Faults()
        self._pushed: list[bytes] = []
        self._frames = HdlcDecoder()
        self.confirms: list[HdlcFrame] = []  # what came in UI frames for the stations

    def push(self, octets: bytes) -> None:
        """Frames that nobody has asked for."""
        self._pushed.append(octets)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the host: everybody hears them."""
        heard = self.faults.apply(data)
        self._frames.feed(heard)
        while (item := self._frames.next()) is not None:
            if isinstance(item, HdlcFrame) and item.type is FrameType.UI:
                self.confirms.append(item)
        for station in self.stations:
            if station.connected and heard:
                station.link.receive(heard, now)
                station.run(now)

    def take_bursts(self) -> list[bytes]:
        """What the stations say, faults applied."""
        bursts, self._pushed = self._pushed, []
        for station in self.stations:
            burst = station.link.take_output()
            if burst and station.connected and station.meter.id not in self.faults.mute:
                bursts.append(self.faults.apply(burst))
        return bursts

    def next_deadline(self) -> float | None:
        """When a station wants to be woken."""
        deadlines = [station.link.next_deadline() for station in self.stations]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_deadline(self, now: float) -> None:
        """Time passed."""
        for station in self.stations:
            deadline = station.link.next_deadline()
            if deadline is not None and deadline <= now:
                station.link.on_deadline(now)
                station.run(now)

    def describe(self, meter: SimMeter) -> dict[str, object]:
        """What `meters` says of a meter beside its id."""
        station = self._station_of(meter.id)
        return {"address": station.address, "joined": station.connected}

    def command(self, command: dict[str, object], now: float) -> dict[str, object]:
        """`join` and `leave`."""
        match command.get("cmd"):
            case "join":
                self._station_of(str(command["meter"])).connected = True
            case "leave":
                station = self._station_of(str(command["meter"]))
                station.connected = False
                station.link.disconnect(now)
                station.run(now)
            case other:
                return {"error": f"unknown command {other!r}"}
        return {"ok": True}

    def _station_of(self, meter_id: str) -> Station:
        for station in self.stations:
            if station.meter.id == meter_id:
                return station
        raise KeyError(meter_id)


def main(argv: list[str] | None = None) -> None:
    """Run the simulator until SIGTERM."""
    parser = argparse.ArgumentParser(prog="rs485_bus", description="HDLC meters on one bus, on a terminal")
    parser.add_argument("--addresses", default="17,18", help="HDLC addresses, with commas")
    parser.add_argument("--first-serial", type=int, default=1001)
    parser.add_argument("--info-max", type=int, default=128)
    parser.add_argument("--window", type=int, default=1)
    options = parse_arguments(parser, argv)
    addresses = [int(text) for text in options.addresses.split(",")]
    serials = [options.first_serial + index for index in range(len(addresses))]
    meters = make_meters(options.list, options.phases, serials, options.password_file, options.pdu_size)
    stations = [
        Station(meter, address, options.info_max, options.window)
        for meter, address in zip(meters, addresses, strict=True)
    ]
    serve(Bus(stations), options.link, options.control)


if __name__ == "__main__":
    main()
