"""The journal: what the Update Agent remembers across power cuts, as one small record in two copies.

The copies are the files `journal.0` and `journal.1`, framed by `sealed`. The payload is JSON (`Record`). Unknown keys
are kept and written back, so that an older system can read what a newer one wrote while on trial; the version is raised
only when an older reader would do harm. A whole copy of a later version, or in a state that this program does not have,
is refused: nothing is written any more, since the floors in it must not be lost (`Record.refused`).

A record is written to the copy that does *not* hold the newest one. The copy with the higher sequence and a good
checksum counts; when neither is good, nothing is known (`Record.lost`), and the health check of this system becomes as
strict as that of a trial. That there was a journal once is remembered (`Record.damaged`), since its floors are gone.

The copies are made at full length once and then written in place: a data partition that has no room left must not keep
an update from being refused, ended and reported. A write that is torn leaves the other copy, the one of before.

`Record.stores` counts the stores since the update last made progress, to catch a board that loses power or crashes at
the same step again and again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from updateagent.disk import Storage
from updateagent.engine.machine import Event, State, next_state
from updateagent.engine.sealed import FRAME_BYTES, PAYLOAD_BYTES_MAX, VERSION, seal, unseal
from updateagent.errors import JOURNAL, STORAGE_FULL, DeviceError, storage_error

LOG = logging.getLogger("update")

DAMAGED = "the journal was damaged: which security versions had been accepted before is not known"
STORES_MAX = 16  # in one step; a good update needs two or three
COPY_BYTES = 12 << 10  # the least length of a copy: a record with 21 lines of log has 8 KiB
COPY_STEP_BYTES = 4 << 10
COPY_BYTES_MAX = FRAME_BYTES + PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an update ended: `code` and `name` of `errors`, and its results for FUMO and SCOMO."""

    code: int
    name: str
    fumo: int
    scomo: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """One update from its request to its report. `block` of image number `image` is the first not known to be durable.

    `state_dirs` are the folders to migrate, from the old system's settings; `migrated` says that their copies are done.
    """

    id: str
    package: str
    correlator: str = ""
    requested: float = 0.0
    by_hand: bool = False
    target: str = ""
    fallback: str = ""
    from_version: str = ""
    to_version: str = ""
    security_version: int = 0
    image: int = 0
    block: int = 0
    attempts: int = 0
    state_dirs: tuple[str, ...] = ()
    migrated: bool = False
    boot_id: str = ""
    failed_check: str | None = None
    log: tuple[str, ...] = ()
    outcome: Outcome | None = None
    foreign: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What is known about the content of a slot. `state`: good | trial | bad | empty.

    `why` says why it is bad. `images` are those that were written and read back: the size in bytes and the root of the
    hash tree in hexadecimal, by name; empty where that is not known. `proven`: this content was healthy on trial.
    """

    version: str = ""
    security_version: int = 0
    state: str = "empty"
    why: str = ""
    images: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    proven: bool = False
    foreign: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """The content of the journal. Times in seconds since the epoch.

    `security_floor` and `software_floors` are the lowest security versions that may still be installed, `signed_time`
    is the newest signing time that was accepted, `last_id` and `last` are the update that ended last. `lost` says that
    no journal could be read: the board may be new, or its data partition damaged or not mounted during a trial.
    `damaged` says that there was one, so that floors and times of before are not known; until the next firmware.
    `refused` is not stored: why the journal that is there cannot be used, and must not be replaced. `foreign`, here and
    of an update: what a later version has added.
    """

    state: State = State.IDLE
    update: Update | None = None
    stores: int = 0
    slots: Mapping[str, SlotRecord] = field(default_factory=dict)
    security_floor: int = 0
    software_floors: Mapping[str, int] = field(default_factory=dict)
    signed_time: int = 0
    last_id: str = ""
    last: Outcome | None = None
    lost: bool = False
    damaged: bool = False
    foreign: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    def __post_init__(self) -> None:
        if (self.state is State.IDLE) != (self.update is None):
            raise ValueError(f"a record is {self.state.value} with{'out' if self.update is None else ''} an update")

    def check_known(self) -> None:
        """Check that floors and times are what this device has accepted. Raises `DeviceError` (journal)."""
        if self.refused:
            raise DeviceError(JOURNAL, self.refused)

    @property
    def problem(self) -> str:
        """What is wrong with what is known, for the status; empty for nothing."""
        return self.refused or (DAMAGED if self.damaged else "")

    @property
    def from_version(self) -> str:
        """The version that the present update started from; empty when there is none."""
        return self.update.from_version if self.update else ""

    def accept_software(self, software_id: str, security_version: int, signed_time: int) -> Record:
        """The record after a software package was accepted. Bounds never decrease."""
        floors = dict(self.software_floors)
        floors[software_id] = max(floors.get(software_id, 0), security_version)
        return replace(self, software_floors=floors, signed_time=max(self.signed_time, signed_time))

    def stage(self, update: Update, event: Event = Event.STAGE) -> Record:
        """The record with a new update: staged, or offered. Raises `IllegalTransition` while there is one already."""
        return replace(self, state=next_state(self.state, event), update=update, stores=0)

    def advance(self, event: Event, **changes: object) -> Record:
        """The record after `event`, with `changes` made to its update. Raises `IllegalTransition`."""
        state = next_state(self.state, event)
        if self.update is None:
            raise ValueError("an update is begun with `stage`")
        if state is State.IDLE:
            done = self.update
            return replace(self, state=state, update=None, stores=0, last_id=done.id, last=done.outcome)
        update = replace(self.update, **changes)  # type: ignore[arg-type]
        progress = state is not self.state or event is Event.CHECKPOINT
        return replace(self, state=state, update=update, stores=0 if progress else self.stores)

    def note(self, slot: str, note: SlotRecord) -> Record:
        """The record with another note on a slot."""
        return replace(self, slots={**self.slots, slot: note})


def emit(record: Record, sequence: int, length_min: int = COPY_BYTES) -> bytes:
    """One copy of the journal, of at least `length_min` bytes."""
    payload = json.dumps(_to_json(record), separators=(",", ":"), sort_keys=True).encode()
    length = max(length_min, -(-(len(payload) + FRAME_BYTES) // COPY_STEP_BYTES) * COPY_STEP_BYTES)
    # Blanks behind the JSON text are part of the payload: every program that ever read a journal passes over them.
    return seal(payload.ljust(length - FRAME_BYTES), sequence)


class NoRoomError(DeviceError):
    """The journal has no place yet, and the data partition has no room for it."""


class LaterJournalError(DeviceError):
    """A whole copy of the journal that only a later version of this program can use."""


def parse(raw: bytes) -> tuple[int, Record]:
    """Sequence and record of one copy. Raises `DeviceError` (journal), `LaterJournalError` for a later version's."""
    found = unseal(raw)
    if found is None:
        raise DeviceError(JOURNAL, "not a journal, or a damaged one")
    version, sequence, payload = found
    if version > VERSION:
        raise LaterJournalError(JOURNAL, f"the journal has version {version}, this program knows {VERSION}")
    if version != VERSION:
        raise DeviceError(JOURNAL, f"there never was a version {version} of the journal")
    try:
        document = json.loads(payload)
        if isinstance(document["state"], str) and document["state"] not in _STATES:
            raise LaterJournalError(JOURNAL, f"the journal has a state that is not known here: {document['state']!r}")
        return sequence, _from_json(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DeviceError(JOURNAL, f"the journal's record is not one: {error}") from error


_STATES = frozenset(state.value for state in State)


def _to_json(record: Record) -> dict[str, Any]:
    update = record.update
    plain = _plain(record)
    if not record.damaged:
        del plain["damaged"]  # as it was written before there was this member
    return {
        **record.foreign,
        **plain,
        "state": record.state.value,
        "update": update and {**update.foreign, **_plain(update), "outcome": update.outcome and _plain(update.outcome)},
        "slots": {name: _slot_json(note) for name, note in record.slots.items()},
        "last": record.last and _plain(record.last),
    }


_NOT_STORED = ("foreign", "refused")


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, as they are stored."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__ if name not in _NOT_STORED}


def _from_json(raw: Mapping[str, Any]) -> Record:
    update = raw["update"]
    outcome = update and update.get("outcome")
    return Record(
        state=State(raw["state"]),
        update=None
        if update is None
        else _build(
            Update,
            {
                **update,
                "log": tuple(update.get("log", ())),
                "state_dirs": tuple(update.get("state_dirs", ())),
                "outcome": None if outcome is None else _build(Outcome, outcome),
                "foreign": _unknown(Update, update),
            },
        ),
        stores=int(raw["stores"]),
        slots={str(name): _slot(note) for name, note in raw["slots"].items()},
        security_floor=int(raw["security_floor"]),
        software_floors={str(name): int(floor) for name, floor in raw.get("software_floors", {}).items()},
        signed_time=int(raw["signed_time"]),
        last_id=str(raw["last_id"]),
        last=None if raw.get("last") is None else _build(Outcome, raw["last"]),
        lost=bool(raw["lost"]),
        damaged=bool(raw.get("damaged")),
        foreign=_unknown(Record, raw),
    )


def _slot_json(note: SlotRecord) -> dict[str, Any]:
    """What came later is left out while it says nothing: the record of a slot stays small."""
    later = ("why", "images", "proven")
    plain = {name: value for name, value in _plain(note).items() if value or name not in later}
    return {**note.foreign, **plain}


def _slot(raw: Mapping[str, Any]) -> SlotRecord:
    images = {str(name): (int(size), str(root)) for name, (size, root) in raw.get("images", {}).items()}
    note: SlotRecord = _build(SlotRecord, {**raw, "images": images, "foreign": _unknown(SlotRecord, raw)})
    return note


def _unknown(kind: Any, raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in kind.__dataclass_fields__}


def _build(kind: Any, raw: Mapping[str, Any]) -> Any:
    """A value of dataclass `kind` from the keys it knows."""
    return kind(**{name: value for name, value in raw.items() if name in kind.__dataclass_fields__})


class Journal:
    """The two copies in a folder."""

    def __init__(self, disk: Storage, folder: Path) -> None:
        self._disk = disk
        self._copies = (folder / "journal.0", folder / "journal.1")
        self._next = 0
        self._sequence = 0
        self._refused = ""

    def load(self) -> Record:
        """The newest good record; one that is `lost` when there is none, and `refused` where a later version's is.

        Raises `DeviceError` (journal) when the storage cannot be read.
        """
        found: list[tuple[int, int, Record]] = []
        damaged = False
        for index, path in enumerate(self._copies):
            try:
                sequence, record = parse(self._disk.read_bytes(path))
            except LaterJournalError as error:
                self._refused = error.message
                return Record(lost=True, refused=error.message)
            except FileNotFoundError:
                continue
            except DeviceError as error:
                LOG.warning("%s: %s", path, error.message, extra={"event": "update.journal.damaged"})
                damaged = True
                continue
            except OSError as error:
                raise DeviceError(JOURNAL, f"{path}: {error.strerror or error}") from error
            found.append((sequence, index, record))
        if not found:
            return Record(lost=True, damaged=damaged)
        self._sequence, newest, record = max(found, key=lambda entry: entry[0])
        self._next = 1 - newest
        return record

    def store(self, record: Record) -> Record:
        """Make `record` durable, counted; returns it as stored. Raises `DeviceError` (journal)."""
        if self._refused:
            raise DeviceError(JOURNAL, self._refused)
        counted = replace(record, stores=record.stores + 1)
        try:
            self._write(self._copies[self._next], counted)
        except OSError as error:
            # Where the copy is there all the same, the record may be stored.
            no_room = storage_error(error, "").code is STORAGE_FULL and not self._disk.exists(self._copies[self._next])
            raise (NoRoomError if no_room else DeviceError)(
                JOURNAL, f"the journal cannot be written: {error.strerror or error}"
            ) from error
        other = self._copies[1 - self._next]
        if not self._disk.exists(other):
            with suppress(OSError):  # only the room is wanted, for the store after this one
                self._write(other, counted)
        # Only after the write: after a failure the same copy is tried again, and the newest record is kept.
        self._sequence += 1
        self._next = 1 - self._next
        return counted

    def _write(self, copy: Path, record: Record) -> None:
        """In place where the copy has room for it; otherwise replaced by a longer one."""
        raw = emit(record, self._sequence + 1)
        if self._disk.exists(copy):
            with self._disk.open_raw(copy, write=True) as file:
                size = file.size()
                if len(raw) <= size <= COPY_BYTES_MAX:
                    file.pwrite(emit(record, self._sequence + 1, size), 0)
                    file.sync()
                    return
        self._disk.write_durable(copy, raw)
