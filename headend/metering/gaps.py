"""What is missing: ranges of slots that concentrators report as not there, until they are closed.

`gap_reports` keeps each report once, by (device, store, id), so that a repeated batch changes nothing. `gaps` is what
follows from them. A range goes on while `last` is null. Closing a part of a range splits it; closed parts stay as
history. A range that is closed here alone (`only_here`) is open on the device, and what that says of it still counts.
docs/collection.md draws the states; gap_lists.py has both ends agree where reports were lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    RowMapping,
    String,
    Table,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from headend import db
from omadm.readings import GAP_FIELDS, Batch, GapReport
from omadm.schedule import Schedule, schedule_of

PAGE_MAX = 10_000

gap_reports = Table(
    "gap_reports",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("store", String(32), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("gap", String(16), nullable=False),  # open | closed | doubted | confirmed
    Column("meter", String(128), nullable=False, index=True),
    Column("task", String(128), nullable=False),
    Column("profile", String(128)),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger),
    Column("every", BigInteger, nullable=False),
    Column("reason", String(128), nullable=False),
    Column("how", String(128)),
    Column("noted", Float(53), nullable=False),  # at the concentrator
    Column("stored", Float(53), nullable=False),  # here
    Column("times", String(128)),
)

gaps = Table(
    "gaps",
    db.metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String(128), nullable=False),
    Column("meter", String(128), nullable=False),
    Column("task", String(128), nullable=False),
    Column("profile", String(128), nullable=False),  # empty: runs of the task
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger),  # null: it goes on
    Column("every", BigInteger, nullable=False),
    Column("reason", String(128), nullable=False),
    Column("state", String(8), nullable=False),  # open | closed
    Column("how", String(128)),  # read, profile, withdrawn, or a person's reason
    Column("opened", Float(53), nullable=False),
    Column("changed", Float(53), nullable=False),
    Column("times", String(128)),  # of a calendar; null where one slot comes every `every` seconds
    Column("store", String(32)),  # whose report it follows from; null for those of an earlier version of the head-end
    Column("only_here", Boolean),  # closed at this end: the device lists it all the same
    Index("ix_gaps_series", "device", "meter", "task", "profile", "state"),
)


def apply(connection: Connection, batch: Batch, now: float) -> None:
    """Take the reports of a batch that are new."""
    if not batch.gaps:
        return
    ids = [gap.id for gap in batch.gaps]
    of_store = and_(gap_reports.c.device == batch.device, gap_reports.c.store == batch.store)
    known = set(connection.scalars(select(gap_reports.c.id).where(of_store, gap_reports.c.id.between(ids[0], ids[-1]))))
    for gap in batch.gaps:
        if gap.id in known:
            continue
        row = {"device": batch.device, "store": batch.store, "id": gap.id, **asdict(gap.report), "stored": now}
        connection.execute(insert(gap_reports).values(row))
        later = _later(connection, batch, gap.id, gap.report)
        if any(other.gap == "open" and _supersedes(other, gap.report) for other in later):
            continue
        if gap.report.gap == "closed":
            _close(connection, batch.device, gap.report, str(gap.report.how or "closed"), now)
        elif gap.report.gap == "open":
            _open(connection, batch, gap.report, now)
            for other in later:
                if other.gap == "closed":
                    _close(connection, batch.device, other, str(other.how or "closed"), now)


def _later(connection: Connection, batch: Batch, report_id: int, report: GapReport) -> list[GapReport]:
    """The reports on the same series that the device made after this one: they may have come before it, since what is
    fresh goes before a backlog (docs/uplink.md)."""
    columns = gap_reports.c
    query = select(*(columns[name] for name in GAP_FIELDS)).where(
        columns.device == batch.device,
        columns.store == batch.store,
        columns.id > report_id,
        columns.meter == report.meter,
        columns.task == report.task,
        columns.profile == report.profile if report.profile is not None else columns.profile.is_(None),
    )
    return [GapReport(*row) for row in connection.execute(query.order_by(columns.id))]


def _supersedes(later: GapReport, report: GapReport) -> bool:
    """Whether a later report that a range is open makes this one void: it has the same beginning, or opens again what
    this one closed."""
    if report.gap == "open":
        return later.first == report.first
    return later.first <= (report.last or report.first) and (later.last is None or later.last >= report.first)


def judgements(connection: Connection, batch: Batch) -> list[tuple[int, GapReport]]:
    """The reports that take trust from readings with a lower id (`doubted`), or give it back (`confirmed`), in their
    order: those of the batch, and earlier ones that are about readings which come only now. The number beside each is
    the id below which it counts: of a confirmation that of the doubt that it takes back."""
    lowest = min([record.id for record in batch.records] + [gap.id for gap in batch.gaps], default=None)
    if lowest is None:
        return []
    columns = gap_reports.c
    query = select(columns.id, *(columns[name] for name in GAP_FIELDS)).where(
        columns.device == batch.device,
        columns.store == batch.store,
        columns.id >= lowest,
        columns.gap.in_(("doubted", "confirmed")),
    )
    found = [(row[0], GapReport(*row[1:])) for row in connection.execute(query.order_by(columns.id))]
    return [(_bound(connection, batch, *one), one[1]) for one in found]


def _bound(connection: Connection, batch: Batch, report_id: int, report: GapReport) -> int:
    if report.gap == "doubted":
        return report_id
    columns = gap_reports.c
    same = [columns[name] == getattr(report, name) for name in ("meter", "task", "first", "last")]
    query = select(func.max(columns.id)).where(
        columns.device == batch.device, columns.store == batch.store, columns.id < report_id, columns.gap == "doubted",
        *same,
    )  # fmt: skip
    return connection.scalar(query) or 0


def end_before(connection: Connection, batch: Batch, now: float) -> None:
    """A gap that goes on ends before a run that was read: a device that lost its ledger would never say so."""
    runs: dict[tuple[str, str], int] = {}
    for record in batch.records:
        if record.profile is None and record.run <= now:
            runs[record.meter, record.task] = max(record.run, runs.get((record.meter, record.task), 0))
    if not runs:
        return
    going_on = and_(gaps.c.device == batch.device, gaps.c.last.is_(None), gaps.c.state == "open", gaps.c.profile == "")
    for row in connection.execute(select(gaps).where(going_on)).mappings().all():
        run = runs.get((row["meter"], row["task"]), 0)
        if run > row["first"]:
            last = schedule_of_row(row).previous(run)
            connection.execute(update(gaps).where(gaps.c.id == row["id"]).values(last=last, changed=now))


def _open(connection: Connection, batch: Batch, report: GapReport, now: float) -> None:
    """A range is there from now on, or the end of one that went on is known."""
    same = and_(_series(batch.device, report), gaps.c.first == report.first)
    told = {"last": report.last, "reason": report.reason, "store": batch.store, "changed": now}
    found = connection.execute(update(gaps).where(same, gaps.c.state == "open").values(told)).rowcount
    if not found and report.last is not None:  # closed here, and told once more
        closed = and_(same, gaps.c.only_here.is_(True), gaps.c.last == report.last)
        found = connection.execute(update(gaps).where(closed).values(store=batch.store)).rowcount
    if not found:
        series = {"device": batch.device, "meter": report.meter, "task": report.task, "profile": report.profile or ""}
        when = {"first": report.first, "every": report.every, "times": report.times}
        connection.execute(insert(gaps).values({**series, **when, **told, "state": "open", "opened": now}))


def _close(connection: Connection, device: str, report: GapReport, how: str, now: float) -> None:
    first, last = report.first, report.last if report.last is not None else report.first
    overlap = and_(
        _series(device, report),
        listed_there(),
        gaps.c.first <= last,
        or_(gaps.c.last.is_(None), gaps.c.last >= first),
    )
    for row in connection.execute(select(gaps).where(overlap)).mappings().all():
        low, high = max(row["first"], first), last if row["last"] is None else min(row["last"], last)
        connection.execute(
            update(gaps)
            .where(gaps.c.id == row["id"])
            .values(first=low, last=high, state="closed", how=how, changed=now, only_here=None)
        )
        schedule = schedule_of_row(row)
        rest = ((row["first"], schedule.previous(low)), (schedule.next(high), row["last"]))
        for begin, end in rest:
            if end is None or begin <= end:
                copy = {**row, "first": begin, "last": end, "changed": now}
                connection.execute(insert(gaps).values({name: copy[name] for name in copy if name != "id"}))


def listed_there() -> ColumnElement[bool]:
    """Ranges that the device lists, as far as is known here."""
    return or_(gaps.c.state == "open", gaps.c.only_here.is_(True))


def _series(device: str, report: GapReport) -> ColumnElement[bool]:
    return and_(
        gaps.c.device == device,
        gaps.c.meter == report.meter,
        gaps.c.task == report.task,
        gaps.c.profile == (report.profile or ""),
    )


def give_up(
    engine: Engine, device: str, meter: str, why: str, now: float, *, task: str | None = None
) -> int:  # fmt: skip
    """Close the open ranges of a meter that have an end, for a person's reason, at this end only. Returns how many."""
    wanted = and_(gaps.c.device == device, gaps.c.meter == meter, gaps.c.state == "open", gaps.c.last.is_not(None))
    if task is not None:
        wanted = and_(wanted, gaps.c.task == task)
    with engine.begin() as connection:
        closed = {"state": "closed", "how": why, "changed": now, "only_here": True}
        return connection.execute(update(gaps).where(wanted).values(closed)).rowcount


def listing(
    engine: Engine,
    *,
    device: str | None = None,
    meter: str | None = None,
    state: str | None = None,
    limit: int = 1000,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Ranges, open ones first, then the newest. `slots` is `None` while a range goes on."""
    query = select(gaps)
    for column, wanted in ((gaps.c.device, device), (gaps.c.meter, meter), (gaps.c.state, state)):
        if wanted is not None:
            query = query.where(column == wanted)
    query = query.order_by(gaps.c.state.desc(), gaps.c.first.desc(), gaps.c.id.desc())
    with db.reader(engine).begin() as connection:
        rows = connection.execute(query.limit(min(limit, PAGE_MAX)).offset(offset)).mappings().all()
    return [dict(row) | {"slots": _slots(row)} for row in rows]


def _slots(row: RowMapping) -> int | None:
    return None if row["last"] is None else schedule_of_row(row).count(row["first"], row["last"])


def schedule_of_row(row: Mapping[str, Any] | RowMapping) -> Schedule:
    """When the slots of a range are."""
    return schedule_of(row["every"], row["first"] % row["every"], row["times"] or "")
