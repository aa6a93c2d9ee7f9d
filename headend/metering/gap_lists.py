"""Both ends list the same: what a device says that it lists, beside the ranges that its reports have left open here.

A report may be lost for good, and what it said with it. A list says all that the device had listed when it had
reported everything up to an id (docs/uplink.md). It speaks of the ranges that the device's present store has reported.
What an earlier store had reported and this one does not know stays open, and is marked: that ledger was lost, and
nobody has said that these slots are there.

A page speaks of a part of the list: the ranges that begin in it. What reaches from there into the next part is cut at
the border, so that the next page finds it. All work on a page is proportional to what begins in its part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from headend.metering.gaps import ENDLESS, Span, gap_reports, gaps, listed_there, schedule_of_row
from omadm.readings import Batch, GapList, GapReport, ListAnswer, gap_digest, joined_gaps
from omadm.schedule import without

NOT_LISTED = "the device lists it no more"  # how such a range is closed
NO_BORDER = ENDLESS + 1  # of a series that is on one page as a whole

Row = Mapping[str, Any]
Series = tuple[str, str, str]  # meter, task, profile

_KEY = (gaps.c.meter, gaps.c.task, gaps.c.profile, gaps.c.first)


def take(connection: Connection, batch: Batch, listed: GapList, now: float) -> ListAnswer:
    """Compare, and for a page have this end list the same."""
    later = exists().where(
        gap_reports.c.device == batch.device, gap_reports.c.store == batch.store, gap_reports.c.id > listed.as_of
    )
    if connection.scalar(select(later)):
        return ListAnswer.LATER
    if listed.digest:
        _mark_gone(connection, batch, now)
        here = map(dict, connection.execute(_listed(batch, _of_store(batch))).mappings())
        return ListAnswer.AGREED if gap_digest(map(_report, here)) == listed.digest else ListAnswer.DIFFERS
    series: dict[Series, tuple[list[Row], list[GapReport]]] = {}
    for row in connection.execute(_listed(batch, *_part(listed))).mappings():
        series.setdefault((row["meter"], row["task"], row["profile"]), ([], []))[0].append(dict(row))
    for gap in listed.gaps:
        series.setdefault(gap.key[:3], ([], []))[1].append(gap)
    gone: list[int] = []
    fresh: list[Row] = []
    for key, (rows, wanted) in series.items():
        border = listed.before[3] if listed.before is not None and listed.before[:3] == key else NO_BORDER
        changes = _Series(batch, rows, sorted(wanted, key=lambda gap: gap.first), border, now)
        gone += changes.gone
        fresh += changes.fresh
    if gone:
        connection.execute(delete(gaps).where(gaps.c.id == bindparam("gone")), [{"gone": each} for each in gone])
    if fresh:
        connection.execute(insert(gaps), fresh)
    return ListAnswer.TAKEN


def _of_store(batch: Batch) -> ColumnElement[bool]:
    return or_(gaps.c.store == batch.store, gaps.c.store.is_(None))


def _listed(batch: Batch, *conditions: ColumnElement[bool]) -> Any:
    return select(gaps).where(gaps.c.device == batch.device, listed_there(), *conditions).order_by(*_KEY)


def _mark_gone(connection: Connection, batch: Batch, now: float) -> None:
    """Ranges that an earlier store of the device reported, and this one does not know. One that went on went on at most
    to where this store knows more."""
    lost = and_(gaps.c.device == batch.device, listed_there(), gaps.c.store != batch.store)
    connection.execute(update(gaps).where(lost, gaps.c.store_gone.is_(None)).values(store_gone=now))
    for row in connection.execute(select(gaps).where(lost, gaps.c.last.is_(None))).mappings().all():
        same = [gaps.c[name] == row[name] for name in ("device", "meter", "task", "profile")]
        later = select(func.min(gaps.c.first)).where(*same, gaps.c.store == batch.store, gaps.c.first > row["first"])
        begin = connection.scalar(later)
        if begin is not None:
            last = max(row["first"], schedule_of_row(row).previous(begin))
            connection.execute(update(gaps).where(gaps.c.id == row["id"]).values(last=last, changed=now))


def _part(listed: GapList) -> list[ColumnElement[bool]]:
    """What begins in the part of the list that a page speaks of."""
    place = tuple_(*_KEY)
    part = [place >= tuple_(*map(literal, listed.begin))] if listed.begin is not None else []
    return [*part, place < tuple_(*map(literal, listed.before))] if listed.before is not None else part


class _Series:
    """What has to change so that one series lists what the device lists: the ids of rows that are `gone`, and `fresh`
    ones. What is closed at this end only stays closed. What an earlier store had reported is this store's from now on
    as far as it is listed."""

    def __init__(self, batch: Batch, rows: Sequence[Row], wanted: Sequence[GapReport], border: int, now: float) -> None:
        self.gone: list[int] = []
        self.fresh: list[Row] = []
        self._batch = batch
        self._now = now
        own = [row for row in rows if row["store"] in (None, batch.store)]
        spans = _disjoint((gap.first, _end(gap.last)) for gap in wanted)
        if len(own) < len(rows):
            rows = [row for row in rows if row["store"] in (None, batch.store) or _overlapping(row, spans)]
        if (
            border == NO_BORDER
            and len(own) == len(rows)
            and list(joined_gaps(map(_report, rows))) == list(joined_gaps(map(_bare, wanted)))
        ):
            return
        closed = _closed_here(rows)
        new = {_content(row): row for gap in wanted for row in self._parts(gap, closed)}
        closed_spans = _disjoint((row["first"], row["last"]) for row in new.values() if row["only_here"])
        kept = {row["id"] for row in own if new.pop(_content(row), None) is not None}  # as they were
        replaced = [row for row in rows if row["id"] not in kept]
        for row in replaced:
            self.gone.append(row["id"])
            self._leave(row, closed_spans if row["only_here"] else spans, border)
        self._date(new, replaced)
        self.fresh += new.values()

    def _parts(self, gap: GapReport, closed: Sequence[tuple[Span, str]]) -> Iterable[dict[str, Any]]:
        """The rows of one gap that the device lists: those parts that are closed here, and the others."""
        span, schedule = (gap.first, _end(gap.last)), gap.schedule
        inside: list[tuple[Span, str]] = []
        for (begin, end), how in closed[max(0, bisect_left(closed, ((gap.first, 0), "")) - 1) :]:
            if begin > span[1]:
                break
            first, last = max(gap.first, schedule.next(begin - 1)), min(span[1], schedule.newest(end))
            if first <= last:
                inside.append(((first, last), how))
        series = {"device": self._batch.device, "meter": gap.meter, "task": gap.task, "profile": gap.profile or ""}
        told = {"every": gap.every, "times": gap.times or None, "reason": gap.reason, "store": self._batch.store}
        here = {**series, **told, "opened": self._now, "changed": self._now, "store_gone": None}
        for (first, last), how in inside:
            yield {**here, "first": first, "last": last, "state": "closed", "how": how, "only_here": True}
        for first, last in without([span], (one for one, _ in inside), schedule):
            yield {**here, "first": first, "last": _last(last), "state": "open", "how": None, "only_here": None}

    def _leave(self, row: Row, spans: Sequence[Span], border: int) -> None:
        """Close what the device does not list of a row that goes; what lies beyond the border stays, and so does what
        an earlier store had reported."""
        schedule = schedule_of_row(row)
        lost = row["store"] not in (None, self._batch.store)
        for first, last in without([(row["first"], _end(row["last"]))], _overlapping(row, spans), schedule):
            if last >= border or lost:
                beyond = first if lost else max(first, schedule.next(border - 1))
                self.fresh.append(_fresh(row, {"first": beyond, "last": _last(last)}))
                last = schedule.previous(beyond)
            if first <= last:
                end = max(first, schedule.newest(self._now)) if last == ENDLESS else last
                how = row["how"] if row["only_here"] else NOT_LISTED
                closed = {"state": "closed", "how": how, "only_here": None, "changed": self._now}
                self.fresh.append(_fresh(row, {"first": first, "last": end, **closed}))

    def _date(self, new: Mapping[tuple[object, ...], dict[str, Any]], rows: Sequence[Row]) -> None:
        """A range that takes the place of rows was opened when the first of them was."""
        fresh = sorted(new.values(), key=lambda row: row["first"])
        for row in rows:
            for one in fresh[max(0, bisect_left(fresh, row["first"], key=lambda one: one["first"]) - 1) :]:
                if one["first"] > _end(row["last"]):
                    break
                if row["first"] <= _end(one["last"]):
                    one["opened"] = min(one["opened"], row["opened"])


def _fresh(row: Row, changes: Row) -> Row:
    return {name: value for name, value in {**row, **changes}.items() if name != "id"}


def _content(row: Row) -> tuple[object, ...]:
    """What two rows have in common that list the same."""
    return row["first"], row["last"], row["reason"], row["every"], row["times"] or None, bool(row["only_here"])


def _closed_here(rows: Iterable[Row]) -> list[tuple[Span, str]]:
    """What is closed at this end only, and how: ranges that do not overlap, in ascending order."""
    found: list[tuple[Span, str]] = []
    at = 0
    for row in rows:
        if row["only_here"] and row["last"] >= at:
            found.append(((max(at, row["first"]), row["last"]), row["how"]))
            at = row["last"] + 1
    return found


def _overlapping(row: Row, spans: Sequence[Span]) -> Sequence[Span]:
    """Those of ascending ranges, which do not overlap each other, that have something in common with a row."""
    first, last = row["first"], _end(row["last"])
    begin = bisect_left(spans, (first, 0))
    if begin and spans[begin - 1][1] >= first:
        begin -= 1
    return spans[begin : bisect_left(spans, (last + 1, 0))]


def _disjoint(spans: Iterable[Span]) -> list[Span]:
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def _end(last: int | None) -> int:
    return ENDLESS if last is None else last


def _last(end: int) -> int | None:
    return None if end == ENDLESS else end


def _report(row: Row) -> GapReport:
    return GapReport(
        "open", row["meter"], row["task"], row["profile"] or None, row["first"], row["last"], row["every"],
        row["reason"], None, 0.0, row["times"],
    )  # fmt: skip


def _bare(gap: GapReport) -> GapReport:
    """A gap apart from when it was noted, and as this end keeps its members."""
    return replace(gap, profile=gap.profile or None, times=gap.times or None, how=None, noted=0.0)
