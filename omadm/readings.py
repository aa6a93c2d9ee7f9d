"""The batch of readings that a concentrator posts to the head-end (docs/uplink.md), for both ends.

The device makes `Reading`s, turns each into a record of the document with `record`, and a batch of records into a body
with `emit`. The head-end reads the body with `inflate` and `parse`, which return `Record`s with every field checked.

`raw` is a value in a form that JSON can hold without loss: octets as hexadecimal text, bit strings as "0101", arrays
and structures as lists of `[tag, raw]`.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from omadm.schedule import GRID_S, Schedule, schedule_of

VERSION = 1
KINDS = ("reading", "gap", "event")
"""What a record can be. One of a later kind says so in its member `kind`."""
ACCEPTS_HEADER = "DCU-Accepts"
"""Header of every answer: the kinds of records that this head-end knows. A head-end that does not send it is older than
gaps and events, and knows readings only."""
LATER_CHARS_MAX = 64 * 1024  # of a record of a later kind
BODY_BYTES_MAX = 4 << 20  # as sent; the largest batch has about 2 MiB before compression
URL_NODE, TOKEN_NODE = "./AMI/Uplink/URL", "./AMI/Uplink/Token"  # where a device has them from
PLAIN_BYTES_MAX = 8 << 20  # after decompression
RECORDS_MAX = 5000  # per batch
PIECE_RECORDS = 50  # that are encoded at a time
RESENDS_MAX = 32  # orders, and reports, at a time
RANGES_MAX = 32  # per report
LISTED_MAX = 1000  # gaps on a page
TEXT_CHARS_MAX = 128
RAW_CHARS_MAX = 16 * 1024  # of one value, as JSON
DEPTH_MAX = 8  # of lists in lists
EVENT_VALUES_MAX = 512  # of one event
EVENT_OCTETS_MAX = 8192  # of what could not be decoded
FLOAT_MAX = 2**1024 - 2**970  # the largest double: a reader would take what is beyond it for Infinity
FLOAT_DIGITS_MAX = 400  # written without exponent; a double needs about 330
ID_MAX = 2**63 - 1
REREAD_CHARS = 8  # of the name of a second reading of a profile: two have the same once in 10^9
RUN_MAX = 2**40  # seconds since the epoch

GapKey = tuple[str, str, str, int]
"""Meter, task, profile (`""` for runs of the task) and first slot: lists of gaps are in this order, texts by code
points."""
Raw = None | bool | int | float | str | list["list[object]"]

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_encode_raw = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STORE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_OBIS = re.compile(r"(?:\d{1,3}\.){5}\d{1,3}", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII | re.IGNORECASE)
_INTEGERS = {
    "i8": (-(2**7), 2**7 - 1),
    "u8": (0, 2**8 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "u16": (0, 2**16 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "u32": (0, 2**32 - 1),
    "i64": (-(2**63), 2**63 - 1),
    "u64": (0, 2**64 - 1),
    "enum": (0, 2**8 - 1),
}
_FLOATS = ("f32", "f64")
_HEX_TAGS = {"oct": None, "dt": 12, "date": 5, "time": 4}  # with the number of bytes where it is fixed
_LISTS = ("array", "struct")
_NO_NUMBER = (bool, str, list, dict, type(None))  # of what JSON can hold; the others are int, float and Decimal
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity")


class BatchError(Exception):
    """The body is not a batch of readings; the text says where and why. Nothing of it is stored."""


class LaterVersionError(BatchError):
    """The body is of a version that only a later head-end can read. The device keeps what is in it."""


class BatchTooLargeError(BatchError):
    """The body exceeds `PLAIN_BYTES_MAX` after decompression. The device then sends smaller batches."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One attribute of one meter, as the device stores and sends it.

    `received` is civil time in seconds since the epoch, `trusted` whether the clock had been set by then. `run` is the
    aligned time of the task's run. `meter_time` is the meter's own clock in ISO 8601, or for a cell of a profile, whose
    logical name is `profile`, the time stamp of its row. With `error` there is no value.
    `doubt` says why the time stamp of the row is not to be believed. `reread` names the reading of the profile that the
    row belongs to: a profile is read from some row on, each row once; when it has to be read again, that has another
    name, and may bring rows that another reading brought.
    """

    task: str
    meter: str
    cls: int
    obis: str
    attr: int
    tag: str
    raw: Raw
    scaler: int | None
    unit: int | None
    meter_time: str | None
    received: float
    trusted: bool
    error: str | None
    run: int
    profile: str | None = None
    doubt: str | None = None
    reread: str | None = None

    def row(self) -> list[object]:
        """The fields in order, as the store keeps them; the last three, `profile`, `doubt` and `reread`, are left out
        from the first on behind which there are none."""
        row = [getattr(self, name) for name in FIELDS]  # astuple() makes deep copies: thirty times slower
        while len(row) > ROW_SIZE_MIN and row[-1] is None:
            row.pop()
        return row


@dataclass(frozen=True, slots=True)
class GapReport:
    """What became of a range of slots of one meter that are not there, as the device stores and sends it.

    `gap` is `open`, `closed`, or `doubted`: readings of these runs were taken under a clock that was wrong; or
    `confirmed`: they were taken under a clock that is right, whatever was said of them before. These two are about
    readings with ids from `lowest` to `highest` of the store `about`, of all meters where `meter` is empty, and of all
    tasks where `task` is; `generation` is the place of the reporting store in the order of the device's stores, from 1.
    Reports without a store are about the reporting one. `first` and `last` are runs of `task`, one every `every`
    seconds, or at the run times of a calendar, `times` (`omadm.schedule`), for whose grid `every` then stands; with
    `profile` (its logical name) they are the ends of the profile's intervals. `last` is `None` while the gap goes on.
    `reason`: why the slots are missing; `how`: how they were closed. `noted`: by the concentrator's clock, seconds
    since the epoch.
    """

    gap: str
    meter: str
    task: str
    profile: str | None
    first: int
    last: int | None
    every: int
    reason: str
    how: str | None
    noted: float
    times: str | None = None
    lowest: int | None = None
    highest: int | None = None
    about: str | None = None
    generation: int | None = None

    @property
    def key(self) -> GapKey:
        """Its place in a list of gaps."""
        return self.meter, self.task, self.profile or "", self.first

    @property
    def schedule(self) -> Schedule:
        """When its slots are."""
        return schedule_of(self.every, self.first % self.every, self.times or "")

    def row(self) -> list[object]:
        """The fields in order, as the store keeps them; ids, and the last two, are left out where there are none."""
        row = [getattr(self, name) for name in GAP_FIELDS]
        return row if self.about is not None else row[:JUDGED_SIZE] if self.highest is not None else row[:GAP_SIZE]


@dataclass(frozen=True, slots=True)
class EventReport:
    """Something that happened at a meter, as the device stores and sends it.

    `event` says how it is known: one of `EVENT_KINDS`. `meter` is empty where the sender is not known; `sender` is
    where it came from, in words. `code` is the number of an event in its log, or of a bit in an alarm register, `name`
    its meaning where a standard has one, `obis` the log, the register or the attribute. `grave`: a person should know.
    `security`: one of `EVENT_SECURITY`. `values` are what came with it, each an object with `tag`, `raw` and, where
    known, `obis`, `cls`, `attr`, `scaler`, `unit`. What cannot be decoded is in `octets` (hexadecimal), with the reason
    in `error`. `count`: how many messages this one stands for. Two events of one device with the same `key` are one.
    `task`: which one has read it; empty for what was pushed.
    """

    event: str
    meter: str
    sender: str
    code: int | None
    name: str
    grave: bool
    obis: str | None
    meter_time: str | None
    received: float
    trusted: bool
    invoke: int | None
    security: str
    values: list[dict[str, object]]
    octets: str | None
    error: str | None
    count: int
    key: str
    task: str = ""

    def row(self) -> list[object]:
        """The fields in order, as the store keeps them."""
        return [getattr(self, name) for name in EVENT_FIELDS]


Stored = Reading | GapReport | EventReport

FIELDS = tuple(field.name for field in fields(Reading))
GAP_FIELDS = tuple(field.name for field in fields(GapReport))
EVENT_FIELDS = tuple(field.name for field in fields(EventReport))
ROW_SIZE_MIN = len(FIELDS) - 3
JUDGED_SIZE = len(GAP_FIELDS) - 2
GAP_SIZE = JUDGED_SIZE - 2
GAP_SIZES = (GAP_SIZE - 1, GAP_SIZE, JUDGED_SIZE, len(GAP_FIELDS))
ROW_SIZES = (*range(ROW_SIZE_MIN, len(FIELDS) + 1), *GAP_SIZES, len(EVENT_FIELDS))
_CLS = FIELDS.index("cls")  # a number; reports have texts in its place
GAP_STATES = ("open", "closed", "doubted", "confirmed")
EVENT_KINDS = ("push", "log", "alarm", "notice")
"""Pushed by a meter; read from an event log; a new bit of an alarm register; noticed by the concentrator itself."""
EVENT_SECURITY = ("none", "unauthenticated", "authenticated", "encrypted", "both", "unopened")
"""No protection is agreed with the meter; it is, and the message came without; how it was protected, and checked;
protected in a way that could not be opened."""


def kind_of(entry: Mapping[str, object]) -> str:
    """Which of `KINDS` a record of the document is, or the name of a later kind."""
    kind = entry.get("kind")
    return kind if isinstance(kind, str) else "gap" if "gap" in entry else "event" if "event" in entry else "reading"


def record(record_id: int, row: Sequence[object]) -> dict[str, object]:
    """Make a record of the document from its id and the row of a `Reading`, a `GapReport` or an `EventReport`. The last
    two differ in their lengths."""
    reports = EVENT_FIELDS if len(row) == len(EVENT_FIELDS) else GAP_FIELDS
    names = FIELDS if isinstance(row[_CLS], int) else reports
    return {"id": record_id, **dict(zip(names, row, strict=False))}


@dataclass(frozen=True, slots=True)
class ResendOrder:
    """What the head-end wants once more: the records `first` to `last` of `store`; or, with an empty `store`, those of
    the present store whose values speak of `since` to `until`, in seconds since the epoch. `request` is its number."""

    request: int
    store: str = ""
    first: int = 0
    last: int = 0
    since: float = 0.0
    until: float = 0.0

    def entry(self) -> dict[str, object]:
        """Return the order as an answer to a batch has it."""
        if self.store:
            return {"request": self.request, "store": self.store, "first": self.first, "last": self.last}
        return {"request": self.request, "since": self.since, "until": self.until}


@dataclass(frozen=True, slots=True)
class ResendReport:
    """How an order ended. `sent`, `refused`: numbers of records; `gone`: ranges of ids that the store has no more;
    `kept_since`: the earliest time that it still has values of, 0 when it has none."""

    request: int
    sent: int
    refused: int
    gone: tuple[tuple[int, int], ...]
    kept_since: float


@dataclass(frozen=True, slots=True)
class GapList:
    """What a device lists as missing at a moment at which all that it had stored, up to id `as_of`, was acknowledged:
    either the `digest` of all its open gaps (`gap_digest`), or, without one, a page of them: `gaps` are all from the
    place `begin` on and before the place `before`; `None` stands for the beginning and the end of the list."""

    as_of: int
    digest: str = ""
    begin: GapKey | None = None
    before: GapKey | None = None
    gaps: tuple[GapReport, ...] = ()

    def entry(self) -> dict[str, object]:
        """Return the list as the body of a request has it."""
        if self.digest:
            return {"as_of": self.as_of, "digest": self.digest}
        gaps = [gap_entry(gap) for gap in self.gaps]
        return {"as_of": self.as_of, "from": self.begin, "before": self.before, "gaps": gaps}


def gap_entry(gap: GapReport) -> dict[str, object]:
    """Return a gap as a page of a list has it."""
    return dict(zip(GAP_FIELDS, gap.row(), strict=False))  # a range has no ids


class ListAnswer(StrEnum):
    """What the head-end says of a `GapList`."""

    AGREED = "agreed"  # to a digest: it lists the same
    DIFFERS = "differs"  # to a digest: it does not, and wants the pages
    TAKEN = "taken"  # to a page: it lists the same now
    LATER = "later"  # to either: it has reports that were made after the list, which says nothing then


def joined_gaps(gaps: Iterable[GapReport]) -> Iterator[GapReport]:
    """The same slots in as few ranges as there can be, of gaps in the order of their keys: a range that is split at one
    end only is the same range. Where ranges with different members overlap, they come in the order in which they end
    to be continued."""
    series: tuple[str, str, str] | None = None
    open_: dict[tuple[object, ...], GapReport] = {}  # by what ranges that continue each other have in common
    for gap in gaps:
        if gap.key[:3] != series:
            yield from open_.values()
            series, open_ = gap.key[:3], {}
        members = (gap.reason, gap.every, gap.times or "")
        before = open_.pop(members, None)
        if before is not None and _continues(before, gap):
            last = None if None in (before.last, gap.last) else max(before.last or 0, gap.last or 0)
            gap = replace(before, last=last)
        elif before is not None:
            yield before
        open_[members] = gap
    yield from open_.values()


def gap_digest(gaps: Iterable[GapReport]) -> str:
    """The sum, modulo 2^256, of the SHA-256 of each open gap, of gaps in the order of their keys. It does not depend on
    the order in which ranges that overlap are joined."""
    total = 0
    for gap in joined_gaps(gaps):
        members = [gap.meter, gap.task, gap.profile or "", gap.reason, gap.every, gap.times or "", gap.first, gap.last]
        total += int.from_bytes(hashlib.sha256(_encode(members).encode()).digest(), "big")
    return f"{total % 2**256:064x}"


def _continues(before: GapReport, gap: GapReport) -> bool:
    return before.last is None or gap.first <= before.schedule.next(before.last)


def emit(
    device: str,
    store: str,
    records: Sequence[Mapping[str, object]],
    reports: Sequence[ResendReport] = (),
    listed: GapList | None = None,
) -> bytes:
    """Return the body of a request before compression. `records` come from `record`, with ascending ids."""
    document: dict[str, object] = {"version": VERSION, "device": device, "store": store}
    if reports:
        document["resent"] = [asdict(report) for report in reports]
    if listed is not None:
        document["listed"] = listed.entry()
    # In pieces: the encoder makes a string of each name and value first, of 500 records at once more than 1 MB.
    pieces = [_encode(records[at : at + PIECE_RECORDS])[1:-1] for at in range(0, len(records), PIECE_RECORDS)]
    return f'{_encode(document)[:-1]},"records":[{",".join(pieces)}]}}'.encode()


@dataclass(frozen=True, slots=True)
class Record:
    """One reading, as the head-end stores it: the fields of `Reading`, and an id and a value.

    `raw` is the JSON text of the raw value; `value` is raw * 10^scaler as decimal text, or the text itself, or `None`
    where there is no single value, and of a register whose scaler is not known.
    """

    id: int
    task: str
    meter: str
    cls: int
    obis: str
    attr: int
    tag: str
    raw: str
    value: str | None
    scaler: int | None
    unit: int | None
    meter_time: str | None
    received: float
    trusted: bool
    error: str | None
    run: int
    profile: str | None
    doubt: str | None
    reread: str | None


@dataclass(frozen=True, slots=True)
class GapRecord:
    """A `GapReport` with its id."""

    id: int
    report: GapReport


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An `EventReport` with its id."""

    id: int
    report: EventReport


@dataclass(frozen=True, slots=True)
class LaterRecord:
    """A record of a kind that this head-end does not know yet: kept as the JSON text it came in."""

    id: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings of one store of one device, with reports of gaps and of events among them, each in ascending order of
    id. `last`: the highest id, `None` in an empty batch."""

    device: str
    store: str
    records: tuple[Record, ...]
    gaps: tuple[GapRecord, ...] = ()
    last: int | None = None
    reports: tuple[ResendReport, ...] = ()
    events: tuple[EventRecord, ...] = ()
    later: tuple[LaterRecord, ...] = ()
    listed: GapList | None = None


def inflate(body: bytes) -> bytes:
    """Decompress a gzip body. Raises `BatchError`, or `BatchTooLargeError` when it would exceed `PLAIN_BYTES_MAX`."""
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(body, PLAIN_BYTES_MAX + 1)
    except zlib.error as error:
        raise BatchError(f"not gzip: {error}") from None
    if len(plain) > PLAIN_BYTES_MAX:
        raise BatchTooLargeError(f"more than {PLAIN_BYTES_MAX} bytes after decompression")
    if not unpacker.eof or unpacker.unused_data:
        raise BatchError("not gzip: cut short, or followed by something else")
    return plain


def parse(body: bytes) -> Batch:
    """Parse an uncompressed body. Raises `BatchError`, of a later version `LaterVersionError`, and nothing else."""
    from decimal import Decimal  # here and below: a device, which loads this module as well, has no use for it

    try:
        document = json.loads(body, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise BatchError("the body is not JSON") from None
    top = _Fields(document, "")
    version = top.integer("version", 1, 2**31)
    if version > VERSION:
        raise LaterVersionError(f"version: {version} is not known here, {VERSION} is")
    device = top.text("device")
    store = top.text("store")
    if not device or not _STORE.fullmatch(store):
        raise BatchError("device or store: an identifier is expected")
    entries = document.get("records")
    if not isinstance(entries, list) or len(entries) > RECORDS_MAX:
        raise BatchError(f"records: a list of at most {RECORDS_MAX} is expected")
    records: list[Record] = []
    gaps: list[GapRecord] = []
    events: list[EventRecord] = []
    later: list[LaterRecord] = []
    last = -1
    for number, entry in enumerate(entries):
        members = _Fields(entry, f"records[{number}].")
        record_id = members.integer("id", 0, ID_MAX)
        if record_id <= last:
            raise BatchError(f"records[{number}].id: ids ascend")
        last = record_id
        if (kind := kind_of(members.entries)) not in KINDS:
            later.append(_later_of(members, record_id, kind))
        elif "gap" in members.entries:
            gaps.append(GapRecord(record_id, _gap_of(members)))
        elif "event" in members.entries:
            events.append(EventRecord(record_id, _event_of(members)))
        else:
            records.append(_record_of(members))
    reports = _reports_of(document.get("resent", []))
    listed = _list_of(document["listed"]) if "listed" in document else None
    newest = last if entries else None
    return Batch(device, store, tuple(records), tuple(gaps), newest, reports, tuple(events), tuple(later), listed)


def _later_of(members: _Fields, record_id: int, kind: str) -> LaterRecord:
    try:
        text = json.dumps(members.entries, default=float, allow_nan=False)
    except ValueError:
        raise BatchError(f"{members.where}kind: a number that no double can hold") from None
    if not members.text("kind") or len(text) > LATER_CHARS_MAX:
        raise BatchError(f"{members.where}kind: a name, and at most {LATER_CHARS_MAX} characters, are expected")
    return LaterRecord(record_id, kind, text)


def _list_of(entry: object) -> GapList:
    members = _Fields(entry, "listed.")
    as_of = members.integer("as_of", 0, ID_MAX)
    if "digest" in members.entries:
        digest = members.text("digest")
        if not _DIGEST.fullmatch(digest):
            raise BatchError("listed.digest: 64 hexadecimal digits are expected")
        return GapList(as_of, digest)
    entries = members.entries.get("gaps")
    if not isinstance(entries, list) or len(entries) > LISTED_MAX:
        raise BatchError(f"listed.gaps: a list of at most {LISTED_MAX} is expected")
    gaps = tuple(_gap_of(_Fields(each, f"listed.gaps[{number}].")) for number, each in enumerate(entries))
    begin, before = (_key_of(members.entries.get(name), f"listed.{name}") for name in ("from", "before"))
    for gap in gaps:
        if (
            gap.gap != "open"
            or (begin is not None and gap.key < begin)
            or (before is not None and gap.key >= before)
        ):  # fmt: skip
            raise BatchError("listed.gaps: open gaps from `from` on and before `before` are expected")
    return GapList(as_of, "", begin, before, gaps)


def _key_of(entry: object, where: str) -> GapKey | None:
    if entry is None:
        return None
    if not isinstance(entry, list) or len(entry) != 4:
        raise BatchError(f"{where}: meter, task, profile and first slot are expected")
    members = _Fields(dict(zip(("meter", "task", "profile", "first"), entry, strict=True)), f"{where}.")
    meter, task, profile = (members.text(name) for name in ("meter", "task", "profile"))
    return meter, task, profile, members.integer("first", 0, RUN_MAX)


def _gap_of(members: _Fields) -> GapReport:
    state = members.choice("gap", GAP_STATES)
    every = members.integer("every", 1, RUN_MAX)
    first, last = members.integer("first", 0, RUN_MAX), members.optional_integer("last", 0, RUN_MAX)
    if (last is None and state != "open") or (last is not None and (last < first or (last - first) % every)):
        raise BatchError(f"{members.where}last: the last slot, whole periods after the first, is expected")
    lowest, highest = (
        members.optional_integer(name, 0, ID_MAX) if name in members.entries else None for name in ("lowest", "highest")
    )
    if (lowest is None) != (highest is None) or (lowest is not None and highest is not None and lowest > highest):
        raise BatchError(f"{members.where}lowest: two ids in their order, or none, are expected")
    about = members.optional_text("about")
    if about is not None and not (_STORE.fullmatch(about) and lowest is not None):
        raise BatchError(f"{members.where}about: the identifier of a store, with ids, is expected")
    return GapReport(
        gap=state,
        meter=members.text("meter"),
        task=members.text("task"),
        profile=members.optional_text("profile"),
        first=first,
        last=last,
        every=every,
        reason=members.text("reason"),
        how=members.optional_text("how"),
        noted=members.seconds("noted"),
        times=_times_of(members),
        lowest=lowest,
        highest=highest,
        about=about,
        generation=members.optional_integer("generation", 1, ID_MAX),
    )


def _times_of(members: _Fields) -> str | None:
    times = members.optional_text("times") if "times" in members.entries else None
    try:
        schedule_of(GRID_S, 0, times or "")
    except ValueError as error:
        raise BatchError(f"{members.where}times: {error}") from None
    return times


def _event_of(members: _Fields) -> EventReport:
    values = members.entries.get("values")
    if not isinstance(values, list) or len(values) > EVENT_VALUES_MAX:
        raise BatchError(f"{members.where}values: a list of at most {EVENT_VALUES_MAX} is expected")
    checked = [_event_value(_Fields(value, f"{members.where}values[{at}].")) for at, value in enumerate(values)]
    if len(json.dumps(checked)) > RAW_CHARS_MAX:
        raise BatchError(f"{members.where}values: more than {RAW_CHARS_MAX} characters")
    octets = members.entries.get("octets")
    if octets is not None and not (
        isinstance(octets, str) and len(octets) <= 2 * EVENT_OCTETS_MAX and _HEX.fullmatch(octets)
    ):
        raise BatchError(f"{members.where}octets: hexadecimal digits of at most {EVENT_OCTETS_MAX} octets are expected")
    key = members.text("key")
    if not key:
        raise BatchError(f"{members.where}key: is empty")
    return EventReport(
        event=members.choice("event", EVENT_KINDS),
        meter=members.text("meter"),
        sender=members.text("sender"),
        code=members.optional_integer("code", 0, 2**32 - 1),
        name=members.text("name"),
        grave=members.boolean("grave"),
        obis=_obis_of(members) if members.entries.get("obis") is not None else None,
        meter_time=members.optional_text("meter_time"),
        received=members.seconds("received"),
        trusted=members.boolean("trusted"),
        invoke=members.optional_integer("invoke", 0, 2**32 - 1),
        security=members.choice("security", EVENT_SECURITY),
        values=checked,
        octets=octets,
        error=members.optional_text("error"),
        count=members.integer("count", 1, 2**31),
        key=key,
        task=members.text("task"),
    )


def _event_value(members: _Fields) -> dict[str, object]:
    tag, raw = members.text("tag"), members.entries.get("raw")
    _check_value(tag, raw, f"{members.where}raw", 0)
    value: dict[str, object] = {"tag": tag, "raw": _plain(raw)}
    if members.entries.get("obis") is not None:
        value["obis"] = _obis_of(members)
    for name, low, high in (("cls", 0, 65_535), ("attr", -128, 127), ("scaler", -128, 127), ("unit", 0, 255)):
        number = members.optional_integer(name, low, high)
        if number is not None:
            value[name] = number
    return value


def _obis_of(members: _Fields) -> str:
    obis = members.text("obis")
    if not _is_obis(obis):
        raise BatchError(f"{members.where}obis: six numbers of 0 to 255 are expected")
    return obis


@lru_cache(maxsize=1024)  # a batch has thousands of records and few codes
def _is_obis(text: str) -> bool:
    return bool(_OBIS.fullmatch(text)) and all(int(group) <= 255 for group in text.split("."))


def parse_orders(entries: object) -> list[ResendOrder]:
    """The orders in the member `resend` of an answer. Raises `BatchError`."""
    if not isinstance(entries, list) or len(entries) > RESENDS_MAX:
        raise BatchError(f"resend: a list of at most {RESENDS_MAX} is expected")
    orders: list[ResendOrder] = []
    for number, entry in enumerate(entries):
        members = _Fields(entry, f"resend[{number}].")
        request = members.integer("request", 1, ID_MAX)
        if "since" in members.entries:
            since, until = members.seconds("since"), members.seconds("until")
            order = ResendOrder(request, since=since, until=until)
        else:
            store, first = members.text("store"), members.integer("first", 1, ID_MAX - 1)
            if not _STORE.fullmatch(store):
                raise BatchError(f"{members.where}store: an identifier is expected")
            order = ResendOrder(request, store, first, members.integer("last", first, ID_MAX - 1))
        if order.until < order.since:
            raise BatchError(f"{members.where}until: is before since")
        orders.append(order)
    return orders


def _reports_of(entries: object) -> tuple[ResendReport, ...]:
    if not isinstance(entries, list) or len(entries) > RESENDS_MAX:
        raise BatchError(f"resent: a list of at most {RESENDS_MAX} is expected")
    reports: list[ResendReport] = []
    for number, entry in enumerate(entries):
        members = _Fields(entry, f"resent[{number}].")
        reports.append(
            ResendReport(
                request=members.integer("request", 1, ID_MAX),
                sent=members.integer("sent", 0, ID_MAX),
                refused=members.integer("refused", 0, ID_MAX),
                gone=_ranges_of(members.entries.get("gone"), f"{members.where}gone"),
                kept_since=members.seconds("kept_since"),
            )
        )
    return tuple(reports)


def _ranges_of(entries: object, where: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(entries, list) or len(entries) > RANGES_MAX:
        raise BatchError(f"{where}: a list of at most {RANGES_MAX} is expected")
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and all(type(each) is int for each in entry)):
            raise BatchError(f"{where}: pairs of ids are expected")
        if not 0 <= entry[0] <= entry[1] <= ID_MAX:
            raise BatchError(f"{where}: the first id is not above the last")
    return tuple((first, last) for first, last in entries)


def _record_of(members: _Fields) -> Record:
    obis = _obis_of(members)
    tag = members.text("tag")
    scaler = members.optional_integer("scaler", -128, 127)
    raw = members.entries.get("raw")
    _check_value(tag, raw, f"{members.where}raw", 0)
    raw_text = str(raw) if type(raw) is int else _encode_raw(_plain(raw))  # most are, and this is ten times faster
    if len(raw_text) > RAW_CHARS_MAX:
        raise BatchError(f"{members.where}raw: more than {RAW_CHARS_MAX} characters")
    return Record(
        id=members.integer("id", 0, ID_MAX),
        task=members.text("task"),
        meter=members.text("meter"),
        cls=members.integer("cls", 0, 65_535),
        obis=obis,
        attr=members.integer("attr", -128, 127),
        tag=tag,
        raw=raw_text,
        value=None if scaler is None and _is_scaled(members) else _value(tag, raw, scaler),
        scaler=scaler,
        unit=members.optional_integer("unit", 0, 255),
        meter_time=members.optional_text("meter_time"),
        received=members.seconds("received"),
        trusted=members.boolean("trusted"),
        error=members.optional_text("error"),
        run=members.integer("run", 0, RUN_MAX),
        profile=members.optional_text("profile"),
        doubt=members.optional_text("doubt"),
        reread=members.optional_text("reread"),
    )


_NUMBERS = frozenset({*_INTEGERS, *_FLOATS} - {"enum"})
_SCALED = {(3, 2), (4, 2), (5, 2), (5, 3)}  # class and attribute of what has a scaler (BB 4.3.2 to 4.3.4)


def _is_scaled(members: _Fields) -> bool:
    """Whether this is a number that without its scaler may be anything."""
    return (
        members.text("tag") in _NUMBERS
        and (members.integer("cls", 0, 65_535), members.integer("attr", -128, 127)) in _SCALED
    )


def _value(tag: str, raw: Any, scaler: int | None) -> str | None:
    """The value as text: raw * 10^scaler, exact, without exponent; other scalars unchanged; None for other values."""
    if tag in _INTEGERS or (tag in _FLOATS and not isinstance(raw, str)):
        from decimal import Decimal

        sign, digits, exponent = Decimal(raw).as_tuple()
        if not isinstance(exponent, int):  # NaN and infinities arrive as text, never here
            return None
        return format(Decimal((sign, digits, exponent + (scaler or 0))), "f")
    if tag == "bool":
        return "true" if raw else "false"
    return raw if isinstance(raw, str) else None


def _check_value(tag: str, raw: Any, where: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise BatchError(f"{where}: nested deeper than {DEPTH_MAX}")
    if tag in _LISTS:
        _check_list(raw, where, depth)
    elif not _fits(tag, raw):
        raise BatchError(f"{where}: no value of tag {tag[:20]!r}")


def _check_list(raw: Any, where: str, depth: int) -> None:
    if not isinstance(raw, list):
        raise BatchError(f"{where}: a list is expected")
    for number, entry in enumerate(raw):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise BatchError(f"{where}[{number}]: a pair of tag and value is expected")
        _check_value(entry[0], entry[1], f"{where}[{number}]", depth + 1)


def _fits(tag: str, raw: Any) -> bool:
    if tag == "null":
        return raw is None
    if tag == "bool":
        return isinstance(raw, bool)
    if tag in _INTEGERS:
        low, high = _INTEGERS[tag]
        return isinstance(raw, int) and not isinstance(raw, bool) and low <= raw <= high
    if tag in _FLOATS:
        return _fits_float(raw)
    if not isinstance(raw, str):
        return False
    if tag in _HEX_TAGS:
        size = _HEX_TAGS[tag]
        return bool(_HEX.fullmatch(raw)) and (size is None or len(raw) == 2 * size)
    return (tag == "str" and _is_text(raw)) or (tag == "bits" and not raw.strip("01"))


def _fits_float(raw: Any) -> bool:
    if isinstance(raw, str):
        return raw in NOT_NUMBERS
    from decimal import Decimal

    if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
        return False
    _, digits, exponent = Decimal(raw).as_tuple()
    if not isinstance(exponent, int) or abs(exponent) + len(digits) > FLOAT_DIGITS_MAX:
        return False
    return bool(-FLOAT_MAX <= raw <= FLOAT_MAX)


def _plain(raw: Any) -> Any:
    """The raw value for `json.dumps`: floats are written as the shortest text for the same double."""
    if isinstance(raw, list):
        return [_plain(entry) for entry in raw]
    return raw if isinstance(raw, int | str | None) else float(raw)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object. Of two with one name, nobody can tell which is meant. Raises `BatchError`."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BatchError(f"{ascii(twice)[1:-1][:TEXT_CHARS_MAX]}: stands more than once in an object")
    return made


class _Fields:
    """The members of one JSON object, each taken with its type checked."""

    def __init__(self, entries: Any, where: str) -> None:
        if not isinstance(entries, dict):
            raise BatchError(f"{where or 'body'}: an object is expected")
        self.entries: dict[str, Any] = entries
        self.where = where

    def text(self, name: str) -> str:
        value = self.entries.get(name)
        if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX or not _storable(value):
            raise BatchError(f"{self.where}{name}: a text of at most {TEXT_CHARS_MAX} characters is expected")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value = self.text(name)
        if value not in choices:
            raise BatchError(f"{self.where}{name}: one of {', '.join(choices)} is expected")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.entries.get(name) is None else self.text(name)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.entries.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BatchError(f"{self.where}{name}: an integer from {low} to {high} is expected")
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        return None if self.entries.get(name) is None else self.integer(name, low, high)

    def seconds(self, name: str) -> float:
        value = self.entries.get(name)
        if isinstance(value, _NO_NUMBER) or not 0 <= value < 2**40:
            raise BatchError(f"{self.where}{name}: seconds since the epoch are expected")
        return float(value)

    def boolean(self, name: str) -> bool:
        value = self.entries.get(name)
        if not isinstance(value, bool):
            raise BatchError(f"{self.where}{name}: true or false is expected")
        return value


def _is_text(text: str) -> bool:
    """Whether UTF-8, and with it a database, has a form for `text`: none for half of a surrogate pair. Meters do pad
    their texts with NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(text: str) -> bool:
    """Whether a database can store `text`: lone surrogates cannot be encoded, and PostgreSQL refuses NUL."""
    if text.isascii():  # nearly all are
        return "\0" not in text
    return _is_text(text) and "\0" not in text
