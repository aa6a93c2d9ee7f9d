"""Authentication schemes of DM accounts (OMA-TS-DM_Security 1.2, section 5), for both ends: one small object each.

`HMAC` is the default between this project's two ends: a MAC over every message, in the transport header. `DIGEST`
(`syncml:auth-md5`) and `BASIC` (`syncml:auth-basic`) are for peers of other makes that support nothing better: they
put credentials in the message's `Cred`, which do not protect the rest of the message. They rely on TLS for that, and
are valid only for accounts that were created with them. `TRANSPORT` is TLS alone: nothing is said or wanted in a
message; only a server may be believed so, by its certificate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omadm import auth
from omadm.auth import (
    AUTH_BASIC,
    AUTH_MAC,
    AUTH_MD5,
    BASIC,
    DIGEST,
    HMAC,
    NONCE_BYTES_MAX,
    TRANSPORT,
    AuthError,
    AuthFailure,
)
from omadm.syncml.messages import Chal, Cred, Status, SyncML

CRED_CHARS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Credentials:
    """How one side proves itself: its name, its secret, and the nonce for its next message."""

    name: str
    secret: str = field(repr=False)
    nonce: bytes = field(repr=False)


class Scheme(Protocol):
    """An authentication scheme. `type` is its name in a challenge; empty for one that has no challenge.

    `nonced`: each message needs the nonce that came with the answer to the one before. `session`: credentials may be
    accepted for a whole session (status 212); a MAC may not, because it protects one message.
    """

    type: str
    nonced: bool
    session: bool

    def verify(self, message: SyncML, body: bytes, header: str | None, peer: Credentials) -> None:
        """Check that the message comes from `peer`. Raises `AuthError` otherwise."""

    def chal(self, nonce: bytes) -> Chal | None:
        """The challenge for a peer that was refused."""

    def accepted(self, nonce: bytes) -> Chal | None:
        """The challenge that accompanies a good status of a header: the next nonce; None for a scheme without."""

    def cred(self, own: Credentials) -> Cred | None:
        """Our credentials inside a message; None for a scheme that has none there."""

    def mac(self, body: bytes, own: Credentials) -> str | None:
        """Our credentials in the transport header `x-syncml-hmac`; None for a scheme that does not use it."""


class Mac:
    """`syncml:auth-MAC` in both directions; what we sign uses the first of `algorithms`."""

    type = AUTH_MAC
    nonced, session = True, False

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._algorithms = tuple(algorithms)

    def verify(self, message: SyncML, body: bytes, header: str | None, peer: Credentials) -> None:  # noqa: ARG002
        auth.verify_hmac(header, body, peer.name, peer.secret, peer.nonce, self._algorithms)

    def chal(self, nonce: bytes) -> Chal | None:
        return Chal(self.type, "b64", nonce)

    def accepted(self, nonce: bytes) -> Chal | None:
        return self.chal(nonce)

    def cred(self, own: Credentials) -> Cred | None:  # noqa: ARG002
        return None

    def mac(self, body: bytes, own: Credentials) -> str | None:
        return auth.hmac_header(body, own.name, own.secret, own.nonce, self._algorithms[0])


class _InMessage:
    """What the two schemes with `Cred` have in common."""

    type: str
    session = True

    def _data(self, message: SyncML) -> str:
        """The peer's credentials. Raises `AuthError`."""
        cred = message.hdr.cred
        if cred is None:
            raise AuthError(AuthFailure.MISSING)
        if cred.type.lower() != self.type or len(cred.data) > CRED_CHARS_MAX:
            raise AuthError(AuthFailure.ALGORITHM)
        return cred.data

    def mac(self, body: bytes, own: Credentials) -> str | None:  # noqa: ARG002
        return None


class Md5(_InMessage):
    """`syncml:auth-md5`, with a new nonce for every message that carries it."""

    type = AUTH_MD5
    nonced = True

    def verify(self, message: SyncML, body: bytes, header: str | None, peer: Credentials) -> None:  # noqa: ARG002
        auth.verify_md5(self._data(message), peer.name, peer.secret, peer.nonce)

    def chal(self, nonce: bytes) -> Chal | None:
        return Chal(self.type, "b64", nonce)

    def accepted(self, nonce: bytes) -> Chal | None:
        return self.chal(nonce)

    def cred(self, own: Credentials) -> Cred | None:
        return Cred(auth.md5(own.name, own.secret, own.nonce), self.type)


class Basic(_InMessage):
    """`syncml:auth-basic`: name and secret in the clear, no nonce."""

    type = AUTH_BASIC
    nonced = False

    def verify(self, message: SyncML, body: bytes, header: str | None, peer: Credentials) -> None:  # noqa: ARG002
        auth.verify_basic(self._data(message), peer.name, peer.secret)

    def chal(self, nonce: bytes) -> Chal | None:  # noqa: ARG002
        return Chal(self.type, "b64")

    def accepted(self, nonce: bytes) -> Chal | None:  # noqa: ARG002
        return None

    def cred(self, own: Credentials) -> Cred | None:
        return Cred(auth.basic(own.name, own.secret), self.type)


class Transport:
    """Nothing in the message: the peer is who its TLS certificate says."""

    type = ""
    nonced, session = False, True

    def verify(self, message: SyncML, body: bytes, header: str | None, peer: Credentials) -> None:
        """Every message is good that came through this connection."""

    def chal(self, nonce: bytes) -> Chal | None:  # noqa: ARG002
        return None

    def accepted(self, nonce: bytes) -> Chal | None:  # noqa: ARG002
        return None

    def cred(self, own: Credentials) -> Cred | None:  # noqa: ARG002
        return None

    def mac(self, body: bytes, own: Credentials) -> str | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class Schemes:
    """The schemes by the `AAuthType` of an account."""

    by_type: Mapping[str, Scheme]

    @classmethod
    def with_mac(cls, algorithms: Sequence[str]) -> Schemes:
        return cls({HMAC: Mac(algorithms), DIGEST: Md5(), BASIC: Basic()})

    def with_transport(self) -> Schemes:
        return Schemes({**self.by_type, TRANSPORT: Transport()})

    def of(self, auth_type: str) -> Scheme:
        """The scheme of this name; the strictest one for whatever is not supported here."""
        return self.by_type.get(auth_type, self.by_type[HMAC])


def next_nonce(message: SyncML, scheme: Scheme) -> bytes | None:
    """The nonce for our next message: from the challenge in the peer's status for our header.

    A challenge that does not name its scheme counts as one of ours.
    """
    for status in message.of(Status):
        chal = status.chal
        if status.cmd_ref == "0" and chal is not None and chal.type.lower() in ("", scheme.type.lower()):
            nonce = chal.next_nonce
            return nonce if nonce is not None and len(nonce) <= NONCE_BYTES_MAX else None
    return None
