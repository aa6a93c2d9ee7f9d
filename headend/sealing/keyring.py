"""The data keys: a table of them, wrapped under key-encryption keys, and those in memory that seal and open values.

An engine carries its key ring (`headend.db.open_engine`), so whoever has a connection can seal and open in it. One data
key is active and seals; during a rotation the one before still opens. Which one is active is asked in the transaction
that seals, because another process may rotate: a key that is gone never seals anything.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from headend.sealing import envelope
from headend.sealing.envelope import DATA_KEY_BYTES, KEY_ID_BYTES, NONCE_BYTES, Binding
from headend.sealing.errors import DataKeyMissingError, KeyMissingError, SealingError
from headend.sealing.sources import KeySource

OPTION = "dcu_keyring"  # the execution option under which an engine carries its ring

data_keys = Table(
    "data_keys",
    MetaData(),
    Column("id", String(2 * KEY_ID_BYTES), primary_key=True),
    Column("wrapped_by", String(64), nullable=False),  # the id of a key-encryption key
    Column("wrapped", LargeBinary, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("clear_gone", Float(53)),  # when no value of before sealing was left in the file; null: not yet
)


class KeyRing:
    """The data keys of one database. Thread-safe."""

    def __init__(
        self,
        source: KeySource,
        *,
        wall: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.source = source
        self._wall = wall
        self._random_bytes = random_bytes
        self._keys: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._wall()

    def unlock(self, connection: Connection) -> None:
        """Unwrap every data key of the database. Raises `KeySourceError`, and `DataKeyMissingError` without any."""
        rows = connection.execute(select(data_keys)).all()
        if not any(row.active for row in rows):
            raise DataKeyMissingError("the database holds no active data key, and what is sealed in it cannot be read")
        unwrapped = {row.id: self.source.unwrap(row.wrapped_by, row.wrapped, row.id) for row in rows}
        with self._lock:
            self._keys = unwrapped

    def make(self, connection: Connection, *, clear_gone: bool) -> str:
        """Make a data key, which is the active one from now on, under the newest key-encryption key; returns its id.

        `clear_gone`: the file holds no value from before sealing. Raises `KeyMissingError` without a key-encryption
        key: none is made here, because whoever runs the head-end has to know of it and keep a copy.
        """
        ids = self.source.ids()
        if not ids:
            raise KeyMissingError(f"{self.source.name}: there is no key yet")
        key, key_id = self._random_bytes(DATA_KEY_BYTES), self._random_bytes(KEY_ID_BYTES).hex()
        wrapped = self.source.wrap(ids[-1], key, key_id)
        now = self._wall()
        connection.execute(update(data_keys).values(active=False))
        connection.execute(
            insert(data_keys).values(
                id=key_id, wrapped_by=ids[-1], wrapped=wrapped, active=True, created=now,
                clear_gone=now if clear_gone else None,
            )
        )  # fmt: skip
        with self._lock:
            self._keys[key_id] = key
        return key_id

    def seal(self, connection: Connection, secret: bytes, binding: Binding) -> bytes:
        """Seal a value, in a transaction that writes. Raises `SealingError`."""
        return self.seal_under(connection, active(connection), secret, binding)

    def seal_under(self, connection: Connection, key_id: str, secret: bytes, binding: Binding) -> bytes:
        """Seal a value with this data key: the caller sees in the transaction that writes that it is the active one.
        Raises `SealingError`."""
        nonce = self._random_bytes(NONCE_BYTES)
        return envelope.seal(self._key(connection, key_id), bytes.fromhex(key_id), nonce, secret, binding)

    def unseal(self, connection: Connection, sealed: bytes, binding: Binding) -> bytes:
        """Open a value. Raises `SealedValueError`, and `SealingError` without its key."""
        return envelope.unseal(self._key(connection, envelope.key_id_of(sealed).hex()), sealed, binding)

    def _key(self, connection: Connection, key_id: str) -> bytes:
        with self._lock:
            known = self._keys.get(key_id)
        if known is not None:
            return known
        row = connection.execute(select(data_keys).where(data_keys.c.id == key_id)).one_or_none()
        if row is None:
            raise DataKeyMissingError(f"the database does not hold data key {key_id}")
        key = self.source.unwrap(row.wrapped_by, row.wrapped, row.id)
        with self._lock:
            self._keys[key_id] = key
        return key


def of(connection: Connection) -> KeyRing:
    """The ring of the engine that made a connection. Raises `SealingError` for one that was opened without."""
    ring = connection.get_execution_options().get(OPTION)
    if not isinstance(ring, KeyRing):
        raise SealingError("the database was opened without keys")
    return ring


def active(connection: Connection) -> str:
    """The id of the active data key. Raises `DataKeyMissingError`."""
    key_id = connection.scalars(select(data_keys.c.id).where(data_keys.c.active)).one_or_none()
    if key_id is None:
        raise DataKeyMissingError("the database holds no active data key")
    return str(key_id)


def drop_retired(connection: Connection) -> list[str]:
    """Delete all data keys but the active one; returns their ids."""
    gone = list(connection.scalars(select(data_keys.c.id).where(~data_keys.c.active)))
    connection.execute(delete(data_keys).where(~data_keys.c.active))
    return gone
