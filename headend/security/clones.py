"""Two devices with one identity: seen from what a registering device says of the account that it has.

A registration replaces the account of the device; whoever had it is cut off, and registers again when he notices. One
device alone does not come back with an account whose successor has been used since: then somebody else used that one.
A device that lost only the last answer comes back with an account whose successor was never used, which is no clone.

A device of version 1 of SSMP does not say what it has; there, and for a device that says it has none, only the number
of accounts that were used and replaced in a short time tells.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    String,
    Table,
    delete,
    exists,
    insert,
    select,
)

from headend import db
from headend.dm import accounts
from headend.dm.tables import sessions
from headend.sealing.errors import SealedValueError
from headend.security import records
from omadm.bootstrap import Account

KEPT_PER_DEVICE = 16
AGAIN_MAX = 3  # times within `AGAIN_S` that somebody without it replaced an account that was in use
AGAIN_S = 24 * 3600.0
TWO_DEVICES = "two-devices"
AGAIN_AND_AGAIN = "registers-again"

issued = Table(
    "issued_accounts",
    db.metadata,
    Column("seq", Integer, primary_key=True),
    Column("device", String(128), nullable=False, index=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("at", Float(53), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("unexpected", Boolean, nullable=False),  # it replaced one that was in use, for somebody without that
)


@dataclass(frozen=True, slots=True)
class Registering:
    """A device that is about to get a new account. `held` as in `omadm.ssmp.server_core.Confirmed`."""

    device_id: str
    held: bytes | None
    peer: str


def observe(connection: Connection, who: Registering, now: float) -> bool:
    """Raise an alarm if this registration cannot be of the device that registered before. Call it before the account
    is replaced. Returns whether an account that was in use is replaced by somebody who does not have it."""
    past = connection.execute(
        select(issued).where(issued.c.device == who.device_id).order_by(issued.c.seq.desc()).limit(KEPT_PER_DEVICE)
    ).all()
    try:
        row = accounts.load(connection, who.device_id)
    except SealedValueError:  # damaged: it says nothing of who had it, and the registration replaces it
        return False
    if row is None or not past:
        return False
    in_force = accounts.from_row(row).fingerprint()
    if who.held == in_force or past[0].fingerprint != in_force:  # the latter: the operator made the account since
        return False
    if not _used(connection, who.device_id, past[0].at):
        return False
    if who.held and any(each.fingerprint == who.held for each in past[1:]):
        text = (
            f"it registered from {who.peer} with the account of before, while the account that was given to "
            f"{past[0].peer} has been in use: two devices have this identity, or an old state was put back"
        )
        records.raise_alarm(connection, TWO_DEVICES, who.device_id, text, now)
        return True
    times = 1 + sum(each.unexpected for each in past if each.at >= now - AGAIN_S)
    if times >= AGAIN_MAX:
        text = f"registration {times} within 24 hours by somebody without the account that was in use, from {who.peer}"
        records.raise_alarm(connection, AGAIN_AND_AGAIN, who.device_id, text, now)
    return True


def lost_nothing(connection: Connection, who: Registering) -> bool:
    """Return whether a device holds the account that was in use last, and so everything else that its tree holds: it
    registers for another key or certificate, or a registration broke off. Call it before the account is replaced."""
    try:
        row = accounts.load(connection, who.device_id)
    except SealedValueError:
        return False
    if not who.held or row is None:
        return False
    if who.held == accounts.from_row(row).fingerprint():
        return True
    past = connection.execute(
        select(issued.c.fingerprint, issued.c.at)
        .where(issued.c.device == who.device_id)
        .order_by(issued.c.seq.desc())
        .limit(KEPT_PER_DEVICE)
    ).all()
    newer = [each.at for each in itertools.takewhile(lambda each: each.fingerprint != who.held, past)]
    return 0 < len(newer) < len(past) and not _used(connection, who.device_id, min(newer))


def remember(connection: Connection, who: Registering, account: Account, now: float, *, unexpected: bool) -> None:
    """Note the account that a device got: not its secrets, only the fingerprint. `unexpected`: what `observe` said."""
    connection.execute(
        insert(issued).values(
            device=who.device_id,
            fingerprint=account.fingerprint(),
            at=now,
            peer=who.peer[:64],
            unexpected=unexpected,
        )
    )
    newest = select(issued.c.seq).where(issued.c.device == who.device_id).order_by(issued.c.seq.desc())
    kept = list(connection.scalars(newest.limit(KEPT_PER_DEVICE)))
    connection.execute(delete(issued).where(issued.c.device == who.device_id, issued.c.seq < kept[-1]))


def forget(connection: Connection, device_id: str) -> None:
    connection.execute(delete(issued).where(issued.c.device == device_id))


def _used(connection: Connection, device_id: str, since: float) -> bool:
    """Whether there was a DM session with the account that has been in force since then."""
    found = exists().where(sessions.c.device_id == device_id, sessions.c.started >= since)
    return bool(connection.scalar(select(found)))
