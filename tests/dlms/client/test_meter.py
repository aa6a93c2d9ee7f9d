"""The blocking client against a whole meter, in memory and over a socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from dlms import axdr
from dlms.client.meter import Meter
from dlms.client.reading import Failed, ItemFailed, Reading
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.profile import CLOCK_OBIS, CaptureObject
from dlms.cosem.time import CosemDateTime
from dlms.errors import LinkError, LocalError, PeerError
from dlms.security.settings import Lls
from dlms.server.clock import ClockObject
from dlms.server.control import DisconnectControl
from dlms.server.image import ImageTransfer
from dlms.server.objects import CosemObject, constant
from dlms.server.profile import ProfileObject
from dlms.server.server import MeterServer
from dlms.server.view import association_object
from tests.dlms.client.test_session import REFS, SECRET
from tests.dlms.client.test_session import server as reading_list_server
from tests.dlms.meter_port import MeterPort

START = datetime(2026, 3, 1, tzinfo=UTC)
ENERGY = Obis.parse("1.0.1.8.0.255")
VOLTAGE = Obis.parse("1.0.32.7.0.255")
PROFILE = Obis.parse("1.0.99.1.0.255")
ROWS = 500


class World:
    """A meter with one of everything."""

    def __init__(self) -> None:
        self.clock = ClockObject(lambda: START + timedelta(days=10))
        self.contactor = DisconnectControl()
        self.activated: list[bytes] = []
        self.images = ImageTransfer(verify=lambda image: image[:1] == b"I", activated=self.activated.append)
        columns = [
            CaptureObject(AttributeRef(8, CLOCK_OBIS, 2)),
            CaptureObject(AttributeRef(3, ENERGY, 2)),
            CaptureObject(AttributeRef(3, VOLTAGE, 2)),
        ]
        self.profile = ProfileObject(PROFILE, columns)
        for at in range(ROWS):
            when = CosemDateTime.from_datetime(START + timedelta(minutes=15 * at)).emit()
            self.profile.capture([axdr.octets(when), axdr.u32(1000 + at), axdr.u16(2300 + at % 10)])
        scaled = {2: constant(axdr.u32(123456)), 3: constant(axdr.structure(axdr.i8(1), axdr.enum(30)))}
        self.server = MeterServer(
            [
                CosemObject(3, ENERGY, readers=scaled),
                CosemObject(
                    3,
                    VOLTAGE,
                    readers={
                        2: constant(axdr.u16(2301)),
                        3: constant(axdr.structure(axdr.i8(-1), axdr.enum(35))),
                    },
                ),
                self.clock.item,
                self.contactor.item,
                self.images.item,
                self.profile.item,
            ],
            auth=SECRET,
        )
        self.server.add(association_object(self.server))


Fault = Callable[[int, bytes], bytes | None]


class Line:
    """Gives the client a new port to the same meter each time it opens one."""

    def __init__(self, meter: MeterServer, link: str = "hdlc", faults: list[Fault] | None = None) -> None:
        self.meter = meter
        self.link = link
        self.faults = faults or []
        self.ports: list[MeterPort] = []

    def __call__(self, _url: str, _baudrate: int) -> MeterPort:
        fault = self.faults.pop(0) if self.faults else (lambda _number, data: data)
        self.ports.append(MeterPort(self.meter, self.link, fault))
        return self.ports[-1]


def meter(
    world: World, monkeypatch: pytest.MonkeyPatch, link: str = "hdlc", faults: list[Fault] | None = None
) -> Meter:
    monkeypatch.setattr("dlms.client.meter.open_port", Line(world.server, link, faults))
    return Meter("loop://", link=link, auth=SECRET, retry_pause_s=0)


@pytest.mark.parametrize("link", ["hdlc", "wrapper"])
def test_reads_a_value_with_its_unit(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with meter(World(), monkeypatch, link) as client:
        reading = client.read("1.0.1.8.0.255")
        assert reading == Reading(AttributeRef(3, ENERGY, 2), Decimal("1234560"), "Wh", axdr.u32(123456), scaler=1)
        assert client.read("3/1.0.32.7.0.255/2").value == Decimal("230.1")


def test_many_values_are_never_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with meter(World(), monkeypatch) as client:
        results = client.read_many(["1.0.32.7.0.255", "1.0.52.7.0.255", "1.0.1.8.0.255"])
    assert [type(result) for result in results] == [Reading, Failed, Reading]
    assert results[1] == Failed(AttributeRef.parse("3/1.0.52.7.0.255/2"), "object-undefined")


def test_a_value_the_meter_does_not_have_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with meter(World(), monkeypatch) as client:
        with pytest.raises(ItemFailed, match="object-undefined"):
            client.read("1.0.52.7.0.255")
        assert client.read("1.0.32.7.0.255").unit == "V"


def test_the_class_of_a_code_comes_from_the_object_list_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    odd = Obis.parse("1.0.77.7.0.255")
    world.server.add(CosemObject(1, odd, readers={2: constant(axdr.u8(9))}))
    with meter(world, monkeypatch) as client:
        with pytest.raises(ItemFailed, match="object-class-inconsistent"):
            client.read("1.0.77.7.0.255")
        found = {info.obis: info for info in client.discover()}
        assert client.read("1.0.77.7.0.255").value == 9
    assert found[odd].class_id == 1
    assert found[PROFILE].readable(2)
    assert found[PROFILE].version == 1
    assert not found[ENERGY].readable(9)
    assert set(found[world.images.item.obis].methods) == {1, 2, 3, 4}


@pytest.mark.slow
def test_the_clock_is_read_set_and_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    with meter(world, monkeypatch) as client:
        assert client.clock.get().value == START + timedelta(days=10)
        client.clock.set(START)
        assert world.clock.time() == START
        client.clock.shift(-30)
        assert client.clock.get().value == START - timedelta(seconds=30)
        with pytest.raises(LocalError):
            client.clock.shift(1000)
        with pytest.raises(LocalError):
            client.clock.set(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test


def test_a_doubtful_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    raw = bytearray(CosemDateTime.from_datetime(START).emit())
    for status, quality in ((0x02, "doubtful"), (0x01, "invalid"), (0x80, "good")):
        raw[-1] = status
        world.clock.item.readers[2] = constant(axdr.octets(bytes(raw)))
        with meter(world, monkeypatch) as client:
            assert client.clock.get().quality == quality


def test_the_contactor_is_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    with meter(world, monkeypatch) as client:
        client.disconnect()
        assert not world.contactor.connected
        assert client.read("70/0.0.96.3.10.255/2").value is False
        client.reconnect()
        assert world.contactor.connected


def test_a_denied_write_or_method_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with meter(World(), monkeypatch) as client:
        with pytest.raises(ItemFailed, match="read-write-denied"):
            client.set(AttributeRef(3, ENERGY, 2), axdr.u32(0))
        with pytest.raises(ItemFailed, match="read-write-denied"):
            client.action(MethodRef(3, ENERGY, 1), axdr.i8(0))


def test_a_profile_is_read_as_typed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    with meter(World(), monkeypatch) as client:
        rows = list(client.profile("1.0.99.1.0.255"))
    assert len(rows) == ROWS
    assert rows[7].time == START + timedelta(minutes=15 * 7)
    assert rows[7].values == (START + timedelta(minutes=105), Decimal("10070"), Decimal("230.7"))
    assert rows[7].raw == (START + timedelta(minutes=105), 1007, 2307)
    assert [column.unit for column in rows[0].columns] == ["", "Wh", "V"]


def test_a_profile_is_read_by_time_or_by_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    since, until = START + timedelta(hours=1), START + timedelta(hours=2)
    with meter(World(), monkeypatch) as client:
        by_time = [row.raw[1] for row in client.profile("1.0.99.1.0.255", since=since, until=until)]
        assert by_time == [1004, 1005, 1006, 1007, 1008]
        open_end = [row.raw[1] for row in client.profile("1.0.99.1.0.255", since=START + timedelta(minutes=15 * 498))]
        assert open_end == [1498, 1499]
        assert [row.raw[1] for row in client.profile("1.0.99.1.0.255", entries=(3, 4))] == [1002, 1003]
        with pytest.raises(LocalError):
            list(client.profile("1.0.99.1.0.255", since=since, entries=(1, 2)))
        with pytest.raises(PeerError):
            list(client.profile("1.0.99.2.0.255"))


@pytest.mark.parametrize("choice", ["all", "since", "entries"])
def test_a_profile_goes_on_where_the_line_broke(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(after: int) -> Fault:
        return lambda number, data: None if number > after else data

    world = World()
    faults = [breaks(40), breaks(30), breaks(30)]
    client = meter(world, monkeypatch, "hdlc", faults)
    if choice == "since":
        rows = list(client.profile("1.0.99.1.0.255", since=START))
    elif choice == "entries":
        rows = list(client.profile("1.0.99.1.0.255", entries=(1, 0)))
    else:
        rows = list(client.profile("1.0.99.1.0.255"))
    client.close()
    assert [row.raw[1] for row in rows] == list(range(1000, 1000 + ROWS))
    assert not faults


def test_a_line_that_brings_no_row_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[Fault] = [lambda number, data: None if number > 40 else data]
    faults += [lambda number, data: None if number > 8 else data] * 10
    client = meter(World(), monkeypatch, "hdlc", faults)
    rows = client.profile("1.0.99.1.0.255")
    with pytest.raises(LinkError):
        list(rows)
    assert len(faults) == 7


def test_firmware_is_transferred_with_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    image = b"I" + bytes(range(256)) * 9
    seen: list[tuple[int, int]] = []

    def progress(sent: int, blocks: int) -> None:
        seen.append((sent, blocks))
        if sent == blocks and len(seen) <= blocks:
            world.images.forget(3)

    with meter(world, monkeypatch) as client:
        client.image.transfer(image, b"v2", activate=True, progress=progress)
    assert world.activated == [image]
    assert seen[-1] == (19, 19)
    assert len(seen) == 20


def test_firmware_that_does_not_verify_is_not_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    with meter(world, monkeypatch) as client, pytest.raises(PeerError, match="other-reason"):
        client.image.transfer(b"broken", b"v2", activate=True)
    assert not world.activated


def test_a_lost_session_is_opened_again_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(World().server, "hdlc", [lambda number, data: None if number > 3 else data])
    monkeypatch.setattr("dlms.client.meter.open_port", line)
    client = Meter("loop://", auth=SECRET)
    with pytest.raises(LinkError):
        client.read("1.0.1.8.0.255")
    assert not client.is_open
    assert client.read("1.0.1.8.0.255").value == Decimal("1234560")
    client.close()
    assert not client.is_open
    assert len(line.ports) == 2


def test_a_wrong_password_is_the_peers_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlms.client.meter.open_port", Line(World().server))
    with pytest.raises(PeerError, match="authentication-failure"):
        Meter("loop://", auth=Lls("wrong")).open()


def test_everything_that_crosses_the_port_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(World().server)
    monkeypatch.setattr("dlms.client.meter.open_port", line)
    trace: list[tuple[str, bytes]] = []
    with Meter("loop://", auth=SECRET, trace=lambda way, _when, data: trace.append((way, data))) as client:
        client.read("1.0.1.8.0.255")
    assert sum(len(data) for way, data in trace if way == ">") == line.ports[0].written
    assert sum(len(data) for way, data in trace if way == "<") == line.ports[0].read_octets


def test_wrong_arguments_are_told_before_anything_is_sent() -> None:
    with pytest.raises(LocalError):
        Meter("socket://127.0.0.1").open()
    with pytest.raises(LocalError):
        Meter("loop://", link="carrier pigeon").open()
    with pytest.raises(LocalError):
        Meter("loop://").read("not a code")
    with pytest.raises(LinkError):
        Meter("/dev/no-such-port").open()


def test_the_whole_list_over_hdlc_takes_no_more_than_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(reading_list_server(phases=3))
    monkeypatch.setattr("dlms.client.meter.open_port", line)
    writes: list[str] = []
    client = Meter("loop://", auth=SECRET, trace=lambda way, _when, _data: writes.append(way))
    client.read_many(REFS)
    client.close()
    writes.clear()
    results = client.read_many(REFS)
    client.close()
    assert all(isinstance(result, Reading) for result in results)
    assert writes.count(">") <= 20
    assert line.ports[1].written + line.ports[1].read_octets <= 2400


class WrapperTcp(threading.Thread):
    """A meter on a TCP port, for as many connections as come, one after another."""

    def __init__(self, server: MeterServer) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            with connection:
                port = MeterPort(self._server, "wrapper")
                while data := connection.recv(4096):
                    port.write(data)
                    connection.sendall(port.read(None) or b"")

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()


def test_over_a_real_socket_and_back() -> None:
    tcp = WrapperTcp(World().server)
    tcp.start()
    try:
        for _ in range(2):
            with Meter(f"socket://127.0.0.1:{tcp.port}", link="wrapper", auth=SECRET) as client:
                assert client.read("1.0.1.8.0.255").value == Decimal("1234560")
                assert len(list(client.profile("1.0.99.1.0.255"))) == ROWS
    finally:
        tcp.stop()


def test_a_closed_socket_is_an_error_and_no_spin() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client = Meter(f"socket://127.0.0.1:{listener.getsockname()[1]}", link="wrapper")

    def accept_and_close() -> None:
        connection, _address = listener.accept()
        connection.close()

    accepted = threading.Thread(target=accept_and_close)
    accepted.start()
    with pytest.raises(LinkError):
        client.open()
    accepted.join()
    listener.close()
    with pytest.raises(LinkError):
        client.open()


class BabblingPort:
    """A line that is never silent, with a clock of its own: every read takes a tenth of a second."""

    def __init__(self, babble: bytes) -> None:
        self.now, self.reads = 1000.0, 0
        self._babble = babble

    def monotonic(self) -> float:
        return self.now

    def read(self, timeout_s: float | None) -> bytes | None:
        del timeout_s
        self.now += 0.1
        self.reads += 1
        assert self.reads < 5000, "no deadline passes"
        return self._babble

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("babble", [b"x", b"\x7e", b"\x7e\xa0"])
def test_a_line_that_babbles_without_end_is_an_error(babble: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    port = BabblingPort(babble)
    monkeypatch.setattr("dlms.client.meter.time", port)
    with pytest.raises(LinkError):
        Meter("loop://", port=port, timeout_s=2.0).open()


@pytest.mark.process
def test_importing_the_client_loads_neither_cryptography_nor_pyserial() -> None:
    code = (
        "import sys, dlms; dlms.Meter; print([m for m in sys.modules if m.split('.')[0] in ('cryptography','serial')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
