"""The SQLite file below the store: how it is opened, checked, written, and set aside when it is not sound.

Nothing here knows what a reading is. `StoreFile.run(work)` runs one piece of work under a lock; what it changed is
committed, counters and all, or not at all. Counters live in the file and have a copy in memory that follows the disk,
never the other way round.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

LOG = logging.getLogger("agent.metering.store")

FORMAT = 1
PAGE_BYTES = 4096
WAL_BYTES_MAX = 1 << 20
BUSY_TIMEOUT_S = 5.0  # another process (an agent that is just ending) may hold the file
CACHE_KIB = 1024  # the board has 128 MiB for everything
COUNTERS = ("next", "released", "forwarded", "lost", "refused")

# The types are checked because SQLite itself takes anything anywhere, also from a damaged page; `quick_check` looks at
# these constraints too.
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE block (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, made REAL NOT NULL, body BLOB NOT NULL,"
    " CHECK (typeof(last) = 'integer' AND last >= first AND typeof(made) = 'real' AND typeof(body) = 'blob'))",
    "CREATE TABLE progress (meter TEXT, task TEXT, run INTEGER NOT NULL, PRIMARY KEY (meter, task),"
    " CHECK (typeof(meter) = 'text' AND typeof(task) = 'text' AND typeof(run) = 'integer')) WITHOUT ROWID",
    "CREATE TABLE knowledge (meter TEXT PRIMARY KEY, body BLOB NOT NULL,"
    " CHECK (typeof(meter) = 'text' AND typeof(body) = 'blob')) WITHOUT ROWID",
    "CREATE TABLE refused (id INTEGER PRIMARY KEY, record TEXT NOT NULL, why TEXT NOT NULL)",
)
_TABLES = {"meta", "block", "progress", "knowledge", "refused"}

# Primary result codes that speak of the file system or of another process, not of the file's content.
_ENVIRONMENT = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}

ResultT = TypeVar("ResultT")


class StoreError(Exception):
    """The environment's fault: the file system is full, read-only or failing. Nothing was stored. `full`: the file
    has reached its bound."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class StoreCorruptError(Exception):
    """What is in the file is no store of ours."""


class StoreFile:
    """One file, one connection, used by many threads one at a time. Opened when first needed, and again after trouble:
    a file system that fails for a while must not end the process."""

    def __init__(self, file: Path, bytes_max: int) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._counters: dict[str, int] = {}
        self.uuid = ""
        self.busy_timeout_s = BUSY_TIMEOUT_S

    def run(self, work: Callable[[sqlite3.Connection, dict[str, int]], ResultT]) -> ResultT:
        """Run `work(db, counters)` as one transaction and return its result. `work` may change the counters.

        A corrupt file is set aside, and the work is done on a new store. Raises `StoreError`; nothing was changed then.
        """
        with self._lock:
            for _ in range(2):
                try:
                    return self._attempt(work)
                except (sqlite3.ProgrammingError, sqlite3.NotSupportedError):
                    self._roll_back()  # our own defect, which says nothing about the file
                    raise
                except (sqlite3.DatabaseError, StoreCorruptError, UnicodeDecodeError) as error:
                    # The last one: SQLite quotes a damaged schema in its message, and Python cannot decode that.
                    self._roll_back()
                    if is_environment(error):
                        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
                        if not full:
                            self._drop_connection()
                        raise StoreError(f"{self._file}: {error}", full=full) from error
                    self._quarantine(str(error))
                except OSError as error:
                    self._roll_back()
                    raise StoreError(f"{self._file}: {error}") from error
                except BaseException:
                    self._roll_back()  # half a transaction must not be there for the next piece of work to commit
                    raise
            raise StoreError(f"{self._file}: corrupt again right after it was made anew")

    def close(self) -> None:
        with self._lock:
            self._drop_connection()

    def __del__(self) -> None:
        # A connection wants to be closed, not collected. Without the lock: nobody else can hold us any more.
        db = getattr(self, "_db", None)
        if db is not None:
            db.close()

    # --- inside ---

    def _attempt(self, work: Callable[[sqlite3.Connection, dict[str, int]], ResultT]) -> ResultT:
        db = self._db or self._open()
        counters = dict(self._counters)
        result = work(db, counters)
        changed = [(value, key) for key, value in counters.items() if value != self._counters[key]]
        if changed:
            db.executemany("UPDATE meta SET value=? WHERE key=?", changed)
        db.commit()
        self._counters = counters
        return result

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self._file.exists()
        db = sqlite3.connect(self._file, check_same_thread=False, timeout=self.busy_timeout_s)
        try:
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            self._file.chmod(0o600)
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory file: JFFS2 cannot map one
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")  # every commit reaches the medium
            db.execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_BYTES_MAX // PAGE_BYTES}")
            db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            if db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
                _create(db)
                if fresh:
                    _sync_folder(self._file.parent)
            db.execute(f"PRAGMA max_page_count={self._bytes_max // PAGE_BYTES}")
            self.uuid, self._counters = _check(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    def _roll_back(self) -> None:
        if self._db is not None:
            try:
                self._db.rollback()
            except sqlite3.Error as error:
                LOG.debug("rollback: %s", error)

    def _drop_connection(self) -> None:
        """After trouble of the file system the connection's own state cannot be trusted either."""
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error as error:
                LOG.debug("close: %s", error)
            self._db = None

    def _quarantine(self, why: str) -> None:
        """Set the file aside in place of one set aside before. Raises `StoreError` when not even that works."""
        aside = self._file.with_name(self._file.name + ".corrupt")
        LOG.critical(
            "the store %s is corrupt (%s): kept as %s, a new one begins",
            self._file,
            why,
            aside.name,
            extra={"event": "store.corrupt"},
        )
        self._drop_connection()
        try:
            for suffix in ("-wal", "-shm", "-journal", ""):
                old, new = (path.with_name(path.name + suffix) for path in (self._file, aside))
                if old.exists():
                    old.replace(new)
                else:
                    new.unlink(missing_ok=True)
            _sync_folder(self._file.parent)
        except OSError as error:
            raise StoreError(f"{self._file}: cannot be set aside: {error}") from error


def is_environment(error: Exception) -> bool:
    """Return whether SQLite blames the file system, memory or another process, and not the content of the file."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in _ENVIRONMENT if isinstance(error, sqlite3.Error) else False


def _create(db: sqlite3.Connection) -> None:
    """Make an empty store in one transaction: there is no moment at which half of one exists."""
    db.execute("BEGIN")
    for statement in _SCHEMA:
        db.execute(statement)
    meta: dict[str, object] = {"format": FORMAT, "uuid": uuid.uuid4().hex, **dict.fromkeys(COUNTERS, 0), "next": 1}
    db.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    db.commit()


def _check(db: sqlite3.Connection) -> tuple[str, dict[str, int]]:
    """Check the whole file, and return the store's uuid and counters. Raises `StoreCorruptError`."""
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreCorruptError(str(verdict))
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if not tables >= _TABLES:
        raise StoreCorruptError("a table is missing")
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("format") != FORMAT or not isinstance(meta.get("uuid"), str):
        raise StoreCorruptError(f"format {meta.get('format')!r}, not {FORMAT}")
    counters = {key: value for key in COUNTERS if isinstance(value := meta.get(key), int)}
    newest = db.execute("SELECT COALESCE(MAX(last), 0) FROM block").fetchone()[0]
    if set(counters) != set(COUNTERS) or not counters["released"] < counters["next"] > newest:
        raise StoreCorruptError("the counters do not agree with the records")
    return str(meta["uuid"]), counters


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
