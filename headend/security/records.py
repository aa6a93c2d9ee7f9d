"""What the operator must be able to look up: alarms of the security server, and who changed what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, String, Table, Text, insert, select, update

from headend import db

alarms = Table(
    "security_alarms",
    db.metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("device", String(128), nullable=False, index=True),
    Column("first", Float(53), nullable=False),
    Column("last", Float(53), nullable=False),
    Column("count", Integer, nullable=False),
    Column("text", Text, nullable=False),  # of the last time
    Column("acknowledged", Float(53)),
    Column("acknowledged_by", String(64)),
)

RENEWAL = "renewal"  # the kind of alarm by which a device says that it cannot renew its key or certificate

audit = Table(
    "audit",
    db.metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("who", String(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("device", String(128), nullable=False, index=True),
    Column("detail", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log. `who` is a person or server with the way it came; `detail` holds no secret."""

    at: float
    who: str
    action: str
    device: str
    detail: str = ""


def record(connection: Connection, entry: Entry) -> None:
    """Write an entry, in the transaction of what it tells of."""
    record_all(connection, [row_of(entry)])


def row_of(entry: Entry) -> dict[str, Any]:
    """The row that `record_all` writes for an entry."""
    return {
        "at": entry.at,
        "who": entry.who[:128],
        "action": entry.action,
        "device": entry.device[:128],
        "detail": entry.detail,
    }


def record_all(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write entries, each a `row_of`, by one statement."""
    connection.execute(insert(audit), rows)


def audit_listing(connection: Connection, device: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest entries, of one device or of all."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if device is not None:
        query = query.where(audit.c.device == device)
    return [dict(row) for row in connection.execute(query).mappings()]


def raise_alarm(connection: Connection, kind: str, device: str, text: str, now: float) -> None:
    """Raise an alarm; one of the same kind and device that is still open counts on instead."""
    same = (alarms.c.kind == kind) & (alarms.c.device == device) & alarms.c.acknowledged.is_(None)
    changed = connection.execute(update(alarms).where(same).values(last=now, count=alarms.c.count + 1, text=text))
    if not changed.rowcount:
        connection.execute(insert(alarms).values(kind=kind, device=device, first=now, last=now, count=1, text=text))
    record(connection, Entry(now, "security server", f"alarm {kind}"[:32], device, text))


def open_alarm(connection: Connection, kind: str, device: str) -> str:
    """What the open alarm of this kind and device says; empty when there is none."""
    same = (alarms.c.kind == kind) & (alarms.c.device == device) & alarms.c.acknowledged.is_(None)
    return connection.scalars(select(alarms.c.text).where(same)).first() or ""


def alarm_over(connection: Connection, kind: str, device: str, why: str, now: float) -> None:
    """Close the open alarm of this kind and device, if there is one: its reason is gone, as `why` says."""
    same = (alarms.c.kind == kind) & (alarms.c.device == device) & alarms.c.acknowledged.is_(None)
    closed = connection.execute(update(alarms).where(same).values(acknowledged=now, acknowledged_by="security server"))
    if closed.rowcount:
        record(connection, Entry(now, "security server", f"alarm {kind} over"[:32], device, why))


def alarm_listing(
    connection: Connection, device: str | None, limit: int, *, open_only: bool = False
) -> list[dict[str, Any]]:
    """The newest alarms."""
    query = select(alarms).order_by(alarms.c.id.desc()).limit(limit)
    if device is not None:
        query = query.where(alarms.c.device == device)
    if open_only:
        query = query.where(alarms.c.acknowledged.is_(None))
    return [dict(row) for row in connection.execute(query).mappings()]


def acknowledge(connection: Connection, number: int, who: str, now: float) -> bool:
    """Close an alarm. Returns False when there is no open one of this number."""
    row = connection.execute(select(alarms).where(alarms.c.id == number, alarms.c.acknowledged.is_(None))).first()
    if row is None:
        return False
    connection.execute(update(alarms).where(alarms.c.id == number).values(acknowledged=now, acknowledged_by=who[:64]))
    record(connection, Entry(now, who, "acknowledge alarm", row.device, f"{row.kind}: {row.text}"))
    return True
