"""What the store keeps of the ledger: accounts, open gaps, and when the ledger was looked at last.

They lie in the file of the readings (`agent.metering.store.store_schema`), so that a gap, its report to the head-end,
and the reading that ends it cannot be torn apart.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.metering.ledger.ledger import GOES_ON, Balance, Change, Gap
from omadm.readings import RUN_MAX, GapKey, GapReport, gap_digest, gap_entry
from omadm.schedule import GRID_S, schedule_of

GAPS_MAX = 20_000  # open ones on this device, some 2 MB; beyond, the oldest are given up


@dataclass(frozen=True, slots=True)
class Kept:
    """All that a life of this process leaves to the next. `alive`: when it last looked at the ledger, 0 when there was
    none before; `loss`: the last loss of readings that it listed."""

    balances: tuple[Balance, ...]
    going_on: tuple[Gap, ...]
    alive: float
    loss: int


def load(db: sqlite3.Connection) -> Kept:
    """Return what is kept."""
    alive = db.execute("SELECT at, loss FROM alive").fetchone()
    calendars = _calendars(db)
    accounts = db.execute("SELECT meter, task, every, phase, settled FROM account")
    return Kept(
        balances=tuple(
            Balance(meter, task, *_times(every, calendars, phase), settled, calendars.get(every, ""))
            for meter, task, every, phase, settled in accounts
        ),
        going_on=tuple(_gaps(db, "WHERE last = ?", (GOES_ON,))),
        alive=alive[0] if alive else 0.0,
        loss=alive[1] if alive else 0,
    )


def open_gaps(db: sqlite3.Connection, meter: str = "", task: str = "", limit: int = GAPS_MAX) -> list[Gap]:
    """Return the open gaps, of one meter and one task where these are given, by meter, task and time."""
    wanted = [(column, value) for column, value in (("meter", meter), ("task", task)) if value]
    where = " AND ".join(f"{column} = ?" for column, _ in wanted)
    return _gaps(db, f"WHERE {where}" if where else "", tuple(value for _, value in wanted), limit)


def digest(db: sqlite3.Connection) -> str:
    """Return the digest of all open gaps, for the head-end to compare."""
    return gap_digest(report(Change(None, gap), 0.0) for gap in _each_gap(db))


def page(
    db: sqlite3.Connection, begin: GapKey | None, gaps_max: int, chars_max: int
) -> tuple[GapKey | None, tuple[GapReport, ...]]:
    """Return the open gaps from the place `begin` on (`None`: from the first), about `gaps_max` of them, no more than
    twice as many, with about `chars_max` characters of JSON; and the place of the one after them, `None` where there is
    none. Ranges that overlap are on one page, as long as they fit."""
    where, values = ("WHERE (meter, task, profile, first) >= (?, ?, ?, ?)", begin) if begin is not None else ("", ())
    found: list[GapReport] = []
    chars, reach = 0, 0
    for gap in _each_gap(db, where, values, 2 * gaps_max + 1):
        entry = report(Change(None, gap), 0.0)
        chars += len(json.dumps(gap_entry(entry)))
        same = bool(found) and found[-1].key[:3] == entry.key[:3]
        full = len(found) >= gaps_max or chars > chars_max
        if found and ((full and not (same and gap.first <= reach)) or len(found) == 2 * gaps_max):
            return gap.key, tuple(found)
        found.append(entry)
        end = RUN_MAX if gap.last == GOES_ON else gap.last
        reach = max(reach, end) if same else end
    return None, tuple(found)


def count(db: sqlite3.Connection) -> int:
    """Return how many gaps are open."""
    return int(db.execute("SELECT COUNT(*) FROM gap").fetchone()[0])


def oldest(db: sqlite3.Connection, limit: int) -> list[Gap]:
    """Return the gaps that ended longest ago."""
    return _gaps(db, f"WHERE last != {GOES_ON}", (), limit, order="last")


def write(
    db: sqlite3.Connection,
    changes: Sequence[Change],
    balances: Iterable[Balance],
    gone: Collection[tuple[str, str]],
    alive: tuple[float, int] | None,
) -> None:
    """Write what has changed. `gone`: accounts that are no more; `alive`: now, and the last loss that is listed."""
    for change in changes:
        if change.was is not None:
            db.execute("DELETE FROM gap WHERE meter=? AND task=? AND profile=? AND first=?", change.was.key)
        if not change.how:
            gap = change.gap
            every = _kept_every(db, gap.every, gap.times)
            row = (gap.meter, gap.task, gap.profile, gap.first, gap.last, every, gap.reason)
            db.execute("INSERT OR REPLACE INTO gap VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.executemany(
        "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?)",
        [(one.meter, one.task, _kept_every(db, one.every, one.times), one.phase, one.settled) for one in balances],
    )
    db.executemany("DELETE FROM account WHERE meter=? AND task=?", list(gone))
    if alive is not None:
        db.execute("INSERT OR REPLACE INTO alive VALUES (1, ?, ?)", alive)


def report(change: Change, noted: float) -> GapReport:
    """Return what the head-end is told of a change."""
    gap = change.gap
    return GapReport(
        gap="closed" if change.how else "open",
        meter=gap.meter,
        task=gap.task,
        profile=gap.profile or None,
        first=gap.first,
        last=None if gap.last == GOES_ON else gap.last,
        every=gap.every,
        reason=str(gap.reason),
        how=change.how or None,
        noted=round(noted, 3),
        times=gap.times or None,
    )


def _gaps(
    db: sqlite3.Connection, where: str, values: tuple[object, ...], limit: int = GAPS_MAX, *, order: str = ""
) -> list[Gap]:
    return list(_each_gap(db, where, values, limit, order=order))


def _each_gap(
    db: sqlite3.Connection, where: str = "", values: tuple[object, ...] = (), limit: int = GAPS_MAX, *, order: str = ""
) -> Iterator[Gap]:
    calendars = _calendars(db)
    found = db.execute(
        f"SELECT meter, task, profile, first, last, every, reason FROM gap {where}"  # noqa: S608 - constants only
        f" ORDER BY {order or 'meter, task, profile, first'} LIMIT ?",
        (*values, limit),
    )
    for meter, task, profile, first, last, every, reason in found:
        yield Gap(meter, task, profile, first, last, _times(every, calendars)[0], reason, calendars.get(every, ""))


# A calendar stands in a table of its own, under minus the checksum of its text, which takes the place of `every`: so
# rows of two files can be put together, and text is written once per calendar and not once per meter.


def _kept_every(db: sqlite3.Connection, every: int, times: str) -> int:
    if not times:
        return every
    number = -1 - zlib.crc32(times.encode())
    db.execute("INSERT OR IGNORE INTO calendar VALUES (?, ?)", (number, times))
    return number


def _calendars(db: sqlite3.Connection) -> dict[int, str]:
    """The calendars by their number. What does not say run times any more (a damaged page) is left out."""
    found: dict[int, str] = {}
    for number, times in db.execute("SELECT id, times FROM calendar"):
        with contextlib.suppress(ValueError):
            schedule_of(GRID_S, 0, times)
            found[number] = times
    return found


def _times(every: int, calendars: Mapping[int, str], phase: int = 0) -> tuple[int, int]:
    """Period and phase; the grid on which they lie for the runs of a calendar, known or lost."""
    return (every, phase) if every > 0 and every not in calendars else (GRID_S, 0)
