"""Download passes: what a device shows with its name when it fetches a package, in the URLs that its jobs carry.

A pass is an HMAC over the name with a secret of this head-end. It proves the name, so that a device that is switched
off can be refused; it does not make a package secret.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import quote

from sqlalchemy import Column, Connection, LargeBinary, String, Table, insert, select

from headend import db

PASS_BYTES = 16
SECRET_NAME = "downloads"

secret_values = Table(
    "secrets",
    db.metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)


def download_pass(connection: Connection, device_id: str) -> str:
    """Return the pass of a device. The first call must be in a transaction that writes: it makes the secret."""
    secret = _secret(connection)
    if secret is None:
        secret = secrets.token_bytes(32)
        connection.execute(insert(secret_values).values(name=SECRET_NAME, value=secret))
    return _pass(secret, device_id)


def shows_pass(connection: Connection, device_id: str, shown: str) -> bool:
    """Whether this is the device's pass."""
    secret = _secret(connection)
    return secret is not None and hmac.compare_digest(_pass(secret, device_id), shown)


def with_pass(connection: Connection, url: str, device_id: str) -> str:
    """Return the URL with the device's name and pass."""
    query = f"device={quote(device_id)}&pass={download_pass(connection, device_id)}"
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _secret(connection: Connection) -> bytes | None:
    query = select(secret_values.c.value).where(secret_values.c.name == SECRET_NAME)
    return connection.scalars(query).one_or_none()


def _pass(secret: bytes, device_id: str) -> str:
    return hmac.digest(secret, device_id.encode(), "sha256")[:PASS_BYTES].hex()
