"""Both ends list the same: what a device says that it lists, beside the ranges that its reports have left open here.

A report may be lost for good, and what it said with it. A list says all that the device had listed when it had
reported everything up to an id (docs/uplink.md). It speaks of the ranges that the device's present store has reported.
What an earlier store had reported and this one does not know stays open: that ledger was lost, and nobody has said that
these slots are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, exists, insert, select, update

from headend.metering.gaps import gap_reports, gaps, listed_there, schedule_of_row
from omadm.readings import Batch, GapList, GapReport, ListAnswer, gap_digest, joined_gaps
from omadm.schedule import Schedule

NOT_LISTED = "the device lists it no more"  # how such a range is closed
ENDLESS = 2**62  # in place of the last slot of a range that goes on

Row = Mapping[str, Any]
Span = tuple[int, int]  # first and last slot, the last may be `ENDLESS`


def take(connection: Connection, batch: Batch, listed: GapList, now: float) -> ListAnswer:
    """Compare, and for a page have this end list the same."""
    later = exists().where(
        gap_reports.c.device == batch.device, gap_reports.c.store == batch.store, gap_reports.c.id > listed.as_of
    )
    if connection.scalar(select(later)):
        return ListAnswer.LATER
    here = _here(connection, batch, listed)
    if listed.digest:
        return ListAnswer.AGREED if gap_digest(_reports(here)) == listed.digest else ListAnswer.DIFFERS
    series: dict[tuple[str, str, str], tuple[list[Row], list[GapReport]]] = {}
    for row in here:
        series.setdefault((row["meter"], row["task"], row["profile"]), ([], []))[0].append(row)
    for gap in listed.gaps:
        series.setdefault((gap.meter, gap.task, gap.profile or ""), ([], []))[1].append(gap)
    for rows, wanted in series.values():
        wanted.sort(key=lambda gap: gap.first)
        if list(joined_gaps(_reports(rows))) != [_bare(gap) for gap in joined_gaps(wanted)]:
            _replace(connection, batch, rows, wanted, now)
    return ListAnswer.TAKEN


def _here(connection: Connection, batch: Batch, listed: GapList) -> list[Row]:
    """The ranges that the device should list, those of the page where it is one, in the order of a list. Ranges of an
    earlier store that are on the page are this store's from now on."""
    keys = {(gap.meter, gap.task, gap.profile or "", gap.first) for gap in listed.gaps}
    found: list[Row] = []
    query = select(gaps).where(gaps.c.device == batch.device, listed_there())
    for row in map(dict, connection.execute(query).mappings().all()):
        if row["store"] not in (None, batch.store):
            if _key(row) not in keys:
                continue
            connection.execute(update(gaps).where(gaps.c.id == row["id"]).values(store=batch.store))
            row["store"] = batch.store
        if listed.digest or (row["meter"] > listed.after and (listed.until is None or row["meter"] <= listed.until)):
            found.append(row)
    return sorted(found, key=_key)


def _replace(
    connection: Connection, batch: Batch, rows: Sequence[Row], wanted: Sequence[GapReport], now: float
) -> None:
    """Have one series list what the device lists. What is closed at this end only stays closed."""
    spans = [_span(gap.first, gap.last) for gap in wanted]
    closed_here = [_span(row["first"], row["last"]) for row in rows if row["only_here"]]
    new = {
        (first, last, gap.reason): gap
        for gap in wanted
        for first, last in _without(_span(gap.first, gap.last), closed_here, gap.schedule)
    }
    for row in rows:
        span, schedule = _span(row["first"], row["last"]), schedule_of_row(row)
        if not row["only_here"] and new.pop((*span, row["reason"]), None) is not None:
            continue  # as it was
        connection.execute(delete(gaps).where(gaps.c.id == row["id"]))
        gone = _without(span, spans, schedule)
        for first, last in gone:
            end = max(first, schedule.newest(now)) if last == ENDLESS else last
            how = row["how"] if row["only_here"] else NOT_LISTED
            _insert(connection, row, first, end, {"state": "closed", "how": how, "only_here": None, "changed": now})
        if row["only_here"]:
            for first, last in _without(span, gone, schedule):
                reason = next(gap.reason for gap in wanted if _meets(_span(gap.first, gap.last), (first, last)))
                _insert(connection, row, first, last, {"reason": reason})
    for (first, last, reason), gap in new.items():
        opened = min(
            (row["opened"] for row in rows if _meets(_span(row["first"], row["last"]), (first, last))), default=now
        )
        row = {"device": batch.device, "meter": gap.meter, "task": gap.task, "profile": gap.profile or ""}
        when = {"every": gap.every, "times": gap.times, "reason": reason, "opened": opened, "changed": now}
        _insert(connection, {**row, **when, "state": "open", "store": batch.store}, first, last, {})


def _insert(connection: Connection, row: Row, first: int, last: int, changes: Row) -> None:
    new = {**row, "first": first, "last": None if last == ENDLESS else last, **changes}
    connection.execute(insert(gaps).values({name: value for name, value in new.items() if name != "id"}))


def _without(span: Span, parts: Iterable[Span], schedule: Schedule) -> list[Span]:
    """What is left of a range without these."""
    first, last = span
    left: list[Span] = []
    for begin, end in sorted(parts):
        if end < first or begin > last:
            continue
        if first < begin:
            left.append((first, schedule.previous(begin)))
        if end >= last:
            return left
        first = schedule.next(end)
    return [*left, (first, last)]


def _meets(one: Span, other: Span) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _span(first: int, last: int | None) -> Span:
    return first, ENDLESS if last is None else last


def _key(row: Row) -> tuple[str, str, str, int]:
    return row["meter"], row["task"], row["profile"], row["first"]


def _reports(rows: Iterable[Row]) -> Iterable[GapReport]:
    return (
        GapReport(
            "open", row["meter"], row["task"], row["profile"] or None, row["first"], row["last"], row["every"],
            row["reason"], None, 0.0, row["times"],
        )
        for row in rows
    )  # fmt: skip


def _bare(gap: GapReport) -> GapReport:
    """A gap apart from when it was noted, and as this end keeps its members."""
    return replace(gap, profile=gap.profile or None, times=gap.times or None, how=None, noted=0.0)
