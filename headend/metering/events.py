"""Events of meters: each once, newest first, and the grave ones as alarms until a person has acknowledged them.

An event is known by (device, key): the device gives two records the same key when they are about one event, even if it
lost its store between them. A grave event is also logged at ERROR as `metering.alarm`, which is what a network
management system watches.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    func,
    select,
    update,
)

from headend import db
from omadm.readings import Batch, EventRecord

LOG = logging.getLogger("headend.metering")

PAGE_MAX = 10_000
KEYS_PER_QUERY = 500

events = Table(
    "events",
    db.metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String(128), nullable=False),
    Column("key", String(128), nullable=False),
    Column("store", String(32), nullable=False),
    Column("record", BigInteger, nullable=False),
    Column("event", String(16), nullable=False),  # push | log | alarm | notice
    Column("meter", String(128), nullable=False, index=True),  # empty: the sender is not known
    Column("sender", String(128), nullable=False),
    Column("code", BigInteger),
    Column("name", String(128), nullable=False),
    Column("grave", Boolean, nullable=False),
    Column("obis", String(24)),
    Column("meter_time", String(128)),
    Column("received", Float(53), nullable=False, index=True),  # at the concentrator
    Column("trusted", Boolean, nullable=False),
    Column("invoke", BigInteger),
    Column("security", String(16), nullable=False),
    Column("values", Text, nullable=False),  # JSON
    Column("octets", Text),  # hexadecimal: what could not be decoded
    Column("error", String(128)),
    Column("count", BigInteger, nullable=False),
    Column("task", String(128), nullable=False),  # empty: it was pushed
    Column("stored", Float(53), nullable=False),  # here
    Column("acknowledged", Float(53)),  # by a person
    UniqueConstraint("device", "key"),
)


def apply(connection: Connection, batch: Batch, now: float) -> None:
    """Store the events of a batch that are new."""
    known: set[str] = set()
    keys = [record.report.key for record in batch.events]
    for at in range(0, len(keys), KEYS_PER_QUERY):
        some = keys[at : at + KEYS_PER_QUERY]
        query = select(events.c.key).where(events.c.device == batch.device, events.c.key.in_(some))
        known |= set(connection.scalars(query))
    fresh: dict[str, EventRecord] = {}
    for record in batch.events:
        if record.report.key not in known:
            fresh.setdefault(record.report.key, record)
    db.insert_new(connection, events, [_row(batch, record, now) for record in fresh.values()])
    for record in fresh.values():
        report = record.report
        if report.grave:
            LOG.error(
                "%s: meter %s: %s",
                batch.device,
                report.meter or f"unknown ({report.sender})",
                report.name or f"event {report.code}",
                extra={"event": "metering.alarm"},
            )


def _row(batch: Batch, record: EventRecord, now: float) -> dict[str, object]:
    about = {"device": batch.device, "store": batch.store, "record": record.id, "stored": now}
    values = json.dumps(record.report.values, separators=(",", ":"), ensure_ascii=False)
    return {**asdict(record.report), **about, "values": values}


def listing(
    engine: Engine,
    *,
    device: str | None = None,
    meter: str | None = None,
    event: str | None = None,
    code: int | None = None,
    grave: bool | None = None,
    open_only: bool = False,
    since: float | None = None,
    until: float | None = None,
    limit: int = 1000,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Events, newest first by when the concentrator got them. `open_only`: alarms that nobody has acknowledged."""
    columns, query = events.c, select(events)
    for column, wanted in (
        (columns.device, device),
        (columns.meter, meter),
        (columns.event, event),
        (columns.code, code),
        (columns.grave, grave),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if open_only:
        query = query.where(columns.grave, columns.acknowledged.is_(None))
    if since is not None:
        query = query.where(columns.received >= since)
    if until is not None:
        query = query.where(columns.received <= until)
    query = query.order_by(columns.received.desc(), columns.id.desc()).limit(min(limit, PAGE_MAX)).offset(offset)
    with db.reader(engine).begin() as connection:
        rows = connection.execute(query).mappings().all()
    return [dict(row) | {"values": json.loads(row["values"])} for row in rows]


def acknowledge(connection: Connection, number: int, now: float) -> bool:
    """A person has seen this event. Returns whether there is one; the first acknowledgement stays."""
    connection.execute(
        update(events).where(events.c.id == number, events.c.acknowledged.is_(None)).values(acknowledged=now)
    )
    return connection.scalar(select(events.c.id).where(events.c.id == number)) is not None


def open_alarms(connection: Connection) -> int:
    """How many grave events nobody has acknowledged."""
    wanted = and_(events.c.grave, events.c.acknowledged.is_(None))
    return connection.scalar(select(func.count()).select_from(events).where(wanted)) or 0
