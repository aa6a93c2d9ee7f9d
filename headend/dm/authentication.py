"""Authentication of each message, with one challenge for a peer that has lost its nonce.

A refusal (401, 407) carries a nonce that is valid for one message of that session. It is kept here, not in the
account: a stranger who sends messages in a device's name affects neither the device's own nonce nor an open session.
The second refusal in a row carries no challenge; the attempt is over. The nonce stays good for its time even so: a
stranger who guesses the SessionID may have been the one who was refused, and the device's answer still on its way.

A device without an account gets the same answer as one that sent a wrong MAC, signed with a secret that nobody has.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from omadm.auth import NONCE_BYTES, AuthError
from omadm.bootstrap import Account
from omadm.schemes import Scheme, Schemes
from omadm.syncml.messages import Chal, SyncML

PENDING_MAX = 4096  # challenges remembered; the oldest are forgotten first
PENDING_S = 300.0
REFUSALS_MAX = 2


@dataclass(slots=True)
class _Pending:
    nonce: bytes
    refusals: int  # in a row
    at: float  # when the nonce was made


@dataclass(frozen=True, slots=True)
class Refused:
    """Refuse the whole message with `status`; `chal` is None after the second refusal in a row."""

    status: int
    chal: Chal | None
    reason: str


class Authenticator:
    """Checks messages and remembers its challenges. The caller must serialise the messages of one device."""

    def __init__(self, schemes: Schemes, entropy: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._schemes = schemes
        self._entropy = entropy
        self._pending: OrderedDict[tuple[str, str], _Pending] = OrderedDict()
        self._placeholder_key = secrets.token_bytes(32)

    def placeholder_account(self, name: str, server_id: str, url: str) -> Account:
        """An account for a device that has none, with secrets that are stable per device and known to nobody."""

        def derive(label: str) -> bytes:
            return hmac.digest(self._placeholder_key, f"{label}:{name}".encode(), "sha256")

        return Account(
            server_id=server_id,
            url=url,
            client_name="unknown",
            client_secret=derive("client").hex(),
            server_name=server_id,
            server_secret=derive("server").hex(),
            client_nonce=derive("client nonce")[:NONCE_BYTES],
            server_nonce=derive("server nonce")[:NONCE_BYTES],
        )

    def check(self, message: SyncML, body: bytes, header: str | None, account: Account, now: float) -> Refused | None:
        """Returns None when the message comes from the device of `account`. `now`: monotonic seconds."""
        scheme = self._schemes.of(account.auth_type)
        key = (message.hdr.source, message.hdr.session_id)
        pending = self._current(key, now)
        nonces = [account.client_nonce] + ([pending.nonce] if pending else [])
        failure: AuthError | None = None
        for nonce in nonces:
            try:
                scheme.verify(message, body, header, replace(account.client, nonce=nonce))
            except AuthError as error:
                failure = error
            else:
                self._pending.pop(key, None)
                return None
        if failure is None:
            raise RuntimeError("no nonce to check against")
        return self._refuse(scheme, key, pending, failure, now)

    def _current(self, key: tuple[str, str], now: float) -> _Pending | None:
        pending = self._pending.get(key)
        if pending is not None and now - pending.at > PENDING_S:
            del self._pending[key]
            return None
        return pending

    def _refuse(
        self, scheme: Scheme, key: tuple[str, str], pending: _Pending | None, failure: AuthError, now: float
    ) -> Refused:
        if pending is None:
            pending = self._pending[key] = _Pending(self._entropy(NONCE_BYTES), 0, now)
            while len(self._pending) > PENDING_MAX:
                self._pending.popitem(last=False)
        pending.refusals += 1
        if pending.refusals >= REFUSALS_MAX:
            pending.refusals = 0
            return Refused(failure.status, None, str(failure))
        return Refused(failure.status, scheme.chal(pending.nonce), str(failure))
