"""Tables and transactions of the metering server."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import fields

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
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from dlms.cosem import units
from headend import db, web
from headend.metering import events, gap_lists, gaps, repeats
from omadm.readings import Batch, Record

TOKEN_BYTES = 32
TOKENS_PER_DEVICE = 2  # the one in use, and the one that is on its way to the device
PAGE_MAX = 10_000

readings = Table(
    "readings",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("store", String(32), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("task", String(128), nullable=False),
    Column("meter", String(128), nullable=False, index=True),
    Column("cls", Integer, nullable=False),
    Column("obis", String(24), nullable=False),
    Column("attr", Integer, nullable=False),
    Column("tag", String(8), nullable=False),
    Column("raw", Text, nullable=False),  # JSON
    Column("value", Text),  # raw * 10^scaler, exact
    Column("scaler", Integer),
    Column("unit", Integer),
    Column("unit_symbol", String(20), nullable=False),
    Column("meter_time", String(128)),
    Column("received", Float(53), nullable=False),  # at the concentrator
    Column("trusted", Boolean, nullable=False),
    Column("error", String(128)),
    Column("run", BigInteger, nullable=False, index=True),
    Column("stored", Float(53), nullable=False),  # here
    Column("profile", String(128)),  # whose row the cell is of
    Column("reread", String(128)),  # which reading of the profile brought it
    Column("identity", String(32)),  # what makes it the same as another one (repeats.py); null where nothing can
    Column("repeated", Boolean, nullable=False, default=False),  # came before, under another id
    Index("ix_readings_identity", "device", "identity"),
)

RECORD_COLUMNS = tuple(field.name for field in fields(Record) if field.name in readings.c)

# Beside the readings, and not a column of theirs, so that a database of before needs no change.
doubtful = Table(
    "doubtful_readings",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("store", String(32), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("doubt", String(128), nullable=False),  # why the time stamp of its row is not to be believed
    Column("run", BigInteger, nullable=False, index=True),  # both as of the reading, for its retention
    Column("stored", Float(53), nullable=False),
)

later_records = Table(
    "later_records",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("store", String(32), primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("kind", String(128), nullable=False, index=True),
    Column("record", Text, nullable=False),
    Column("stored", Float, nullable=False, index=True),
)
"""Records of kinds that a later head-end knows: kept for it as they came."""

meters = Table(
    "meters",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("meter", String(128), primary_key=True),
    Column("first_seen", Float(53), nullable=False),
    Column("last_seen", Float(53), nullable=False),
    Column("last_run", BigInteger, nullable=False),
)

metering_tokens = Table(
    "metering_tokens",
    db.metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("device", String(128), nullable=False, index=True),
    Column("issued", Float(53), nullable=False),
)


def issue_token(engine: Engine, device: str, now: float) -> str:
    """Issue a bearer token for a device. The previous one stays valid, older ones do not. Only a hash is stored."""
    with engine.begin() as connection:
        return new_token(connection, device, now)


def new_token(connection: Connection, device: str, now: float) -> str:
    """Issue a token in the caller's transaction (`issue_token`)."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    connection.execute(insert(metering_tokens).values(token_hash=web.token_hash(token), device=device, issued=now))
    kept = (
        select(metering_tokens.c.token_hash)
        .where(metering_tokens.c.device == device)
        .order_by(metering_tokens.c.issued.desc())
        .limit(TOKENS_PER_DEVICE)
    )
    hashes = list(connection.scalars(kept))
    connection.execute(
        delete(metering_tokens).where(metering_tokens.c.device == device, metering_tokens.c.token_hash.not_in(hashes))
    )
    return token


def device_of_token(engine: Engine, token: str) -> str | None:
    """The device that a token belongs to; None for an unknown token."""
    with db.reader(engine).begin() as connection:
        return owner_of_token(connection, token)


def owner_of_token(connection: Connection, token: str) -> str | None:
    """`device_of_token` in the caller's transaction.

    The lookup is by the token's hash, so its timing reveals nothing about the token.
    """
    query = select(metering_tokens.c.device).where(metering_tokens.c.token_hash == web.token_hash(token))
    return connection.scalars(query).one_or_none()


def unit_shown(number: int | None) -> str:
    """The symbol of a unit; empty for no unit, `unit N` for a number that the standard reserves."""
    if number is None:
        return ""
    symbol = units.symbol(number)
    return f"unit {number}" if symbol is None else symbol


def _later_rows(batch: Batch, now: float) -> list[dict[str, object]]:
    about = {"device": batch.device, "store": batch.store, "stored": now}
    return [{**about, "id": one.id, "kind": one.kind, "record": one.text} for one in batch.later]


def store(
    engine: Engine, batch: Batch, now: float, admit: Callable[[Connection], object] = lambda _: None
) -> str | None:
    """Store the new readings of a batch, and what it tells of gaps and events; all is committed on return. Returns the
    answer to its list of gaps, where it has one. `admit` is asked in the same transaction, and what it raises ends
    that: nothing is stored."""
    doubts: list[dict[str, object]] = [
        {
            "device": batch.device,
            "store": batch.store,
            "id": record.id,
            "doubt": record.doubt,
            "run": record.run,
            "stored": now,
        }
        for record in batch.records
        if record.doubt is not None
    ]
    with engine.begin() as connection:
        admit(connection)
        found = repeats.judge(connection, readings, batch)
        rows: list[dict[str, object]] = [
            {
                **{name: getattr(record, name) for name in RECORD_COLUMNS},
                "device": batch.device,
                "store": batch.store,
                "unit_symbol": unit_shown(record.unit),
                "stored": now,
                "reread": repeats.reread_of(batch.store, record),
                **found[record.id],
            }
            for record in batch.records
            if record.id in found
        ]
        db.insert_new(connection, readings, rows)
        db.insert_new(connection, doubtful, doubts)
        db.insert_new(connection, later_records, _later_rows(batch, now))
        _see_meters(connection, batch, now)
        events.apply(connection, batch, now)
        gaps.apply(connection, batch, now)
        gaps.end_before(connection, batch, now)
        for judgement in gaps.judgements(connection, batch):
            trusted = judgement.report.gap == "confirmed"
            repeats.trust(connection, readings, batch.device, _judged(batch.device, judgement), trusted=trusted)
        return gap_lists.take(connection, batch, batch.listed, now) if batch.listed is not None else None


def _judged(device: str, judgement: gaps.Judgement) -> ColumnElement[bool]:
    """The readings that a judgement is about."""
    columns, report = readings.c, judgement.report
    return and_(
        columns.device == device,
        columns.store == judgement.store,
        columns.id.between(judgement.lowest, judgement.highest),
        columns.run.between(report.first, report.last),
        *([columns.meter == report.meter] if report.meter else []),
        *([columns.task == report.task] if report.task else []),
    )


def _see_meters(connection: Connection, batch: Batch, now: float) -> None:
    runs: dict[str, int] = {}
    for record in batch.records:
        runs[record.meter] = max(record.run, runs.get(record.meter, 0))
    if not runs:
        return
    rows: list[dict[str, object]] = [
        {"device": batch.device, "meter": meter, "first_seen": now, "last_seen": now, "last_run": run}
        for meter, run in runs.items()
    ]
    db.insert_new(connection, meters, rows)
    newest = bindparam("newest", type_=BigInteger)
    seen = (
        update(meters)
        .where(meters.c.device == batch.device, meters.c.meter == bindparam("of"))
        .values(last_seen=now, last_run=case((meters.c.last_run < newest, newest), else_=meters.c.last_run))
    )
    connection.execute(seen, [{"of": meter, "newest": run} for meter, run in runs.items()])


def list_meters(engine: Engine, device: str | None = None) -> list[dict[str, object]]:
    """Every meter with readings, and their number; what came twice counts once."""
    count = (
        select(readings.c.device, readings.c.meter, func.count().label("readings"))
        .where(readings.c.repeated.is_(False))
        .group_by(readings.c.device, readings.c.meter)
        .subquery()
    )
    query = (
        select(meters, func.coalesce(count.c.readings, 0).label("readings"))
        .outerjoin(count, (count.c.device == meters.c.device) & (count.c.meter == meters.c.meter))
        .order_by(meters.c.device, meters.c.meter)
    )
    if device is not None:
        query = query.where(meters.c.device == device)
    with db.reader(engine).begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def list_readings(
    engine: Engine,
    *,
    device: str | None = None,
    meter: str | None = None,
    obis: str | None = None,
    run: int | None = None,
    newest: bool = False,
    repeated: bool = False,
    limit: int = 1000,
    offset: int = 0,
) -> list[dict[str, object]]:
    """Readings in the order of (device, store, id), or newest first; `doubt` is why the time of one is doubtful. With
    `repeated` those too that came before under another id."""
    columns = readings.c
    same = [readings.c[name] == doubtful.c[name] for name in ("device", "store", "id")]
    query = select(readings, doubtful.c.doubt).outerjoin(doubtful, and_(*same))
    for column, wanted in ((columns.device, device), (columns.meter, meter), (columns.obis, obis), (columns.run, run)):
        if wanted is not None:
            query = query.where(column == wanted)
    if not repeated:
        query = query.where(columns.repeated.is_(False))
    order = (columns.stored.desc(), columns.id.desc()) if newest else (columns.device, columns.store, columns.id)
    query = query.order_by(*order).limit(min(limit, PAGE_MAX)).offset(offset)
    with db.reader(engine).begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def list_runs(engine: Engine, device: str, meter: str, limit: int) -> list[dict[str, object]]:
    """The newest runs of a meter, each with the number of readings and of errors among them."""
    query = (
        select(readings.c.run, func.count().label("count"), func.count(readings.c.error).label("errors"))
        .where(readings.c.device == device, readings.c.meter == meter, readings.c.repeated.is_(False))
        .group_by(readings.c.run)
        .order_by(readings.c.run.desc())
        .limit(limit)
    )
    with db.reader(engine).begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
