"""The journal keeps the newest record over torn writes, and the machine's table holds for every pair."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation
from updateagent.engine.journal import COPY_BYTES, Journal, Outcome, Record, SlotRecord, Update, emit, parse
from updateagent.engine.machine import DECIDED, GIVE_UP, TABLE, Event, IllegalTransition, State, next_state
from updateagent.engine.sealed import FRAME_BYTES, seal
from updateagent.errors import JOURNAL, DeviceError

FOLDER = Path("/update")
UPDATE = Update("r1", "package.swu", "correlator", 12.5, target="B", fallback="A", log=("line",))
FULL = Record(
    State.ROLLED_BACK,
    replace(UPDATE, outcome=Outcome(72, "trial-failed", 410, 1405, "why"), failed_check="meter_port"),
    slots={"A": SlotRecord("1", 1, "good"), "B": SlotRecord()},
    security_floor=3,
    software_floors={"lists": 2},
    signed_time=99,
    last_id="r0",
    last=Outcome(0, "ok", 200, 1200),
)
# What the copies hold. Systems of different versions read each other's journal: this form stays.
IDLE_FORM = (
    b'{"last":null,"last_id":"","lost":false,"security_floor":0,"signed_time":0,"slots":{},"software_floors":{},'
    b'"state":"idle","stores":0,"update":null}'
)
FULL_FORM = (
    b'{"last":{"code":0,"fumo":200,"message":"","name":"ok","scomo":1200},"last_id":"r0","lost":false,'
    b'"security_floor":3,"signed_time":99,"slots":{"A":{"security_version":1,"state":"good","version":"1"},'
    b'"B":{"security_version":0,"state":"empty","version":""}},'
    b'"software_floors":{"lists":2},"state":"rolled back","stores":0,"update":{"attempts":0,"block":0,'
    b'"boot_id":"","by_hand":false,"correlator":"correlator","failed_check":"meter_port","fallback":"A",'
    b'"from_version":"","id":"r1","image":0,"log":["line"],"migrated":false,'
    b'"outcome":{"code":72,"fumo":410,"message":"why","name":"trial-failed","scomo":1405},"package":"package.swu",'
    b'"requested":12.5,"security_version":0,"state_dirs":[],"target":"B","to_version":""}}'
)


@pytest.fixture
def disk() -> FaultyDisk:
    made = FaultyDisk()
    made.mkdir_durable(FOLDER)
    return made


def test_every_pair_of_state_and_event_is_in_the_table_or_refused_without_effect() -> None:
    for state in State:
        for event in Event:
            if (state, event) in TABLE:
                assert next_state(state, event) is TABLE[state, event]
                continue
            record = Record() if state is State.IDLE else Record(state, UPDATE)
            with pytest.raises(IllegalTransition) as caught:
                record.advance(event)
            assert (caught.value.state, caught.value.event) == (state, event)
            assert caught.value.message == f"not possible now: {event.value} (the update is {state.value})"


def test_an_update_is_refused_before_anything_is_written_and_fails_afterwards() -> None:
    assert {next_state(state, Event.REFUSE) for state in (State.STAGED, State.VERIFIED)} == {State.REFUSED}
    assert {next_state(state, Event.FAIL) for state in (State.WRITING, State.WRITTEN)} == {State.FAILED}


def test_a_trial_goes_on_until_it_is_confirmed_or_falls_back() -> None:
    for event in (Event.TRY, Event.ATTEMPT, Event.MIGRATE, Event.FAILURE):
        assert next_state(State.TRIAL, event) is State.TRIAL


def test_every_state_is_reached_and_left() -> None:
    assert set(TABLE.values()) == set(State)
    assert {before for before, _ in TABLE} == set(State)


def test_every_update_that_is_not_decided_can_be_given_up_and_every_decided_one_reported() -> None:
    for state in set(State) - {State.IDLE}:
        if state in DECIDED:
            assert next_state(state, Event.REPORT) is State.IDLE
        else:
            assert next_state(state, GIVE_UP[state]) in DECIDED


def test_a_record_survives_storing_and_loading(disk: FaultyDisk) -> None:
    Journal(disk, FOLDER).store(FULL)

    assert Journal(disk, FOLDER).load() == replace(FULL, stores=1)


def test_a_board_without_a_journal_is_idle_and_knows_nothing(disk: FaultyDisk) -> None:
    assert Journal(disk, FOLDER).load() == Record(lost=True)


def sequences(disk: FaultyDisk) -> list[int]:
    """Those of the two copies."""
    return [parse(disk.read_bytes(FOLDER / f"journal.{index}"))[0] for index in (0, 1)]


def test_records_go_to_the_two_copies_in_turn(disk: FaultyDisk) -> None:
    journal = Journal(disk, FOLDER)
    for number in range(5):
        journal.store(Record(signed_time=number))
        journal = Journal(disk, FOLDER)
        assert journal.load().signed_time == number
    times = {parse(disk.read_bytes(FOLDER / f"journal.{index}"))[1].signed_time for index in (0, 1)}
    assert times == {3, 4}


def test_the_sequence_grows_by_one_per_record(disk: FaultyDisk) -> None:
    journal = Journal(disk, FOLDER)
    journal.store(Record())
    assert parse(disk.read_bytes(FOLDER / "journal.0"))[0] == 1
    journal.store(Record())
    assert sequences(disk) == [1, 2]
    journal.store(Record())
    assert sequences(disk) == [3, 2]

    journal = Journal(disk, FOLDER)
    journal.load()
    journal.store(Record())
    assert sequences(disk) == [3, 4]


@pytest.mark.parametrize("damage", [b"", b"DCUJ", b"\0" * 200])
@pytest.mark.parametrize("stores", [2, 3])
def test_a_damaged_newest_copy_leaves_the_one_before(disk: FaultyDisk, damage: bytes, stores: int) -> None:
    journal = Journal(disk, FOLDER)
    for number in range(1, stores + 1):
        journal.store(Record(signed_time=number))
    disk.write_durable(FOLDER / f"journal.{(stores - 1) % 2}", damage)

    journal = Journal(disk, FOLDER)
    assert journal.load().signed_time == stores - 1
    journal.store(Record(signed_time=7))
    assert Journal(disk, FOLDER).load().signed_time == 7
    assert set(sequences(disk)) == {stores - 1, stores}


def test_a_record_that_could_not_be_written_is_tried_again_on_the_same_copy(disk: FaultyDisk) -> None:
    journal = Journal(disk, FOLDER)
    journal.store(Record(signed_time=1))
    journal.store(Record(signed_time=2))

    def fail(operation: Operation) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.on_operation = fail
    with pytest.raises(DeviceError, match="cannot be written: No space") as caught:
        journal.store(Record(signed_time=3))
    assert caught.value.code is JOURNAL
    disk.on_operation = None

    assert Journal(disk, FOLDER).load().signed_time == 2
    journal.store(Record(signed_time=3))
    assert sequences(disk) == [3, 2]


def test_a_copy_that_cannot_be_read_is_not_taken_for_a_missing_one(disk: FaultyDisk) -> None:
    class Unreadable(FaultyDisk):
        def read_bytes(self, path: Path) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(DeviceError, match=r"journal\.0: Input/output error") as caught:
        Journal(Unreadable(), FOLDER).load()
    assert caught.value.code is JOURNAL


def test_two_damaged_copies_are_lost_knowledge_and_say_so(disk: FaultyDisk) -> None:
    for index in (0, 1):
        disk.write_durable(FOLDER / f"journal.{index}", b"?")

    journal = Journal(disk, FOLDER)
    record = journal.load()
    assert record == Record(lost=True, damaged=True)
    assert "security versions had been accepted before is not known" in record.problem
    journal.store(record)
    again = Journal(disk, FOLDER).load()
    assert (again.lost, again.damaged) == (True, True)
    journal.store(replace(again, lost=False))  # the system is well: what was forgotten stays so
    assert Journal(disk, FOLDER).load().problem


def test_a_damaged_copy_beside_a_good_one_is_logged(disk: FaultyDisk, caplog: pytest.LogCaptureFixture) -> None:
    Journal(disk, FOLDER).store(FULL)
    disk.write_durable(FOLDER / "journal.1", b"?")
    assert not Journal(disk, FOLDER).load().damaged
    assert "journal.1: not a journal, or a damaged one" in caplog.text


def test_a_board_without_a_journal_has_nothing_damaged(disk: FaultyDisk) -> None:
    assert Journal(disk, FOLDER).load().problem == ""


def test_stores_are_counted_until_there_is_progress() -> None:
    record = replace(Record(State.TRIAL, UPDATE), stores=5)

    assert record.advance(Event.ATTEMPT).stores == 5
    assert record.advance(Event.CONFIRM).stores == 0
    assert replace(record, state=State.WRITING).advance(Event.CHECKPOINT, block=7).stores == 0


def test_a_new_update_and_a_reported_one_begin_the_count_again() -> None:
    assert replace(Record(), stores=5).stage(UPDATE) == Record(State.STAGED, UPDATE)
    assert replace(FULL, stores=5).advance(Event.REPORT).stores == 0


def test_there_is_an_update_exactly_while_the_state_is_not_idle() -> None:
    for state, update in ((State.IDLE, UPDATE), (State.TRIAL, None)):
        with pytest.raises(ValueError, match="a record is"):
            Record(state, update)
    with pytest.raises(ValueError, match="begun with `stage`"):
        Record().advance(Event.STAGE)


def test_bounds_of_software_are_kept_by_id_and_never_go_back() -> None:
    record = FULL
    for id_, version, signed, floors, newest in (
        ("lists", 1, 98, {"lists": 2}, 99),
        ("lists", 5, 100, {"lists": 5}, 100),
        ("driver", 0, 1, {"lists": 5, "driver": 0}, 100),
    ):
        record = record.accept_software(id_, version, signed)
        assert (record.software_floors, record.signed_time) == (floors, newest)
    assert replace(record, software_floors=FULL.software_floors, signed_time=99) == FULL


def test_the_end_of_an_update_is_remembered_without_the_update() -> None:
    record = FULL.advance(Event.REPORT)

    assert record.update is None
    assert (record.last_id, record.last) == ("r1", FULL.update and FULL.update.outcome)


@pytest.mark.parametrize(("record", "form"), [(Record(), IDLE_FORM), (FULL, FULL_FORM)])
def test_the_form_of_a_record_is_the_same_in_every_version(record: Record, form: bytes) -> None:
    assert emit(record, 7) == seal(form.ljust(COPY_BYTES - FRAME_BYTES), 7)
    assert parse(seal(form, 7)) == (7, record)


def test_an_update_without_what_a_newer_version_added_reads_as_unused() -> None:
    form = IDLE_FORM.replace(b'"idle"', b'"staged"').replace(b'"update":null', b'"update":{"id":"r1","package":"p"}')
    record = Record(State.STAGED, Update("r1", "p"))
    assert parse(seal(form, 1)) == (1, record)
    unused = (
        b'"update":{"attempts":0,"block":0,"boot_id":"","by_hand":false,"correlator":"","failed_check":null,'
        b'"fallback":"","from_version":"","id":"r1","image":0,"log":[],"migrated":false,"outcome":null,'
        b'"package":"p","requested":0.0,"security_version":0,"state_dirs":[],"target":"","to_version":""}'
    )
    form = form.replace(b'"update":{"id":"r1","package":"p"}', unused)
    assert emit(record, 1) == seal(form.ljust(COPY_BYTES - FRAME_BYTES), 1)


def test_keys_that_are_not_known_are_kept_and_written_back() -> None:
    form = FULL_FORM.replace(b'"attempts":0', b'"attempts":0,"future":1').replace(b'"last":', b'"hue":[2],"last":', 1)
    _, record = parse(seal(form, 1))
    assert replace(record, foreign={}, update=replace(record.update, foreign={}) if record.update else None) == FULL
    written = json.loads(emit(replace(record, stores=7), 2)[20:])
    assert (written["hue"], written["update"]["future"], written["stores"]) == ([2], 1, 7)


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"[" * 5000,
        b"[]",
        b"{}",
        IDLE_FORM.replace(b'"idle"', b'"trial"'),
        IDLE_FORM.replace(b'"slots":{}', b'"slots":[]'),
        IDLE_FORM.replace(b'"stores":0', b'"stores":null'),
        IDLE_FORM.replace(b'"last":null', b'"last":{}'),
        FULL_FORM.replace(b'"id":"r1",', b""),
    ],
)
def test_a_whole_copy_that_is_no_record_is_a_journal_error(disk: FaultyDisk, form: bytes) -> None:
    with pytest.raises(DeviceError, match="not one") as caught:
        parse(seal(form, 1))
    assert caught.value.code is JOURNAL
    disk.write_durable(FOLDER / "journal.0", seal(form, 9))
    disk.write_durable(FOLDER / "journal.1", seal(IDLE_FORM, 8))
    assert Journal(disk, FOLDER).load() == Record()


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_not_guessed_at(version: int) -> None:
    head = struct.pack("<4sHHII", b"DCUJ", version, 0, 1, len(IDLE_FORM))
    with pytest.raises(DeviceError, match=f"version {version}") as caught:
        parse(head + struct.pack("<I", zlib.crc32(IDLE_FORM, zlib.crc32(head))) + IDLE_FORM)
    assert caught.value.code is JOURNAL


@pytest.mark.parametrize("copy", ["version", "state"])
def test_a_journal_of_a_later_version_is_refused_and_never_written_over(disk: FaultyDisk, copy: str) -> None:
    payload = b'{"security_floor":9}' if copy == "version" else IDLE_FORM.replace(b'"idle"', b'"asleep"')
    head = struct.pack("<4sHHII", b"DCUJ", 2 if copy == "version" else 1, 0, 9, len(payload))
    raw = head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload
    disk.write_durable(FOLDER / "journal.0", seal(IDLE_FORM, 8))
    disk.write_durable(FOLDER / "journal.1", raw)
    journal = Journal(disk, FOLDER)
    record = journal.load()
    assert record.lost
    assert record.refused
    with pytest.raises(DeviceError) as caught:
        record.check_known()
    assert caught.value.code is JOURNAL
    with pytest.raises(DeviceError) as caught:
        journal.store(record)
    assert caught.value.code is JOURNAL
    assert disk.read_bytes(FOLDER / "journal.1") == raw


def test_every_single_changed_bit_is_noticed() -> None:
    raw = emit(FULL, 3)
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(DeviceError):
            parse(bytes(changed))


def test_payloads_with_a_good_checksum_and_any_content_are_a_record_or_a_journal_error() -> None:

    random = Random(3)
    good = emit(FULL, 1)[20:]
    for _ in range(2000):
        payload = bytearray(good)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(payload))
            payload[at : at + random.randint(0, 2)] = bytes(random.choices(b'{}[]",:019anul\\', k=random.randint(0, 3)))
        with suppress(DeviceError):
            parse(seal(bytes(payload), 1))
