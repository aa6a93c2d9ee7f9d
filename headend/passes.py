"""Download passes: what a device shows with its name when it fetches a package, in the URLs that its jobs carry.

A pass is an HMAC over the name with a secret of this head-end, or, once a pass of the device was ended, with one that
is for this device alone. It proves the name, so that a device that is switched off can be refused; it does not make a
package secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from urllib.parse import quote

from sqlalchemy import Column, Connection, LargeBinary, String, Table, insert, select, update

from headend import db
from headend.sealing import columns
from headend.sealing.columns import sealed_by

PASS_BYTES = 16
SECRET_NAME, PASS_SECRET_BYTES = "downloads", 32
OWN_NAME_DIGITS = 30
_IN_URL = re.compile(r"[?&]pass=[^&#]*")

secret_values = Table(
    "secrets",
    db.metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False, info=sealed_by("name")),
)


def download_pass(connection: Connection, device_id: str) -> str:
    """Return the pass of a device. The first call must be in a transaction that writes: it makes the secret."""
    secret = _secret(connection, device_id)
    if secret is None:
        secret = _new_secret(connection, SECRET_NAME)
    return _pass(secret, device_id)


def end_pass(connection: Connection, device_id: str) -> None:
    """The pass of a device is not good any more, and its next one is another, also after it was deleted and enrolled
    anew."""
    name = _own_name(device_id)
    known = connection.scalars(select(secret_values.c.name).where(secret_values.c.name == name)).one_or_none()
    if known is None:
        _new_secret(connection, name)
        return
    row = columns.seal(connection, secret_values, {"name": name, "value": secrets.token_bytes(PASS_SECRET_BYTES)})
    connection.execute(update(secret_values).where(secret_values.c.name == name).values(row))


def shows_pass(connection: Connection, device_id: str, shown: str) -> bool:
    """Whether this is the device's pass."""
    secret = _secret(connection, device_id)
    return secret is not None and hmac.compare_digest(_pass(secret, device_id), shown)


def with_pass(connection: Connection, url: str, device_id: str) -> str:
    """Return the URL with the device's name and pass."""
    query = f"device={quote(device_id)}&pass={download_pass(connection, device_id)}"
    return f"{url}{'&' if '?' in url else '?'}{query}"


def without_pass(url: str) -> str:
    """Return the URL as a person may see it: whoever has the pass downloads in the device's name."""
    return _IN_URL.sub("", url)


def _secret(connection: Connection, device_id: str) -> bytes | None:
    """The device's own secret where it has one, or that of all others."""
    own = _own_name(device_id)
    query = select(secret_values).where(secret_values.c.name.in_((own, SECRET_NAME)))
    rows = {row.name: row for row in connection.execute(query)}
    row = rows.get(own, rows.get(SECRET_NAME))
    return None if row is None else columns.unseal(connection, secret_values, row)["value"]


def _new_secret(connection: Connection, name: str) -> bytes:
    secret = secrets.token_bytes(PASS_SECRET_BYTES)
    row = columns.seal(connection, secret_values, {"name": name, "value": secret})
    connection.execute(insert(secret_values).values(row))
    return secret


def _own_name(device_id: str) -> str:
    """The row of a device's own secret: names have 32 characters, and a device's id has up to 128."""
    return f"{SECRET_NAME[:1]} {hashlib.sha256(device_id.encode()).hexdigest()[:OWN_NAME_DIGITS]}"


def _pass(secret: bytes, device_id: str) -> str:
    return hmac.digest(secret, device_id.encode(), "sha256")[:PASS_BYTES].hex()
