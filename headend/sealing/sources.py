"""Where key-encryption keys come from: a file, or a PKCS#11 token (`headend.sealing.token`). They wrap data keys only,
at start and at a rotation: a slow token slows down nothing else."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from headend.sealing import envelope
from headend.sealing.envelope import DATA_KEY_BYTES, KEY_ID_BYTES, NONCE_BYTES, Binding
from headend.sealing.errors import (
    KeyFileModeError,
    KeyMissingError,
    KeySourceError,
    SealedValueError,
    WrongKeyError,
)

FILE_MODE = 0o600
KEY_FILE_BYTES_MAX = 4096
KEYS_MAX = 16  # in one file: the one in use, and those of rotations that were broken off
_LINE = re.compile(rf"dcu-headend-key 1 ([0-9a-f]{{{2 * DATA_KEY_BYTES}}})")
_LATER_LINE = re.compile(r"dcu-headend-key ([2-9]|[1-9][0-9]{1,3}) ")
_HEADER = (
    "# Key-encryption keys of the head-end's database; the last one is the newest. Without them the database is\n"
    "# worth nothing: keep a copy, and keep it apart from copies of the database. Lines are made by dcu-headend keys.\n"
)


class KeySource(Protocol):
    """Holds key-encryption keys. Each has an id; the newest wraps."""

    @property
    def name(self) -> str:
        """Where the keys are, for a person."""

    def ids(self) -> list[str]:
        """The ids of the keys, the newest last. Raises `KeySourceError`."""

    def make(self) -> str:
        """Make a key, durably; from now on it is the newest. Returns its id. Raises `KeySourceError`."""

    def wrap(self, key_id: str, data_key: bytes, associated: str) -> bytes:
        """Return a data key encrypted under one of the keys, bound to its id `associated`. Raises `KeySourceError`."""

    def unwrap(self, key_id: str, wrapped: bytes, associated: str) -> bytes:
        """Return a data key. Raises `KeyMissingError` without the key that wrapped it, `WrongKeyError` when that is
        another one of the same id, `KeySourceError`."""

    def retire(self, keep: Iterable[str]) -> list[str]:
        """Destroy all keys but the newest and those to keep; returns the ids of those that went. Raises
        `KeySourceError`."""


class KeyFile:
    """Keys in a file that only its owner may read. Read anew at each use: there is one at each start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return str(self._path)

    def ids(self) -> list[str]:
        return list(self._keys())

    def make(self) -> str:
        key = secrets.token_bytes(DATA_KEY_BYTES)
        with self._lock:
            known = self._keys() if self._path.exists() else {}
            if len(known) >= KEYS_MAX:
                raise KeySourceError(f"{self._path}: holds {len(known)} keys already")
            self._write([*known.values(), key])
        return _key_id(key)

    def wrap(self, key_id: str, data_key: bytes, associated: str) -> bytes:
        key = self._key(key_id)
        nonce = secrets.token_bytes(NONCE_BYTES)
        return envelope.seal(key, bytes.fromhex(key_id), nonce, data_key, _binding(associated))

    def unwrap(self, key_id: str, wrapped: bytes, associated: str) -> bytes:
        try:
            return envelope.unseal(self._key(key_id), wrapped, _binding(associated))
        except SealedValueError:
            raise WrongKeyError(
                f"{self._path}: its key {key_id} does not open data key {associated} of the database"
            ) from None

    def retire(self, keep: Iterable[str]) -> list[str]:
        kept = set(keep)
        with self._lock:
            known = self._keys()
            newest = list(known)[-1]
            gone = [key_id for key_id in known if key_id not in kept and key_id != newest]
            if gone:
                self._write([key for key_id, key in known.items() if key_id not in gone])
        return gone

    def _key(self, key_id: str) -> bytes:
        try:
            return self._keys()[key_id]
        except KeyError:
            raise KeyMissingError(f"{self._path}: key {key_id}, which the database needs, is not in it") from None

    def _keys(self) -> dict[str, bytes]:
        keys = key_lines(read_private(self._path, KEY_FILE_BYTES_MAX), str(self._path))
        return {_key_id(key): key for key in keys}

    def _write(self, keys: list[bytes]) -> None:
        """Replace the file as a whole, so that a cut leaves the old one or the new one."""
        lines = [f"dcu-headend-key 1 {key.hex()}\n" for key in keys]
        temporary = self._path.with_name(f"{self._path.name}.new")
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(_HEADER + "".join(lines))
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise KeySourceError(f"{self._path}: {error.strerror}") from error


class Sources:
    """Several sources as one: the first makes and wraps, the others only unwrap what they once wrapped."""

    def __init__(self, *sources: KeySource) -> None:
        self._sources = sources

    @property
    def name(self) -> str:
        return ", ".join(source.name for source in self._sources)

    def ids(self) -> list[str]:
        return [key_id for source in reversed(self._sources) for key_id in _ids_if_any(source)]

    def make(self) -> str:
        return self._sources[0].make()

    def wrap(self, key_id: str, data_key: bytes, associated: str) -> bytes:
        return self._holder(key_id).wrap(key_id, data_key, associated)

    def unwrap(self, key_id: str, wrapped: bytes, associated: str) -> bytes:
        return self._holder(key_id).unwrap(key_id, wrapped, associated)

    def retire(self, keep: Iterable[str]) -> list[str]:
        """Destroy keys of the first source only: those of another are for whoever put them there to destroy."""
        return self._sources[0].retire(keep)

    def _holder(self, key_id: str) -> KeySource:
        for source in self._sources:
            if key_id in _ids_if_any(source):
                return source
        raise KeyMissingError(f"{self.name}: key {key_id}, which the database needs, is not there")


def read_private(path: Path, bytes_max: int) -> bytes:
    """The content of a file that only its owner may use. Raises `KeyMissingError` when there is none,
    `KeyFileModeError` when others may use it, `KeySourceError` when it cannot be read or is larger."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise KeyMissingError(f"{path}: there is no such file") from None
    except OSError as error:
        raise KeySourceError(f"{path}: {error.strerror}") from error
    if mode & ~FILE_MODE:
        raise KeyFileModeError(f"{path}: others may use it (mode {mode:04o}); mode 0600 is wanted")
    if len(content) > bytes_max:
        raise KeySourceError(f"{path}: more than {bytes_max} bytes")
    return content


def key_lines(content: bytes, name: str) -> list[bytes]:
    """The keys in the text of a key file. Raises `KeySourceError`, which repeats nothing of it."""
    keys = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip() or line.startswith(b"#"):
            continue
        found = _LINE.fullmatch(line.decode("ascii", "replace"))
        if found is None:
            later = _LATER_LINE.match(line.decode("ascii", "replace"))
            why = f"a key of a later version ({later.group(1)})" if later else "no key"
            raise KeySourceError(f"{name}: line {number} is {why}")
        keys.append(bytes.fromhex(found.group(1)))
    if not 1 <= len(keys) <= KEYS_MAX:
        raise KeySourceError(f"{name}: 1 to {KEYS_MAX} keys are expected, not {len(keys)}")
    return keys


def _ids_if_any(source: KeySource) -> list[str]:
    try:
        return source.ids()
    except KeyMissingError:
        return []


def _key_id(key: bytes) -> str:
    """An id that is derived from the key: the same key has it in every file, and a wrong key is noticed by its id."""
    return hmac.digest(key, b"dcu-headend key id", "sha256")[:KEY_ID_BYTES].hex()


def _binding(associated: str) -> Binding:
    return Binding("data_keys", "wrapped", (associated,))
