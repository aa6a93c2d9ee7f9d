"""Which devices are served: their table, whether one is switched on or leaving, and when and where it was refused.

The security server enrols and registers devices (`headend.security.devices`); each other server asks here before it
serves one. A device that is enrolled nowhere has neither account nor token, so there is nothing to refuse.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from headend import db
from headend.sealing.columns import sealed_by

SWITCHED_OFF = "the device is switched off"
NOTED_EVERY_S = 1.0  # a device that hammers on a door is written down this often, with the number of its tries
NOTES_MAX = 10_000  # devices and doors whose last note is remembered


class Door(StrEnum):
    """Where a device can be refused."""

    REGISTRATION = "registration"
    DM = "dm"
    READINGS = "readings"
    DOWNLOADS = "downloads"
    TOKEN = "token"
    REPORT = "report"  # of an installation, in the name of a device and without its pass: whose it was is not known


devices = Table(
    "devices",
    db.metadata,
    Column("id", String(128), primary_key=True),
    Column("key", LargeBinary, nullable=False, info=sealed_by("id")),
    Column("enabled", Boolean, nullable=False),
    Column("enrolled", Float(53), nullable=False),
    Column("registered", Float(53)),  # the last completed registration
    Column("registrations", Integer, nullable=False),
    Column("man", String(256), nullable=False),
    Column("mod", String(256), nullable=False),
    Column("hw", String(256), nullable=False),
    Column("fw", String(256), nullable=False),
    Column("sw", String(256), nullable=False),
    Column("push_url", String(256), nullable=False),
    Column("switched", Float(53)),  # when it was last switched on or off
    Column("leaving", Float(53)),  # since when it is to erase its account
    Column("leaving_job", Integer),  # the DM job that orders that
    Column("left", Float(53)),  # when the device said that it had
    Column(
        "push_policy", JSON(none_as_null=True)
    ),  # where it may be called; NULL: where `push` of the configuration says
)

refusals = Table(
    "refusals",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("door", String(16), primary_key=True),
    Column("first", Float(53), nullable=False),
    Column("last", Float(53), nullable=False),
    Column("count", Integer, nullable=False),
    Column("peer", String(64), nullable=False),  # of the last one
)


def admits(connection: Connection, device_id: str) -> bool:
    """Whether the servers serve this device: not when it is switched off."""
    enabled = connection.scalars(select(devices.c.enabled).where(devices.c.id == device_id)).one_or_none()
    return enabled is not False


def knows(connection: Connection, device_id: str) -> bool:
    """Whether a device of this name is enrolled."""
    return connection.scalars(select(devices.c.id).where(devices.c.id == device_id)).one_or_none() is not None


def all_refused(connection: Connection) -> dict[str, dict[str, dict[str, Any]]]:
    """When and how often devices were refused since they were last switched on, by device and door."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in connection.execute(select(refusals)).mappings():
        told = {name: row[name] for name in ("first", "last", "count", "peer")}
        found.setdefault(row["device"], {})[row["door"]] = told
    return found


def decommissioned(connection: Connection, device_id: str, now: float) -> bool:
    """A device has erased its account: it is switched off. Returns False for one that was not to."""
    where = (devices.c.id == device_id) & devices.c.leaving.is_not(None)
    off = {"enabled": False, "switched": now, "left": now, "leaving": None, "leaving_job": None}
    return connection.execute(update(devices).where(where).values(off)).rowcount == 1


def order_ended(connection: Connection, job: int, now: float, *, done: bool) -> str | None:
    """A DM job is over: if it was the order to erase the account, the device has left, or stays. Returns the id of a
    device that has left."""
    device_id: str | None = connection.scalars(select(devices.c.id).where(devices.c.leaving_job == job)).one_or_none()
    if device_id is None:
        return None
    if done and decommissioned(connection, device_id, now):
        return device_id
    stays = {"leaving": None, "leaving_job": None}
    connection.execute(update(devices).where(devices.c.id == device_id).values(stays))
    return None


def forget_refusals(connection: Connection, device_id: str) -> None:
    connection.execute(delete(refusals).where(refusals.c.device == device_id))


class RefusalLog:
    """Writes down who was refused where. For a device that has proven who it is, as a name alone proves nothing; where
    that is the reason (`Door.REPORT`), for one that is enrolled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._noted: OrderedDict[tuple[str, Door], float] = OrderedDict()
        self._unwritten: dict[tuple[str, Door], int] = {}

    def note(self, device_id: str, door: Door, peer: str, now: float) -> None:
        """A device, or who has named it, was refused. `now`: seconds since the epoch."""
        key = (device_id, door)
        with self._lock:
            count = self._unwritten.pop(key, 0) + 1
            if 0 <= now - self._noted.get(key, float("-inf")) < NOTED_EVERY_S:
                self._unwritten[key] = count
                return
            self._noted[key] = now
            self._noted.move_to_end(key)
            while len(self._noted) > NOTES_MAX:
                gone, _ = self._noted.popitem(last=False)
                self._unwritten.pop(gone, None)
        with self._engine.begin() as connection:
            where = (refusals.c.device == device_id) & (refusals.c.door == door.value)
            told = {"last": now, "peer": peer[:64]}
            changed = connection.execute(update(refusals).where(where).values(count=refusals.c.count + count, **told))
            if not changed.rowcount:
                row = {"device": device_id, "door": door.value, "first": now, "count": count, **told}
                connection.execute(insert(refusals).values(row))
