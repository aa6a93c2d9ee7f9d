"""The certificates that came after the one of the factory, with their keys: durable before the server is told so.

Each key is in the store itself, or in a token. At most two: the one in use, and the next one. Of that there is first a
key, for which a certificate is asked; then the certificate, with which the device registers. Both ends keep the old one
until then. Another certificate file, which somebody put there, ends what came after the one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from agent.clock_floor import CertificateTime
from agent.ssmp.certificate_file import DeviceCertificate, HeldCertificate, ServerTrust
from agent.tree.persistence import JsonFile
from omadm.ssmp import certificates
from omadm.ssmp.certificates import Certificate, CertificateError
from updateagent.disk import Disk

ASKED_EVERY_S = 86_400.0  # a server that issues none is not asked more often


class PairKey(Protocol):
    """A private key that is stored, in a file or in a token."""

    @property
    def point(self) -> bytes:
        """The public key, as `certificates.point_of` gives it."""

    def sign(self, data: bytes) -> bytes:
        """Sign as `CertificateModule.sign` does."""

    def module(self, certificate: Certificate, trust: ServerTrust) -> DeviceCertificate:
        """The key with the certificate of it."""

    def to_json(self) -> dict[str, str]:
        """What finds it again: the key itself, or where in the token it is."""


class KeyPlace(Protocol):
    """Where the private keys are made, and go again. `unable`: why none can be made; empty where one can."""

    @property
    def unable(self) -> str: ...

    def make(self) -> PairKey:
        """A new key. Raises `SsmpError` where it cannot be made."""

    def read(self, stored: dict[str, Any]) -> PairKey | None:
        """The key that `to_json` told of; `None` for what is none."""

    def keep_only(self, own: PairKey | None, following: PairKey | None) -> None:
        """Destroy every other key but that in use, `None` for the factory's, and the next one, `None` for none."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """A private key in memory, stored with its certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def point(self) -> bytes:
        return certificates.point_of(self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        return certificates.sign(self.key, data)

    def module(self, certificate: Certificate, trust: ServerTrust) -> DeviceCertificate:
        return HeldCertificate(self.key, certificate, trust)

    def to_json(self) -> dict[str, str]:
        return {"key": self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex()}


class FileKeys:
    """Private keys in the store itself: they go with what is stored."""

    unable = ""

    def make(self) -> PairKey:
        return FileKey(ec.generate_private_key(ec.SECP256R1()))

    def read(self, stored: dict[str, Any]) -> PairKey | None:
        try:
            key = load_der_private_key(bytes.fromhex(stored["key"]), None)
        except (KeyError, ValueError, TypeError, UnsupportedAlgorithm):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            return None
        return FileKey(key)

    def keep_only(self, own: PairKey | None, following: PairKey | None) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Pair:
    """A key, and its certificate once that was issued."""

    key: PairKey
    certificate: Certificate | None = None

    @classmethod
    def of(cls, value: object, keys: KeyPlace) -> _Pair | None:
        """What is stored; None for none, and for what is none."""
        stored = value if isinstance(value, dict) else {}
        key = keys.read(stored)
        try:
            der = bytes.fromhex(stored.get("certificate", ""))
            found = certificates.read(der) if der else None
        except (ValueError, TypeError, CertificateError):
            return None
        if key is None or (found is not None and found.point != key.point):
            return None
        return cls(key, found)

    def to_json(self) -> dict[str, Any]:
        return {**self.key.to_json(), "certificate": "" if self.certificate is None else self.certificate.der.hex()}


class CertificateStore:
    """Certificates and their keys in a folder of their own. Methods that change something raise `OSError` when it
    cannot be stored; the old values then stand."""

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        factory: DeviceCertificate,
        device_id: str,
        certificate_time: Callable[[], CertificateTime],
        keys: KeyPlace | None = None,
    ) -> None:
        """`factory`: what the configuration names; `keys`: where its followers are, `None` for the store itself. Raises
        `OSError`."""
        self._keys = FileKeys() if keys is None else keys
        self._file = JsonFile(disk, folder, "device-certificates")
        self._factory = factory
        self._device_id = device_id
        self._certificate_time = certificate_time
        self._asked_at: float | None = None
        self._mark = hashlib.sha256(b"dcu device certificate file " + factory.certificate).hexdigest()
        found = self._file.load()
        values = found if found.get("factory") == self._mark else {}
        own = _Pair.of(values.get("own"), self._keys)
        self._own = own if own is not None and own.certificate is not None else None
        self._next = _Pair.of(values.get("next"), self._keys)

    @property
    def unable(self) -> str:
        """Why no other certificate can be asked for; empty where one can."""
        return self._keys.unable

    def candidates(self) -> list[DeviceCertificate]:
        """The certificates to try, in this order."""
        last = self._module(self._own) or self._factory
        newer = self._module(self._next)
        return [last] if newer is None else [newer, last]

    def due(self, monotonic: float) -> bool:
        """Whether the device is to ask for another certificate by itself: no more than a third of the period of the
        one in use is left, by a clock that something vouches for."""
        now = self._certificate_time().now
        if now is None or self.unable or (self._asked_at is not None and monotonic < self._asked_at + ASKED_EVERY_S):
            return False
        last = self.candidates()[0].period
        return now >= last.not_after - (last.not_after - last.not_before) / 3

    def asked(self, monotonic: float) -> None:
        """The server is asked now."""
        self._asked_at = monotonic

    def request(self) -> bytes:
        """A request (PKCS#10 in DER) for another certificate, of a key that is stored. It is the same key again as long
        as no certificate of it came. Raises `SsmpError` where there is no key to be had."""
        following = self._next
        if following is None or following.certificate is not None:
            # One that was made and is not stored, because the power went, goes before the next one is made.
            self._keep_only(self._own, self._next)
            following = _Pair(self._keys.make())
            self._save(self._own, following)
        return certificates.make_request(following.key.point, following.key.sign)

    def install(self, der: bytes) -> None:
        """Store the certificate that was asked for. It is tried first from now on. Raises `CertificateError` for one
        that this device could not use."""
        issued = certificates.read(der)
        if self._next is None or issued.point != self._next.key.point:
            raise CertificateError("a certificate of a key that is not this device's next one")
        if self._device_id not in issued.names or certificates.DEVICE.dotted_string not in issued.purposes:
            raise CertificateError("a certificate for another device, or for another purpose")
        self._save(self._own, replace(self._next, certificate=issued))

    def worked(self, used: DeviceCertificate) -> None:
        """The server has taken this one: the other is of no use. Its key is destroyed after that is stored."""
        following = self._next
        if following is None or following.certificate is None:
            pass
        elif used.certificate == following.certificate.der:
            self._save(following, None)
        else:
            self._save(self._own, None)
        self._keep_only(self._own, self._next)

    def _keep_only(self, own: _Pair | None, following: _Pair | None) -> None:
        self._keys.keep_only(None if own is None else own.key, None if following is None else following.key)

    def _module(self, pair: _Pair | None) -> DeviceCertificate | None:
        if pair is None or pair.certificate is None:
            return None
        return pair.key.module(pair.certificate, self._factory.trust)

    def _save(self, own: _Pair | None, following: _Pair | None) -> None:
        document = {
            "factory": self._mark,
            "own": None if own is None else own.to_json(),
            "next": None if following is None else following.to_json(),
        }
        self._file.save(document)
        self._own, self._next = own, following
