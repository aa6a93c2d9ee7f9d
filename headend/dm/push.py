"""Package #0 to a device's push URL: asks it to start a session now."""

from __future__ import annotations

import logging
import secrets

import httpx
from sqlalchemy import Engine

from headend.dm import accounts
from omadm.notification import MIME, RESYNC_NONCE, Notification, emit

LOG = logging.getLogger("headend.dm")

TIMEOUT_S = 5.0
REFUSED = 403  # the digest was wrong: the nonce has moved on, so try the one that both sides always know


class PushError(Exception):
    """The device could not be reached, or would not take the notification."""


def notify(engine: Engine, device_id: str, *, client: httpx.Client | None = None) -> int:
    """Send the notification and return the session id in it. Blocks up to `TIMEOUT_S` for each of at most two tries.

    Raises `accounts.UnknownDevice` and `PushError`.
    """
    if client is None:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as own:
            return notify(engine, device_id, client=own)
    session_id = 1 + secrets.randbelow(0xFFFF)
    status = 0
    for resync in (False, True):
        with engine.begin() as conn:  # committed before it is sent: no counter is ever used twice
            account, push_url, counter = accounts.next_push(conn, device_id)
        if not push_url:
            raise PushError(f"{device_id} has no push URL")
        nonce = RESYNC_NONCE if resync else account.server_nonce
        body = emit(Notification(session_id, account.server_id), account.server_secret, nonce, counter=counter)
        try:
            status = client.post(push_url, content=body, headers={"content-type": MIME}).status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PushError(f"{device_id} at {push_url}: {error or type(error).__name__}") from error
        if 200 <= status < 300:
            LOG.info("%s: notified", device_id, extra={"event": "dm.push", "device": device_id})
            return session_id
        if status != REFUSED:
            break
    raise PushError(f"{device_id} at {push_url}: HTTP status {status}")
