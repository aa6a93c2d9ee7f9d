"""DM accounts: created by the security server at registration, read for each message, updated with each nonce."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from headend.dm.tables import accounts
from headend.sealing import columns
from omadm.addresses import AddressError, check_address
from omadm.auth import NONCE_BYTES
from omadm.bootstrap import Account

SECRET_BYTES = 32
MESSAGE, SESSION = "message", "session"  # what the device's credentials are accepted for
PUSH_URL_CHARS_MAX = 255


class UnknownDevice(LookupError):
    """There is no DM account for this device."""


def draft(device_id: str, *, server_id: str, url: str, auth_type: str = "HMAC") -> Account:
    """An account with fresh secrets, which is in force nowhere yet. `url` is the address of the DM server, `auth_type`
    one of `omadm.auth.SECRET_TYPES`. Raises `ValueError` for empty or unprintable names and for what is no URL."""
    return Account(
        server_id=server_id,
        url=url,
        client_name=device_id,
        client_secret=secrets.token_urlsafe(SECRET_BYTES),
        server_name=server_id,
        server_secret=secrets.token_urlsafe(SECRET_BYTES),
        client_nonce=secrets.token_bytes(NONCE_BYTES),
        server_nonce=secrets.token_bytes(NONCE_BYTES),
        auth_type=auth_type,
    )


def put_in_force(
    conn: Connection, device_id: str, account: Account, *, push_url: str = "", accepts: str = MESSAGE, now: float
) -> None:
    """Make this the account of a device, in the caller's transaction; the one before becomes invalid.

    The counter of its notifications continues, because the device remembers the highest one it accepted. `accepts`: the
    device's credentials are good for one message (status 200) or, not with a MAC, for a whole session (212). Raises
    `ValueError` for a MAC that is to be good for a session.
    """
    if accepts == SESSION and account.auth_type == "HMAC":
        raise ValueError("a MAC protects one message, it cannot be accepted for a session")
    content = {
        "server_id": account.server_id,
        "url": account.url,
        "client_name": account.client_name,
        "client_secret": account.client_secret,
        "server_name": account.server_name,
        "server_secret": account.server_secret,
        "client_nonce": account.client_nonce,
        "server_nonce": account.server_nonce,
        "auth_type": account.auth_type,
        "accepts": accepts,
        "push_url": push_url,
        "last_request": None,
        "last_answer": None,
        "last_answer_mac": None,
        "updated": now,
    }
    if not exists(conn, device_id):
        row = {"device_id": device_id, "created": now, **content}
        conn.execute(insert(accounts).values(columns.seal(conn, accounts, row)))
    else:
        change(conn, device_id, content)


def create(
    conn: Connection,
    device_id: str,
    *,
    server_id: str,
    url: str,
    push_url: str = "",
    auth_type: str = "HMAC",
    accepts: str = MESSAGE,
    now: float | None = None,
) -> Account:
    """`draft` an account and `put_in_force` at once: of a device that cannot register."""
    account = draft(device_id, server_id=server_id, url=url, auth_type=auth_type)
    now = time.time() if now is None else now
    put_in_force(conn, device_id, account, push_url=push_url, accepts=accepts, now=now)
    return account


def void(conn: Connection, device_id: str) -> None:
    """Nobody can authenticate with the account any more: its secrets are replaced by others that nobody has."""
    fresh = {"client_secret": secrets.token_urlsafe(SECRET_BYTES), "server_secret": secrets.token_urlsafe(SECRET_BYTES)}
    forgotten = {"last_request": None, "last_answer": None, "last_answer_mac": None, "push_url": ""}
    change(conn, device_id, fresh | forgotten)


def change(conn: Connection, device_id: str, values: Mapping[str, Any]) -> None:
    """Write columns of a device's row, the secret ones sealed."""
    sealed = columns.seal(conn, accounts, values, device_id=device_id)
    conn.execute(update(accounts).where(accounts.c.device_id == device_id).values(sealed))


def load(conn: Connection, device_id: str) -> SimpleNamespace | None:
    """The row of a device in `dm_accounts`, its secrets opened; None for an unknown device. Raises `SealingError`."""
    row = conn.execute(select(accounts).where(accounts.c.device_id == device_id)).first()
    return None if row is None else SimpleNamespace(**columns.unseal(conn, accounts, row))


def exists(conn: Connection, device_id: str) -> bool:
    return conn.scalars(select(accounts.c.device_id).where(accounts.c.device_id == device_id)).first() is not None


def named(conn: Connection, client_name: str) -> str | None:
    """The id of the device whose client authenticates with this name."""
    return conn.scalars(select(accounts.c.device_id).where(accounts.c.client_name == client_name)).first()


def from_row(row: SimpleNamespace) -> Account:
    """The account that a row of `load` holds."""
    return Account(
        server_id=row.server_id,
        url=row.url,
        client_name=row.client_name,
        client_secret=row.client_secret,
        server_name=row.server_name,
        server_secret=row.server_secret,
        client_nonce=row.client_nonce,
        server_nonce=row.server_nonce,
        auth_type=row.auth_type,
    )


def set_push_url(conn: Connection, device_id: str, url: str) -> bool:
    """Store the URL at which the device takes notifications; empty for none.

    Returns False and keeps the old one when it is not an http or https URL. Call it only with what a device sent in an
    authenticated session.
    """
    try:
        check_push_url(url)
    except AddressError:
        return False
    conn.execute(
        update(accounts)
        .where(accounts.c.device_id == device_id, accounts.c.push_url != url)
        .values(push_url=url, updated=time.time())
    )
    return True


def check_push_url(url: str) -> None:
    """Check that a device can be called there; empty: nowhere. Raises `AddressError`."""
    if url:
        check_address(url, ("http", "https"), user=False, ascii_max=PUSH_URL_CHARS_MAX)


def next_push(conn: Connection, device_id: str) -> tuple[Account, str, int]:
    """The account, the push URL, and a counter that was never used before. Raises `UnknownDevice`."""
    row = load(conn, device_id)
    if row is None:
        raise UnknownDevice(device_id)
    counter = int(row.push_counter) + 1
    conn.execute(update(accounts).where(accounts.c.device_id == device_id).values(push_counter=counter))
    return from_row(row), row.push_url, counter
