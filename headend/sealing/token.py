"""Key-encryption keys in a PKCS#11 token: they are made in it, are not extractable, and wrap by AES-GCM inside it.

It speaks through python-pkcs11, which only a head-end with such a token needs (`pip install 'dcu-agent[pkcs11]'`). A
session is opened for each use: there is one at each start and at each rotation.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headend.sealing.errors import KeyMissingError, KeySourceError, WrongKeyError
from headend.sealing.sources import read_private

IV_BYTES = 12  # AES-GCM's own: a key wraps a handful of data keys in its life
AES_BITS = 256
PIN_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """`module` is the vendor's library, `token` and `key` are labels, `pin_file` holds the user's PIN."""

    module: Path
    token: str
    key: str
    pin_file: Path


class TokenKeys:
    """A `KeySource`: the AES keys of one label in a token; their CKA_ID tells them apart, and grows with time."""

    def __init__(self, settings: TokenSettings, *, wall: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._wall = wall
        self._lock = threading.Lock()  # PKCS#11 libraries need not be thread-safe

    @property
    def name(self) -> str:
        return f"token {self._settings.token!r}, key {self._settings.key!r}"

    def ids(self) -> list[str]:
        with self._session() as (p11, session):
            return sorted(self._found(p11, session))

    def make(self) -> str:
        key_id = int(self._wall() * 1000).to_bytes(8, "big") + secrets.token_bytes(8)
        attribute: Any
        with self._session(writes=True) as (p11, session):
            attribute = p11.Attribute
            session.generate_key(
                p11.KeyType.AES,
                AES_BITS,
                label=self._settings.key,
                id=key_id,
                store=True,
                capabilities=p11.MechanismFlag.ENCRYPT | p11.MechanismFlag.DECRYPT,
                template={attribute.SENSITIVE: True, attribute.EXTRACTABLE: False, attribute.PRIVATE: True},
            )
        return key_id.hex()

    def wrap(self, key_id: str, data_key: bytes, associated: str) -> bytes:
        iv = secrets.token_bytes(IV_BYTES)
        with self._session() as (p11, session):
            key, parameters = self._key(p11, session, key_id), p11.GCMParams(iv, associated.encode())
            sealed: bytes = key.encrypt(data_key, mechanism=p11.Mechanism.AES_GCM, mechanism_param=parameters)
        return iv + sealed

    def unwrap(self, key_id: str, wrapped: bytes, associated: str) -> bytes:
        iv, sealed = wrapped[:IV_BYTES], wrapped[IV_BYTES:]
        with self._session() as (p11, session):
            key, parameters = self._key(p11, session, key_id), p11.GCMParams(iv, associated.encode())
            refusals = (p11.exceptions.EncryptedDataInvalid, p11.exceptions.EncryptedDataLenRange,
                        p11.exceptions.GeneralError, p11.exceptions.FunctionFailed)  # fmt: skip
            try:
                opened: bytes = key.decrypt(sealed, mechanism=p11.Mechanism.AES_GCM, mechanism_param=parameters)
            except refusals as error:  # which of them a library returns for a tag that does not fit differs
                raise WrongKeyError(
                    f"{self.name}: key {key_id} does not open data key {associated} of the database ({_said(error)})"
                ) from error
        return opened

    def retire(self, keep: Iterable[str]) -> list[str]:
        kept = set(keep)
        with self._session(writes=True) as (p11, session):
            found = self._found(p11, session)
            gone = [key_id for key_id in sorted(found)[:-1] if key_id not in kept]
            for key_id in gone:
                found[key_id].destroy()
        return gone

    def _key(self, p11: Any, session: Any, key_id: str) -> Any:
        try:
            return self._found(p11, session)[key_id]
        except KeyError:
            raise KeyMissingError(f"{self.name}: key {key_id}, which the database needs, is not in it") from None

    def _found(self, p11: Any, session: Any) -> dict[str, Any]:
        wanted = {p11.Attribute.CLASS: p11.ObjectClass.SECRET_KEY, p11.Attribute.LABEL: self._settings.key}
        return {each.id.hex(): each for each in session.get_objects(wanted) if each.id}

    @contextlib.contextmanager
    def _session(self, *, writes: bool = False) -> Generator[tuple[Any, Any], None, None]:
        """The library and a session of the user. Its errors become `KeySourceError`."""
        try:
            import pkcs11
        except ModuleNotFoundError as error:
            raise KeySourceError(
                f"{self.name}: {error.name} is not installed; a head-end with a token needs: "
                "pip install 'dcu-agent[pkcs11]'"
            ) from error
        pin = pin_of(self._settings.pin_file)
        with self._lock:
            try:
                token = pkcs11.lib(str(self._settings.module)).get_token(token_label=self._settings.token)
                with token.open(rw=writes, user_pin=pin) as session:
                    yield pkcs11, session
            except (pkcs11.exceptions.PKCS11Error, RuntimeError, OSError) as error:
                raise KeySourceError(f"{self.name}, {self._settings.module}: {_said(error)}") from error


def pin_of(path: Path) -> str:
    """The PIN in a file. Raises `KeySourceError`, which does not repeat it."""
    try:
        pin = read_private(path, PIN_BYTES_MAX).decode("utf-8").strip()
    except UnicodeDecodeError:
        pin = ""
    if not pin:
        raise KeySourceError(f"{path}: holds no PIN")
    return pin


def _said(error: Exception) -> str:
    """An error in words, with its type: these errors often have no text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
