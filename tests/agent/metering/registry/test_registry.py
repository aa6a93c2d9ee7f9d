"""The registry of meters: durable identity, joins and leaves with hysteresis, names of their own."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from agent.metering.registry.entry import meter_name
from agent.metering.registry.registry import FORMER_MAX, METERS_MAX, SAVE_DELAY_S, Registry
from agent.metering.registry.whitelist import Whitelist
from agent.status import MeterStatus
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk

EUI = bytes.fromhex("02dc00000001")
OTHER = bytes.fromhex("02dc00000002")


class Rig:
    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "state" / "meters.json"
        self.clock = VirtualClock()
        self.published: list[tuple[MeterStatus, ...]] = []
        self.open()

    def open(self) -> None:
        self.registry = Registry(RealDisk(), self.file, self.clock, leave_after_s=60.0, publish=self.published.append)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.registry.tick()
            self.clock.advance(1.0)
        self.registry.tick()

    def states(self) -> dict[str, str]:
        return {meter.meter_id: meter.state for meter in self.registry.meters()}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_join_registers_a_meter_by_its_modem_until_it_has_a_name(rig: Rig) -> None:
    meter = rig.registry.join("plc0", 5, EUI)
    assert (meter.key, meter.meter_id, meter.named) == ("plc0/02dc00000001", "02dc00000001", False)
    assert rig.states() == {"02dc00000001": "joined"}
    rig.registry.name(meter.key, "KEP0001")
    assert rig.states() == {"KEP0001": "joined"}
    assert rig.registry.join("plc0", 5, EUI).meter_id == "KEP0001"


def test_a_meter_on_a_bus_is_known_by_its_address(rig: Rig) -> None:
    assert rig.registry.join("rs485", 17).meter_id == "rs485-17"
    assert rig.registry.at("rs485", 17) is not None
    assert rig.registry.at("rs485", 18) is None


def test_joining_again_with_another_address_moves_the_meter(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    rig.registry.join("plc0", 9, EUI)
    assert [(m.meter_id, m.address) for m in rig.registry.meters()] == [("02dc00000001", 9)]
    assert rig.registry.at("plc0", 5) is None


def test_an_address_in_other_hands_means_that_the_former_meter_is_away(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    rig.registry.join("plc0", 5, OTHER)
    assert [meter.eui48 for meter in rig.registry.present("plc0")] == [OTHER.hex()]
    rig.run(70)
    assert rig.states() == {EUI.hex(): "left", OTHER.hex(): "joined"}


def test_a_leave_counts_only_after_a_while_and_a_join_takes_it_back(rig: Rig) -> None:
    key = rig.registry.join("plc0", 5, EUI).key
    rig.registry.leave(key)
    assert rig.registry.present("plc0") == []
    rig.run(50)
    assert rig.states() == {EUI.hex(): "joined"}
    rig.registry.join("plc0", 5, EUI)
    rig.run(100)
    assert rig.states() == {EUI.hex(): "joined"}
    rig.registry.leave(key)
    rig.run(61)
    assert rig.states() == {EUI.hex(): "left"}
    rig.registry.join("plc0", 5, EUI)
    assert rig.states() == {EUI.hex(): "joined"}


def test_a_lost_port_takes_all_its_meters_away_and_no_others(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    rig.registry.join("rs485", 17)
    rig.registry.leave_all("plc0")
    assert rig.registry.present("plc0") == []
    assert len(rig.registry.absent("plc0")) == 1
    assert len(rig.registry.present("rs485")) == 1


def test_attempts_make_a_meter_read_or_failing(rig: Rig) -> None:
    key = rig.registry.join("plc0", 5, EUI).key
    rig.registry.attempted(key, "no answer")
    assert rig.registry.meters()[0].state == "failing"
    assert rig.registry.meters()[0].last_error == "no answer"
    rig.clock.advance(10)
    rig.registry.attempted(key)
    status = rig.registry.meters()[0]
    assert (status.state, status.last_error) == ("read", "")
    assert status.last_success == status.last_attempt == rig.clock.wall()


def test_a_meter_that_answers_elsewhere_is_one_meter(rig: Rig) -> None:
    first = rig.registry.join("plc0", 5, EUI)
    rig.registry.name(first.key, "KEP0001")
    rig.registry.leave(first.key)
    second = rig.registry.join("rs485", 17)
    rig.registry.name(second.key, "KEP0001")
    assert [(m.meter_id, m.port) for m in rig.registry.meters()] == [("KEP0001", "rs485")]


def test_a_meter_whose_former_place_is_silent_is_the_one_that_has_moved(rig: Rig) -> None:
    first, second = rig.registry.join("rs485", 17), rig.registry.join("rs485", 19)
    rig.registry.name(first.key, "KEP0001")
    claimed = rig.registry.name(second.key, "KEP0001")
    assert claimed is not None
    assert (claimed.meter_id, claimed.named) == ("rs485-19", False)
    rig.registry.attempted(first.key, "no answer", silent=True)
    rig.registry.name(second.key, "KEP0001")
    assert [(m.meter_id, m.address, m.last_error) for m in rig.registry.meters()] == [("KEP0001", 19, "")]


def test_two_meters_that_say_one_name_are_two(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The default of a factory: one of them vanished, and the values of both stood under one id."""
    first, second = rig.registry.join("plc0", 5, EUI), rig.registry.join("plc0", 6, OTHER)
    for _visit in range(3):
        for meter in (first, second):
            rig.registry.name(meter.key, "XXX0000000000000")
            rig.registry.attempted(meter.key)
    names = [("02dc00000002", 6), ("XXX0000000000000", 5)]
    assert [(m.meter_id, m.address) for m in rig.registry.meters()] == names
    assert rig.registry.meters()[0].last_error == "it says the name of another meter: XXX0000000000000"
    assert [getattr(record, "event", "") for record in caplog.records].count("meter.double_name") == 1

    rig.run(int(SAVE_DELAY_S) + 1)
    rig.open()  # and the other one is heard first
    for eui, address in ((OTHER, 6), (EUI, 5)):
        meter = rig.registry.join("plc0", address, eui)
        rig.registry.name(meter.key, "XXX0000000000000")
    assert [(m.meter_id, m.address) for m in rig.registry.meters()] == names
    rig.registry.attempted(first.key, "no answer", silent=True)
    rig.registry.name(second.key, "XXX0000000000000")
    assert [(m.meter_id, m.address) for m in rig.registry.meters()] == names

    rig.registry.leave(first.key)  # orders and values for the name are for the one that has it, and it is away
    rig.run(61)
    rig.registry.name(second.key, "XXX0000000000000")
    assert rig.states() == {"02dc00000002": "joined", "XXX0000000000000": "left"}
    rig.registry.remove("XXX0000000000000")  # a person says so
    rig.registry.name(second.key, "XXX0000000000000")
    assert [(m.meter_id, m.address) for m in rig.registry.meters()] == [("XXX0000000000000", 6)]


def test_a_meter_in_the_place_of_another_that_says_a_name_that_is_taken_is_known_by_its_place(rig: Rig) -> None:
    first, second = rig.registry.join("rs485", 17), rig.registry.join("rs485", 19)
    rig.registry.name(first.key, "KEP0001")
    rig.registry.name(second.key, "KEP0002")
    rig.registry.name(second.key, "KEP0001")
    assert rig.states() == {"KEP0001": "joined", "KEP0002": "left", "rs485-19": "joined"}
    rig.registry.name(second.key, "KEP0003")
    assert [(m.meter_id, m.last_error) for m in rig.registry.meters()] == [
        ("KEP0001", ""), ("KEP0002", ""), ("KEP0003", ""),
    ]  # fmt: skip


def exchanged(rig: Rig) -> str:
    """KEP0001 was read at address 17, and KEP0002 answers there ten seconds later. Returns the key of the place."""
    key = rig.registry.join("rs485", 17).key
    rig.registry.name(key, "KEP0001")
    rig.registry.attempted(key)
    rig.run(10)
    rig.registry.name(key, "KEP0002")
    return key


def test_a_meter_in_whose_place_another_one_answers_is_away_and_ought_to_be_read_still(rig: Rig) -> None:
    key = exchanged(rig)
    here, away = rig.registry.get(key), rig.registry.find("KEP0001")
    assert here is not None
    assert away is not None
    assert (here.meter_id, here.joined) == ("KEP0002", rig.clock.wall())
    assert (away[0].displaced, away[0].joined, away[1].away) == (True, rig.clock.wall() - 10, True)
    assert rig.registry.meters()[1].last_success == 0.0, "not the other's"
    assert {meter.meter_id: meter.state for meter in rig.registry.due()} == {"KEP0001": "left", "KEP0002": "joined"}
    rig.registry.leave(key)
    assert [meter.meter_id for meter in rig.registry.present("rs485")] == []
    assert [meter.meter_id for meter in rig.registry.absent("rs485")] == ["KEP0002"], "one question for one place"
    rig.registry.join("rs485", 17)
    assert [meter.meter_id for meter in rig.registry.heard("rs485")] == ["KEP0002"]


def test_a_meter_that_is_back_in_its_place_is_the_one_that_it_was(rig: Rig) -> None:
    first = rig.clock.wall()
    key = exchanged(rig)
    rig.registry.name(key, "KEP0001")
    back = rig.registry.get(key)
    assert back is not None
    assert (back.meter_id, back.joined, back.displaced) == ("KEP0001", first, False)
    assert rig.states() == {"KEP0001": "read", "KEP0002": "left"}
    elsewhere = rig.registry.join("rs485", 18)
    rig.registry.name(elsewhere.key, "KEP0002")
    assert [(m.meter_id, m.address) for m in rig.registry.meters()] == [("KEP0001", 17), ("KEP0002", 18)]


def test_a_displaced_meter_has_left_after_a_restart_too_and_gone_when_it_is_forgotten(rig: Rig) -> None:
    exchanged(rig)
    rig.run(5)
    rig.open()
    rig.registry.join("rs485", 17)
    assert rig.states() == {"KEP0001": "left", "KEP0002": "joined"}
    assert [meter.meter_id for meter in rig.registry.remove("KEP0001")] == ["KEP0001"]
    assert set(rig.states()) == {"KEP0002"}


def test_a_displaced_meter_is_admitted_as_in_its_place_and_does_not_stand_for_its_modem(rig: Rig) -> None:
    key = rig.registry.join("plc0", 5, EUI).key
    rig.registry.name(key, "KEP0001")
    rig.registry.name(key, "KEP0002")
    for whitelist in (Whitelist([EUI.hex()], enforced=True), Whitelist(enforced=True, always=[key])):
        rig.registry.admit(whitelist)
        assert {meter.meter_id for meter in rig.registry.due()} == {"KEP0001", "KEP0002"}
    found = rig.registry.find(EUI.hex())
    assert found is not None
    assert found[0].meter_id == "KEP0002"
    rig.registry.remove("KEP0002")
    rig.registry.join("plc0", 5, EUI)
    found = rig.registry.find(EUI.hex())
    assert found is not None
    assert not found[0].displaced


def test_names_that_change_with_each_visit_push_out_no_meter_that_was_read(rig: Rig) -> None:
    key = exchanged(rig)
    for number in range(3, 40):
        rig.registry.name(key, f"KEP{number:04}")
    names = {meter.meter_id for meter in rig.registry.meters()}
    assert len(names) == FORMER_MAX + 1
    assert {"KEP0001", "KEP0039"} < names


def test_identity_survives_a_restart_and_presence_does_not(rig: Rig) -> None:
    meter = rig.registry.join("plc0", 5, EUI)
    rig.registry.name(meter.key, "KEP0001")
    joined = rig.registry.meters()[0].joined
    rig.run(int(SAVE_DELAY_S) + 1)
    rig.open()
    assert rig.registry.present("plc0") == []
    assert [(m.meter_id, m.joined, m.state) for m in rig.registry.meters()] == [("KEP0001", joined, "joined")]
    rig.run(61)
    assert rig.states() == {"KEP0001": "left"}
    assert rig.registry.join("plc0", 7, EUI).meter_id == "KEP0001"


@pytest.mark.slow
def test_many_joins_are_written_once_and_reading_writes_nothing(rig: Rig) -> None:
    for number in range(200):
        rig.registry.join("plc0", number + 1, bytes((2, 0, 0, 0, 0, number)))
        rig.registry.tick()
    assert not rig.file.exists()
    rig.run(int(SAVE_DELAY_S) + 1)
    written = rig.file.stat().st_mtime_ns
    assert len(json.loads(rig.file.read_text())["meters"]) == 200
    rig.registry.attempted("plc0/020000000001")
    rig.run(60)
    assert rig.file.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"version":1,"crc32":0,"meters":[{"key":1}]}',
        b'{"version":1,"crc32":%d,"meters":[{"key":"a"}]}' % 0,
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_set_aside_and_the_registry_begins_anew(rig: Rig, damage: bytes) -> None:
    rig.file.parent.mkdir(parents=True)
    rig.file.write_bytes(damage)
    rig.open()
    assert rig.registry.meters() == ()
    assert rig.file.with_name("meters.json.corrupt").read_bytes() == damage
    rig.registry.join("plc0", 5, EUI)
    rig.run(5)
    rig.open()
    assert len(rig.registry.meters()) == 1


def test_a_file_of_a_later_version_is_kept_for_it_and_the_registry_begins_anew(rig: Rig) -> None:
    rig.file.parent.mkdir(parents=True)
    rig.file.write_bytes(newer := b'{"version":2,"meters":{"in":"another form"}}')
    rig.open()
    assert rig.registry.meters() == ()
    rig.registry.join("plc0", 5, EUI)
    rig.run(5)
    assert rig.file.with_name("meters.json.newer-2").read_bytes() == newer
    rig.open()
    assert len(rig.registry.meters()) == 1


def test_members_that_a_later_version_added_to_a_meter_are_kept(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    rig.run(5)
    rows = json.loads(rig.file.read_text())["meters"]
    rows[0]["colour"] = {"hue": 7}
    crc = zlib.crc32(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode())
    rig.file.write_text(json.dumps({"version": 1, "crc32": crc, "meters": rows}))
    rig.open()
    rig.registry.join("plc0", 6, bytes(6))
    rig.run(5)
    assert [row.get("colour") for row in json.loads(rig.file.read_text())["meters"]] == [{"hue": 7}, None]


def test_one_flipped_bit_is_noticed(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    rig.run(5)
    data = rig.file.read_bytes().replace(b'"address": 5', b'"address": 4')
    rig.file.write_bytes(data)
    rig.open()
    assert rig.registry.meters() == ()


def test_a_disk_in_trouble_is_survived_and_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.file.parent.mkdir(parents=True)
    rig.file.mkdir()
    rig.registry.join("plc0", 5, EUI)
    rig.run(5)
    assert "cannot be written" in caplog.text
    rig.file.rmdir()
    rig.run(70)
    assert rig.file.is_file()


@pytest.mark.slow
def test_the_number_of_meters_is_bounded_and_the_longest_gone_is_forgotten(rig: Rig) -> None:
    for number in range(METERS_MAX):
        rig.registry.join("plc0", number, number.to_bytes(6, "big"))
    gone = rig.registry.at("plc0", 77)
    assert gone is not None
    rig.registry.leave(gone.key)
    rig.registry.join("plc0", 5000, OTHER)
    assert len(rig.registry.meters()) == METERS_MAX
    assert rig.registry.get(gone.key) is None
    here = rig.registry.at("plc0", 78)
    assert here is not None
    rig.registry.name(here.key, "KEP0001")
    rig.registry.name(here.key, "KEP0002")  # the other one has left, and all the others are there
    assert len(rig.registry.meters()) == METERS_MAX
    assert (rig.registry.find("KEP0001"), rig.registry.at("plc0", 78)) == (None, rig.registry.get(here.key))


def test_a_removed_meter_is_forgotten_until_it_joins_again(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    assert [meter.address for meter in rig.registry.remove(EUI.hex())] == [5]
    assert rig.registry.remove(EUI.hex()) == []
    assert rig.registry.meters() == ()
    rig.run(5)
    rig.open()
    assert rig.registry.meters() == ()


def test_changes_are_published_once_and_silence_is_not(rig: Rig) -> None:
    rig.registry.join("plc0", 5, EUI)
    rig.run(10)
    assert len(rig.published) == 1
    assert len(rig.published[-1]) == 1


@pytest.mark.parametrize(
    ("octets", "name"),
    [
        (b"KEP0001234567890", "KEP0001234567890"),
        (b"KEP1  \0\0", "KEP1"),
        (b"", ""),
        (b"\0\0", ""),
        (b"a/b", "612f62"),
        (b"a b", "612062"),
        (b"\x01\xff", "01ff"),
        (b"x" * 100, "x" * 64),
    ],
)
def test_a_name_is_text_where_it_is_plain_and_hexadecimal_elsewhere(octets: bytes, name: str) -> None:
    assert meter_name(octets) == name


@pytest.mark.slow
def test_a_meter_that_somebody_named_makes_no_room_for_strangers(rig: Rig) -> None:
    expected = rig.registry.expect("plc0", 0, EUI.hex())
    for number in range(METERS_MAX):
        rig.registry.join("plc1", number)
    assert rig.registry.get(expected.key) is not None
    assert len(rig.registry.known()) == METERS_MAX


def test_a_meter_is_found_by_id_modem_and_place(rig: Rig) -> None:
    meter = rig.registry.join("plc0", 5, EUI)
    rig.registry.name(meter.key, "KFM0001")
    for name in ("KFM0001", EUI.hex(), meter.key):
        found = rig.registry.find(name)
        assert found is not None
        assert (found[0].meter_id, found[1].state) == ("KFM0001", "joined")
    rig.registry.join("rs485", 17)
    assert rig.registry.find("") is None
    assert rig.registry.find("nobody") is None
