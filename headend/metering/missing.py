"""What is missing: the ranges that devices list, without the slots that are here all the same.

A device whose store was damaged cannot know what the head-end has of what it lost, and lists it. What is here and
trusted is not missing, whatever the device lists; when its clock turns out to have been wrong, it is missing again. So
this is found out whenever somebody looks, and `gaps` keeps what the device says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, String, and_, case, cast, func, or_, select

from headend import db
from headend.metering import gaps as listed
from headend.metering.gaps import ENDLESS, gaps
from headend.metering.readings import readings
from omadm.schedule import Range, joined, without

HERE = "here"  # how a range is closed that the device lists and that has been read all the same
IDS_PER_QUERY = 400
RUNS_COMPARED = 16  # the newest of a task, to know how much it reads of a meter

Row = dict[str, Any]


def listing(
    engine: Engine,
    *,
    device: str | None = None,
    meter: str | None = None,
    state: str | None = None,
    limit: int = 1000,
    offset: int = 0,
) -> list[Row]:
    """Ranges as `gaps.listing` returns them; the slots of open ones that are here are closed. `limit` and `offset`
    count what is returned: ranges that are here in whole do not make an empty page, which would say that there are no
    more."""
    parts = _all_parts(engine, device, meter, state, min(offset + limit, listed.PAGE_MAX))
    return list(islice(parts, offset, offset + min(limit, listed.PAGE_MAX)))


def _all_parts(engine: Engine, device: str | None, meter: str | None, state: str | None, page: int) -> Iterator[Row]:
    """All parts in this state, `page` ranges at a time. What is here is a part of an open range, and closed."""
    of_state = state if state == "open" else None
    for offset in count(0, page):
        rows = listed.listing(engine, device=device, meter=meter, state=of_state, limit=page, offset=offset)
        here = _here(engine, [row["id"] for row in rows if row["state"] == "open" and not row["profile"]])
        yield from (it for row in rows for it in _parts(row, here.get(row["id"], [])) if state in (None, it["state"]))
        if len(rows) < page:
            return


def _here(engine: Engine, ids: Sequence[int]) -> dict[int, list[int]]:
    """The slots of these ranges of which all readings are here, trusted, by range.

    Batches cut visits, and damage takes what was not sent: of some slots a part is here. Which attributes a task reads
    of a meter is known from its other runs: a slot with fewer stays missing. An error in the place of a value is what
    the visit gave, where there is a value beside it.
    """
    columns = readings.c
    within = and_(
        columns.device == gaps.c.device,
        columns.meter == gaps.c.meter,
        columns.task == gaps.c.task,
        columns.run >= gaps.c.first,
        or_(gaps.c.last.is_(None), columns.run <= gaps.c.last),
        columns.profile.is_(None),
        columns.trusted,
    )
    found: dict[int, list[int]] = defaultdict(list)
    series = (gaps.c.device, gaps.c.meter, gaps.c.task)
    usual: dict[tuple[object, ...], set[str]] = {}
    with db.reader(engine).begin() as connection:
        for at in range(0, len(ids), IDS_PER_QUERY):
            wanted = gaps.c.id.in_(ids[at : at + IDS_PER_QUERY])
            counted = select(gaps.c.id, columns.run, _VALUES, _ERRORS, *series).join(readings, within).where(wanted)
            counted = counted.group_by(gaps.c.id, columns.run, *series).order_by(gaps.c.id, columns.run)
            for gap, run, values, errors, *key in connection.execute(counted).all():
                device, meter, task = key
                if (device, meter, task) not in usual:
                    usual[device, meter, task] = _attributes_of(connection, device, meter, task)
                wanted_of = usual[device, meter, task]
                lacking = len(wanted_of) - values
                if lacking > 0 and values and errors >= lacking:
                    lacking -= len(_errors_of(connection, device, meter, task, run) & wanted_of)
                if values and lacking <= 0:
                    found[gap].append(run)
    return found


_ATTRIBUTE = readings.c.obis + "/" + cast(readings.c.attr, String)
_VALUES = func.count(func.distinct(case((readings.c.error.is_(None), _ATTRIBUTE))))
_ERRORS = func.count(func.distinct(case((readings.c.error.is_not(None), _ATTRIBUTE))))


def _of_task(device: str, meter: str, task: str) -> ColumnElement[bool]:
    columns = readings.c
    mine = and_(columns.device == device, columns.meter == meter, columns.task == task)
    return and_(mine, columns.profile.is_(None), columns.trusted)


def _attributes_of(connection: Connection, device: str, meter: str, task: str) -> set[str]:
    """The attributes of which the fullest of the newest runs of a task has brought values of a meter."""
    run, of_task = readings.c.run, and_(_of_task(device, meter, task), readings.c.error.is_(None))
    newest = select(run, _VALUES.label("values")).where(of_task).group_by(run).order_by(run.desc())
    fullest = max(connection.execute(newest.limit(RUNS_COMPARED)).all(), key=lambda row: row[1], default=None)
    if fullest is None:
        return set()
    return set(connection.scalars(select(_ATTRIBUTE).where(of_task, run == fullest[0])))


def _errors_of(connection: Connection, device: str, meter: str, task: str, run: int) -> set[str]:
    """The attributes that one run has brought errors of."""
    of_run = and_(_of_task(device, meter, task), readings.c.run == run, readings.c.error.is_not(None))
    return set(connection.scalars(select(_ATTRIBUTE).where(of_run)))


def _parts(row: Row, here: Sequence[int]) -> Iterator[Row]:
    """What of a range is missing, and what is here."""
    if not here:
        yield row
        return
    schedule = listed.schedule_of_row(row)
    read = joined([(run, run) for run in here], schedule)
    end = ENDLESS if row["last"] is None else row["last"]
    for first, last in without([(row["first"], end)], read, schedule):
        yield _part(row, (first, last))
    for one in read:
        yield _part(row, one) | {"state": "closed", "how": HERE, "only_here": True}


def _part(row: Row, span: Range) -> Row:
    first, last = span
    slots = None if last == ENDLESS else listed.schedule_of_row(row).count(first, last)
    return row | {"first": first, "last": None if last == ENDLESS else last, "slots": slots}
