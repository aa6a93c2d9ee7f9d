"""Authentication schemes of DM accounts (OMA-TS-DM_Security 1.2, section 5): one small object per scheme.

`HMAC` is the default, used by this project's devices: a MAC over every message, in the transport header. `DIGEST`
(`syncml:auth-md5`) and `BASIC` (`syncml:auth-basic`) are for devices of other makes that support nothing better: they
put credentials in the message's `Cred`, which do not protect the rest of the message. They rely on TLS for that, and
are valid only for accounts that were created with them.

We answer credentials in `Cred` with 200, never 212: they are required with every message, since nothing else ties a
message to its session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from omadm import auth
from omadm.auth import AUTH_BASIC, AUTH_MAC, AUTH_MD5, NONCE_BYTES_MAX, AuthError, AuthFailure
from omadm.bootstrap import Account
from omadm.syncml.messages import Chal, Cred, Status, SyncML

AUTH_TYPES = ("HMAC", "DIGEST", "BASIC")  # as DMAcc calls them
CRED_CHARS_MAX = 4096


class Scheme(Protocol):
    """An authentication scheme. `type` is its name in a challenge."""

    type: str

    def verify(self, message: SyncML, body: bytes, header: str | None, account: Account, nonce: bytes) -> None:
        """Check that the message comes from the device of `account`, with `nonce`. Raises `AuthError` otherwise."""

    def chal(self, nonce: bytes) -> Chal:
        """The challenge for a device that was refused."""

    def accepted(self, nonce: bytes) -> Chal | None:
        """The challenge that accompanies status 200 of a header: the next nonce; None for a scheme without nonces."""

    def cred(self, account: Account) -> Cred | None:
        """Our credentials inside a message; None for a scheme that has none there."""

    def mac(self, body: bytes, account: Account) -> str | None:
        """Our credentials in the transport header `x-syncml-hmac`; None for a scheme that does not use it."""


class Mac:
    """`syncml:auth-MAC` in both directions; our answers use the first of `algorithms`."""

    type = AUTH_MAC

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._algorithms = tuple(algorithms)

    def verify(self, message: SyncML, body: bytes, header: str | None, account: Account, nonce: bytes) -> None:  # noqa: ARG002
        auth.verify_hmac(header, body, account.client_name, account.client_secret, nonce, self._algorithms)

    def chal(self, nonce: bytes) -> Chal:
        return Chal(self.type, "b64", nonce)

    def accepted(self, nonce: bytes) -> Chal | None:
        return self.chal(nonce)

    def cred(self, account: Account) -> Cred | None:  # noqa: ARG002
        return None

    def mac(self, body: bytes, account: Account) -> str | None:
        return auth.hmac_header(
            body, account.server_name, account.server_secret, account.server_nonce, self._algorithms[0]
        )


class _InMessage:
    """What the two schemes with `Cred` have in common."""

    type: str

    def _data(self, message: SyncML) -> str:
        """The device's credentials. Raises `AuthError`."""
        cred = message.hdr.cred
        if cred is None:
            raise AuthError(AuthFailure.MISSING)
        if cred.type.lower() != self.type or len(cred.data) > CRED_CHARS_MAX:
            raise AuthError(AuthFailure.ALGORITHM)
        return cred.data

    def mac(self, body: bytes, account: Account) -> str | None:  # noqa: ARG002
        return None


class Md5(_InMessage):
    """`syncml:auth-md5`, with a new nonce for every message."""

    type = AUTH_MD5

    def verify(self, message: SyncML, body: bytes, header: str | None, account: Account, nonce: bytes) -> None:  # noqa: ARG002
        auth.verify_md5(self._data(message), account.client_name, account.client_secret, nonce)

    def chal(self, nonce: bytes) -> Chal:
        return Chal(self.type, "b64", nonce)

    def accepted(self, nonce: bytes) -> Chal | None:
        return self.chal(nonce)

    def cred(self, account: Account) -> Cred | None:
        return Cred(auth.md5(account.server_name, account.server_secret, account.server_nonce), self.type)


class Basic(_InMessage):
    """`syncml:auth-basic`: name and secret in the clear, no nonce."""

    type = AUTH_BASIC

    def verify(self, message: SyncML, body: bytes, header: str | None, account: Account, nonce: bytes) -> None:  # noqa: ARG002
        auth.verify_basic(self._data(message), account.client_name, account.client_secret)

    def chal(self, nonce: bytes) -> Chal:  # noqa: ARG002
        return Chal(self.type, "b64")

    def accepted(self, nonce: bytes) -> Chal | None:  # noqa: ARG002
        return None

    def cred(self, account: Account) -> Cred | None:
        return Cred(auth.basic(account.server_name, account.server_secret), self.type)


@dataclass(frozen=True, slots=True)
class Schemes:
    """The scheme of each account, by its `auth_type`."""

    by_type: Mapping[str, Scheme]

    @classmethod
    def with_mac(cls, algorithms: Sequence[str]) -> Schemes:
        return cls({"HMAC": Mac(algorithms), "DIGEST": Md5(), "BASIC": Basic()})

    def of(self, account: Account) -> Scheme:
        """The scheme of `account`; for `TRANSPORT`, and whatever else is not supported here, the strictest one."""
        return self.by_type.get(account.auth_type, self.by_type["HMAC"])


def nonce_for_us(message: SyncML, kind: str) -> bytes | None:
    """The nonce for our next message: from the challenge in the peer's status for our header."""
    for status in message.of(Status):
        if status.cmd_ref == "0" and status.chal is not None and status.chal.type.lower() == kind.lower():
            nonce = status.chal.next_nonce
            return nonce if nonce is not None and len(nonce) <= NONCE_BYTES_MAX else None
    return None
