"""How far a profile has been read: which rows were taken last, and the time stamp of the last plausible one.

Sans-IO. A position in a profile is not a time: a meter's clock is set, daylight saving ends, and a defect stamps a row
with 2028. So a row is known by what is in it (`CapturedRow.digest`), and the position has the digests of the rows taken
last, in the order of the meter. The time stamp beside them says where to look, and only plausible rows move it.

A position is kept in the store's knowledge as JSON. The first version of this software kept the time stamp alone;
such a position is understood, and `clock` is still what it was, so that this version can be rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b

from dlms import axdr
from dlms.axdr import DATE_TIME_OCTETS, Data, Tag
from dlms.cosem.obis import AttributeRef
from dlms.cosem.profile import CaptureObject, TypedRow, Unresolved
from dlms.cosem.time import ANY, STATUS_UNKNOWN, ClockStatus, CosemDateTime
from dlms.errors import DlmsError
from omadm.readings import REREAD_CHARS

DIGEST_OCTETS = 8  # of the rows of a few hours two are alike once in 10^15 positions
OVERLAP_S = 3600  # a clock may be set back by so much, or daylight saving end, without a row being missed
KEPT_ROWS = range(16, 256)  # digests kept: as many as are stamped in two overlaps, at least, at most
DOUBTFUL_KEPT = 256  # rows stamped ahead of now; as long as they are in the buffer, a range up to its end has them
BACK_MAX_S = 86_400  # a row stamped longer before one in front of it has lost its clock, or that one had
BASE_OCTETS_MAX = 2048  # of the last row, encoded; what is longer is not kept

# A time stamp that nothing tells; whose deviation cannot be right; that is ahead of now; that is far behind the rows in
# front of it, or ahead of those behind it; that the meter itself marks as invalid or doubtful.
UNRESOLVED_TIME, DEVIATION, AHEAD, OFF_SEQUENCE, CLOCK_STATUS = DOUBTS = (
    "unresolved", "deviation", "ahead", "off-sequence", "clock-status",
)  # fmt: skip
ANSWER, BUFFER = PACKINGS = "answer", "buffer"  # what is relative is so to a row of the same answer, of the buffer

_UNRESOLVED_CELL = Data(Tag.DONT_CARE, None)  # what an unresolved cell is kept as


@dataclass(frozen=True, slots=True)
class CapturedRow:
    """One row.

    `clock` is its time stamp, 12 octets, empty where nothing tells it. `doubt` says why that time is not to be
    believed: a `DOUBTS`, empty for a plausible row. `repeated`: the time stamp is local time that the clock had shown
    before, so that it stands for no one instant. `stray`: it was chosen by a time stamp that is later than those of
    rows which were captured after it, and taken before it. `alike`: so many rows that nothing tells from it were taken
    before, of those that are remembered, and not in the same answer.
    """

    typed: TypedRow
    columns: tuple[CaptureObject, ...] = field(repr=False, compare=False)
    clock: bytes = b""
    doubt: str = ""
    repeated: bool = False
    stray: bool = False
    alike: int = 0

    @classmethod
    def of(cls, typed: TypedRow, columns: tuple[CaptureObject, ...]) -> CapturedRow:
        """From a row of `RowDecoder.typed`. Raises `LocalError` when the clock's column holds no time."""
        clock = b""
        for column, cell in zip(columns, typed, strict=True):
            if column.is_clock and isinstance(cell, Data) and cell.value is not None and not clock:
                clock = cell.octets()
                CosemDateTime.parse(clock)
        return cls(typed, columns, clock)

    @property
    def cells(self) -> tuple[tuple[AttributeRef, Data | Unresolved], ...]:
        """The columns but for the clock."""
        return tuple(
            (column.ref, cell) for column, cell in zip(self.columns, self.typed, strict=True) if not column.is_clock
        )

    @property
    def clock_ref(self) -> AttributeRef | None:
        """The attribute that the time stamp was captured from."""
        return next((column.ref for column in self.columns if column.is_clock), None)

    @property
    def local(self) -> datetime | None:
        """The time stamp in the meter's own time, if it is a definite one."""
        return CosemDateTime.parse(self.clock).local() if self.clock else None

    @property
    def digest(self) -> bytes:
        """What the row is known by."""
        seen = blake2b(self.stamp, digest_size=DIGEST_OCTETS)
        for column, cell in zip(self.columns, self.typed, strict=True):
            if not column.is_clock:
                seen.update(b"\0?" if isinstance(cell, Unresolved) else cell.emit())
        return seen.digest()

    @property
    def stamp(self) -> bytes:
        """Return the part of the time stamp that any meter writes, without the day of the week."""
        if not self.clock:
            return b""
        clock = CosemDateTime.parse(self.clock)
        summer = clock.status != STATUS_UNKNOWN and clock.status & ClockStatus.DAYLIGHT_SAVING
        return CosemDateTime(
            clock.year, clock.month, clock.day, ANY, clock.hour, clock.minute, clock.second, 0, clock.deviation, summer
        ).emit()


@dataclass(slots=True)
class ProfilePosition:
    """Where reading a profile goes on.

    `clock`: the time stamp of the last plausible row, 12 octets, empty before the first one. `latest`: that of the last
    row that did not repeat a time: after a clock was set back without a word of it, `clock` is before it. `digests`: of
    the rows taken last, oldest first. `base`: the last row, for what is relative to it. `entry`: its number in the
    buffer, 0 where it is not known. `searched`: up to there by the clock, there was nothing. `ahead`: digests of
    doubtful rows stamped elsewhere. `doubtful`: the last rows were doubtful. `ranges_only`: the meter does not select
    by entry. `packing`: to which row the meter's relative cells are, a `PACKINGS`, empty where it is not known;
    `probe`: the time stamp and the digest of a row that will tell.

    Where rows are chosen by time: `top` is the latest of all plausible time stamps, which the clock may be behind now;
    `overtaken` is one that is later still, of rows that were taken as well and may be forgotten: once plausible, when
    nobody knew better, or marked by the meter itself. What is stamped later than both was never taken, unless it is
    among the `ahead`.
    `count`: how many of the entries in use were taken or given up, 0 where it is not known; `visited`: when that was,
    in seconds since the epoch, 0 where nobody knows; `counted_to`: up to when there were as many rows as the time that
    has passed gives; `said`: what the meter's clock said at `visited`. `wide`: how far the search for rows that should
    be there has come. `astray`: how many doubtful rows came since the last plausible one.

    `reread` is sent with the rows: it tells rows of this reading from those of one before it. `since`: so far back (in
    seconds since the epoch) an empty position begins, because what was read before was lost; 0 where nothing was.
    `losses`: up to which loss of which store this position has heard.
    """

    clock: bytes = b""
    latest: bytes = b""
    digests: list[bytes] = field(default_factory=list)
    base: tuple[Data, ...] = ()
    entry: int = 0
    searched: bytes = b""
    ahead: list[bytes] = field(default_factory=list)
    doubtful: bool = False
    ranges_only: bool = False
    reread: str = ""
    since: float = 0.0
    losses: tuple[str, int] = ("", 0)
    packing: str = ""
    probe: tuple[bytes, bytes] | None = None
    top: bytes = b""
    overtaken: bytes = b""
    count: int = 0
    visited: float = 0.0
    counted_to: float = 0.0
    said: bytes = b""
    astray: int = 0
    wide: int = 0

    def dump(self) -> dict[str, object]:
        """A value that JSON can hold."""
        base = axdr.structure(*self.base).emit() if self.base else b""
        by_time: dict[str, object] = {"top": self.top.hex(), "count": self.count, "visited": self.visited}
        by_time |= {"counted_to": self.counted_to, "said": self.said.hex(), "wide": self.wide, "astray": self.astray}
        by_time["overtaken"] = self.overtaken.hex()
        by_time = {name: value for name, value in by_time.items() if value}  # most meters select by entry
        packed: dict[str, object] = {"packing": self.packing} if self.packing else {}
        if self.probe is not None:
            packed["probe"] = b"".join(self.probe).hex()
        return {
            "clock": self.clock.hex(),
            "latest": self.latest.hex(),
            "rows": b"".join(self.digests).hex(),
            "base": base.hex() if len(base) <= BASE_OCTETS_MAX else "",
            "entry": self.entry,
            "searched": self.searched.hex(),
            "ahead": b"".join(self.ahead).hex(),
            "doubtful": self.doubtful,
            "ranges_only": self.ranges_only,
            "reread": self.reread,
            "since": self.since,
            "losses": list(self.losses),
            **by_time,
            **packed,
        }

    @classmethod
    def load(cls, dumped: Mapping[str, object]) -> ProfilePosition:
        """The inverse of `dump`, also of the first version's. What is damaged or missing is as if not known."""
        packing = dumped.get("packing")
        return cls(
            clock=_time(_octets(dumped, "clock")),
            latest=_time(_octets(dumped, "latest")) or _time(_octets(dumped, "clock")),
            digests=_digests(_octets(dumped, "rows")),
            base=_base(_octets(dumped, "base")),
            entry=_count(dumped.get("entry")),
            searched=_time(_octets(dumped, "searched")),
            ahead=_digests(_octets(dumped, "ahead")),
            doubtful=dumped.get("doubtful") is True,
            ranges_only=dumped.get("ranges_only") is True,
            reread=_text(dumped.get("reread")),
            since=_seconds(dumped.get("since")),
            losses=_losses(dumped.get("losses")),
            packing=packing if isinstance(packing, str) and packing in PACKINGS else "",
            probe=_probe(_octets(dumped, "probe")),
            top=_time(_octets(dumped, "top")),
            overtaken=_time(_octets(dumped, "overtaken")),
            count=_count(dumped.get("count")),
            visited=_seconds(dumped.get("visited")),
            counted_to=_seconds(dumped.get("counted_to")),
            said=_time(_octets(dumped, "said")),
            wide=_count(dumped.get("wide")),
            astray=_count(dumped.get("astray")),
        )

    def heard(self, store: str, seq: int, lost_since: float | None, fresh: str) -> ProfilePosition:
        """Return the position after what `store` has lost up to its loss `seq`: of this profile possibly everything
        from `lost_since` on (seconds since the epoch; `None` where nothing that this position has not heard of).
        `fresh`: a name that nobody has used, of which `REREAD_CHARS` are kept."""
        name = self.reread or (store if self.known else fresh)[:REREAD_CHARS]
        if lost_since is None or not self.known:
            return replace(self, reread=name, losses=(store, seq))
        return ProfilePosition(
            ranges_only=self.ranges_only, reread=fresh[:REREAD_CHARS], since=lost_since, losses=(store, seq),
            packing=self.packing,
        )  # fmt: skip

    @property
    def known(self) -> bool:
        """Whether a row was ever taken."""
        return bool(self.clock or self.digests)

    @property
    def local(self) -> datetime | None:
        """The time stamp of the last plausible row in the meter's own time."""
        return CosemDateTime.parse(self.clock).local() if self.clock else None

    @property
    def set_back(self) -> bool:
        """Whether the last plausible row is stamped earlier than one before it: times do not tell new rows from old."""
        return bool(self.top and self.clock) and _later(self.top, self.clock)

    def empty_columns(self, columns: tuple[CaptureObject, ...]) -> set[int]:
        """The columns that had no value in the last row: null-data in them stands for nothing else."""
        if len(self.base) != len(columns):
            return set()
        return {at for at, cell in enumerate(self.base) if cell.tag == Tag.NULL}

    def note(self, rows: Sequence[CapturedRow], period_s: int, *, least: int = 0) -> None:
        """`rows` were taken, in this order. So many of them are to be known again at `least`."""
        if not rows:
            return
        elsewhere = [row.digest for row in rows if row.doubt in (AHEAD, OFF_SEQUENCE, DEVIATION)]
        self.ahead = [*self.ahead, *elsewhere][-DOUBTFUL_KEPT:]
        self.count += len(rows) if self.count else 0
        in_place = [row for row in rows if not row.stray]
        if in_place:
            self._note_in_place(in_place, period_s, least)

    def _note_in_place(self, rows: Sequence[CapturedRow], period_s: int, least: int) -> None:
        """These are the last rows now: behind them reading goes on."""
        self.digests += [row.digest for row in rows]
        wanted = max(2 * OVERLAP_S // period_s + 8 if period_s else 64, least)
        if least and self.mark and rows[-1].local and self.mark > rows[-1].local:
            wanted = KEPT_ROWS.stop  # rows of the same times were taken before, and may be alike
        for row in rows:
            self.astray = self.astray + 1 if row.doubt not in ("", CLOCK_STATUS) else 0
        # As long as rows are doubtful, reading begins at the last plausible ones, which are to be known then.
        del self.digests[: -min(max(wanted, KEPT_ROWS.start) + self.astray, KEPT_ROWS.stop)]
        self.base = tuple([_UNRESOLVED_CELL if isinstance(cell, Unresolved) else cell for cell in rows[-1].typed])
        for row in rows:
            if not row.doubt:
                self.clock, self.searched = row.clock, b""
                if not row.repeated:
                    self.latest = row.clock
                if not self.top or _later(row.clock, self.top):
                    self.top = row.clock
            elif row.doubt == CLOCK_STATUS:  # in its place all the same, as far as anybody can see
                self.searched = row.clock
                if _later(row.clock, self.top or self.clock):
                    self.overtake(row.clock)

    def overtake(self, *clocks: bytes) -> None:
        """Rows with time stamps up to these were taken, which the position moves away from."""
        for clock in clocks:
            if clock and _later(clock, self.overtaken):
                self.overtaken = clock

    def after_known(self, rows: Sequence[CapturedRow]) -> int | None:
        """In rows that lie side by side in the buffer: the index of the first one that was not taken yet, `None` when
        no known one is among them.

        The known ones are found by their order. Where several rows are alike, an agreement up to the first of these
        rows, or of all that is known, counts more than one that breaks off, then the longest; of equal ones the first,
        since a row twice can be mended and a lost one cannot.
        """
        digests = [row.digest for row in rows]
        best = (False, 0, 0)
        for end in range(1, len(rows) + 1):
            most = min(end, len(self.digests))
            same = next((at for at in range(most) if digests[end - 1 - at] != self.digests[-1 - at]), most)
            if same:
                best = max(best, (same == most, same, -end))
        return -best[2] if best[1] else self._after_clock(rows)

    def ends(self, rows: Sequence[CapturedRow], *, whole: bool, dropped: bool, again: bool) -> list[int]:
        """Where in rows of an answer, in the order of their capture, the ones that were taken may end: indexes of the
        rows behind, in order. Empty where no place has the known rows side by side as they were taken.

        `whole`: the rows are the whole buffer, and not chosen by their times; of those that are, the known rows with
        other times are left out. `dropped`: the oldest known rows may have left the buffer.
        `again`: the clock comes by times that rows before the last one have.
        """
        digests = [row.digest for row in rows]
        there, early = set(digests), set(self.ahead)
        known = self.digests if whole else [digest for digest in self.digests if digest in there]
        found: dict[int, tuple[int, bool]] = {}  # → so many known rows in front, and whether there is no row before
        for end in range(1, len(rows) + 1 if known else 0):
            at, same = end, 0
            while at and same < len(known) and digests[end - 1] == known[-1]:
                if digests[at - 1] == known[-1 - same]:
                    same += 1
                elif digests[at - 1] not in early:  # a stray one was taken before its turn
                    break
                at -= 1
            if same and (same == len(known) or (dropped and not at)):
                found[end] = same, not at or same == len(self.digests)
        if len(found) > 1 and again:
            # All rows in front were taken so; behind another place, those between would have come twice in this order.
            longest, *others = sorted(found.items(), key=lambda item: item[1][0], reverse=True)
            if longest[1][1] and longest[1][0] > others[0][1][0]:
                return [longest[0]]
        return list(found)

    def forget_ahead(self, rows: Sequence[CapturedRow]) -> None:
        """These are all the rows that there are from a time on: doubtful ones of later times are among them, or have
        left the buffer."""
        there = {row.digest for row in rows}
        self.ahead = [digest for digest in self.ahead if digest in there]

    def strays(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        """Those of rows in front of the known ones that no earlier answer can have had."""
        taken, known, found = set(self.digests), Counter(self.digests) | Counter(self.ahead), list[CapturedRow]()
        for row in rows:
            digest = row.digest
            if not known[digest]:
                found.append(row)
                continue
            known[digest] -= 1
            if digest not in taken:
                found = []  # those before were captured, and taken, before this one
        return self._strays(found)

    def unknown(self, rows: Sequence[CapturedRow], *, in_order: bool) -> list[CapturedRow]:
        """Return the rows that were not taken yet, of those that were chosen by their time stamps.

        Rows may well be alike, so they are counted. What the buffer has before the first known one is older than the
        last that was taken, where the rows are `in_order` of their capture. Of these, only those that no earlier answer
        can have had are new: `stray` ones, stamped ahead of all that was taken, behind the doubtful ones that were.
        """
        if not self.digests:
            return list(rows[self._after_clock(rows) or 0 :])
        taken, known = set(self.digests), Counter(self.digests) | Counter(self.ahead)
        found: list[CapturedRow] = []
        met, doubtful_to = not in_order, 0
        for row in rows:
            digest = row.digest
            if not known[digest]:
                found.append(row)
                continue
            known[digest] -= 1
            if digest in taken and not met:
                found, met = self._strays(found[doubtful_to:]), True
            elif not met:
                doubtful_to = len(found)  # those before were captured, and taken, before this one
        if in_order and not met:
            found = self._apart(found, doubtful_to)
        if in_order and not met and self.astray >= KEPT_ROWS.stop - KEPT_ROWS.start:  # the last ones are forgotten
            return [row for row in found if self.local is None or (row.local or self.local) > self.local]
        return found

    @property
    def mark(self) -> datetime | None:
        """The latest time stamp of all rows that were taken, but for the doubtful ones that are remembered."""
        times = [_local(octets) for octets in (self.clock, self.top, self.overtaken) if octets]
        return max((time for time in times if time is not None), default=None)

    def _strays(self, rows: Sequence[CapturedRow]) -> list[CapturedRow]:
        """Those of these rows that are stamped ahead of all rows that were ever taken, as stray ones."""
        mark = self.mark
        return [replace(row, stray=True) for row in rows if mark is not None and row.local and row.local > mark]

    def _apart(self, rows: Sequence[CapturedRow], doubtful_to: int) -> list[CapturedRow]:
        """The rows of an answer without a known one in its place: those that are stamped far ahead of rows behind them
        are stray, or were taken."""
        mark, found = self.mark, list[CapturedRow]()
        lowest: datetime | None = None
        for at in reversed(range(len(rows))):
            row, local = rows[at], rows[at].local
            if mark and local and lowest and local - lowest > timedelta(seconds=BACK_MAX_S):
                found += self._strays([row]) if at >= doubtful_to else []
                continue
            found.append(row)
            if local is not None:
                lowest = local if lowest is None else min(local, lowest)
        return found[::-1]

    def _after_clock(self, rows: Sequence[CapturedRow]) -> int | None:
        """The same by the time stamp alone, for a position of the first version."""
        if self.digests or not self.clock:
            return None
        return next((at + 1 for at, row in enumerate(rows) if row.clock == self.clock), None)


def _local(octets: bytes) -> datetime | None:
    return CosemDateTime.parse(octets).local()


def _later(one: bytes, other: bytes) -> bool:
    """Whether one time is later than the other, which may be empty or no definite one."""
    times = _local(one), _local(other) if other else None
    return times[0] is not None and (times[1] is None or times[0] > times[1])


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**32 else 0


def _probe(octets: bytes) -> tuple[bytes, bytes] | None:
    known = len(octets) == DATE_TIME_OCTETS + DIGEST_OCTETS
    return (octets[:DATE_TIME_OCTETS], octets[DATE_TIME_OCTETS:]) if known else None


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= REREAD_CHARS else ""


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**40 else 0.0


def _losses(value: object) -> tuple[str, int]:
    match value:
        case [str(store), int(seq)]:
            return store, seq
        case _:
            return "", 0


def _octets(dumped: Mapping[str, object], name: str) -> bytes:
    found = dumped.get(name)
    try:
        return bytes.fromhex(found) if isinstance(found, str) else b""
    except ValueError:
        return b""


def _time(octets: bytes) -> bytes:
    return octets if len(octets) == DATE_TIME_OCTETS else b""


def _digests(octets: bytes) -> list[bytes]:
    return [octets[at : at + DIGEST_OCTETS] for at in range(0, len(octets) - DIGEST_OCTETS + 1, DIGEST_OCTETS)]


def _base(octets: bytes) -> tuple[Data, ...]:
    try:
        return axdr.decode(octets).members() if octets else ()
    except DlmsError:
        return ()
