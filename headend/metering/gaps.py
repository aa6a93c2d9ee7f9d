"""What is missing: ranges of slots that concentrators report as not there, until they are closed.

`gap_reports` keeps each report once, by (device, store, id), so that a repeated batch changes nothing. `gaps` is what
follows from them. A range goes on while `last` is null. Closing a part of a range splits it; closed parts stay as
history. A range that is closed here alone (`only_here`) is open on the device, and what that says of it still counts.
One that a store reported which the device lost (`store_gone`) is missing as far as anybody knows, and the device does
not know of it any more. docs/collection.md draws the states; gap_lists.py has both ends agree where reports were lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
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
    TextClause,
    and_,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from headend import db
from omadm.readings import GAP_FIELDS, Batch, GapReport
from omadm.schedule import Schedule, schedule_of, without

PAGE_MAX = 10_000
ENDLESS = 2**62  # in place of the last slot of a range that goes on
LISTED = "(state = 'open' OR only_here IS TRUE)"  # with constants: else SQLite does not find the index made for it

Span = tuple[int, int]
"""First and last slot; the last may be `ENDLESS`."""

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
    Column("lowest", BigInteger),  # of what is doubted or confirmed: the ids of the readings
    Column("highest", BigInteger),
    Column("about", String(32)),  # of which store; null: of the one that reports
    Column("generation", BigInteger),  # the place of the reporting store in the order of the device's stores
    Index(
        "ix_gap_reports_about", "device", "about",
        sqlite_where=text("about IS NOT NULL"), postgresql_where=text("about IS NOT NULL"),
    ),
)  # fmt: skip

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
    Column("store_gone", Float(53)),  # since when it is known that the device lost the store that reported it
    Index("ix_gaps_series", "device", "meter", "task", "profile", "state"),
    Index(
        "ix_gaps_listed", "device", "meter", "task", "profile", "first",
        sqlite_where=text(LISTED), postgresql_where=text(LISTED),
    ),
)  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class Judgement:
    """A report that takes trust from readings (`doubted`), or gives it to them (`confirmed`): those of `store` with ids
    from `lowest` to `highest`."""

    store: str
    lowest: int
    highest: int
    report: GapReport


def judgements(connection: Connection, batch: Batch) -> list[Judgement]:
    """The reports on the trust of readings that have to be followed now, in their order: those of the batch, and
    earlier ones that are about readings which come only now.

    Of one store first what it has said itself counts, in the order of ids, then what later ones of the device have said
    of it, in the order of these stores. A report may come before an earlier one, which must not undo it then: so what
    is later is followed once more.
    """
    ids = [record.id for record in batch.records] + [gap.id for gap in batch.gaps]
    if not ids:
        return []
    columns = gap_reports.c
    own = and_(columns.store == batch.store, columns.id >= min(ids))
    found = [one for one in _judgements(connection, batch.device, own) if one.store == batch.store]
    said = {gap.report.about for gap in batch.gaps if gap.report.about not in (None, batch.store)}
    for store in (batch.store, *sorted(said)):
        of_others = _judgements(connection, batch.device, and_(columns.about == store, columns.store != store))
        if store == batch.store and not found:  # what is here has been judged; new are the records of the batch
            of_others = [
                replace(one, lowest=max(one.lowest, min(ids)), highest=min(one.highest, max(ids))) for one in of_others
            ]
        found += [one for one in of_others if one.lowest <= one.highest]
    return found


def _judgements(connection: Connection, device: str, wanted: ColumnElement[bool]) -> list[Judgement]:
    """The judgements among these reports in the order of their stores and ids. A device that tells no ids means all
    that it had stored before."""
    columns = gap_reports.c
    query = (
        select(columns.store, columns.id, *(columns[name] for name in GAP_FIELDS))
        .where(columns.device == device, wanted, columns.gap.in_(("doubted", "confirmed")))
        .order_by(func.coalesce(columns.generation, 0), columns.id)
    )
    found: list[Judgement] = []
    for store, report_id, *fields in connection.execute(query):
        report = GapReport(*fields)
        lowest, highest = (0, report_id - 1) if report.highest is None else (report.lowest or 0, report.highest)
        found.append(Judgement(report.about or store, lowest, highest, report))
    return found


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
    _keep_rest(connection, batch, report, same)
    told = {"last": report.last, "reason": report.reason, "store": batch.store, "changed": now, "store_gone": None}
    found = connection.execute(update(gaps).where(same, gaps.c.state == "open").values(told)).rowcount
    if found:
        return
    # Closed here, in whole or in part, and told once more: that stays closed.
    end = ENDLESS if report.last is None else report.last
    here = and_(
        _series(batch.device, report), gaps.c.only_here.is_(True), gaps.c.first <= end, gaps.c.last >= report.first
    )
    connection.execute(update(gaps).where(here).values(store=batch.store, store_gone=None))
    closed = [(first, last) for first, last in connection.execute(select(gaps.c.first, gaps.c.last).where(here))]
    series = {"device": batch.device, "meter": report.meter, "task": report.task, "profile": report.profile or ""}
    when = {"every": report.every, "times": report.times}
    for first, last in without([(report.first, end)], closed, report.schedule):
        span = {"first": first, "last": None if last == ENDLESS else last}
        connection.execute(insert(gaps).values({**series, **when, **told, **span, "state": "open", "opened": now}))


def _keep_rest(connection: Connection, batch: Batch, report: GapReport, same: ColumnElement[bool]) -> None:
    """What an earlier store had listed beyond the end that this one tells is as missing as before: this one may know
    nothing of that range, and list another one which begins there as well."""
    if report.last is None:
        return
    longer = or_(gaps.c.last.is_(None), gaps.c.last > report.last)
    other = select(gaps).where(same, gaps.c.state == "open", gaps.c.store != batch.store, longer)
    for row in connection.execute(other).mappings().all():
        rest = {**row, "first": schedule_of_row(row).next(report.last)}
        connection.execute(insert(gaps).values({name: rest[name] for name in rest if name != "id"}))


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


def listed_there() -> TextClause:
    """Ranges that the device lists, as far as is known here."""
    return text(LISTED)


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
    """Close the open ranges of a meter for a person's reason, at this end only: those that have an end, and those that
    the device knows of no more. Returns how many."""
    wanted = and_(gaps.c.device == device, gaps.c.meter == meter, gaps.c.state == "open")
    if task is not None:
        wanted = and_(wanted, gaps.c.task == task)
    closed = {"state": "closed", "how": why, "changed": now}
    with engine.begin() as connection:
        endless = and_(wanted, gaps.c.last.is_(None), gaps.c.store_gone.is_not(None))
        for row in connection.execute(select(gaps).where(endless)).mappings().all():
            last = max(row["first"], schedule_of_row(row).newest(now))
            connection.execute(update(gaps).where(gaps.c.id == row["id"]).values(last=last))
        ended = and_(wanted, gaps.c.last.is_not(None))
        of_lost = connection.execute(update(gaps).where(ended, gaps.c.store_gone.is_not(None)).values(closed)).rowcount
        return of_lost + connection.execute(update(gaps).where(ended).values(**closed, only_here=True)).rowcount


def listing(
    engine: Engine,
    *,
    device: str | None = None,
    meter: str | None = None,
    state: str | None = None,
    limit: int = 1000,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Ranges, open ones first, then the newest. `slots` is `None` while a range goes on. `store_gone`: since when it is
    known that the device lost what it knew of the range."""
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
