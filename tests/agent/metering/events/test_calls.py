"""Meters that push over connections: those that we opened, and those with which they call in. Real sockets."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.metering.access.accessbook import AccessBook
from agent.metering.access.keystore import KeyStore
from agent.metering.events import listener
from agent.metering.events.desk import EventDesk
from agent.metering.events.listener import CALL_IDLE_S, CALLS_MAX, CallIn, meters_by_host
from agent.metering.events.overheard import WrapperEar
from agent.metering.events.port_ears import PortEars
from agent.metering.registry.registry import Registry
from agent.metering.store.reading_store import Store, StoreError
from agent.settings.config import ListenConfig, PortConfig, PortMeterConfig
from agent.settings.provisioning import AccessRule, Provisioning
from dlms import axdr
from dlms.cosem.obis import Obis
from dlms.link.wrapper import WrapperFrame
from dlms.xdlms.apdu.common import LONG_CONFIRMED
from dlms.xdlms.apdu.notify import DataNotification
from omadm.readings import EVENT_OCTETS_MAX
from plc.connections import MeterConnections
from plc.protocols import WRAPPER
from tests.agent.metering.events.captured import AM550, E450, KAIFA, OMNIPOWER, Capture, kaifa_apdu
from tests.agent.metering.events.test_pushes_on_lines import AK, EK, cover_opened, meter_side
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process
LIMIT_S = 10.0
HOST = "127.0.0.1"


class Office:
    """A desk with all that it needs, and one meter that is known by its address."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = VirtualClock(wall=1_800_000_000.0)
        self.store = Store(tmp_path / "readings.db", self.clock, records_max=10_000, keep_forwarded_max=100)
        self.registry = Registry(RealDisk(), tmp_path / "meters.json", self.clock, leave_after_s=60.0)
        self.access = AccessBook(KeyStore(RealDisk(), tmp_path / "keys"), self.clock, random.Random(1).random)
        self.desk = EventDesk(self.store, self.registry, self.access, self.clock)
        self.server = socket.create_server((HOST, 0))
        url = f"socket://{HOST}:{self.server.getsockname()[1]}"
        self.port = PortConfig("lan", WRAPPER, "", 0, meters=(PortMeterConfig(4, url, 0, "none"),))
        self.registry.join("lan", 4)
        meter = self.registry.at("lan", 4)
        assert meter is not None
        self.registry.name(meter.key, "KEP4")

    def call_in(self, *, udp: bool = False) -> CallIn:
        listen = ListenConfig(HOST, 0, udp)
        return CallIn(listen, self.desk, self.clock, meters_by_host([self.port], self.registry.at))

    def events(self) -> list[dict[str, object]]:
        return self.store.events(100)[::-1]

    def until(self, step: Callable[[], object], done: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < end, "nothing happens"
            step()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.server.close()
    made.store.close()


def frame(apdu: bytes, client: int = 102) -> bytes:
    return WrapperFrame(1, client, apdu).emit()


def test_a_push_on_the_connection_that_we_opened_is_an_event_and_an_answer_is_none(office: Office) -> None:
    port = MeterConnections(office.port.endpoint, WRAPPER.make_core)
    ears = PortEars(office.port, office.desk, office.clock)
    ears.attach(port)
    ears.conversation(4, 16, port.channel(4))
    office.server.settimeout(LIMIT_S)
    meter, _ = office.server.accept()
    meter.sendall(frame(b"\xc4\x01\xc1\x00\x00", 16) + frame(cover_opened(3), 16) + frame(cover_opened(5)))
    office.until(lambda: port.poll(time.monotonic(), 0.05), lambda: bool(office.events()))
    (event,) = office.events()  # the one to our client is for the session, which has it from there
    assert (event["meter"], event["invoke"], event["sender"]) == ("KEP4", 5, "lan/4 to client 102")
    meter.sendall(frame(cover_opened(LONG_CONFIRMED | 6)))
    office.until(lambda: port.poll(time.monotonic(), 0.05), lambda: len(office.events()) == 2)
    port.poll(time.monotonic(), 0.05)
    meter.settimeout(LIMIT_S)
    assert meter.recv(100).hex() == "0001006600010006" + "104000000600"  # from where it went to, to where it came from
    port.close()
    meter.close()


@pytest.mark.parametrize("udp", [False, True])
def test_who_calls_in_gets_a_confirm_when_it_asks_for_one_and_the_event_is_kept(
    office: Office, udp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = office.call_in(udp=udp)
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as meter:
        meter.settimeout(LIMIT_S)
        meter.connect((HOST, calls.port))
        meter.send(frame(cover_opened(7)))  # asks for none
        office.until(lambda: calls.serve(0.1), lambda: len(office.events()) == 1)

        def full(*_: object, **__: object) -> tuple[int, int]:
            raise StoreError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(office.store, "append", full)
            meter.send(frame(cover_opened(LONG_CONFIRMED | 8)))
            for _ in range(5):
                calls.serve(0.05)
        meter.send(frame(cover_opened(LONG_CONFIRMED | 8)))  # as a meter does that got no confirm
        office.until(lambda: calls.serve(0.1), lambda: len(office.events()) == 2)
        meter.send(frame(cover_opened(LONG_CONFIRMED | 8)))
        calls.serve(LIMIT_S)
        confirm = "0001006600010006" + "104000000800"
        octets = meter.recv(100)
        while len(octets) < 28:
            octets += meter.recv(100)
        assert octets.hex() == 2 * confirm  # of the one that was kept, and of its repetition
    calls.close()


@pytest.mark.parametrize("udp", [False, True])
def test_a_meter_that_calls_in_is_known_by_its_address(office: Office, udp: bool) -> None:
    calls = office.call_in(udp=udp)
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as meter:
        meter.connect((HOST, calls.port))
        for octets in [frame(cover_opened(7))] if udp else [frame(cover_opened(7))[:5], frame(cover_opened(7))[5:]]:
            meter.send(octets)
            calls.serve(1.0)
        office.until(lambda: calls.serve(0.1), lambda: bool(office.events()))
    (event,) = office.events()
    assert (event["meter"], event["invoke"]) == ("KEP4", 7)
    calls.close()


@pytest.mark.parametrize("capture", [OMNIPOWER, E450, KAIFA, AM550], ids=lambda capture: capture.name)
def test_captured_pushes_of_strangers_are_kept_and_said_to_be_of_strangers(
    office: Office, capture: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    apdu = kaifa_apdu() if capture is KAIFA else capture.apdu()
    office.desk.called("203.0.113.7:40000", apdu, None)
    (event,) = office.events()
    assert (event["meter"], event["sender"]) == ("", "203.0.113.7:40000")
    assert event["security"] == ("unopened" if capture.ek else "none")
    assert event["octets"] == (apdu.hex() if capture.ek else None)
    assert "event.unknown" in {getattr(record, "event", "") for record in caplog.records}


def secured(office: Office) -> None:
    given: dict[str, int | str | bytes] = {
        "authentication_key": AK, "encryption_key": EK, "policy": "both", "auth": "gmac", "client": 1,
    }  # fmt: skip
    office.access.configure(Provisioning(access_rules=(AccessRule("k", port="lan", given=tuple(given.items())),)))


def test_a_stranger_with_the_title_of_a_meter_is_that_meter_if_its_keys_say_so(office: Office) -> None:
    secured(office)
    office.desk.called("203.0.113.7:1", meter_side(1).protect(cover_opened(1)), None)
    assert [event["security"] for event in office.events()] == ["unopened"]
    office.desk.heard("lan", 4, meter_side(2).protect(cover_opened(2)))  # proves its title
    office.desk.called("203.0.113.7:1", meter_side(3).protect(cover_opened(3)), None)
    office.desk.called("203.0.113.8:1", meter_side(4, ek=bytes(16)).protect(cover_opened(4)), None)
    told = [(event["meter"], event["security"], event["invoke"]) for event in office.events()]
    assert told[1:] == [("KEP4", "both", 2), ("KEP4", "both", 3), ("KEP4", "unopened", None)]


def test_a_stranger_that_only_says_its_name_is_unauthenticated_where_keys_are_agreed(office: Office) -> None:
    name = axdr.structure(axdr.octets(Obis.parse("0.0.42.0.0.255").code), axdr.octets(b"KEP4"))
    apdu = DataNotification(3, None, axdr.structure(name)).emit()
    office.desk.called("203.0.113.7:1", apdu, None)
    secured(office)
    office.desk.called("203.0.113.7:1", apdu.replace(b"\x03", b"\x04", 1), None)
    assert [(event["meter"], event["security"]) for event in office.events()] == [
        ("KEP4", "none"),
        ("KEP4", "unauthenticated"),
    ]


def test_what_says_the_name_of_a_meter_is_not_of_the_one_that_has_its_place_now(office: Office) -> None:
    here = office.registry.at("lan", 4)
    assert here is not None
    office.registry.name(here.key, "KEP5")
    for number, said in ((b"\x03", b"KEP4"), (b"\x04", b"KEP5")):
        name = axdr.structure(axdr.octets(Obis.parse("0.0.42.0.0.255").code), axdr.octets(said))
        apdu = DataNotification(3, None, axdr.structure(name)).emit().replace(b"\x03", number, 1)
        office.desk.called("203.0.113.7:1", apdu, None)
    assert [event["meter"] for event in office.events()] == ["", "KEP5"]


def test_whoever_announces_too_much_or_talks_no_wrapper_is_cut_off(office: Office) -> None:
    ear = WrapperEar(apdu_bytes_max=EVENT_OCTETS_MAX)
    assert ear.receive(bytes.fromhex("000100010066 ffff".replace(" ", ""))) == []
    assert "65535" in ear.broken
    calls = office.call_in()
    with socket.create_connection((HOST, calls.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.settimeout(LIMIT_S)
        calls.serve(1.0)
        office.until(lambda: calls.serve(0.05), lambda: not calls.calls)
        assert stranger.recv(10) == b""
    calls.close()
    assert office.events() == []


def test_many_connections_and_silent_ones_are_dropped(office: Office) -> None:
    calls = office.call_in()
    strangers = [socket.create_connection((HOST, calls.port)) for _ in range(CALLS_MAX + 5)]
    for _ in strangers:
        calls.serve(1.0)
    assert calls.calls == CALLS_MAX
    office.clock.advance(CALL_IDLE_S + 1)
    calls.serve(0.0)
    assert calls.calls == 0
    for stranger in strangers:
        stranger.close()
    calls.close()


@pytest.mark.parametrize("talks", [0, 1])
def test_who_gives_way_to_a_new_caller_may_be_talking_at_that_moment(
    office: Office, monkeypatch: pytest.MonkeyPatch, talks: int
) -> None:
    """Anybody could end the agent otherwise: the connection was looked up after it had been dropped."""
    monkeypatch.setattr(listener, "CALLS_MAX", 2)
    calls = office.call_in()
    with socket.create_connection((HOST, calls.port)) as first, socket.create_connection((HOST, calls.port)) as second:
        office.until(lambda: calls.serve(0.05), lambda: calls.calls == 2)
        with socket.create_connection((HOST, calls.port)), socket.create_connection((HOST, calls.port)):
            for connection in (first, second)[talks:]:
                connection.send(b"\x00")
            for _ in range(4):
                calls.serve(0.05)
            assert calls.calls == 2
    calls.close()
