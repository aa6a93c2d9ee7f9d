"""The device keys that replace the factory's. Each is durable before the server is told that it is stored.

At most two: the one in use, and one that was given and has not been used successfully yet. Both ends keep the old one
until then. A key file with another key, which somebody put there, ends what came after the one before.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

from agent import log
from agent.tree.persistence import JsonFile
from omadm.ssmp.identity import KeyModule, SharedKey
from omadm.ssmp.limits import DEVICE_KEY_BYTES
from updateagent.disk import Disk

K = TypeVar("K", bound=KeyModule)


class DeviceKeys(ABC, Generic[K]):
    """The keys that came after the one of the factory, and that one. `unable`: why no other can be stored; empty where
    one can. Methods raise `OSError` or `SsmpError` for a place that cannot be used; the old values then stand."""

    @property
    @abstractmethod
    def unable(self) -> str: ...

    @abstractmethod
    def candidates(self) -> list[K]:
        """The keys to try, in this order."""

    @abstractmethod
    def offer(self, key: bytes) -> None:
        """Store a key that the server gives. It is tried first from now on."""

    @abstractmethod
    def worked(self, key: K) -> None:
        """Note that the server accepted this key; the other one is forgotten."""


class KeyStore(DeviceKeys[SharedKey]):
    """Device keys in a folder of their own. Methods that change something raise `OSError` when it cannot be stored; the
    old values then stand."""

    def __init__(self, disk: Disk, folder: Path, factory: bytes) -> None:
        """`factory`: the key of the key file. Raises `OSError`."""
        self._file = JsonFile(disk, folder, "device-keys")
        self._factory = factory
        self._mark = hashlib.sha256(b"dcu device key file " + factory).hexdigest()
        found = self._file.load()
        values = found if found.get("factory") == self._mark else {}
        self._key, self._next = _key_of(values.get("key")), _key_of(values.get("next"))

    unable = ""

    def candidates(self) -> list[SharedKey]:
        return [SharedKey(key) for key in (self._next, self._key or self._factory) if key]

    def offer(self, key: bytes) -> None:
        log.hide(key)
        self._save(self._key, key)

    def worked(self, key: SharedKey) -> None:
        if self._next and key.same(self._next):
            self._save(self._next, b"")
        elif self._next:
            self._save(self._key, b"")

    def _save(self, key: bytes, following: bytes) -> None:
        self._file.save({"factory": self._mark, "key": key.hex(), "next": following.hex()})
        self._key, self._next = key, following


def _key_of(value: object) -> bytes:
    """A stored key; empty for none, and for a value that cannot be one."""
    try:
        key = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""
    if len(key) != DEVICE_KEY_BYTES:
        return b""
    log.hide(key)
    return key
