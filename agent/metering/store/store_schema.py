"""The tables of the store, and how a file of an older version gets them.

Formats so far. A file is brought forward when it is opened, in one transaction; one of a newer format is left as it is
(`NewerFormatError`).

1. `block`, `progress`, `knowledge`, `refused`, `meta`.
2. What a block is about (`meter`, `marks`, `since`) stands in its row, so that it can be told when the body cannot be
   read any more; `progress.at`; `loss`, `aside`, `adopted`; `meta` has a copy, `identity`, on a page of its own;
   `delivered` has what the head-end holds above the watermark `released`, `resend` what it wants once more,
   `sink` the positions of others.
3. The ledger's tables (`agent.metering.ledger`): `gap`, `account`, `era`, `alive`.
4. `aside` is `quarantined`, `adopted` is `recovered`; `loss.reach`; `knowledge` has row ids.
5. `event` has the newest events of meters, by the id of their record: their keys, so that one that a meter repeats is
   known after a restart as well, and `urgent` while they go ahead of readings.
6. `calendar`, where run times are no period: its `id` is less than 0 and stands for `every` in `gap` and `account`.
7. `era` is gone: nobody wrote it.

`block.marks` is the progress of the visit, JSON [[meter, task, run], …]. It moves to the table `progress` when the
block goes: a page less to write per visit, which on flash is a good part of the wear.
"""

from __future__ import annotations

import secrets
import sqlite3

from agent.tree.newer import NewerFormatError

FORMAT = 7
COUNTERS = ("next", "released", "forwarded", "lost", "refused", "holes")
NO_MARKS = "[]"

# The types are checked because SQLite itself takes anything anywhere, also from a damaged page; `quick_check` looks at
# these constraints too. The columns before `body` are found without reading the pages that hold the body.
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE block (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, made REAL NOT NULL,"
    " meter TEXT NOT NULL DEFAULT '', marks TEXT NOT NULL DEFAULT '[]', since REAL NOT NULL DEFAULT 0,"
    " body BLOB NOT NULL,"
    " CHECK (typeof(last) = 'integer' AND last >= first AND typeof(made) = 'real' AND typeof(body) = 'blob'))",
    "CREATE TABLE progress (meter TEXT, task TEXT, run INTEGER NOT NULL, at INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (meter, task),"
    " CHECK (typeof(meter) = 'text' AND typeof(task) = 'text' AND typeof(run) = 'integer')) WITHOUT ROWID",
    "CREATE TABLE knowledge (meter TEXT PRIMARY KEY, body BLOB NOT NULL,"
    " CHECK (typeof(meter) = 'text' AND typeof(body) = 'blob')) WITHOUT ROWID",
    "CREATE TABLE refused (id INTEGER PRIMARY KEY, record TEXT NOT NULL, why TEXT NOT NULL)",
)
_SINCE_2 = (
    "CREATE TABLE identity (key TEXT PRIMARY KEY, value)",
    # Blocks of an earlier store of this device that wait for the head-end, under the ids that they have there.
    "CREATE TABLE adopted (seq INTEGER PRIMARY KEY, store TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,"
    " made REAL NOT NULL, meter TEXT NOT NULL, marks TEXT NOT NULL, since REAL NOT NULL, body BLOB NOT NULL,"
    " UNIQUE (store, first),"
    " CHECK (typeof(first) = 'integer' AND typeof(last) = 'integer' AND last >= first AND typeof(body) = 'blob'))",
    "CREATE TABLE loss (seq INTEGER PRIMARY KEY AUTOINCREMENT, noted REAL NOT NULL, meter TEXT NOT NULL,"
    " since REAL NOT NULL, until REAL NOT NULL, records INTEGER NOT NULL, why TEXT NOT NULL)",
    "CREATE TABLE delivered (first INTEGER PRIMARY KEY, last INTEGER NOT NULL,"
    " CHECK (typeof(last) = 'integer' AND last >= first))",
    # The few blocks without a body are found without looking at the others; those others cost the index nothing.
    "CREATE INDEX block_empty ON block (first, last) WHERE length(body) = 0",
    "CREATE TABLE sink (name TEXT PRIMARY KEY, position INTEGER NOT NULL, missed INTEGER NOT NULL)",
    # What the head-end wants once more (resend.py).
    "CREATE TABLE resend (request INTEGER PRIMARY KEY, store TEXT NOT NULL, reached INTEGER NOT NULL,"
    " last INTEGER NOT NULL, since REAL NOT NULL, until REAL NOT NULL, sent INTEGER NOT NULL DEFAULT 0,"
    " refused INTEGER NOT NULL DEFAULT 0, gone TEXT NOT NULL DEFAULT '[]')",
    # The quarantined files that have been looked through.
    "CREATE TABLE aside (name TEXT PRIMARY KEY, noted REAL NOT NULL, store TEXT NOT NULL, reached INTEGER NOT NULL,"
    " stored_at REAL NOT NULL, salvaged INTEGER NOT NULL, lost INTEGER NOT NULL, done INTEGER NOT NULL)",
)
_SINCE_3 = (
    "CREATE TABLE gap (meter TEXT NOT NULL, task TEXT NOT NULL, profile TEXT NOT NULL, first INTEGER NOT NULL,"
    " last INTEGER NOT NULL, every INTEGER NOT NULL, reason TEXT NOT NULL,"
    " PRIMARY KEY (meter, task, profile, first)) WITHOUT ROWID",
    "CREATE TABLE account (meter TEXT NOT NULL, task TEXT NOT NULL, every INTEGER NOT NULL, phase INTEGER NOT NULL,"
    " settled INTEGER NOT NULL, PRIMARY KEY (meter, task)) WITHOUT ROWID",
    "CREATE TABLE era (meter TEXT NOT NULL, task TEXT NOT NULL, before INTEGER NOT NULL,"
    " PRIMARY KEY (meter, task)) WITHOUT ROWID",
    # When the ledger was looked at last, and which losses it knows of.
    "CREATE TABLE alive (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL, loss INTEGER NOT NULL)",
)
_SINCE_4 = (
    "ALTER TABLE aside RENAME TO quarantined",
    "ALTER TABLE adopted RENAME TO recovered",
    # The earliest time that rows of profiles among what was lost may speak of; 0: nobody knows.
    "ALTER TABLE loss ADD COLUMN reach REAL NOT NULL DEFAULT 0",
    # With row ids: what is learned of a meter fits into its leaf page then, and changes one page instead of four.
    "ALTER TABLE knowledge RENAME TO knowledge_3",
    "CREATE TABLE knowledge (meter TEXT NOT NULL UNIQUE, body BLOB NOT NULL,"
    " CHECK (typeof(meter) = 'text' AND typeof(body) = 'blob'))",
    "INSERT INTO knowledge (meter, body) SELECT meter, body FROM knowledge_3",
    "DROP TABLE knowledge_3",
)
_SINCE_5 = (
    "CREATE TABLE event (id INTEGER PRIMARY KEY, at REAL NOT NULL, key TEXT NOT NULL, urgent INTEGER NOT NULL)",
)
_SINCE_6 = ("CREATE TABLE calendar (id INTEGER PRIMARY KEY, times TEXT NOT NULL)",)
_SINCE_7 = ("DROP TABLE IF EXISTS era",)
LEDGER = {
    "gap": (("meter", "task", "profile", "first", "last", "every", "reason"), (str, str, str, int, int, int, str)),
    "account": (("meter", "task", "every", "phase", "settled"), (str, str, int, int, int)),
    "calendar": (("id", "times"), (int, str)),
}  # table → its columns and their types, for whoever salvages them
_TO_2 = (
    "ALTER TABLE block ADD COLUMN meter TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE block ADD COLUMN marks TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE block ADD COLUMN since REAL NOT NULL DEFAULT 0",
    "ALTER TABLE progress ADD COLUMN at INTEGER NOT NULL DEFAULT 0",
    *_SINCE_2,
    "INSERT INTO identity SELECT key, value FROM meta WHERE key = 'uuid'",
    "INSERT INTO meta VALUES ('holes', 0)",
)
_MIGRATIONS = {
    1: _TO_2,
    2: _SINCE_3,
    3: _SINCE_4,
    4: _SINCE_5,
    5: _SINCE_6,
    6: _SINCE_7,
}  # from this format to the next
SIGNED = "signed"
"""In `identity`: this store has got its first sign of life (life_sign.py)."""
_TABLES = {
    "meta",
    "block",
    "progress",
    "knowledge",
    "refused",
    "identity",
    "recovered",
    "loss",
    "quarantined",
    "delivered",
    "resend",
    "sink",
    "alive",
    "event",
    *LEDGER,
}


class StoreCorruptError(Exception):
    """What is in the file is no store of ours."""


def create(db: sqlite3.Connection) -> None:
    """Make an empty store in a transaction that the caller commits, with whatever a store has to know from its first
    moment on: there is none at which half of one exists."""
    db.execute("BEGIN")
    for statement in (*_SCHEMA, *_SINCE_2, *_SINCE_3, *_SINCE_4, *_SINCE_5, *_SINCE_6, *_SINCE_7):
        db.execute(statement)
    meta: dict[str, object] = {"format": FORMAT, "uuid": secrets.token_hex(16), **dict.fromkeys(COUNTERS, 0), "next": 1}
    db.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    db.execute("INSERT INTO identity VALUES ('uuid', ?)", (meta["uuid"],))


def migrate(db: sqlite3.Connection) -> int:
    """Bring a sound file of an older format forward. Returns the format that it had.

    Raises `NewerFormatError` and leaves the file as it is, and `StoreCorruptError` when it has no format at all.
    """
    found = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    had = found[0] if found else None
    if not isinstance(had, int) or had < 1:
        raise StoreCorruptError(f"format {had!r}")
    if had > FORMAT:
        raise NewerFormatError(had, f"format {had}, this software knows {FORMAT}")
    if had < FORMAT:
        db.execute("BEGIN")
        for each in range(had, FORMAT):
            for statement in _MIGRATIONS[each]:
                db.execute(statement)
        db.execute("UPDATE meta SET value=? WHERE key='format'", (FORMAT,))
        db.commit()
    return had


def check(db: sqlite3.Connection) -> None:
    """Check every page of the file, and that it has a store's first tables. Raises `StoreCorruptError`."""
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreCorruptError(str(verdict))
    if not {"meta", "block"} <= tables(db):
        raise StoreCorruptError("a table is missing")


def identity(db: sqlite3.Connection) -> tuple[str, dict[str, int]]:
    """Return the store's uuid and counters. Raises `StoreCorruptError`.

    `next` follows from the blocks where they are ahead of it: it is not written with every visit.
    """
    if not tables(db) >= _TABLES:
        raise StoreCorruptError("a table is missing")
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    counters = {key: value for key in COUNTERS if isinstance(value := meta.get(key), int)}
    if set(counters) != set(COUNTERS) or not isinstance(meta.get("uuid"), str):
        raise StoreCorruptError("a counter is missing")
    newest = db.execute("SELECT COALESCE(MAX(last), 0) FROM block").fetchone()[0]
    counters["next"] = max(counters["next"], newest + 1)
    if not counters["released"] < counters["next"]:
        raise StoreCorruptError("the counters do not agree with the records")
    return str(meta["uuid"]), counters


def tables(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
