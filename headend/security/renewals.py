"""New keys for devices, without a visit: which device is to get one, and what it was given and has not used.

A device that registers gets the key with its account, stores it, and registers with it. From then on the old one is
dead; until then both are good, so that nothing that breaks off locks a device out. But no longer than `OLD_KEY_S`: a
device that has confirmed has stored the new key, and a thief of the old one would wait for it to need an account.
"""

from __future__ import annotations

import time

from sqlalchemy import Column, Connection, Float, LargeBinary, String, Table, delete, insert, select, update

from headend import db
from headend.sealing import columns
from headend.sealing.columns import sealed_by
from headend.security import devices

OLD_KEY_S = 7 * 86_400.0  # that the old key stays good once the device has another

key_renewals = Table(
    "key_renewals",
    db.metadata,
    Column("device", String(128), primary_key=True),
    Column("wanted", Float(53), nullable=False),  # since when it is to get a new key, or has the one in `key`
    Column("key", LargeBinary, info=sealed_by("device")),  # what the device has stored; NULL: nothing so far
)


def want(connection: Connection, device_id: str, now: float) -> None:
    """Give a device a new key when it registers next. One that it was given and has not used is forgotten."""
    forget(connection, device_id)
    connection.execute(insert(key_renewals).values(device=device_id, wanted=now))


def is_wanted(connection: Connection, device_id: str) -> bool:
    """Whether a device that registers with the key of its row is to get another."""
    query = select(key_renewals.c.device).where(key_renewals.c.device == device_id)
    return connection.scalars(query).one_or_none() is not None


def wanted_since(connection: Connection, device_id: str) -> float | None:
    """When it was ordered that a device gets another key; `None` where it was not."""
    query = select(key_renewals.c.wanted).where(key_renewals.c.device == device_id)
    return connection.scalars(query).one_or_none()


def given(connection: Connection, device_id: str) -> bytes:
    """The key that a device was given and has not used yet; empty for none. Raises `SealingError`."""
    row = connection.execute(select(key_renewals).where(key_renewals.c.device == device_id)).one_or_none()
    if row is None or row.key is None:
        return b""
    key: bytes = columns.unseal(connection, key_renewals, row)["key"]
    return key


def has_ended(connection: Connection, device_id: str, now: float) -> bool:
    """Whether the old key of a device is not good any more, although it has not used the new one."""
    told = select(key_renewals.c.wanted).where(key_renewals.c.device == device_id, key_renewals.c.key.is_not(None))
    since: float | None = connection.scalars(told).one_or_none()
    return since is not None and now - since >= OLD_KEY_S


def stored(connection: Connection, device_id: str, key: bytes, *, now: float | None = None) -> None:
    """A device has stored the key that it was given."""
    values = {"key": key, "wanted": time.time() if now is None else now}
    sealed = columns.seal(connection, key_renewals, values, device=device_id)
    connection.execute(update(key_renewals).where(key_renewals.c.device == device_id).values(sealed))


def used(connection: Connection, device_id: str, key: bytes, now: float) -> None:
    """A device has registered with its new key: it is the only one."""
    devices.enrol(connection, device_id, key, now, replace=True)
    forget(connection, device_id)


def forget(connection: Connection, device_id: str) -> None:
    connection.execute(delete(key_renewals).where(key_renewals.c.device == device_id))
