"""A device's life at the head-end, from enrolment to its end: each step in one transaction with its audit entry."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.exc import IntegrityError

from headend import access, db, passes
from headend.access import devices as device_table
from headend.dm import accounts
from headend.dm import tables as dm
from headend.dm.jobs import queue
from headend.dm.push import PushError, PushPolicy, set_policy
from headend.metering.readings import metering_tokens
from headend.security import certificate_renewals, certificates, clones, devices, records, renewals
from headend.security.records import Entry, record, record_all, row_of
from omadm.bootstrap import ACCOUNT_NAME, DMACC_PATH
from omadm.ssmp.limits import DEVICE_KEY_BYTES

ACCOUNT_PATH = f"{DMACC_PATH}/{ACCOUNT_NAME}"
CSV_ROWS_MAX = 50_000
CSV_PROBLEMS_MAX = 100
CSV_TRIES = 3  # when others enrol a device of the file, or rotate the keys, just then
CSV_COLUMNS = ("id", "key")
# What a memory holds that was never written.
NO_KEYS = frozenset({bytes(DEVICE_KEY_BYTES), b"\xff" * DEVICE_KEY_BYTES})

Push = Callable[[str], int]  # sends a device a notification, and returns the session id in it


class LifecycleError(Exception):
    """The step cannot be done now. The text is a sentence for the operator."""


class UnknownDeviceError(LifecycleError):
    """There is no such device."""


class CsvError(LifecycleError):
    """The file cannot be taken. `problems` names line and column of each, and repeats no value of a key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as the audit log says it, and when."""

    who: str
    now: float


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    device_id: str
    key: bytes = field(repr=False)


def enrol(connection: Connection, actor: Actor, device_id: str, key: bytes, *, replace: bool = False) -> None:
    """Add a device. With `replace` one that exists gets the key instead. Raises `devices.DeviceError`."""
    known = devices.standing(connection, device_id) is not None
    devices.enrol(connection, device_id, key, actor.now, replace=replace)
    certificates.forget(connection, device_id)
    renewals.forget(connection, device_id)
    _record(connection, actor, "replace key" if known else "enrol", device_id)


def enrol_certificate(
    connection: Connection, actor: Actor, device_id: str, pinned: bytes | None, *, replace: bool = False
) -> None:
    """Add a device that proves itself with the certificate `pinned` (DER), or with any that an authority has given to
    its name. With `replace` one that exists does so instead of what it did. Raises `devices.DeviceError`."""
    known = devices.find(connection, device_id) is not None
    certificates.enrol(connection, device_id, pinned, actor.now, replace=replace)
    renewals.forget(connection, device_id)
    how = "by a certificate of an authority" if pinned is None else "by its own certificate"
    _record(connection, actor, "replace key" if known else "enrol", device_id, how)


def enrol_csv(engine: Engine, actor: Actor, text: str) -> int:
    """Enrol the devices of a CSV file with the columns `id` and `key`: all of them or, with `CsvError`, none.

    Everybody else waits while something is written, so everything but the writing is done before: it takes two
    statements, however many devices there are. Raises `LifecycleError` when others change too much meanwhile.
    """
    rows, problems = _parsed(text)
    keys = {row.device_id: row.key for row in rows}
    for _ in range(CSV_TRIES):
        with db.reader(engine).begin() as connection:
            _refuse(rows, [*problems, *_repeated(rows, set(connection.scalars(select(device_table.c.id))))])
            prepared = devices.prepare(connection, keys, actor.now)
            entries = [row_of(Entry(actor.now, actor.who, "enrol", device_id)) for device_id in keys]
            left = _left_behind(connection, keys)
        with contextlib.suppress(IntegrityError), engine.begin() as connection:  # one is enrolled since: which?
            if devices.add(connection, prepared):
                for device_id in left:
                    certificates.forget(connection, device_id)
                    renewals.forget(connection, device_id)
                record_all(connection, entries)
                return len(rows)
    raise LifecycleError("others enrolled devices or changed the keys meanwhile: nobody is enrolled, try again")


def _refuse(rows: list[_Row], problems: list[str]) -> None:
    """End the enrolment where there is a problem. Raises `CsvError`."""
    if len(rows) > CSV_ROWS_MAX:
        problems = [*problems, f"more than {CSV_ROWS_MAX} devices"]
    if problems:
        more = len(problems) - CSV_PROBLEMS_MAX
        raise CsvError(problems[:CSV_PROBLEMS_MAX] + ([f"and {more} more"] if more > 0 else []))


def _repeated(rows: list[_Row], known: set[str]) -> Iterator[str]:
    first: dict[str, int] = {}
    keys: dict[bytes, _Row] = {}
    for row in rows:
        if row.device_id in known:
            yield f"line {row.line}, column id: {row.device_id} is enrolled already"
        elif row.device_id in first:
            yield f"line {row.line}, column id: {row.device_id} stands in line {first[row.device_id]} too"
        first.setdefault(row.device_id, row.line)
        of_key = keys.setdefault(row.key, row)
        if of_key.device_id != row.device_id:  # a factory's mistake, and either could pass itself off as the other
            yield f"line {row.line}, column key: it is that of line {of_key.line} too"


def _left_behind(connection: Connection, new: Collection[str]) -> set[str]:
    """Those of these devices of which something else is known that is of a device of before; none, unless somebody
    wrote into the database by hand."""
    found: set[str] = set()
    for column in (certificates.certified.c.device, renewals.key_renewals.c.device):
        found.update(one for one in connection.scalars(select(column)) if one in new)
    return found


def _parsed(text: str) -> tuple[list[_Row], list[str]]:
    """The good rows and what is wrong with the others."""
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    rows: list[_Row] = []
    problems: list[str] = []
    try:
        header = [name.strip() for name in next(lines, [])]
        if sorted(header) != sorted(CSV_COLUMNS):
            return [], [f"line 1: the columns {' and '.join(CSV_COLUMNS)} are expected, each once"]
        for values in lines:
            if not values:
                continue
            where = lines.line_num
            if len(values) != len(header):
                problems.append(f"line {where}: {len(header)} columns are expected, not {len(values)}")
                continue
            named = dict(zip(header, (value.strip() for value in values), strict=True))
            found = list(_row_problems(where, named))
            problems += found
            if not found:
                rows.append(_Row(where, named["id"], devices.key_from(named["key"])))
    except csv.Error as error:
        problems.append(f"line {lines.line_num}: {error}")
    if not rows and not problems:
        problems.append("there is no device in it")
    return rows, problems


def _row_problems(line: int, row: dict[str, str]) -> Iterator[str]:
    if not devices.valid_id(row["id"]):
        yield f"line {line}, column id: {devices.ID_RULE}"
    try:
        key = devices.key_from(row["key"])
    except devices.DeviceError as error:
        yield f"line {line}, column key: {error}"
        return
    if key in NO_KEYS:
        yield f"line {line}, column key: all bits are alike: no key was written into that device"


def switch(connection: Connection, actor: Actor, device_id: str, *, on: bool) -> None:
    """Switch a device off, everywhere at once, or on again."""
    _device(connection, device_id)
    devices.set_enabled(connection, device_id, on, actor.now)
    _record(connection, actor, "switch on" if on else "switch off", device_id)


def replace_key(connection: Connection, actor: Actor, device_id: str, key: bytes, *, end_account: bool) -> None:
    """Give a device another key. Its DM account stays valid until it registers with that, unless `end_account`: the one
    who has the key may have the account as well."""
    _device(connection, device_id)
    devices.enrol(connection, device_id, key, actor.now, replace=True)
    certificates.forget(connection, device_id)
    renewals.forget(connection, device_id)
    if end_account:
        _end_credentials(connection, device_id)
    _record(connection, actor, "replace key", device_id, "the DM account, tokens and pass ended" if end_account else "")


def renew_key(connection: Connection, actor: Actor, device_id: str, path: str = ACCOUNT_PATH) -> int:
    """Have a device get a new key without a visit; returns the job. That erases its DM account (`path`), so the device
    registers again at once, and gets the key with its new account."""
    _in_service(connection, device_id)
    if certificates.expected(connection, device_id):
        raise LifecycleError("the device proves itself with a certificate: renew that")
    _can_renew(connection, device_id)
    job = _order_registration(connection, actor, device_id, path)
    renewals.want(connection, device_id, actor.now)
    _record(connection, actor, "renew key", device_id, f"job {job}: delete {path}")
    return job


def renew_certificate(
    connection: Connection, actor: Actor, device_id: str, path: str = ACCOUNT_PATH, *, issues: bool = False
) -> int:
    """Have a device make another key pair and get a certificate of it without a visit; returns the job, as for
    `renew_key`. `issues`: this head-end has an authority of its own; without it, only a pinned key is renewed."""
    _in_service(connection, device_id)
    if not certificates.expected(connection, device_id):
        raise LifecycleError("the device has a shared key: renew that")
    if not issues and not certificates.is_pinned(connection, device_id):
        raise LifecycleError("no authority is set to issue certificates: ssmp.issuing_certificate, ssmp.issuing_key")
    _can_renew(connection, device_id)
    job = _order_registration(connection, actor, device_id, path)
    certificate_renewals.want(connection, device_id, actor.now)
    _record(connection, actor, "renew certificate", device_id, f"job {job}: delete {path}")
    return job


def _can_renew(connection: Connection, device_id: str) -> None:
    """A device that has said that it cannot would give up its account for nothing. Whoever has mended it acknowledges
    the alarm; one that says later that it can, when it registers, has closed it."""
    if why := records.open_alarm(connection, records.RENEWAL, device_id):
        raise LifecycleError(f"{why}; acknowledge this security alarm to order it all the same")


def _in_service(connection: Connection, device_id: str) -> None:
    device = _device(connection, device_id)
    if not device.enabled or device.leaving:
        raise LifecycleError("the device is not in service")


def _order_registration(connection: Connection, actor: Actor, device_id: str, path: str) -> int:
    """Order a device to erase its DM account, so that it registers at once."""
    order = {"commands": [{"command": "delete", "path": path}]}
    try:
        return queue.enqueue(connection, device_id, "commands", order, now=actor.now)
    except accounts.UnknownDevice:
        raise LifecycleError("the device has no DM account: it gets a secret of yours when it registers") from None


def decommission(connection: Connection, actor: Actor, device_id: str, path: str = ACCOUNT_PATH) -> int:
    """Order a device to erase its DM account (`path`); returns the job. When the device has confirmed that, its account
    here ends and it is switched off. It gets no other account meanwhile."""
    device = _device(connection, device_id)
    if not device.enabled:
        raise LifecycleError("the device is switched off: it cannot be told anything")
    if device.leaving:
        raise LifecycleError("the device has that order already")
    order = {"commands": [{"command": "delete", "path": path}]}
    try:
        job = queue.enqueue(connection, device_id, "commands", order, now=actor.now)
    except accounts.UnknownDevice:
        raise LifecycleError("the device has no DM account: switch it off instead") from None
    leaving = {"leaving": actor.now, "leaving_job": job}
    connection.execute(update(device_table).where(device_table.c.id == device_id).values(leaving))
    _record(connection, actor, "decommission", device_id, f"job {job}: delete {path}")
    return job


def remove(connection: Connection, actor: Actor, device_id: str) -> None:
    """Delete a device that is switched off: key, account, tokens, pass, jobs, what it told. Readings, the log
    of registrations and the audit log stay."""
    if _device(connection, device_id).enabled:
        raise LifecycleError("the device is in service: switch it off, or decommission it, first")
    jobs = connection.scalars(select(dm.jobs.c.id).where(dm.jobs.c.device_id == device_id)).all()
    for table in (dm.values, dm.alerts, dm.jobs, dm.sessions, dm.accounts):
        connection.execute(delete(table).where(table.c.device_id == device_id))
    connection.execute(delete(metering_tokens).where(metering_tokens.c.device == device_id))
    passes.end_pass(connection, device_id)
    clones.forget(connection, device_id)
    certificates.forget(connection, device_id)
    renewals.forget(connection, device_id)
    access.forget_refusals(connection, device_id)
    connection.execute(delete(device_table).where(device_table.c.id == device_id))
    _record(connection, actor, "delete", device_id, f"with {len(jobs)} jobs")


def set_push_policy(connection: Connection, actor: Actor, device_id: str, policy: dict[str, Any] | None) -> None:
    """Say where a device may be called with notifications: `networks`, and `ports` in them. `None`: where the
    configuration says, as for every device that has no policy of its own. Raises `devices.DeviceError` for what is no
    policy."""
    _device(connection, device_id)
    try:
        wanted = None if policy is None else PushPolicy.of_device(policy)
    except ValueError as error:
        raise devices.DeviceError(str(error)) from error
    set_policy(connection, device_id, wanted)
    _record(connection, actor, "push policy", device_id, "as configured" if wanted is None else str(wanted))


def call(engine: Engine, actor: Actor, device_id: str, push: Push) -> int:
    """Ask a device to begin a session now, and return the session's id. What came of it is in the audit log; a
    transaction of its own, for nothing is locked while the device is called. Raises what `headend.dm.push.notify` does.
    """
    try:
        session_id = push(device_id)
    except PushError as error:
        with engine.begin() as connection:
            _record(connection, actor, "call", device_id, f"not called: {error}")
        raise
    with engine.begin() as connection:
        _record(connection, actor, "call", device_id, f"session {session_id:X}")
    return session_id


def _end_credentials(connection: Connection, device_id: str) -> None:
    accounts.void(connection, device_id)
    connection.execute(delete(metering_tokens).where(metering_tokens.c.device == device_id))
    before = passes.download_pass(connection, device_id)
    passes.end_pass(connection, device_id)
    queue.renew_pass(connection, device_id, before, passes.download_pass(connection, device_id))


def _device(connection: Connection, device_id: str) -> devices.Standing:
    found = devices.standing(connection, device_id)
    if found is None:
        raise UnknownDeviceError("there is no such device")
    return found


def _record(connection: Connection, actor: Actor, action: str, device_id: str, detail: str = "") -> None:
    record(connection, Entry(actor.now, actor.who, action, device_id, detail))


def state(row: dict[str, Any]) -> str:
    """A device's state in one word, from its row."""
    if row["enabled"]:
        return "leaving" if row["leaving"] is not None else "in service"
    return "decommissioned" if row["left"] is not None else "switched off"
