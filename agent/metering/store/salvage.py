"""What can still be read of a quarantined store file.

SQLite gives up a whole query at the first bad page. So blocks are asked for by ranges of their ids, and a range that
fails is halved until it is one id: what is lost is what lies on the bad pages, and nothing else. The small tables are
read from both ends towards the damage.

Blocks keep the identity of the store that they come from, (store, id), under which the head-end may have got some of
them: it recognises those when they are sent again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent.metering.store import life_sign
from agent.metering.store.carving import FILE_HEADER_BYTES, Carver, Field, page_bytes_of
from agent.metering.store.life_sign import LifeSignFile, Look
from agent.metering.store.store_schema import COUNTERS, LEDGER, NO_MARKS, SIGNED

ROWS_AT_ONCE = 64
QUERIES_MAX = 200_000  # some seconds; a file that needs more has lost its inner pages
ROWS_MAX = 100_000  # of a small table
SQL_ID_MAX = 2**63 - 1

Row = tuple[object, ...]
_TROUBLE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN)

_LOSS_KINDS = (int, float, str, float, float, int, str, float)
_BLOCK = ("first", "last", "made", "meter", "marks", "since", "body")


@dataclass(frozen=True, slots=True)
class Block:
    """One visit, as it lies in the file. `since`: the earliest time that its values speak of, 0 where not known."""

    first: int
    last: int
    made: float
    meter: str
    marks: str
    since: float
    body: bytes

    @property
    def records(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class StoreHeader:
    """What a store's file says of itself: its uuid (empty where that cannot be read), its counters, those that can be
    read, and whether it has had a sign of life."""

    store: str
    counts: Mapping[str, int]
    signed: bool = False

    @property
    def released(self) -> int | None:
        """The last id that was delivered, `None` when that is not known."""
        return self.counts.get("released")

    @property
    def next(self) -> int | None:
        """The id after the last that was given out, or a lower one, `None` when that is not known."""
        return self.counts.get("next")


class SalvageReader:
    """Reads what is left in a store's file. Damage never raises; trouble of the file system does.

    Where queries do not reach, its pages are looked through (carving.py). A page that is free by now may hold a block
    that was delivered long ago: those have ids that `released` covers, or else the head-end knows them.
    """

    def __init__(self, db: sqlite3.Connection, file: Path) -> None:
        self._queries = _Queries(db)
        self._file = file
        self._carved: dict[int, tuple[int, int]] | None = None  # first id → page and cell
        self._carved_meta: dict[object, object] = {}

    def head(self) -> StoreHeader:
        """What the file says of itself, and its sign of life where that knows better."""
        head, sign = self._head(), self.life().sign
        if sign is None or head.store not in ("", sign.store):
            return head
        counts = {**head.counts, "released": max(head.released or 0, sign.released)}
        return StoreHeader(sign.store, counts, head.signed)

    def life(self) -> Look:
        """The last sign of life of the store in this file."""
        return LifeSignFile(self._file.with_name(self._file.name + life_sign.SUFFIX)).look()

    @property
    def delivery_known(self) -> bool:
        """Whether the file itself says what was delivered, and no sign of life knows more: the newest sign may be five
        minutes old, and a page that was found in the file still older."""
        said, sign = self._queries.both_ends("meta", ("key", "value"), ("key",)), self.life().sign
        released = next((row[1] for row in said if row[0] == "released"), None)
        if not isinstance(released, int) or (sign is not None and sign.released > released):
            return False
        return self._queries.whole("delivered", "last")

    def _head(self) -> StoreHeader:
        meta = {row[0]: row[1] for row in self._queries.both_ends("meta", ("key", "value"), ("key",))}
        named = {row[0]: row[1] for row in self._queries.both_ends("identity", ("key", "value"), ("key",))}
        if "uuid" not in meta or "released" not in meta:
            self._carve()
            meta = {**self._carved_meta, **named, **meta}
        uuid = meta.get("uuid")
        counts = {name: value for name in COUNTERS if (value := _count(meta.get(name))) is not None}
        return StoreHeader(uuid if isinstance(uuid, str) else "", counts, SIGNED in named)

    @property
    def end_found(self) -> bool:
        """Whether the block with the highest id is known. Without it nobody knows how many ids were given out: the
        counter `next` is not written with every visit."""
        return self._queries.end_found

    def blocks(self, after: int) -> Iterator[Block]:
        """The blocks with ids above `after`, in their order; `body` is empty where only that cannot be read."""
        reached = after
        for block in self._queries.blocks(after):
            if block.first > reached + 1:
                yield from self._carve_out(reached, block.first - 1)
            yield block if block.body else self._carved_block(block.first) or block
            reached = block.last
        if self._queries.damaged:
            yield from self._carve_out(reached, SQL_ID_MAX)

    def recovered(self, after: int) -> Iterator[tuple[int, str, Block]]:
        """(number, store, block) of what it had from a store before it, from numbers above `after`."""
        return self._queries.recovered(after)

    @property
    def recovered_unread(self) -> bool:
        """Whether some of what it had from a store before it may be there and cannot be read; known when `recovered`
        has come to its end. One that never recovered a file had nothing."""
        return bool(self._queries.unread & {"recovered", "adopted"}) and self._was_damaged()

    @property
    def losses_unread(self) -> bool:
        """Whether it knew of losses that cannot be read; known after `losses`."""
        return "loss" in self._queries.unread and (self._was_damaged() or self._head().counts.get("lost", 1) > 0)

    def _was_damaged(self) -> bool:
        """Whether it took the place of another file, or that cannot be read."""
        return bool(self.quarantined()) or bool(self._queries.unread & {"quarantined", "aside"})

    def losses(self) -> list[Row]:
        """(noted, meter, since, until, records, why, reach) of what it knew to be lost, in the order of that."""
        names = ("seq", "noted", "meter", "since", "until", "records", "why", "reach")
        rows = self._queries.both_ends("loss", names, ("seq",))
        return [row[1:] for row in sorted(row for row in rows if all(map(isinstance, row, _LOSS_KINDS)))]

    def progress(self) -> list[Row]:
        """(meter, task, run)"""
        return self._queries.both_ends("progress", ("meter", "task", "run"), ("meter", "task"))

    def knowledge(self) -> list[Row]:
        """(meter, body)"""
        return self._queries.both_ends("knowledge", ("meter", "body"), ("meter",))

    def delivered(self) -> list[tuple[int, int]]:
        """(first, last) of what the head-end held above the watermark, ascending."""
        rows = self._queries.both_ends("delivered", ("first", "last"), ("first",))
        return sorted((row[0], row[1]) for row in rows if isinstance(row[0], int) and isinstance(row[1], int))

    def events_waiting(self, first: int) -> int:
        """How many events it had, from the id `first` on, that the head-end did not have."""
        rows = self._queries.both_ends("event", ("id", "urgent"), ("id",))
        return sum(1 for number, urgent in rows if urgent == 1 and isinstance(number, int) and number >= first)

    def quarantined(self) -> list[Row]:
        """The files that it had recovered itself."""
        names = ("name", "noted", "store", "reached", "stored_at", "salvaged", "lost", "done")
        tables = ("quarantined", "aside")  # the second up to format 3
        return [row for table in tables for row in self._queries.both_ends(table, names, ("name",))]

    def ledger(self, table: str) -> list[Row]:
        """The rows of a table of `store_schema.LEDGER` that are sound."""
        names, types = LEDGER[table]
        rows = self._queries.both_ends(table, names, names[:2])
        return [row for row in rows if all(isinstance(*pair) for pair in zip(row, types, strict=True))]

    @property
    def gaps_whole(self) -> bool:
        """Whether all open gaps can be read."""
        return self._queries.whole("gap", "reason") and self._queries.whole("calendar", "times")

    def refused(self) -> list[Row]:
        """(id, record, why)"""
        return self._queries.both_ends("refused", ("id", "record", "why"), ("id",))

    # --- pages ---

    def _carve_out(self, after: int, up_to: int) -> Iterator[Block]:
        """Blocks with ids from above `after` to `up_to` that queries did not find, in their order."""
        for first in sorted(self._carve()):
            if after < first <= up_to:
                block = self._carved_block(first)
                if block is not None and block.last <= up_to:
                    after = block.last
                    yield block

    def _carved_block(self, first: int) -> Block | None:
        where = self._carve().get(first)
        if where is None:
            return None
        with self._file.open("rb") as file:
            found = Carver(file, page_bytes_of(file.read(FILE_HEADER_BYTES))).record(*where)
        return _block_of(*found) if found is not None else None

    def _carve(self) -> dict[int, tuple[int, int]]:
        """Look through all pages, once."""
        if self._carved is None:
            self._carved = {}
            with self._file.open("rb") as file:
                carver = Carver(file, page_bytes_of(file.read(FILE_HEADER_BYTES)))
                for page, cell, rowid, fields in carver.records():
                    if rowid is not None and _is_block(fields):
                        self._carved[rowid] = (page, cell)
                    elif len(fields) in (2, 3) and isinstance(fields[-2], str):
                        self._carved_meta.setdefault(fields[-2], fields[-1])
        return self._carved


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < SQL_ID_MAX else None


class _Queries:
    """Queries over a file that may fail anywhere; each is bounded, and so is their number."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._queries = 0
        self.damaged = False
        self.unread: set[str] = set()  # the tables of which not everything could be read

    @property
    def end_found(self) -> bool:
        """Whether the pages that lead to the last block, and its own, can be read."""
        if "first" not in self._columns("block"):
            return False
        return self._highest("first", "block") < SQL_ID_MAX

    def blocks(self, after: int) -> Iterator[Block]:
        columns = self._columns("block")
        if {"first", "last", "made", "body"} <= columns:
            about = "meter, marks, since" if {"meter", "marks", "since"} <= columns else "'', '[]', 0.0"
            query = f"SELECT first, first, last, made, {about}, {{}} FROM block WHERE first BETWEEN ? AND ?"  # noqa: S608
            low = self._highest("first", "block", f"WHERE first <= {after + 1}", 1)  # the one that `after` lies in
            rows = self._between(query + " ORDER BY first LIMIT ?", low, self._highest("first", "block"))
            yield from (block for row in rows if (block := _block(row[1:])) is not None and block.last > after)

    def recovered(self, after: int) -> Iterator[tuple[int, str, Block]]:
        for table in ("recovered", "adopted"):  # the second up to format 3
            with self._about(table):
                if not {"seq", "store", *_BLOCK} <= self._columns(table):
                    continue
                columns = ", ".join(_BLOCK[:-1])
                query = f"SELECT seq, store, {columns}, {{}} FROM {table} WHERE seq BETWEEN ? AND ?"  # noqa: S608
                for row in self._between(query + " ORDER BY seq LIMIT ?", after + 1, self._highest("seq", table)):
                    block = _block(row[2:])
                    if block is not None and isinstance(row[1], str):
                        yield _number(row), row[1], block

    @contextmanager
    def _about(self, table: str) -> Iterator[None]:
        """What is asked in it is about this table."""
        before, self.damaged = self.damaged, False
        try:
            yield
        finally:
            if self.damaged:
                self.unread.add(table)
            self.damaged |= before

    def both_ends(self, table: str, names: tuple[str, ...], keys: tuple[str, ...]) -> list[Row]:
        """The rows of a small table from its beginning to the damage, and from its end back to it."""
        with self._about(table):
            if not set(names) <= self._columns(table):
                return []
            select = f"SELECT {', '.join(names)} FROM {table} ORDER BY "  # noqa: S608 - constants only
            found = dict.fromkeys(self._rows(select + ", ".join(keys)))
            found |= dict.fromkeys(self._rows(select + ", ".join(f"{key} DESC" for key in keys)))
            return list(found)

    def whole(self, table: str, column: str) -> bool:
        """Whether every row of a small table can be read; true where there is no such table."""
        before, self.damaged = self.damaged, False
        if column in self._columns(table):
            list(self._rows(f"SELECT {column} FROM {table}"))  # noqa: S608 - constants only
        whole, self.damaged = not self.damaged, before or self.damaged
        return whole

    # --- inside ---

    def _rows(self, query: str) -> Iterator[Row]:
        try:
            yield from islice(self._db.execute(query), ROWS_MAX)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Damage is what is expected here. Raises the error again when it speaks of the file system."""
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", -1) & 0xFF in _TROUBLE:
            raise error
        self.damaged = True

    def _columns(self, table: str) -> set[str]:
        try:
            return {str(row[1]) for row in self._db.execute(f"PRAGMA table_info({table})")}
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._note(error)
            return set()

    def _highest(self, column: str, table: str, where: str = "", otherwise: int = SQL_ID_MAX) -> int:
        for row in self._rows(f"SELECT MAX({column}) FROM {table} {where}"):  # noqa: S608 - no text of others
            return row[0] if isinstance(row[0], int) else 0
        return otherwise

    def _between(self, query: str, low: int, high: int) -> Iterator[Row]:
        ranges = [(low, high)] if low <= high else []
        while ranges and self._queries < QUERIES_MAX:
            low, high = ranges.pop()
            taken, whole = self._some(query.format("body"), low, high)
            if not whole and not taken and low == high:
                taken, _ = self._some(query.format("x''"), low, high)  # the row is there, its body is not
            yield from taken
            if taken:
                low = max(low, _number(taken[-1])) + 1  # a damaged page may have numbers in any order
                if low <= high and (not whole or len(taken) == ROWS_AT_ONCE):
                    ranges.append((low, high))
            elif not whole and low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]

    def _some(self, query: str, low: int, high: int) -> tuple[list[Row], bool]:
        """The rows up to the first bad page, at most `ROWS_AT_ONCE`; and whether there was none."""
        self._queries += 1
        taken: list[Row] = []
        try:
            for row in self._db.execute(query, (low, high, ROWS_AT_ONCE)):
                taken.append(row)  # noqa: PERF402 - what came before an error stays
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._note(error)
            return taken, False
        return taken, True


def _number(row: Row) -> int:
    return row[0] if isinstance(row[0], int) else 0


def _block(row: Row) -> Block | None:
    first, last, made, meter, marks, since, body = row
    if not (isinstance(first, int) and isinstance(last, int) and 0 < first <= last < SQL_ID_MAX):
        return None
    if not (isinstance(made, float) and isinstance(body, bytes)):
        return None
    return Block(
        first,
        last,
        made,
        meter if isinstance(meter, str) else "",
        marks if isinstance(marks, str) else NO_MARKS,
        since if isinstance(since, float) else 0.0,
        body,
    )


def _is_block(fields: list[Field]) -> bool:
    """Whether these are the columns of a block: of this version, or as a file of format 1 has them."""
    if len(fields) < 4 or fields[0] is not None or not isinstance(fields[1], int):
        return False
    return isinstance(fields[2], int | float) and (
        (len(fields) == 7 and isinstance(fields[3], str | bytes)) or (len(fields) == 4 and isinstance(fields[3], bytes))
    )


def _block_of(rowid: int | None, fields: list[Field]) -> Block | None:
    if rowid is None or not _is_block(fields):
        return None
    last, made, *about = fields[1:]
    if isinstance(about[0], bytes):  # format 1, and rows from before it was brought forward
        body, meter, marks, since = [*about, "", NO_MARKS, 0.0][:4] if len(about) == 1 else about
    else:
        meter, marks, since, body = about
    row = (rowid, last, _real(made), meter, marks, _real(since), body)
    return _block(row)


def _real(value: Field) -> Field:
    """A whole number that SQLite wrote as an integer, to save room."""
    return float(value) if isinstance(value, int) else value
