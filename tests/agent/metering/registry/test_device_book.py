"""What is learned of a meter: kept over a restart, asked for in idle time, and asked anew for another firmware."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.metering.registry.capabilities import OBJECT_LIST, OBJECTS_MAX, ObjectList, Offered, model_of
from agent.metering.registry.capabilities import text_of as text
from agent.metering.registry.counters import COUNT_MAX, Counters, failure_kind
from agent.metering.registry.device_book import (
    CHECK_S,
    FLUSH_S,
    LOOK_AGAIN_S,
    RETRY_S,
    SOON_S,
    Device,
    DeviceBook,
    Question,
)
from agent.metering.registry.registry import Registry
from agent.metering.store.reading_store import Store
from dlms import axdr
from dlms.client.association import AuthenticationRefused, ServiceRefused
from dlms.codes import Conformance
from dlms.cosem.obis import FIRMWARE_ID, AttributeRef, Obis
from dlms.errors import DecodeError, LinkError, LocalError
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk

TYPE = AttributeRef.parse("1/0.0.96.1.2.255/2")
OFFERED = Offered(int(Conformance.GET | Conformance.MULTIPLE_REFERENCES | Conformance.SELECTIVE_ACCESS), 512)


def objects(*names: str) -> axdr.Data:
    entry = [
        axdr.structure(axdr.u16(3), axdr.u8(0), axdr.octets(Obis.parse(name).code), axdr.structure()) for name in names
    ]
    return axdr.array(entry)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.folder = folder
        self.device_type: AttributeRef | None = None
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder / "readings.db", self.clock, records_max=1000, keep_forwarded_max=0)
        self.registry = Registry(RealDisk(), self.folder / "meters.json", self.clock, leave_after_s=60.0)
        self.book = DeviceBook(self.store, self.registry, self.clock, device_type=self.device_type)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.book.tick()

    def restart(self) -> None:
        """The power is cut: what was not written is gone."""
        self.registry.save()
        self.store.close()
        self.open()

    def meter(self, name: str = "KFM0001") -> str:
        meter = self.registry.join("plc0", 5, b"\x02\xdc\x00\x00\x00\x01")
        named = self.registry.name(meter.key, name)
        assert named is not None
        self.book.visited(named, OFFERED)
        return meter.key

    def due(self) -> tuple[AttributeRef, ...]:
        found = self.book.due("plc0", self.clock.monotonic())
        return found.refs if found else ()

    def ask(self, values: dict[AttributeRef, axdr.Data | None]) -> bool:
        key = self.registry.known()[0].key
        self.book.answered(key)
        return self.book.told(key, values)

    def model(self) -> str | None:
        return self.registry.meters()[0].model


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


def test_a_meter_is_asked_for_its_firmware_and_then_for_its_objects_and_then_for_nothing(rig: Rig) -> None:
    key = rig.meter()
    assert rig.due() == (FIRMWARE_ID,)
    assert not rig.ask({FIRMWARE_ID: axdr.octets(b"V1.2")})
    assert rig.due() == (OBJECT_LIST,)
    rig.ask({OBJECT_LIST: objects("1.0.1.8.0.255", "1.0.2.8.0.255")})
    assert rig.due() == ()
    device = rig.book.device(key)
    assert (device.firmware, device.object_count, device.objects_why) == ("V1.2", 2, "")
    found = rig.book.objects(key)
    assert found is not None
    assert found.objects == ("3/1.0.1.8.0.255/0", "3/1.0.2.8.0.255/0")
    assert rig.model() == "KFM V1.2"


def test_what_was_learned_outlives_a_power_cut(rig: Rig) -> None:
    key = rig.meter()
    rig.due()
    rig.ask({FIRMWARE_ID: axdr.octets(b"V1.2")})
    rig.due()
    rig.ask({OBJECT_LIST: objects("1.0.1.8.0.255")})
    before = rig.book.device(key).dump()
    rig.wait(SOON_S)
    rig.restart()
    assert rig.book.device(key).dump() == before
    assert rig.model() == "KFM V1.2"
    assert rig.due() == ()


def test_another_firmware_has_the_list_read_again_and_what_was_learned_forgotten(rig: Rig) -> None:
    key = rig.meter()
    for _ in range(2):
        rig.due()
        rig.ask({FIRMWARE_ID: axdr.octets(b"V1"), OBJECT_LIST: objects("1.0.1.8.0.255")})
    rig.clock.advance(CHECK_S + 1)
    assert rig.due() == (FIRMWARE_ID,)
    assert rig.ask({FIRMWARE_ID: axdr.octets(b"V2")})
    assert rig.due() == (OBJECT_LIST,)
    rig.ask({OBJECT_LIST: objects("1.0.1.8.0.255", "1.0.1.7.0.255")})
    assert rig.book.device(key).object_count == 2


def test_a_meter_without_a_name_is_asked_each_day_too_and_has_no_model(rig: Rig) -> None:
    """Its scalers may change like those of any other."""
    meter = rig.registry.join("plc0", 5, b"\x02\xdc\x00\x00\x00\x01")
    rig.book.visited(meter, OFFERED)
    for _day in range(2):
        assert rig.book.due("plc0", rig.clock.monotonic()) == Question(meter, (FIRMWARE_ID,), "")
        rig.ask({FIRMWARE_ID: axdr.octets(b"V1")})
        assert rig.due() == ()
        assert rig.model() is None
        rig.clock.advance(CHECK_S + 1)


def test_scalers_are_looked_at_in_as_many_visits_as_it_takes_also_over_a_restart(rig: Rig) -> None:
    key, last = rig.meter(), "3/1.0.1.8.0.255/3"
    rig.ask({FIRMWARE_ID: None, OBJECT_LIST: None})
    rig.book.looked(key, last)
    assert rig.book.due("plc0", rig.clock.monotonic()) == Question(rig.registry.known()[0], (), last)
    rig.wait(SOON_S)
    rig.restart()
    meter = rig.registry.join("plc0", 5, b"\x02\xdc\x00\x00\x00\x01")
    assert rig.book.due("plc0", rig.clock.monotonic()) == Question(meter, (), last)
    rig.book.answered(key)
    rig.book.looked(key, "")
    assert rig.book.due("plc0", rig.clock.monotonic()) is None


def test_a_question_without_an_answer_rests(rig: Rig) -> None:
    rig.meter()
    assert rig.due() == (FIRMWARE_ID,)
    rig.clock.advance(LOOK_AGAIN_S + 1)
    assert rig.due() == ()
    rig.clock.advance(RETRY_S)
    assert rig.due() == (FIRMWARE_ID,)


def test_a_meter_that_gives_no_list_is_not_asked_again_for_the_same_firmware(rig: Rig) -> None:
    key = rig.meter()
    rig.due()
    rig.ask({FIRMWARE_ID: None})
    assert rig.due() == (OBJECT_LIST,)
    rig.ask({OBJECT_LIST: None})
    assert rig.due() == ()
    assert rig.book.device(key).objects_why == "the meter does not give it"
    assert rig.model() == "KFM"


@pytest.mark.parametrize("data", [axdr.u8(1), axdr.array([axdr.u8(1)]), axdr.array([axdr.structure(axdr.u16(1))])])
def test_a_list_that_makes_no_sense_is_said_to_be_one(rig: Rig, data: axdr.Data) -> None:
    key = rig.meter()
    rig.ask({OBJECT_LIST: data})
    assert "object list, entry 0" in rig.book.device(key).objects_why
    assert rig.book.objects(key) is None


def test_an_exchanged_meter_starts_anew_and_the_former_one_is_what_it_was(rig: Rig) -> None:
    def models() -> list[tuple[str, str | None]]:
        return [(meter.meter_id, meter.model) for meter in rig.registry.meters()]

    key = rig.meter()
    rig.ask({FIRMWARE_ID: axdr.octets(b"V1")})
    rig.registry.name(key, "OTH0002")
    assert models() == [("KFM0001", "KFM V1"), ("OTH0002", "OTH")]
    rig.meter("OTH0002")
    assert rig.book.device(key).firmware == ""
    assert rig.due() == (FIRMWARE_ID,)
    assert rig.book.device(key).counters.read == 2
    rig.wait(SOON_S)
    rig.restart()
    assert models() == [("KFM0001", "KFM V1"), ("OTH0002", "OTH")]
    rig.meter()
    assert rig.book.device(key).firmware == "V1"
    assert models() == [("KFM0001", "KFM V1"), ("OTH0002", "OTH")]


def test_a_device_type_that_is_configured_makes_the_model(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.device_type = TYPE
    rig.open()
    rig.meter()
    assert rig.due() == (FIRMWARE_ID, TYPE)
    rig.ask({FIRMWARE_ID: axdr.octets(b"V1"), TYPE: axdr.octets(b"ME-382")})
    assert rig.model() == "KFM ME-382"


def test_counters_are_written_after_a_while_and_at_the_end(rig: Rig) -> None:
    key = rig.meter()
    rig.wait(SOON_S)
    rig.book.failed(key, "timeout")
    rig.wait(SOON_S)
    rig.restart()
    assert rig.book.device(key).counters.timeout == 0, "a cut costs what was not written"
    rig.book.failed(key, "auth")
    rig.wait(FLUSH_S)
    rig.book.failed(key, "decode")
    rig.book.flush()
    rig.restart()
    counted = rig.book.device(key).counters
    assert (counted.auth, counted.decode, counted.read) == (1, 1, 1)


def test_a_forgotten_meter_leaves_nothing(rig: Rig) -> None:
    key = rig.meter()
    rig.ask({FIRMWARE_ID: axdr.octets(b"V1")})
    rig.registry.remove("KFM0001")
    rig.book.forget([key])
    rig.store.forget(meters=[key])
    rig.restart()
    rig.meter()
    assert rig.book.device(key).firmware == ""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "timeout"),
        (LinkError("silence"), "timeout"),
        (AuthenticationRefused("wrong password"), "auth"),
        (DecodeError("AARE", 3, "nonsense"), "decode"),
        (ServiceRefused("other-reason", unsupported=False), "refused"),
        (LocalError("ours"), "other"),
    ],
)
def test_failures_are_told_apart_by_their_type(error: Exception | None, kind: str) -> None:
    assert failure_kind(error) == kind


def test_a_counter_ends_where_a_node_of_the_tree_does() -> None:
    counters = Counters(read=COUNT_MAX)
    counters.count("read")
    assert counters.read == COUNT_MAX


@pytest.mark.parametrize(
    ("name", "kind", "model"),
    [("KFM1234", "", "KFM"), ("kfm1234", "", None), ("12AB", "V1", "V1"), ("", "", None), ("KF", "", None)],
)
def test_a_model_is_what_name_and_type_say(name: str, kind: str, model: str | None) -> None:
    assert model_of(name, kind) == model


def test_identifications_become_plain_text() -> None:
    assert text(axdr.octets(b"V1.2\0\0")) == "V1.2"
    assert text(axdr.octets(b"\x01\xff")) == "01ff"
    assert text(axdr.u16(7)) == "7"
    assert text(None) == ""
    assert len(text(axdr.octets(b"x" * 500))) == 48


def test_a_long_list_is_bounded_and_its_digest_is_not() -> None:
    names = [f"1.0.{index >> 8}.{index & 255}.0.255" for index in range(OBJECTS_MAX + 1)]
    whole, without_last = ObjectList.parse(objects(*names)), ObjectList.parse(objects(*names[:-1]))
    assert whole.count == OBJECTS_MAX + 1
    assert len(whole.objects) == OBJECTS_MAX
    assert whole.objects == without_last.objects
    assert whole.digest != without_last.digest
    assert ObjectList.load(whole.digest, whole.dump()) == whole


def test_a_stored_row_of_any_shape_makes_a_device() -> None:
    pick = random.Random(5)
    good = Device(logical_device="KFM1", firmware="V1", offered=OFFERED, objects="ab", objects_for="V1").dump()
    shapes: list[object] = [None, "", 3, -1, [], {}, [1, 2], "x" * 9, 1e300, True]
    for _ in range(500):
        row = {name: pick.choice([value, *shapes]) for name, value in good.items() if pick.random() < 0.9}
        made = Device.load(row)
        assert Device.load(made.dump()).dump() == made.dump()


def test_services_are_named_as_in_the_standard() -> None:
    assert OFFERED.services == ("multiple-references", "get", "selective-access")
    assert OFFERED.get_with_list
    assert not Offered(OFFERED.conformance, 512, 1).get_with_list
