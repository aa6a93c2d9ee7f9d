"""Meters push over simulated lines, in virtual time: what they say is an event once, whatever the port is doing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from agent.metering.events.intake import BURST
from agent.settings.config import EventsConfig
from agent.settings.provisioning import AccessRule, MeterAccess, Provisioning
from dlms import axdr
from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.link.hdlc.frames import FrameType, HdlcAddress, HdlcFrame, unnumbered_control
from dlms.link.hdlc.window import LLC_RESPONSE
from dlms.security.ciphering import Ciphering
from dlms.security.settings import MemoryCounters, Policy, Security
from dlms.server.objects import CosemObject
from dlms.xdlms.apdu.common import LONG_CONFIRMED
from dlms.xdlms.apdu.notify import DataNotification, EventNotification
from tests.agent.metering.events.captured import AM550, E450, GH740
from tests.agent.metering.test_collector import EVERY_S, PASSWORD, BusRig, PlcRig, Rig, provisioning, task
from tests.sim.plc_network import FIRST_ADDRESS

EK, AK = bytes(range(16)), bytes(range(0xD0, 0xE0))
TITLE = bytes.fromhex("4d4d4d0000bc614e")
PUSH_CLIENT = 102
CLOCK = CosemDateTime.parse(bytes.fromhex("07ea030c040f181eff800000"))


def cover_opened(invoke: int, *, time: CosemDateTime | None = None) -> bytes:
    body = axdr.structure(axdr.structure(axdr.octets(Obis.parse("0.0.96.11.1.255").code), axdr.u8(40)))
    return DataNotification(invoke, time, body).emit()


def happened(rig: Rig, *kinds: str) -> list[dict[str, object]]:
    """The events that were stored, oldest first; all but alarms of registers, or those of these kinds."""
    found = rig.store.events(1000)[::-1]
    return [event for event in found if (event["event"] in kinds if kinds else event["event"] != "alarm")]


def joined(rig: PlcRig) -> PlcRig:
    rig.run(5, until=lambda: len(rig.registry.present("plc0")) == len(rig.meters))
    return rig


# --- behind a base node ---


@pytest.mark.parametrize("client", [PUSH_CLIENT, 16])
@pytest.mark.slow
def test_a_push_behind_a_base_node_is_an_event_of_its_meter(tmp_path: Path, client: int) -> None:
    rig = joined(PlcRig(tmp_path, 2))
    rig.network.push(FIRST_ADDRESS + 1, cover_opened(7, time=CLOCK), rig.clock.now, client)
    rig.run(2)
    (event,) = happened(rig)
    assert event["meter"] == rig.registry.at("plc0", FIRST_ADDRESS + 1).meter_id  # type: ignore[union-attr]
    assert (event["code"], event["name"], event["grave"]) == (40, "terminal cover removed", True)
    assert (event["invoke"], event["meter_time"], event["security"]) == (7, None, "none")
    assert event["sender"] == f"plc0/{FIRST_ADDRESS + 1} to client {client}"


@pytest.mark.parametrize("client", [PUSH_CLIENT, 16])
def test_pushes_during_visits_are_events_and_disturb_no_reading(tmp_path: Path, client: int) -> None:
    rig = joined(PlcRig(tmp_path, 2))
    rig.collector.configure(provisioning())
    for number in range(12):
        rig.run(0.1)
        for address in (FIRST_ADDRESS, FIRST_ADDRESS + 1):
            rig.network.push(address, cover_opened(100 + number), rig.clock.now, client)
    rig.run(30)
    names = {meter.id for meter in rig.meters}
    assert rig.statuses() == dict.fromkeys(names, "read")
    found = happened(rig)
    assert sorted(event["invoke"] for event in found) == sorted([*range(100, 112)] * 2)  # type: ignore[type-var]


def test_a_repetition_is_no_second_event_after_a_kill_either(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    for _ in range(3):
        rig.network.push(FIRST_ADDRESS, cover_opened(7), rig.clock.now)
        rig.run(2)
    rig.restart()
    rig.network.push(FIRST_ADDRESS, cover_opened(7), rig.clock.now)
    rig.run(5)
    assert len(happened(rig)) == 1
    rig.network.push(FIRST_ADDRESS, cover_opened(8), rig.clock.now)
    rig.run(2)
    assert [event["invoke"] for event in happened(rig)] == [7, 8]


def test_a_babbling_meter_fills_nothing_and_its_neighbour_is_heard(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 2))
    for number in range(300):
        rig.network.push(FIRST_ADDRESS, cover_opened(number), rig.clock.now)
    rig.run(5)
    rig.network.push(FIRST_ADDRESS + 1, cover_opened(1), rig.clock.now)
    rig.run(1000)
    found = happened(rig)
    babbler, neighbour = (rig.registry.at("plc0", FIRST_ADDRESS + at).meter_id for at in (0, 1))  # type: ignore[union-attr]
    kinds = [event["event"] for event in found if event["meter"] == babbler]
    assert BURST <= kinds.count("push") <= BURST + 2
    assert kinds.count("notice") == 2
    assert int(str([event["count"] for event in found if event["event"] == "notice"][1])) >= 275
    assert [event["invoke"] for event in found if event["meter"] == neighbour] == [1]


def test_what_nobody_understands_is_kept_as_octets_with_its_sender(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    rig.network.push(FIRST_ADDRESS, b"\x0f\x00\x00\x00\x01\x00\xfe", rig.clock.now)
    rig.network.push(77, cover_opened(3), rig.clock.now)
    rig.run(2)
    opaque, stranger = happened(rig)
    assert (opaque["octets"], opaque["values"]) == ("0f000000010 0fe".replace(" ", ""), [])
    assert opaque["error"]
    assert (stranger["meter"], stranger["sender"]) == ("", "plc0/77 to client 102")


def test_an_event_waits_while_the_store_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.metering.store.reading_store import StoreError

    rig = joined(PlcRig(tmp_path, 1))

    def full(*_: object, **__: object) -> tuple[int, int]:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "append", full)
        rig.network.push(FIRST_ADDRESS, cover_opened(7), rig.clock.now)
        rig.run(2)
    assert [event["invoke"] for event in happened(rig)] == []
    rig.run(2)
    assert [event["invoke"] for event in happened(rig)] == [7]


# --- confirms ---


@pytest.mark.parametrize("client", [PUSH_CLIENT, 16])
def test_a_confirm_goes_back_behind_a_base_node_to_whoever_asks_for_one(tmp_path: Path, client: int) -> None:
    rig = joined(PlcRig(tmp_path, 2))
    rig.network.push(FIRST_ADDRESS, cover_opened(6), rig.clock.now, client)
    rig.network.push(FIRST_ADDRESS + 1, cover_opened(LONG_CONFIRMED | 7), rig.clock.now, client)
    rig.run(2)
    assert rig.network.confirms == [(FIRST_ADDRESS + 1, client, 1, bytes.fromhex("104000000700"))]


@pytest.mark.parametrize("client", [PUSH_CLIENT, 16])
def test_confirms_amid_visits_go_out_once_each_and_disturb_no_reading(tmp_path: Path, client: int) -> None:
    rig = joined(PlcRig(tmp_path, 2))
    rig.collector.configure(provisioning())
    for number in range(12):
        rig.run(0.1)
        rig.network.push(FIRST_ADDRESS, cover_opened(LONG_CONFIRMED | number), rig.clock.now, client)
    rig.run(30)
    assert rig.statuses() == dict.fromkeys([meter.id for meter in rig.meters], "read")
    confirms = [bytes.fromhex(f"104000{number:04x}00") for number in range(12)]
    assert sorted(rig.network.confirms) == [(FIRST_ADDRESS, client, 1, confirm) for confirm in confirms]


def test_no_confirm_goes_out_before_the_event_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.metering.store.reading_store import StoreError

    rig = joined(PlcRig(tmp_path, 1))

    def full(*_: object, **__: object) -> tuple[int, int]:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "append", full)
        rig.network.push(FIRST_ADDRESS, cover_opened(LONG_CONFIRMED | 7), rig.clock.now)
        rig.run(2)
    assert rig.network.confirms == []
    rig.network.push(FIRST_ADDRESS, cover_opened(LONG_CONFIRMED | 7), rig.clock.now)  # it got none, and says it again
    rig.run(2)
    assert [event["invoke"] for event in happened(rig)] == [LONG_CONFIRMED | 7]
    assert [confirm[3].hex() for confirm in rig.network.confirms] == ["104000000700"]


def test_what_is_not_kept_is_not_confirmed(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    for number in range(60):
        rig.network.push(FIRST_ADDRESS, cover_opened(LONG_CONFIRMED | number), rig.clock.now)
    rig.run(2)
    kept = [event["invoke"] for event in happened(rig, "push")]
    assert BURST <= len(kept) < 30
    assert [confirm[3] for confirm in rig.network.confirms] == [
        bytes.fromhex(f"10{invoke:08x}00") for invoke in kept
    ]  # fmt: skip


# --- with keys ---


def secured(*, policy: str = "both") -> Provisioning:
    given: dict[str, int | str | bytes] = {
        "authentication_key": AK,
        "encryption_key": EK,
        "policy": policy,
        "auth": "gmac",
        "client": 1,
    }
    rule = AccessRule("keys", port="plc0", given=tuple(given.items()))
    return replace(provisioning(), access=MeterAccess(16, "low", PASSWORD), access_rules=(rule,), tasks=())


def meter_side(counter: int = 5, *, policy: Policy = Policy.BOTH, ek: bytes = EK, general: bool = True) -> Ciphering:
    settings = Security(TITLE, ek, AK, 0, policy, MemoryCounters(counter), general=general)
    return Ciphering(settings, is_server=True)


def test_a_ciphered_push_is_opened_with_the_keys_of_its_meter_and_a_replay_is_none(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    rig.collector.configure(secured())
    meter = meter_side()
    first = meter.protect(cover_opened(7))
    rig.network.push(FIRST_ADDRESS, first, rig.clock.now)
    rig.run(2)
    rig.network.push(FIRST_ADDRESS, meter.protect(cover_opened(8)), rig.clock.now)
    rig.network.push(FIRST_ADDRESS, first, rig.clock.now)
    rig.run(2)
    found = happened(rig)
    assert [(event["invoke"], event["security"]) for event in found] == [(7, "both"), (8, "both")]
    assert {event["name"] for event in found} == {"terminal cover removed"}
    assert rig.collector.events.counts().replayed == 1
    rig.restart()
    rig.collector.configure(secured())
    rig.network.push(FIRST_ADDRESS, first, rig.clock.now)
    rig.run(3)
    assert rig.collector.events.counts().replayed == 1, "the counter is durable"
    assert len(happened(rig)) == 2


def test_an_event_notification_in_the_form_of_its_service_is_opened_once_the_title_is_known(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    rig.collector.configure(secured())
    plain = EventNotification(CLOCK, AttributeRef.parse("1/0.0.96.11.2.255/2"), axdr.u16(62)).emit()
    meter = meter_side(general=False)
    rig.network.push(FIRST_ADDRESS, meter.protect(plain), rig.clock.now)
    rig.run(2)
    assert [event["security"] for event in happened(rig)] == ["unopened"]
    rig.network.push(FIRST_ADDRESS, meter_side(50).protect(cover_opened(1)), rig.clock.now)  # names its title
    rig.run(2)
    rig.network.push(FIRST_ADDRESS, meter_side(60, general=False).protect(plain), rig.clock.now)
    rig.run(2)
    last = happened(rig)[-1]
    assert (last["code"], last["security"], last["obis"]) == (62, "both", "0.0.96.11.2.255")


@pytest.mark.parametrize("plain", [True, False])
def test_what_comes_weaker_than_agreed_is_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture, plain: bool) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    rig.collector.configure(secured())
    apdu = cover_opened(7) if plain else meter_side(policy=Policy.ENCRYPT).protect(cover_opened(7))
    with caplog.at_level(logging.WARNING):
        rig.network.push(FIRST_ADDRESS, apdu, rig.clock.now)
        rig.run(2)
    (event,) = happened(rig)
    assert (event["security"], event["code"]) == ("unauthenticated", 40)
    assert "event.unauthenticated" in {getattr(record, "event", "") for record in caplog.records}


def test_where_the_policy_says_so_it_is_refused_and_counted(tmp_path: Path) -> None:
    rig = joined(StrictRig(tmp_path, 1))
    rig.collector.configure(secured())
    rig.network.push(FIRST_ADDRESS, cover_opened(7), rig.clock.now)
    rig.network.push(FIRST_ADDRESS, meter_side().protect(cover_opened(8)), rig.clock.now)
    rig.run(2)
    assert [event["invoke"] for event in happened(rig)] == [8]
    assert rig.collector.events.counts().refused == 1


class StrictRig(PlcRig):
    events = EventsConfig("refuse")


def test_a_forged_push_moves_no_counter(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    rig.collector.configure(secured())
    rig.network.push(FIRST_ADDRESS, meter_side(10**6, ek=bytes(16)).protect(cover_opened(1)), rig.clock.now)
    rig.network.push(FIRST_ADDRESS, meter_side(5).protect(cover_opened(2)), rig.clock.now)
    rig.run(2)
    assert [(event["security"], event["invoke"]) for event in happened(rig)] == [("unopened", None), ("both", 2)]


# --- on a bus ---


def ui(address: int, apdu: bytes, client: int = PUSH_CLIENT, *, size: int = 2000) -> bytes:
    """UI frames from `1/address`, segmented where the message is longer than `size`."""
    data = LLC_RESPONSE + apdu
    control = unnumbered_control(FrameType.UI, poll_final=False)
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(
        HdlcFrame(HdlcAddress(client), HdlcAddress(1, address), control, part, at < len(parts) - 1).emit()
        for at, part in enumerate(parts)
    )


@pytest.mark.parametrize("capture", [AM550, GH740, E450], ids=lambda capture: capture.name)
def test_captured_pushes_on_a_bus_are_events(tmp_path: Path, capture: object) -> None:
    assert isinstance(capture, type(AM550))
    rig = BusRig(tmp_path)
    rig.run(30)
    rig.network.push(capture.octets)
    rig.run(2)
    (event,) = happened(rig)
    if capture.ek:
        assert (event["security"], event["meter"]) == ("unopened", "")
        assert event["octets"] == capture.apdu().hex()
    else:
        assert event["octets"] is None
        assert isinstance(event["values"], list)
        assert len(event["values"]) == {AM550.name: 16, GH740.name: 14}[capture.name]
    if capture is AM550:
        assert event["sender"] == "rs485/17 to client 103"
        assert event["meter"] == rig.registry.at("rs485", 17).meter_id  # type: ignore[union-attr]


@pytest.mark.parametrize("client", [PUSH_CLIENT, 16])
@pytest.mark.parametrize("size", [2000, 20])
def test_pushes_on_a_bus_during_visits_are_one_event_each_and_disturb_no_reading(
    tmp_path: Path, client: int, size: int
) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(8)
    for number in range(8):
        rig.network.push(ui(17, cover_opened(100 + number), client, size=size))
        rig.run(0.7)
    rig.run(60)
    assert rig.statuses() == dict.fromkeys([meter.id for meter in rig.meters], "read")
    assert sorted(event["invoke"] for event in happened(rig)) == [*range(100, 108)]  # type: ignore[type-var]


@pytest.mark.parametrize("client", [PUSH_CLIENT, 16])
@pytest.mark.parametrize("size", [2000, 20])
def test_confirms_go_over_a_bus_when_it_is_free(tmp_path: Path, client: int, size: int) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    rig.run(8)
    for number in range(8):
        rig.network.push(ui(17, cover_opened(LONG_CONFIRMED | number), client, size=size))
        rig.run(0.7)
    rig.run(60)
    assert rig.statuses() == dict.fromkeys([meter.id for meter in rig.meters], "read")
    places = (HdlcAddress(1, 17), HdlcAddress(client))
    assert {(frame.destination, frame.source) for frame in rig.network.confirms} == {places}
    assert sorted(frame.info.hex() for frame in rig.network.confirms) == [
        f"e6e600104000{number:04x}00" for number in range(8)
    ]  # fmt: skip


# --- what is read ---


def test_an_alarm_bit_and_a_row_of_a_log_are_one_event_each_however_often_they_are_read(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    register = [0b10]
    rig.meters[0].server.add(
        CosemObject(1, Obis.parse("0.0.97.98.1.255"), readers={2: lambda _selection: axdr.u32(register[0])})
    )
    rig.collector.configure(provisioning(task("ev", reading_list="events", priority=9)))
    rig.run(60)
    found = [event for event in happened(rig, "alarm") if event["obis"] == "0.0.97.98.1.255"]
    assert [(event["code"], event["name"], event["grave"]) for event in found] == [(1, "power back", False)]
    register[0] = 0b110
    rig.run(EVERY_S)
    register[0] = 0
    rig.run(EVERY_S)
    rig.restart()
    rig.collector.configure(provisioning(task("ev", reading_list="events", priority=9)))
    register[0] = 0b10
    rig.run(2 * EVERY_S)
    found = [event for event in happened(rig, "alarm") if event["obis"] == "0.0.97.98.1.255"]
    assert [event["code"] for event in found] == [1, 2, 1]
    assert {event["meter"] for event in found} == {rig.meters[0].id}
