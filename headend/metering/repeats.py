"""Which readings came before, under another id: a slot that was read twice, a profile's row that was read again.

(store, id) tells a batch that is sent again, and what is told so is stored once. Beyond that a concentrator reads again
what it lost, or what it does not know to have read: after damage to its store, after a clock that lied. Such readings
are stored, with the mark `repeated`, and not shown. What is the same:

* Of a register, readings of one slot (meter, task, run). The first one that is trusted counts; when it turns out that
  its clock was wrong (`doubted`), the next one does.
* Of a profile, cells with the same time stamp, attribute and value. A meter may well have rows that are alike, an hour
  apart by its clock that was set back. One *reading* of a profile (`reread`) brings each row once. So the n-th of such
  cells in one reading is the n-th in another; it is repeated where another reading has brought n of them.

A cell whose time nobody knows, not even in the meter's own terms, is never taken for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select, update

from omadm.readings import REREAD_CHARS, Batch, Record

IDENTITY_OCTETS = 16
KEYS_PER_QUERY = 400  # SQLite takes 999 parameters in its older versions
CLOCK_TAG = "dt"


def judge(connection: Connection, readings: Table, batch: Batch) -> dict[int, dict[str, object]]:
    """Return the columns `identity` and `repeated` for the records of a batch that are not stored yet, by their ids."""
    if not batch.records:
        return {}
    columns = readings.c
    of_store = and_(columns.device == batch.device, columns.store == batch.store)
    span = columns.id.between(batch.records[0].id, batch.records[-1].id)
    known = set(connection.scalars(select(columns.id).where(of_store, span)))
    identities = _identities(connection, readings, batch)
    new = [record for record in batch.records if record.id not in known]
    keys = sorted({key for record in new if (key := identities[record.id]) is not None})
    counts = _counts(connection, readings, batch.device, keys)
    found: dict[int, dict[str, object]] = {}
    for record in new:
        key = identities[record.id]
        repeated = False
        if key is not None:
            reread = reread_of(batch.store, record)
            of_key = counts.setdefault(key, Counter())
            of_key[reread] += record.profile is not None or record.trusted
            if reread is None:
                repeated = record.trusted and of_key[reread] > 1
            else:
                repeated = any(of_key[reread] <= count for other, count in of_key.items() if other != reread)
        found[record.id] = {"identity": key, "repeated": repeated}
    return found


def reread_of(store: str, record: Record) -> str | None:
    """The name of the reading that a cell of a profile is of: without one there is one per store. `None` for readings
    of registers."""
    return None if record.profile is None else record.reread or store[:REREAD_CHARS]


def trust(connection: Connection, readings: Table, device: str, judged: ColumnElement[bool], *, trusted: bool) -> None:
    """These readings are trusted or not, which may change which of several readings of a slot counts."""
    columns = readings.c
    connection.execute(update(readings).where(judged).values(trusted=trusted))
    slots = and_(judged, columns.identity.is_not(None), columns.profile.is_(None))
    for key in set(connection.scalars(select(columns.identity).where(slots))):
        same = and_(columns.device == device, columns.identity == key)
        connection.execute(update(readings).where(same).values(repeated=False))
        query = select(columns.store, columns.id).where(same, columns.trusted).order_by(columns.stored, columns.id)
        for store, record_id in connection.execute(query).all()[1:]:
            this = and_(same, columns.store == store, columns.id == record_id)
            connection.execute(update(readings).where(this).values(repeated=True))


def _counts(
    connection: Connection, readings: Table, device: str, keys: Sequence[str]
) -> dict[str, Counter[str | None]]:
    """How many readings there are of each identity, by the reading that brought them."""
    columns = readings.c
    counts: dict[str, Counter[str | None]] = {}
    for at in range(0, len(keys), KEYS_PER_QUERY):
        query = (
            select(columns.identity, columns.reread, func.count())
            .where(columns.device == device, columns.identity.in_(keys[at : at + KEYS_PER_QUERY]))
            .where(or_(columns.profile.is_not(None), columns.trusted))
            .group_by(columns.identity, columns.reread)
        )
        for key, reread, count in connection.execute(query):
            counts.setdefault(key, Counter())[reread] = count
    return counts


def _identities(connection: Connection, readings: Table, batch: Batch) -> dict[int, str | None]:
    """What each record of a batch is the same by, `None` where nothing tells."""
    stamps: dict[tuple[str, str, str], str | None] = {}
    found: dict[int, str | None] = {}
    for record in batch.records:
        if record.profile is None:
            found[record.id] = _digest(_slot(record)) if record.error is None else None
            continue
        row = (record.task, record.meter, record.profile)
        if record.tag == CLOCK_TAG:
            stamps[row] = record.raw
        time = record.meter_time
        if time is None and row not in stamps:  # the batch begins in the middle of a row
            stamps[row] = _stamp_before(connection, readings, batch, record)
        time = time or stamps.get(row)
        found[record.id] = None if time is None else _digest((*row, time, *_cell(record)))
    return found


def _slot(record: Record) -> Iterator[object]:
    return iter(("slot", record.task, record.meter, record.run, record.cls, record.obis, record.attr))


def _cell(record: Record) -> Iterator[object]:
    return iter((record.cls, record.obis, record.attr, record.tag, record.raw, record.error))


def _digest(parts: Iterator[object] | tuple[object, ...]) -> str:
    text = "\0".join(map(str, parts))
    return blake2b(text.encode(), digest_size=IDENTITY_OCTETS).hexdigest()


def _stamp_before(connection: Connection, readings: Table, batch: Batch, record: Record) -> str | None:
    """The time stamp that stands before a cell: a row whose instant is not known begins with it (docs/uplink.md)."""
    columns = readings.c
    query = (
        select(columns.raw)
        .where(
            columns.device == batch.device,
            columns.store == batch.store,
            columns.id < record.id,
            columns.meter == record.meter,
            columns.task == record.task,
            columns.profile == record.profile,
            columns.tag == CLOCK_TAG,
        )
        .order_by(columns.id.desc())
        .limit(1)
    )
    return connection.scalars(query).first()
