"""The SQLite file below the store: how it is opened, checked, written, and quarantined when it cannot be used.

Nothing here knows what a reading is. `StoreFile.run(work)` runs one piece of work under a lock; what it changed is
committed, counters and all, or not at all. Counters live in the file and have a copy in memory that follows the disk,
never the other way round. `next` is not written when nothing else changes: it follows from the blocks.

A file that is damaged, or of a format that only a later version knows, goes into quarantine as `NAME.quarantine-N`, and
a new store begins. What is left in quarantined files is recovered step by step, one with each piece of work
(recovery.py).

Damage to SQLite's log alone would go unnoticed: what lies behind it is ignored, and the store is as it was some time
ago. Ids would then be used for the second time, and a head-end that knows them would drop new readings. So a sign of
life lies beside the file (life_sign.py); a store that holds less than its sign says is damaged, and so is one whose
sign cannot be read. Where there is no store at all beside a sign, that one is lost as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent.clock import Clock
from agent.metering.store import events, life_sign, recovery
from agent.metering.store.life_sign import LifeSign, LifeSignFile, WaitingReports
from agent.metering.store.recovery import QuarantinedFile
from agent.metering.store.store_schema import (
    FORMAT,
    SIGNED,
    StoreCorruptError,
    check,
    create,
    identity,
    migrate,
)
from agent.tree.newer import NewerFormatError

if TYPE_CHECKING:
    from agent.metering.store.salvage import SalvageReader

LOG = logging.getLogger("agent.metering.store")

PAGE_BYTES = 512  # a commit writes whole pages, first to the log and then to their place: small ones waste least
WAL_BYTES_MAX = 4 << 20  # a page that changes often goes to its place once per so much of the log
BUSY_TIMEOUT_S = 5.0  # another process (an agent that is just ending) may hold the file
CACHE_KIB = 256  # a batch and a visit touch fewer pages; with 1 MiB the daemon is 0.8 MB larger and no faster
DEFECTS_MAX = 64  # texts of errors that are logged once each
QUARANTINED_KEPT_MAX = 3  # of the files that were recovered, for whoever looks into what happened

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

_BESIDE = ("-wal", "-shm", "-journal")
_QUARANTINED = re.compile(r"\.(?:quarantine|aside)-(\d+)$")

ResultT = TypeVar("ResultT")


class StoreError(Exception):
    """The environment's fault: the file system is full, read-only or failing. Nothing was stored. `full`: the file
    has reached its bound, or the medium has no room for it."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class StoreDefectError(StoreError):
    """This software's own fault: a piece of work that the tables do not take, on a file that is sound. Nothing of it
    was stored, and all that is in the file stays."""


class StoreFile:
    """One file, one connection, used by many threads one at a time. Opened when first needed, and again after trouble:
    a file system that fails for a while must not end the process."""

    def __init__(self, file: Path, bytes_max: int, clock: Clock) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._clock = clock
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._found_sound = False  # all of it was read since it was opened
        self._defects: set[str] = set()  # that were said
        self._counters: dict[str, int] = {}
        self._when_done: list[Callable[[], None]] = []
        self._signs = LifeSignFile(file.with_name(file.name + life_sign.SUFFIX))
        self._quarantine = Quarantine(file, self._signs)
        self.uuid = ""
        self.sign = LifeSign()  # the last one that is durable
        self.gap_reports = WaitingReports()
        self.busy_timeout_s = BUSY_TIMEOUT_S

    def run(self, work: Callable[[sqlite3.Connection, dict[str, int]], ResultT]) -> ResultT:
        """Run `work(db, counters)` as one transaction and return its result. `work` may change the counters.

        A file that cannot be used is quarantined, and the work is done on a new store. Raises `StoreError`, and
        `StoreDefectError` for work that breaks the rules of a sound file; nothing was changed then.
        """
        with self._lock:
            for _ in range(2):
                try:
                    self._recover()
                    return self._attempt(work)
                except (sqlite3.ProgrammingError, sqlite3.NotSupportedError):
                    self._roll_back()  # our own defect, which says nothing about the file
                    raise
                except (sqlite3.IntegrityError, sqlite3.DataError) as error:
                    self._roll_back()
                    if self._is_sound():
                        self._say_defect(error)
                        raise StoreDefectError(f"{self._file}: {error}") from error
                    LOG.critical("the store %s is damaged: %s", self._file, error, extra={"event": "store.corrupt"})
                    self._quarantine_file()
                except NewerFormatError as error:
                    LOG.warning(
                        "the store %s was made by a later version of this software (%s): a new one begins, and that "
                        "version delivers what is in it",
                        self._file,
                        error,
                        extra={"event": "store.newer"},
                    )
                    self._quarantine_file()
                except (sqlite3.DatabaseError, StoreCorruptError, UnicodeDecodeError) as error:
                    # The last one: SQLite quotes a damaged schema in its message, and Python cannot decode that.
                    self._roll_back()
                    if is_environment(error):
                        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
                        if not full:
                            self._drop_connection()
                        raise StoreError(f"{self._file}: {error}", full=full) from error
                    LOG.critical("the store %s is damaged: %s", self._file, error, extra={"event": "store.corrupt"})
                    self._quarantine_file()
                except OSError as error:
                    self._roll_back()
                    raise StoreError(f"{self._file}: {error}", full=error.errno in life_sign.FULL) from error
                except BaseException:
                    self._roll_back()  # half a transaction must not be there for the next piece of work to commit
                    raise
            raise StoreError(f"{self._file}: corrupt again right after it was made anew")

    def when_done(self, said: Callable[[], None]) -> None:
        """Within a piece of work: do this once what it changed is durable, and not at all if it will not be."""
        self._when_done.append(said)

    def free_bytes(self) -> int:
        """Return how much room the medium has; as much as one can have, where it does not say."""
        try:
            found = os.statvfs(self._file.parent)
        except OSError:
            return sys.maxsize
        return found.f_bavail * found.f_frsize

    def note_sign(
        self,
        db: sqlite3.Connection,
        counters: dict[str, int],
        alive: float | None = None,
        lists_from: float | None = None,
    ) -> None:
        """Within a piece of work: make durable how far the store has come, and with `alive` that the ledger was in
        order then. What is written must have been committed before, but for `lists_from`, which is of reports of gaps
        that are about to be stored. Raises `OSError`."""
        count, first, since = events.waiting(db)
        waiting = self.gap_reports.since(counters["released"], recovering=self.recovering or _has_recovered(db))
        before = self.sign if alive is None else self.sign.alive_at(alive)
        sign = replace(
            before,
            number=self.sign.number + 1,
            store=self.uuid,
            reached=self.newest,
            released=counters["released"],
            delivered_to=_delivered_to(db, counters, self._clock.wall()),
            events=count,
            events_first=first,
            events_since=since,
            lists_from=min((at for at in (waiting, lists_from) if at), default=0.0),
        )
        self._signs.write(sign)
        self.sign = sign

    @property
    def newest(self) -> int:
        """The last id that was given out."""
        return self._counters["next"] - 1

    def names(self) -> list[Path]:
        """The files that are the store: the database."""
        return [self._file]

    @property
    def recovering(self) -> bool:
        """Whether a quarantined file is still being recovered."""
        return bool(self._quarantine.waiting)

    def close(self) -> None:
        with self._lock:
            self._quarantine.close()
            self._signs.close()
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
        self._when_done.clear()
        result = work(db, counters)
        if any(value != self._counters[key] for key, value in counters.items() if key != "next"):
            db.executemany("UPDATE meta SET value=? WHERE key=?", [(value, key) for key, value in counters.items()])
        db.commit()
        self._counters = counters
        self._say()
        return result

    def _say(self) -> None:
        """What was changed is durable."""
        said, self._when_done = self._when_done, []
        for each in said:
            each()

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self._file.exists()
        if fresh:  # what was left beside a file that was quarantined just before a power cut
            for suffix in _BESIDE:
                self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
        db = sqlite3.connect(self._file, check_same_thread=False, timeout=self.busy_timeout_s)
        try:
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            self._file.chmod(0o600)
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory file: JFFS2 cannot map one
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")  # every commit reaches the medium
            # Debian's SQLite would write zeros over every page that becomes free: a third of all that is written. What
            # is secret lies elsewhere.
            db.execute("PRAGMA secure_delete=OFF")
            db.execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_BYTES_MAX // PAGE_BYTES}")
            db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            made = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
            if made:
                create(db)
                self._when_done.clear()
                self._note_lost(db)  # committed with the store: the sign, which tells of it, is overwritten afterwards
                db.commit()
                self._say()
                if fresh:
                    _sync_folder(self._file.parent)
            page_bytes = db.execute("PRAGMA page_size").fetchone()[0]  # of an older file: as it was made
            db.execute(f"PRAGMA max_page_count={self._bytes_max // page_bytes}")
            check(db)
            had = migrate(db)
            self.uuid, self._counters = identity(db)
            self._look_at_sign(db)
            self._quarantine.look(db)
        except BaseException:
            db.close()
            raise
        if had != FORMAT:
            LOG.info("the store was of format %d, it is %d now", had, FORMAT, extra={"event": "store.migrated"})
        self._db, self._found_sound = db, False
        return db

    def _look_at_sign(self, db: sqlite3.Connection) -> None:
        """Hold the store to what its last sign says, or give a new one its first. Raises `StoreCorruptError`,
        `OSError`.

        Without the sign of a store that has one nobody knows whether the newest part of its log is there, and which ids
        were used: it goes into quarantine like a damaged one, so that no id is used twice, and all that is in it is
        recovered.
        """
        look = self._signs.look()
        self.sign = look.sign or LifeSign()
        newest = self._counters["next"] - 1
        self.gap_reports.take_up(self.sign, self.uuid, newest)
        signed = db.execute("SELECT 1 FROM identity WHERE key=?", (SIGNED,)).fetchone() is not None
        if signed:
            if look.doubtful or look.sign is None:
                raise StoreCorruptError("its sign of life cannot be read: its newest part may be missing")
            if self.sign.store != self.uuid:
                raise StoreCorruptError(f"its sign of life is of the store {self.sign.store}: it is not the newest one")
        if self.sign.store == self.uuid and newest < self.sign.reached:
            raise StoreCorruptError(f"it ends with record {newest}, and record {self.sign.reached} was in it")
        if self.sign.store != self.uuid or look.doubtful or not signed:
            for _ in range(life_sign.GENERATIONS):  # nothing of before is left in the file
                self.note_sign(db, self._counters)
        if not signed:  # it is new, or of before there were signs
            db.execute("INSERT INTO identity VALUES (?, 1)", (SIGNED,))
            db.commit()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # where damage to the log does not take it back

    def _note_lost(self, db: sqlite3.Connection) -> None:
        """In a new store, within the transaction that makes it: a sign of life without its store, which is not in
        quarantine either, is all that is left of that one. Raises `OSError`."""
        sign = self._signs.look().sign
        if sign is None or self._quarantine.of_store(sign):
            return
        _, counters = identity(db)
        recovery.note_store_lost(db, counters, sign, self._clock.wall(), when_done=self.when_done)
        db.executemany("UPDATE meta SET value=? WHERE key=?", [(value, key) for key, value in counters.items()])
        text = (
            "the store %s is gone, or empty, with all that it held: by its sign of life at most %d records of it were"
            " still to be delivered, and what was stored after that"
        )
        waiting, event = sign.reached - sign.released, {"event": "store.corrupt"}
        self.when_done(lambda: LOG.critical(text, self._file, waiting, extra=event))

    def _recover(self) -> None:
        """Take one step in recovering a quarantined file, where there is one.

        Trouble with that file is no trouble of the store: it is tried again when the store is opened next.
        """
        db = self._db or self._open()
        while (name := self._quarantine.next()) is not None:
            counters = dict(self._counters)
            self._when_done.clear()
            try:
                salvage = self._quarantine.salvage(name)
                before = recovery.recovery_state(db, name)
                if before is not None and before.done:  # as a store that was quarantined later knows
                    self._quarantine.finish(name, db)
                    continue
                now = self._clock.wall()
                if before is None:
                    after = recovery.begin(db, counters, name, salvage, now, when_done=self.when_done)
                else:
                    after = recovery.proceed(db, counters, before, salvage, now, when_done=self.when_done)
                db.executemany("UPDATE meta SET value=? WHERE key=?", [(value, key) for key, value in counters.items()])
                db.commit()
            except NewerFormatError as error:
                LOG.info("%s waits for the software that made it: %s", name, error, extra={"event": "store.newer"})
                self._quarantine.give_up(name)
                continue
            except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
                self._roll_back()
                LOG.warning("%s cannot be recovered now: %s", name, error, extra={"event": "store.salvage.failed"})
                self._quarantine.give_up(name)
                continue
            self._counters = counters
            self._say()
            if after.done:
                self._quarantine.finish(name, db)
                _log_recovered(after)
            return

    def _is_sound(self) -> bool:
        """Whether the rules of the tables hold in the file, so that work which breaks them is what is wrong. All of it
        is read, once while it is open. Raises `StoreError`."""
        if self._db is None:
            return False  # not even opened
        try:
            self._found_sound = self._found_sound or (
                self._db.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            )
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if is_environment(error):
                self._drop_connection()
                raise StoreError(f"{self._file}: {error}") from error
            return False
        return self._found_sound

    def _say_defect(self, error: sqlite3.Error) -> None:
        first = str(error) not in self._defects
        if len(self._defects) < DEFECTS_MAX:
            self._defects.add(str(error))
        LOG.log(
            logging.ERROR if first else logging.DEBUG,
            "what the store does not take is not stored, by a defect of this software: %s",
            error,
            exc_info=first,
            extra={"event": "store.defect"},
        )

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

    def _quarantine_file(self) -> None:
        """Put the file into quarantine. Raises `StoreError` when not even that works."""
        self._drop_connection()
        try:
            self._quarantine.add()
        except OSError as error:
            raise StoreError(f"{self._file}: cannot be quarantined: {error}") from error


class Quarantine:
    """The quarantined files: which there are, and which are still to be recovered."""

    def __init__(self, file: Path, signs: LifeSignFile) -> None:
        self._file = file
        self._signs = signs
        self._opened: tuple[str, sqlite3.Connection, SalvageReader] | None = None
        self.waiting: list[str] = []

    def add(self) -> None:
        """Put the file into quarantine under a name that none had before. Raises `OSError`.

        A database and its log must not part, not even by a power cut: the log has both names for a moment.
        """
        newest = max((_number(path.name) for path in self._files()), default=0)
        target = self._file.with_name(f"{self._file.name}.quarantine-{newest + 1}")
        for suffix in _BESIDE:
            old, new = (path.with_name(path.name + suffix) for path in (self._file, target))
            new.unlink(missing_ok=True)
            if old.exists():
                _link(old, new)
        _sync_folder(self._file.parent)
        self._signs.copy(target.with_name(target.name + life_sign.SUFFIX))
        self._file.replace(target)
        for suffix in _BESIDE:
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
        _sync_folder(self._file.parent)

    def look(self, db: sqlite3.Connection) -> None:
        """See which files there are; those that `db` has recovered wait no more, and only a few of them are kept."""
        done = {name for (name,) in db.execute("SELECT name FROM quarantined WHERE done")}
        # The last one first: it may have recovered one before it.
        there = sorted((path.name for path in self._files()), key=_number, reverse=True)
        self.waiting = [name for name in there if name not in done]
        for name in [name for name in there if name in done][QUARANTINED_KEPT_MAX:]:
            for suffix in ("", *_BESIDE, life_sign.SUFFIX):
                self._file.with_name(name + suffix).unlink(missing_ok=True)

    def of_store(self, sign: LifeSign) -> bool:
        """Whether the store of this sign lies in one of the files."""
        signs = (LifeSignFile(path.with_name(path.name + life_sign.SUFFIX)).read() for path in self._files())
        return any(found is not None and found.store == sign.store for found in signs)

    def next(self) -> str | None:
        return self.waiting[0] if self.waiting else None

    def salvage(self, name: str) -> SalvageReader:
        """Return a reader of the damaged file `name`.

        Raises `NewerFormatError`, `sqlite3.Error` for trouble of the file system.
        """
        if self._opened is None or self._opened[0] != name:
            from agent.metering.store.salvage import SalvageReader  # not at the top: hardly ever is a file damaged

            self.close()
            path = self._file.with_name(name)
            db = sqlite3.connect(path, check_same_thread=False)
            self._opened = (name, db, SalvageReader(db, path))
            db.text_factory = lambda text: text.decode("utf-8", "replace")
            with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):  # damage, which is why it is here
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the pages of the file are the last ones
            _raise_if_newer(db)
        return self._opened[2]

    def give_up(self, name: str) -> None:
        """Leave the file for now; it is looked at again when the store is opened next."""
        self.close()
        self.waiting.remove(name)

    def finish(self, name: str, db: sqlite3.Connection) -> None:
        self.close()
        self.waiting.remove(name)
        waiting = list(self.waiting)
        self.look(db)
        self.waiting = waiting

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def _files(self) -> list[Path]:
        name = re.escape(self._file.name)
        # The last two as earlier versions named them.
        pattern = re.compile(rf"{name}\.(?:(?:quarantine|aside)-\d+|corrupt)")
        try:
            return [path for path in self._file.parent.iterdir() if pattern.fullmatch(path.name)]
        except OSError:
            return []


def _has_recovered(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM recovered LIMIT 1").fetchone() is not None


def _delivered_to(db: sqlite3.Connection, counters: dict[str, int], now: float) -> float:
    """The time before which nothing was stored that the head-end does not have."""
    waits = [now, db.execute("SELECT MIN(made) FROM recovered").fetchone()[0]]
    if counters["released"] < counters["next"] - 1:
        query = "SELECT made FROM block WHERE first <= ? ORDER BY first DESC LIMIT 1"
        waits += db.execute(query, (counters["released"] + 1,)).fetchone() or ()
    return min(made for made in waits if isinstance(made, float))


def _number(name: str) -> int:
    match = _QUARANTINED.search(name)
    return int(match[1]) if match else 0


def _raise_if_newer(db: sqlite3.Connection) -> None:
    try:
        found = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return
    if found and isinstance(found[0], int) and found[0] > FORMAT:
        raise NewerFormatError(found[0], f"format {found[0]}")


def _log_recovered(file: QuarantinedFile) -> None:
    if file.uncounted and not (file.reached or file.salvaged or file.lost):  # "0 are lost" would be a guess
        LOG.error(
            "%s: nothing was found in it; how many readings it held is not known",
            file.name,
            extra={"event": "store.salvaged"},
        )
        return
    level = logging.ERROR if file.lost or file.uncounted else logging.WARNING
    LOG.log(
        level,
        "%s: %d readings were recovered and wait for the head-end, %s are lost%s",
        file.name,
        file.salvaged,
        f"at most {file.lost}" if file.at_most else file.lost,
        ", and how many of the newest is not known" if file.uncounted else "",
        extra={"event": "store.salvaged"},
    )


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        old.replace(new)


def is_environment(error: Exception) -> bool:
    """Return whether SQLite blames the file system, memory or another process, and not the content of the file."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF in _ENVIRONMENT if isinstance(error, sqlite3.Error) else False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
