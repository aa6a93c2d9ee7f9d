"""Security modules whose secret is in a PKCS#11 token, and the secrets that come after it.

Another key is made in the token, or put there, beside the one before, which is destroyed after the server has taken the
new one. What the token holds says which there are, and what the server takes says which is in force: the power may go
at any moment.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from agent import log
from agent.ssmp.certificate_file import DeviceCertificate, ServerTrust
from agent.ssmp.certificate_store import PairKey
from agent.ssmp.key_store import DeviceKeys
from agent.ssmp.pkcs11 import ECDSA, SHA256_HMAC, Token, TokenError
from omadm.ssmp import certificates
from omadm.ssmp.certificates import Certificate, CertificateError
from omadm.ssmp.identity import KeyModule

LOG = logging.getLogger("agent.ssmp")

FIXED = "its key is in a token, and the configuration has it stay: security_module.renewal"
PROTECTED = "its key is in a token that is write-protected"


class TokenKey(KeyModule):
    """A device key in a token."""

    def __init__(self, token: Token, label: str = "") -> None:
        """`label`: of the key; empty for the one that the configuration names."""
        self._token = token
        self.label = label or token.label

    def mac(self, data: bytes) -> bytes:
        return self._token.sign(data, SHA256_HMAC, self.label)

    def check(self) -> None:
        """Try the key. Raises `TokenError`."""
        self._token.check(self.label)
        self.mac(b"trial")


class TokenKeys(DeviceKeys[TokenKey]):
    """Device keys in a token. Nothing of them is stored elsewhere."""

    def __init__(self, token: Token, *, renewal: bool) -> None:
        """`renewal`: the token may be written."""
        self._token = token
        self._renewal = renewal

    @property
    def unable(self) -> str:
        return _unable(self._token, renewal=self._renewal)

    def candidates(self) -> list[TokenKey]:
        # One that the configuration names and is not there is named to the operator.
        return [TokenKey(self._token, label) for label in self._token.labels()] or [TokenKey(self._token)]

    def offer(self, key: bytes) -> None:
        """Store a key that the server gives. It is tried first from now on. It passes through the memory, once."""
        log.hide(key)
        before = self._token.labels()
        made = self._token.create(key)
        # The one in use is the oldest: what came after it was refused, or the server would not give another.
        _destroy_others(self._token, {made, *before[-1:]})

    def worked(self, key: TokenKey) -> None:
        if self._renewal:
            _destroy_others(self._token, {key.label})

    def check(self) -> None:
        """Try the newest key. Raises `TokenError`."""
        self.candidates()[0].check()


class TokenCertificate(DeviceCertificate):
    """The private key of a certificate in a token; the certificate itself is in a file."""

    def __init__(self, token: Token, certificate: Certificate, trust: ServerTrust, label: str = "") -> None:
        """`label`: of the key; empty for the one that the configuration names."""
        super().__init__(certificate, trust)
        self._token = token
        self._label = label

    def sign(self, data: bytes) -> bytes:
        return _signed(self._token, self._label, data)

    def check(self) -> None:
        """Try the key. Raises `TokenError`, also when it is not the certificate's."""
        self._token.check(self._label)
        try:
            certificates.check_signature(self._certificate, self.sign(b"trial"), b"trial")
        except CertificateError as error:
            raise TokenError(f"{self._token}: is not the key of the certificate") from error


@dataclass(frozen=True, slots=True)
class TokenPairKey:
    """A private key in a token. `point` is the public one."""

    token: Token
    label: str
    point: bytes

    def sign(self, data: bytes) -> bytes:
        return _signed(self.token, self.label, data)

    def module(self, certificate: Certificate, trust: ServerTrust) -> DeviceCertificate:
        return TokenCertificate(self.token, certificate, trust, self.label)

    def to_json(self) -> dict[str, str]:
        return {"label": self.label, "point": self.point.hex()}


class TokenPairKeys:
    """The private keys of certificates in a token."""

    def __init__(self, token: Token, *, renewal: bool) -> None:
        """`renewal`: the token may be written."""
        self._token = token
        self._renewal = renewal

    @property
    def unable(self) -> str:
        return _unable(self._token, renewal=self._renewal)

    def check(self, first: TokenCertificate) -> None:
        """Try the first key, or where that has gone the newest of those that came after it. Raises `TokenError`."""
        labels = self._token.labels()
        if labels and self._token.label not in labels:
            self._token.check(labels[0])
        else:
            first.check()

    def make(self) -> PairKey:
        return TokenPairKey(self._token, *self._token.generate())

    def read(self, stored: dict[str, Any]) -> PairKey | None:
        try:
            label, point = stored["label"], bytes.fromhex(stored["point"])
        except (KeyError, ValueError, TypeError):
            return None
        return TokenPairKey(self._token, label, point) if isinstance(label, str) and label else None

    def keep_only(self, own: PairKey | None, following: PairKey | None) -> None:
        kept = {each.label for each in (own, following) if isinstance(each, TokenPairKey)}
        if self._renewal:
            _destroy_others(self._token, kept if own is not None else kept | {self._token.label})


def _signed(token: Token, label: str, data: bytes) -> bytes:
    return token.sign(hashlib.sha256(data).digest(), ECDSA, label)


def _unable(token: Token, *, renewal: bool) -> str:
    if not renewal:
        return FIXED
    return PROTECTED if token.write_protected() else ""


def _destroy_others(token: Token, kept: Collection[str]) -> None:
    """Destroy what is of no use any more. Where that fails, the next registration tries again."""
    try:
        token.destroy_others(kept)
    except TokenError as error:
        LOG.warning("an old key is not destroyed: %s", error, extra={"event": "ssmp.key.stays"})
