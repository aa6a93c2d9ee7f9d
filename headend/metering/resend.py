"""Orders to devices to send readings again that they still keep, and how those ended.

An order goes out with each answer to a batch of its device until the device has reported on it (docs/uplink.md). What
comes again is what the device had sent: records that are here already are left as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)

from headend import db
from omadm.readings import RESENDS_MAX, ResendOrder, ResendReport

orders = Table(
    "resend_orders",
    db.metadata,
    Column("request", Integer, primary_key=True, autoincrement=True),
    Column("device", String(128), nullable=False, index=True),
    Column("store", String(32), nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("since", Float(53), nullable=False),
    Column("until", Float(53), nullable=False),
    Column("made", Float(53), nullable=False),
    Column("ended", Float(53)),  # when the device reported
    Column("sent", BigInteger),
    Column("refused", BigInteger),
    Column("gone", Text),  # JSON
    Column("kept_since", Float(53)),
    sqlite_autoincrement=True,  # a number is never used again
)


def order(connection: Connection, device: str, wanted: ResendOrder, now: float) -> int:
    """Remember an order. Returns its number, whatever `wanted.request` is."""
    row = {
        "device": device,
        "store": wanted.store,
        "first": wanted.first,
        "last": wanted.last,
        "since": wanted.since,
        "until": wanted.until,
        "made": now,
    }
    made = connection.execute(insert(orders).values(row))
    return int(made.inserted_primary_key[0]) if made.inserted_primary_key else 0


def open_orders(engine: Engine, device: str) -> list[ResendOrder]:
    """The orders that a device has not reported on, the oldest first, as many as an answer may have."""
    columns = orders.c
    query = (
        select(columns.request, columns.store, columns.first, columns.last, columns.since, columns.until)
        .where(columns.device == device, columns.ended.is_(None))
        .order_by(columns.request)
        .limit(RESENDS_MAX)
    )
    with db.reader(engine).begin() as connection:
        return [ResendOrder(*row) for row in connection.execute(query)]


def close(engine: Engine, device: str, reports: Iterable[ResendReport], now: float) -> None:
    """A device has reported. A report that came before changes nothing."""
    with engine.begin() as connection:
        for report in reports:
            connection.execute(
                update(orders)
                .where(orders.c.device == device, orders.c.request == report.request, orders.c.ended.is_(None))
                .values(
                    ended=now,
                    sent=report.sent,
                    refused=report.refused,
                    gone=json.dumps(report.gone),
                    kept_since=report.kept_since,
                )
            )


def listing(connection: Connection, device: str) -> list[dict[str, object]]:
    """The orders of a device, newest first."""
    query = select(orders).where(orders.c.device == device).order_by(orders.c.request.desc())
    return [
        {**row, "gone": None if row["gone"] is None else json.loads(str(row["gone"]))}
        for row in connection.execute(query).mappings()
    ]
