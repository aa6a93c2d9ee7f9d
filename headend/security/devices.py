"""The devices with their keys, and the log of registrations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Column, Connection, Float, Integer, String, Table, delete, insert, select, update

from headend import access, db
from headend.access import devices
from headend.sealing import columns, keyring
from omadm.ssmp.limits import DEVICE_ID_BYTES_MAX, DEVICE_KEY_BYTES
from omadm.ssmp.wire import RegistrationInfo

LOG_ROWS_MAX = 10_000  # of the registration log; the oldest are deleted
LOG_PRUNE_EVERY = 100
ID_RULE = f"a device id has 1 to {DEVICE_ID_BYTES_MAX} letters, digits and :._-"
KEY_RULE = f"a device key is {2 * DEVICE_KEY_BYTES} hexadecimal digits"
_DEVICE_ID = re.compile(rf"[A-Za-z0-9:._-]{{1,{DEVICE_ID_BYTES_MAX}}}", re.ASCII)
_KEY = re.compile(rf"[0-9a-fA-F]{{{2 * DEVICE_KEY_BYTES}}}", re.ASCII)

registrations = Table(
    "registrations",
    db.metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("device", String(128), nullable=False),  # as claimed; an unknown one can stand here
    Column("peer", String(64), nullable=False),
    Column("code", Integer, nullable=False),  # 200, or the code of the ERROR that was sent
    Column("text", String(200), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a device is served. It is known without its key, so that one whose key is damaged can get another."""

    enabled: bool
    leaving: bool  # it is to erase its account, and gets no other


class DeviceError(ValueError):
    """An enrolment that cannot be carried out."""


class AlreadyEnrolledError(DeviceError):
    """A device of this name exists, and `replace` was not given."""


@dataclass(frozen=True, slots=True)
class Device:
    """What SSMP needs to know about an enrolled device."""

    device_id: str
    key: bytes = field(repr=False)
    enabled: bool
    leaving: bool = False  # it is to erase its account, and gets no other


def valid_id(device_id: str) -> bool:
    return _DEVICE_ID.fullmatch(device_id) is not None


def key_from(text: str) -> bytes:
    """Return the device key that hexadecimal digits give. Raises `DeviceError`, which does not repeat them."""
    if not _KEY.fullmatch(text):
        raise DeviceError(KEY_RULE)
    return bytes.fromhex(text)


def enrol(connection: Connection, device_id: str, key: bytes, now: float, *, replace: bool = False) -> None:
    """Add a device, or with `replace` give an existing one a new key; one that is switched off stays that. Raises
    `AlreadyEnrolledError`, and `DeviceError` for an invalid id or key."""
    if not valid_id(device_id):
        raise DeviceError(ID_RULE)
    if len(key) != DEVICE_KEY_BYTES:
        raise DeviceError(f"a device key has {DEVICE_KEY_BYTES} bytes")
    known = connection.execute(select(devices.c.id).where(devices.c.id == device_id)).one_or_none()
    if known is not None:
        if not replace:
            raise AlreadyEnrolledError(f"{device_id} is enrolled already")
        sealed = columns.seal(connection, devices, {"key": key}, id=device_id)
        connection.execute(update(devices).where(devices.c.id == device_id).values(sealed))
        return
    connection.execute(insert(devices).values(columns.seal(connection, devices, _new(device_id, key, now))))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows of new devices with their keys sealed, to be written by `add`. `key_id`: the data key they are sealed by."""

    key_id: str
    rows: list[dict[str, object]] = field(repr=False)


def prepare(connection: Connection, keys: Mapping[str, bytes], now: float) -> Prepared:
    """Make the rows of devices that are to be enrolled, whose ids and keys are valid; writes nothing, so a connection
    that reads will do. Raises `SealingError`."""
    return Prepared(*columns.seal_rows(connection, devices, (_new(each, key, now) for each, key in keys.items())))


def add(connection: Connection, prepared: Prepared) -> bool:
    """Enrol all of these devices by one statement. Returns False, and enrols nobody, where the key that they were
    sealed by has been replaced since. Raises SQLAlchemy's `IntegrityError` when one is enrolled by now."""
    if keyring.active(connection) != prepared.key_id:
        return False
    connection.execute(insert(devices), prepared.rows)
    return True


def _new(device_id: str, key: bytes, now: float) -> dict[str, object]:
    texts = dict.fromkeys(("man", "mod", "hw", "fw", "sw", "push_url"), "")
    return {"id": device_id, "key": key, "enabled": True, "enrolled": now, "registrations": 0, **texts}


def set_enabled(connection: Connection, device_id: str, enabled: bool, now: float) -> bool:
    """Switch a device on or off, at every server at once. Returns False when there is no such device.

    Off: from the next request on it is refused, also in a session that is running. On: what was refused before is
    forgotten, and a device that was to erase its account keeps it.
    """
    values = {"enabled": enabled, "switched": now, "leaving": None, "leaving_job": None}
    if enabled:
        access.forget_refusals(connection, device_id)
        values |= {"left": None}
    return connection.execute(update(devices).where(devices.c.id == device_id).values(values)).rowcount == 1


def standing(connection: Connection, device_id: str) -> Standing | None:
    query = select(devices.c.enabled, devices.c.leaving).where(devices.c.id == device_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else Standing(row.enabled, row.leaving is not None)


def find(connection: Connection, device_id: str) -> Device | None:
    """Return a device with its key; None where it is not enrolled. Raises `SealingError` when that cannot be opened."""
    row = connection.execute(select(devices).where(devices.c.id == device_id)).one_or_none()
    if row is None:
        return None
    key: bytes = columns.unseal(connection, devices, row)["key"]
    return Device(row.id, key, row.enabled, row.leaving is not None)


def listing(connection: Connection) -> list[dict[str, object]]:
    """Every device, without its key."""
    shown = [column for column in devices.c if column.name != "key"]
    return [dict(row) for row in connection.execute(select(*shown).order_by(devices.c.id)).mappings()]


def registered(connection: Connection, device_id: str, info: RegistrationInfo, now: float) -> None:
    """Record a completed registration."""
    connection.execute(
        update(devices)
        .where(devices.c.id == device_id)
        .values(
            registered=now,
            registrations=devices.c.registrations + 1,
            man=info.man,
            mod=info.mod,
            hw=info.hw,
            fw=info.fw,
            sw=info.sw,
            push_url=info.push_url,
        )
    )


def note(connection: Connection, device_id: str, peer: str, code: int, text: str, now: float) -> None:
    """Log how a registration ended."""
    added = connection.execute(
        insert(registrations).values(at=now, device=device_id[:128], peer=peer[:64], code=code, text=text[:200])
    )
    key = added.inserted_primary_key
    if key is not None and key[0] % LOG_PRUNE_EVERY == 0:
        connection.execute(delete(registrations).where(registrations.c.seq <= key[0] - LOG_ROWS_MAX))


def log_listing(connection: Connection, limit: int) -> list[dict[str, object]]:
    """The newest entries of the log."""
    query = select(registrations).order_by(registrations.c.seq.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]
