"""Who a device is, as operations: what SSMP asks of the place where the long-term secret is, which never gives it away.

The cores get a `SecurityModule` and no octets of a key. On the device there are several kinds (`agent.ssmp`); the
security server, which has the keys of all devices, uses `SharedKey`.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from typing import Protocol

from omadm.ssmp.errors import SsmpUsageError
from omadm.ssmp.limits import DEVICE_KEY_BYTES


class KeyModule(ABC):
    """Holds a device key, which the security server knows as well."""

    version_min = 3  # the oldest version of SSMP in which it can prove itself; the older ones need `extract`

    @abstractmethod
    def mac(self, data: bytes) -> bytes:
        """HMAC-SHA-256 with the device key, 32 bytes."""

    def extract(self, salt: bytes) -> bytes:
        """HKDF-Extract of RFC 5869: HMAC-SHA-256 with `salt` as the key, over the device key; 32 bytes.

        Versions 1 and 2 begin with it. Raises `SsmpUsageError` in a module that cannot do it, as tokens cannot.
        """
        raise SsmpUsageError(f"this module makes no keys for versions before {self.version_min} ({len(salt)} bytes)")


class CertificateModule(ABC):
    """Holds the private key of a certificate: ECDSA with P-256."""

    version_min = 3

    @property
    @abstractmethod
    def certificate(self) -> bytes:
        """The device's certificate in DER."""

    @abstractmethod
    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-256: r and s, 64 bytes."""

    @abstractmethod
    def check_server(self, certificate: bytes, signature: bytes, data: bytes) -> None:
        """Check that the security server's certificate (DER) is good, and that its key signed `data`. Raises
        `SsmpError` otherwise."""


SecurityModule = KeyModule | CertificateModule


class SharedKey(KeyModule):
    """A device key of 32 bytes in memory. Its repr does not show it."""

    __slots__ = ("_key",)

    version_min = 1

    def __init__(self, key: bytes) -> None:
        if len(key) != DEVICE_KEY_BYTES:
            raise SsmpUsageError(f"a device key has {DEVICE_KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def __repr__(self) -> str:
        return "SharedKey(...)"

    def mac(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256")

    def extract(self, salt: bytes) -> bytes:
        return hmac.digest(salt, self._key, "sha256")

    def same(self, key: bytes) -> bool:
        """Whether this is that key, in constant time."""
        return hmac.compare_digest(self._key, key)


class ServerCertificates(Protocol):
    """What the security server does with certificates: shows its own, and judges those of devices."""

    @property
    def certificate(self) -> bytes:
        """The server's certificate in DER."""

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-256 and the key of that certificate: r and s, 64 bytes."""

    def proves(self, device_id: str, certificate: bytes, signature: bytes, data: bytes) -> bool:
        """Whether `certificate` (DER) is one that this device may show, and its key signed `data`."""
