"""A bus on which meters differ: speed, parity, and the opening of mode E, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.ports.port_state import Bridge as BridgePort
from agent.settings.config import PortMeterConfig, ScanConfig
from dlms.errors import LinkError
from dlms.link.datalink import LineSettings, LinkDown
from dlms.link.mode_e.meter import ModeEMeter
from dlms.link.mode_e.opening import Identification
from plc.bridge import Bridge, SettablePort
from plc.errors import PlcPortError
from plc.transparent import TransparentLink
from tests.agent.metering.lines import Line, bridge_over
from tests.agent.metering.test_collector import BUS, EVERY_S, BusRig, provisioning
from tests.agent.virtual import VirtualClock
from tests.sim.rs485_bus import Bus, Station

FIRST_RUN = 1_800_000_000
DISC = 0x53  # the control octet behind two addresses of one octet
OWN = (
    PortMeterConfig(18, "", 2400, "even"),
    PortMeterConfig(19, "", 19_200, "none", mode_e="00000019"),
    PortMeterConfig(20, "", 4800, "none", mode_e="20"),
)
MIXED = replace(BUS, response_timeout_s=1.5, scan=ScanConfig(17, 20, every_s=600), meters=OWN)


class MixedStation(Station):
    """A meter that hears what comes at its own speed and parity, after the opening where it has one."""

    def __init__(self, station: Station, line: LineSettings, opening: ModeEMeter | None) -> None:
        super().__init__(station.meter, station.address, 128, 1)
        self._line = line
        self.opening = opening

    @property
    def line(self) -> LineSettings:
        return LineSettings(self.opening.baudrate) if self.opening is not None else self._line

    def hear(self, data: bytes, now: float) -> bytes:
        if self.opening is not None and not self.opening.is_hdlc:
            self.opening.receive(data, now)
            return self.opening.take_output()
        self.link.receive(data, now)
        self.run(now)
        answer = self.link.take_output()
        if self.opening is not None and data[5] == DISC:
            self.opening.reset()  # it listens at 300 baud again
        return answer


class MixedLine(Line, SettablePort):
    """A line that can be set, and stations that stand differently."""

    def __init__(self, bus: Bus, stations: list[MixedStation], clock: VirtualClock) -> None:
        super().__init__(bus, clock)
        self.stations = stations
        self.line = LineSettings(9600)
        self.stood: set[LineSettings] = set()

    def set_line(self, line: LineSettings) -> None:
        self.line = line
        self.incoming.clear()

    def write(self, data: bytes) -> None:
        self.clock.now += len(data) * self.line.octet_s
        self.stood.add(self.line)
        for station in self.stations:
            if station.line == self.line and station.connected:
                self.incoming += station.hear(data, self.clock.now)


class MixedRig(BusRig):
    """Meters 17 (as the port), 18 (2400 8E1), 19 and 20 (mode E)."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path, (17, 18, 19, 20), MIXED)
        lines = (LineSettings(9600), LineSettings(2400, "even"), LineSettings(9600), LineSettings(9600))
        openings = (
            None,
            None,
            ModeEMeter(Identification.parse("/DCU5\\2test"), "00000019"),
            ModeEMeter(Identification.parse("/DCU6\\2test"), "20"),
        )
        whole = self.network.stations
        self.stations = [MixedStation(*parts) for parts in zip(whole, lines, openings, strict=True)]

    def new_bridge(self) -> BridgePort:
        self.lines.append(MixedLine(self.network, self.stations, self.clock))
        return bridge_over(self.lines[-1], TransparentLink())


def test_each_meter_of_a_bus_is_read_at_its_own_speed_and_parity_and_with_its_opening(tmp_path: Path) -> None:
    rig = MixedRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(EVERY_S + 300)
    assert rig.count() == {(meter.id, FIRST_RUN + n * EVERY_S): 108 for meter in rig.meters for n in range(2)}
    line = rig.lines[-1]
    assert isinstance(line, MixedLine)
    assert line.stood == {
        LineSettings(9600),
        LineSettings(2400, "even"),
        LineSettings(300),
        LineSettings(4800),
    }


@pytest.mark.parametrize(("index", "baudrate", "restarted"), [(3, 4800, True), (3, 4800, False), (2, 9600, False)])
@pytest.mark.slow
def test_a_mode_e_meter_that_was_lost_at_its_speed_is_read_in_the_next_run(
    tmp_path: Path, index: int, baudrate: int, restarted: bool
) -> None:
    rig = MixedRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(300)
    rig.stations[index].opening = SpeedKept(baudrate)  # type: ignore[assignment]
    if restarted:
        rig.restart()
        rig.collector.configure(provisioning())
    rig.run(EVERY_S + 300)
    assert rig.count()[rig.meters[index].id, FIRST_RUN + EVERY_S] == 108


class SpeedKept:
    """An opening that is over: the meter stands at this speed until its inactivity timeout."""

    is_hdlc = True

    def __init__(self, baudrate: int) -> None:
        self.baudrate = baudrate

    def reset(self) -> None:
        """Stays where it is: no reader has to open it again."""


def test_a_port_that_cannot_be_set_is_a_port_that_fails(tmp_path: Path) -> None:
    rig = MixedRig(tmp_path)
    plain: Bridge = bridge_over(Line(rig.network, rig.clock), TransparentLink())
    with pytest.raises(PlcPortError, match="no speed to set"):
        plain.set_line(LineSettings(2400))

    class Broken(MixedLine):
        def set_line(self, line: LineSettings) -> None:
            raise LinkError(f"no {line.baudrate}")

    broken = bridge_over(Broken(rig.network, [], rig.clock), TransparentLink())
    with pytest.raises(PlcPortError, match="no 2400"):
        broken.set_line(LineSettings(2400))


def test_the_stations_of_these_tests_end_as_meters_do(tmp_path: Path) -> None:
    rig = MixedRig(tmp_path)
    link = MIXED.data_link(20)
    link.connect(0.0)
    link.disconnect(0.0)
    assert link.next_event() == LinkDown(None)
    assert {station.line for station in rig.stations} == {
        LineSettings(9600),
        LineSettings(2400, "even"),
        LineSettings(300),
    }
