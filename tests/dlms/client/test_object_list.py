"""What a client does with a meter's objects: discover, read with names, write, call, bring an image; also over a line
that fails on the way."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.client.image_transfer import MeterImage
from dlms.client.meter import Meter
from dlms.client.reading import Failed, ItemFailed, Reading
from dlms.codes import ActionResult, DataAccessResult
from dlms.cosem.associations import ObjectInfo, emit_objects, named_objects_of, objects_of
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.time import ClockPolicy, CosemTime
from dlms.errors import DecodeError, LinkError, LocalError, PeerError
from dlms.server.clock import ClockObject
from dlms.server.image import ImageTransfer
from dlms.server.objects import CosemObject, constant
from dlms.server.server import MeterServer
from dlms.server.view import association_object
from dlms.xdlms.apdu.common import ActionOutcome
from tests.dlms.client.test_meter import Fault, Line

CALENDAR = Obis.parse("0.0.13.0.0.255")
LIMITER = Obis.parse("0.0.17.0.0.255")
PUSH = Obis.parse("0.4.25.9.0.255")
ENERGY = Obis.parse("1.0.1.8.0.255")
START = datetime(2026, 3, 1, tzinfo=UTC)


class Store:
    """An object whose attributes may be written; `calls` are the parameters its methods were given."""

    def __init__(self, class_id: int, obis: Obis, version: int = 0, **values: Data) -> None:
        self.values = {int(number[1:]): value for number, value in values.items()}
        self.calls: list[Data | None] = []
        self.item = CosemObject(class_id, obis, version)
        for number in self.values:
            self.item.readers[number] = lambda _selection, number=number: self.values[number]  # type: ignore[misc]
            self.item.writers[number] = lambda value, number=number: self._write(number, value)  # type: ignore[misc]
        self.item.methods = {1: self._call, 2: self._call}

    def _write(self, number: int, value: Data) -> DataAccessResult:
        self.values[number] = value
        return DataAccessResult.SUCCESS

    def _call(self, parameters: Data | None) -> ActionOutcome:
        self.calls.append(parameters)
        return ActionOutcome(ActionResult.SUCCESS)


def client(
    monkeypatch: pytest.MonkeyPatch, *objects: CosemObject, faults: list[Fault] | None = None, **options: Any
) -> tuple[Meter, Line]:
    server = MeterServer(objects)
    server.add(association_object(server))
    line = Line(server, "wrapper", faults)
    monkeypatch.setattr("dlms.client.meter.open_port", line)
    return Meter("loop://", link="wrapper", retry_pause_s=0, **options), line


def breaks(after: int) -> Fault:
    return lambda number, data: None if number > after else data


def test_a_calendar_is_read_changed_and_written_back(monkeypatch: pytest.MonkeyPatch) -> None:
    action = axdr.structure(axdr.octets(bytes(4)), axdr.octets(bytes((0, 0, 10, 0, 100, 255))), axdr.u16(1))
    store = Store(20, CALENDAR, a9=axdr.array([axdr.structure(axdr.u8(1), axdr.array([action]))]))
    meter, _ = client(monkeypatch, store.item)
    days: Any = meter.read("20/0.0.13.0.0.255/9").value
    assert days[0]["day_schedule"][0]["start_time"] == CosemTime(0, 0, 0, 0)
    days[0]["day_schedule"].append(
        {"start_time": "06:30", "script_logical_name": "0.0.10.0.100.255", "script_selector": 2}
    )
    meter.set("20/0.0.13.0.0.255/9", days)
    assert (
        store.values[9].members()[0].members()[1].members()[1].emit().hex()
        == "0203" + "0904061e0000" + "09060000" + "0a0064ff" + "120002"
    )
    with pytest.raises(LocalError, match=r"20/0\.0\.13\.0\.0\.255/9\[0\]\.day_id"):
        meter.set("20/0.0.13.0.0.255/9", [{**days[0], "day_id": "one"}])
    meter.close()


def test_a_number_is_written_in_its_unit_and_in_the_type_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    register = Store(3, ENERGY, a2=axdr.u32(0), a3=axdr.structure(axdr.i8(-1), axdr.enum(35)))
    plain = Store(1, CALENDAR, a2=axdr.i16(0))
    meter, _ = client(monkeypatch, register.item, plain.item)
    meter.set("1.0.1.8.0.255", Decimal("230.1"))
    assert register.values[2] == axdr.u32(2301)
    assert meter.read("1.0.1.8.0.255").value == Decimal("230.1")
    meter.set("1.0.1.8.0.255", meter.read("1.0.1.8.0.255").value)
    assert register.values[2] == axdr.u32(2301)
    meter.set("1.0.1.8.0.255", 5)
    assert register.values[2] == axdr.u32(50)
    with pytest.raises(LocalError, match=r"230\.15 is no multiple of 0\.1"):
        meter.set("1.0.1.8.0.255", Decimal("230.15"))
    with pytest.raises(LocalError):
        meter.set("1.0.1.8.0.255", -1)
    meter.set("1/0.0.13.0.0.255/2", -7)
    assert plain.values[2] == axdr.i16(-7)
    meter.set("1/0.0.13.0.0.255/2", axdr.octets(b"other"))
    assert plain.values[2] == axdr.octets(b"other")
    meter.set("3/1.0.1.8.0.255/3", {"scaler": 0, "unit": "Wh"})
    assert register.values[3] == axdr.structure(axdr.i8(0), axdr.enum(30))
    with pytest.raises(ItemFailed, match="read-write-denied"):
        meter.set("3/1.0.1.8.0.255/1", "1.0.1.8.0.255")
    with pytest.raises(LocalError, match="choice"):
        meter.set("1/0.0.97.97.0.255/2", 5)
    meter.close()


def test_methods_take_what_their_type_says(monkeypatch: pytest.MonkeyPatch) -> None:
    days = Store(11, CALENDAR, a2=axdr.array([]))
    push = Store(40, PUSH, 1, a7=axdr.u16(1))
    meter, _ = client(monkeypatch, days.item, push.item)
    meter.action("11/0.0.13.0.0.255/1", {"index": 1, "specialday_date": "****-12-25", "day_id": 3})
    assert days.calls[0] is not None
    assert days.calls[0].emit().hex() == "0203" + "120001" + "0905ffff0c19ff" + "1103"
    meter.action(MethodRef(11, CALENDAR, 2), 1)
    meter.action("40/0.4.25.9.0.255/1")
    assert (days.calls[1], push.calls) == (axdr.u16(1), [axdr.i8(0)])
    with pytest.raises(LocalError, match="specialday_date"):
        meter.action("11/0.0.13.0.0.255/1", {"index": 1})
    with pytest.raises(ItemFailed, match="read-write-denied"):
        meter.action("40/0.4.25.9.0.255/9")
    meter.close()


def test_the_object_list_tells_the_version_to_read_by(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = axdr.structure(axdr.u16(1), axdr.u16(2), axdr.u16(3))
    old, new = Store(40, PUSH, 0, a7=axdr.u16(60)), Store(40, Obis.parse("0.5.25.9.0.255"), 2, a7=delays)
    meter, _ = client(monkeypatch, old.item, new.item)
    assert meter.read("40/0.4.25.9.0.255/7").value == 60
    found = {info.obis: info for info in meter.discover()}
    assert found[PUSH].version == 0
    assert meter.read("40/0.4.25.9.0.255/7").value == 60
    assert meter.read("40/0.5.25.9.0.255/7").value == {
        "repetition_delay_min": 1, "repetition_delay_exponent": 2, "repetition_delay_max": 3,
    }  # fmt: skip
    meter.set("40/0.4.25.9.0.255/7", 30)
    assert old.values[7] == axdr.u16(30)
    meter.close()


def rights(modes: dict[int, int], methods: dict[int, int], selectors: Data) -> Data:
    return axdr.structure(
        axdr.array(axdr.structure(axdr.i8(number), axdr.enum(mode), selectors) for number, mode in modes.items()),
        axdr.array(axdr.structure(axdr.i8(number), axdr.enum(mode)) for number, mode in methods.items()),
    )


@pytest.mark.parametrize(
    ("version", "readable", "writable"),
    [(1, {1, 3, 4, 6, 7}, {2, 3, 5, 6, 7}), (3, {1, 3, 5, 7}, {2, 3, 6, 7})],
)
def test_modes_are_numbers_in_old_associations_and_bits_in_new_ones(
    version: int, readable: set[int], writable: set[int]
) -> None:
    entry = rights(
        dict(enumerate(range(8), start=1)), {1: 1, 2: 0, 3: 2, 4: 4, 5: 5}, axdr.array([axdr.i8(1), axdr.i8(2)])
    )
    row = axdr.structure(axdr.u16(7), axdr.u8(1), axdr.octets(bytes((1, 0, 99, 1, 0, 255))), entry)
    own = axdr.structure(
        axdr.u16(15), axdr.u8(version), axdr.octets(bytes((0, 0, 40, 0, 0, 255))), rights({}, {}, axdr.null())
    )
    profile, association = objects_of(axdr.array([row, own]))
    assert {mode for mode in range(8) if profile.readable(mode + 1)} == readable
    assert {mode for mode in range(8) if profile.writable(mode + 1)} == writable
    assert [method for method in range(1, 7) if profile.callable(method)] == ([1, 3, 5] if version == 1 else [1, 5])
    assert profile.selectors[2] == (1, 2)
    assert association.version == version


def test_short_names_are_discovered_with_their_rights_where_they_are_told() -> None:
    def row(base: int, class_id: int, version: int, *code: int) -> Data:
        return axdr.structure(axdr.i16(base), axdr.u16(class_id), axdr.u8(version), axdr.octets(bytes(code)))

    found = axdr.array([row(0x100, 3, 0, 1, 0, 1, 8, 0, 255), row(-0x600, 12, 4, 0, 0, 40, 0, 0, 255)])
    access = axdr.structure(axdr.i16(0x100), *rights({2: 5}, {1: 1}, axdr.null()).members())
    told = named_objects_of(found, axdr.array([access]))
    assert told[0] == ObjectInfo(3, 0, ENERGY, {2: 5}, {1: 1}, bits=True)
    assert told[0].readable(2)
    untold = named_objects_of(found, None)
    assert untold[0].readable(2)
    assert untold[0].callable(1)
    for wrong in (axdr.u8(1), axdr.array([axdr.u8(1)]), axdr.array([axdr.structure()])):
        with pytest.raises(DecodeError):
            named_objects_of(wrong, None)
        with pytest.raises(DecodeError):
            objects_of(wrong)
    with pytest.raises(DecodeError):
        named_objects_of(found, axdr.array([axdr.structure(axdr.u8(1))]))
    info = ObjectInfo(3, 0, ENERGY, {1: 1, 2: 3}, {1: 1})
    assert objects_of(emit_objects([info])) == [info]


def test_a_meter_with_short_names_is_discovered(monkeypatch: pytest.MonkeyPatch) -> None:
    server = MeterServer([Store(3, ENERGY, a2=axdr.u32(7)).item], short_names=True)
    monkeypatch.setattr("dlms.client.meter.open_port", Line(server, "wrapper"))
    with Meter("loop://", link="wrapper", short_names=True) as meter:
        found = {info.obis: info for info in meter.discover()}
        assert found[ENERGY].class_id == 3
        assert meter.read("1.0.1.8.0.255").raw == axdr.u32(7)


# ------------------------------------------------------------------------------------------------- lines that fail

CODES = [f"1/0.0.96.1.{at}.255/2" for at in range(120)]


def many() -> list[CosemObject]:
    return [Store(1, AttributeRef.parse(code).obis, a2=axdr.octets(bytes(8))).item for code in CODES]


@pytest.mark.slow
def test_what_was_read_before_the_line_failed_is_kept_and_the_rest_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, line = client(monkeypatch, *many(), pdu_size=256)
    assert all(isinstance(result, Reading) for result in whole.read_many(CODES))
    answers = line.ports[0].answers
    assert answers > 6
    for cut in range(4, answers):
        meter, line = client(monkeypatch, *many(), faults=[breaks(cut)], pdu_size=256)
        results = meter.read_many(CODES)
        assert [str(result.ref) for result in results] == CODES
        assert all(isinstance(result, Reading) for result in results)
        assert len(line.ports) == 2


def test_a_line_that_stays_dead_costs_only_what_was_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, line = client(monkeypatch, *many(), faults=[breaks(4), *[breaks(0)] * 5], pdu_size=256)
    results = meter.read_many(CODES)
    failed = [result for result in results if isinstance(result, Failed)]
    assert 0 < len(failed) < len(CODES)
    assert {result.error for result in failed} == {"session-failed"}
    assert all(isinstance(result.cause, LinkError) for result in failed)
    assert len(line.ports) == 2
    with pytest.raises(LinkError):
        meter.read_many(CODES)


# ---------------------------------------------------------------------------------------------------------- images

IMAGE = b"I" + bytes(range(256)) * 20
SIGNATURE = hashlib.sha256(IMAGE).digest()


def test_firmware_goes_on_after_any_cut_and_no_block_is_sent_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageTransfer()
    meter, line = client(monkeypatch, images.item)
    meter.image.transfer(IMAGE, b"v2", activate=True, signature=SIGNATURE)
    assert meter.image.status == 6
    answers = line.ports[0].answers
    blocks = -(-len(IMAGE) // 128)
    for cut in range(4, answers - 6, 3):
        activated: list[bytes] = []
        meter, line = client(monkeypatch, ImageTransfer(activated=activated.append).item, faults=[breaks(cut)])
        sent: list[int] = []
        meter.image.transfer(IMAGE, b"v2", activate=True, progress=lambda number, _blocks: sent.append(number))  # noqa: B023
        assert activated == [IMAGE]
        assert len(sent) in (blocks - 1, blocks), f"cut after answer {cut}"
        assert len(line.ports) == 2


def test_a_transfer_that_was_left_is_taken_up_by_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    activated: list[bytes] = []
    images = ImageTransfer(activated=activated.append)
    meter, _ = client(monkeypatch, images.item, faults=[breaks(20), *[breaks(0)] * 9])
    with pytest.raises(LinkError):
        meter.image.transfer(IMAGE, b"v2")
    again, _ = client(monkeypatch, images.item)
    sent: list[int] = []
    again.image.transfer(IMAGE, b"v2", resume=True, activate=True, progress=lambda number, _blocks: sent.append(number))
    assert activated == [IMAGE]
    assert len(sent) < 30
    again.image.transfer(IMAGE + bytes(500), b"v3", resume=True)
    assert images.item.get(6, None) == axdr.enum(3)
    sent.clear()
    again.image.transfer(
        IMAGE + bytes(500), b"v3", resume=True, activate=True, progress=lambda number, _blocks: sent.append(number)
    )
    assert not sent, "it was verified already"
    assert activated[1:] == [IMAGE + bytes(500)]


def test_a_verified_image_is_not_taken_for_another_one_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    activated: list[bytes] = []
    images = ImageTransfer(activated=activated.append)
    meter, _ = client(monkeypatch, images.item)
    meter.image.transfer(IMAGE, b"v2")
    images.item.readers[7] = constant(axdr.array([]))  # from now on it does not tell what it has
    other = IMAGE[::-1]
    meter.image.transfer(other, b"v2", resume=True, activate=True)
    assert activated == [other]


def info(size: int, identifier: bytes, signature: bytes) -> Data:
    return axdr.array([axdr.structure(axdr.u32(size), axdr.octets(identifier), axdr.octets(signature))])


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (info(len(IMAGE), b"v1", SIGNATURE), "another image"),
        (info(len(IMAGE) - 1, b"v2", SIGNATURE), "octets, not"),
        (info(len(IMAGE), b"v2", b"1234"), "another signature"),
        (axdr.array([]), "does not tell"),
        (axdr.u8(1), "does not tell"),
    ],
)
def test_an_image_that_is_not_the_one_that_was_sent_is_not_activated(
    told: Data, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    activated: list[bytes] = []
    images = ImageTransfer(activated=activated.append)
    images.item.readers[7] = constant(told)
    meter, _ = client(monkeypatch, images.item)
    with pytest.raises(PeerError, match=says):
        meter.image.transfer(IMAGE, b"v2", activate=True, signature=SIGNATURE)
    assert not activated


def test_a_meter_that_tells_nothing_of_its_image_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    activated: list[bytes] = []
    images = ImageTransfer(activated=activated.append)
    del images.item.readers[7]
    meter, _ = client(monkeypatch, images.item)
    meter.image.transfer(IMAGE, b"v2", activate=True)
    assert activated == [IMAGE]


@pytest.mark.parametrize(("last", "good"), [(6, True), (7, False), (5, False)])
def test_a_meter_that_takes_its_time_is_asked_for_its_status(
    last: int, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageTransfer()
    waited: list[float] = []
    statuses = iter([5, 5, *[last] * 200])
    images.item.methods[4] = lambda _parameters: ActionOutcome(ActionResult.TEMPORARY_FAILURE)
    images.item.readers[6] = lambda _selection: axdr.enum(next(statuses))
    meter, _ = client(monkeypatch, images.item)
    image = MeterImage(meter, sleep=waited.append)
    if good:
        image.activate()
        assert waited == [5.0, 5.0]
    else:
        with pytest.raises(PeerError, match="not activated"):
            image.activate()


def test_a_clock_is_set_in_the_meters_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Data] = []
    item = ClockObject(lambda: START).item

    def write(value: Data) -> DataAccessResult:
        written.append(value)
        return DataAccessResult.SUCCESS

    item.writers[2] = write
    policy = ClockPolicy(deviation_sign=0, utc_offset_minutes=540)
    meter, _ = client(monkeypatch, item, clock=policy)
    meter.clock.set(START + timedelta(hours=1))
    meter.set("0.0.1.0.0.255", START + timedelta(hours=1))
    assert [value.emit().hex() for value in written] == ["090c07ea0301070a0000008000" + "00"] * 2
