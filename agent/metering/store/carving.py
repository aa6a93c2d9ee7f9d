"""Blocks found on the pages of a database file, without the tree above them: where an inner page or the schema is bad,
SQLite finds nothing of what lies below it, although all of that is there.

Laid out as the SQLite file format says (sqlite.org/fileformat2.html, section 1.6): a leaf page begins with 0x0D (a
table's) or 0x0A (of an index, and of a table without rowid), a cell has the size of its record, for tables its rowid,
and the record; what does not fit continues on a chain of overflow pages. What is found is held to the types that a
block has, and its body has a checksum of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

TABLE_LEAF, INDEX_LEAF = 0x0D, 0x0A
PAGE_BYTES_MIN, PAGE_BYTES_MAX = 512, 65_536
RECORD_BYTES_MAX = 8 << 20
COLUMNS_MAX = 16
FILE_HEADER_BYTES = 100
VARINT_BYTES_MAX = 9
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)

Field = None | int | float | str | bytes
Record = list[Field]


class Carver:
    """Reads `file` page by page. Raises nothing but `OSError`."""

    def __init__(self, file: BinaryIO, page_bytes: int) -> None:
        self._file = file
        self._page_bytes = page_bytes
        file.seek(0, 2)
        self._pages = file.tell() // page_bytes

    def records(self) -> Iterator[tuple[int, int, int | None, Record]]:
        """(page, cell, rowid, fields) of every record on a leaf page; bodies on overflow pages are not read yet: such
        a field is `b""`, or a text cut short."""
        for number in range(1, self._pages + 1):
            page = self._page(number)
            for cell in range(_cell_count(page, number)):
                found = self._cell(page, number, cell, whole=False)
                if found is not None:
                    yield number, cell, *found

    def record(self, number: int, cell: int) -> tuple[int | None, Record] | None:
        """The whole record of that cell; `None` where it is damaged."""
        return self._cell(self._page(number), number, cell, whole=True)

    # --- inside ---

    def _page(self, number: int) -> bytes:
        if not 1 <= number <= self._pages:
            return b""
        self._file.seek((number - 1) * self._page_bytes)
        return self._file.read(self._page_bytes)

    def _cell(self, page: bytes, number: int, cell: int, *, whole: bool) -> tuple[int | None, Record] | None:
        base = _base(number)
        try:
            at = int.from_bytes(page[base + 8 + 2 * cell : base + 10 + 2 * cell], "big")
            size, at = _varint(page, at)
            rowid: int | None = None
            if page[base] == TABLE_LEAF:
                rowid, at = _varint(page, at)
            if size > RECORD_BYTES_MAX:
                return None
            local = self._local(size, table=page[base] == TABLE_LEAF)
            data = page[at : at + local]
            if len(data) < local:
                return None
            if local < size and whole:
                overflow = int.from_bytes(page[at + local : at + local + 4], "big")
                data = self._chained(data, overflow, size)
                if len(data) < size:
                    return None
            return rowid, _fields(data)
        except (IndexError, ValueError, struct.error):
            return None

    def _local(self, size: int, *, table: bool) -> int:
        """How much of a record lies in its cell (section 1.6, "Cell Payload")."""
        usable = self._page_bytes
        largest = usable - 35 if table else (usable - 12) * 64 // 255 - 23
        if size <= largest:
            return size
        least = (usable - 12) * 32 // 255 - 23
        some = least + (size - least) % (usable - 4)
        return some if some <= largest else least

    def _chained(self, data: bytes, number: int, size: int) -> bytes:
        pieces, have = [data], len(data)
        for _ in range(size // (self._page_bytes - 4) + 1):
            page = self._page(number)
            if have >= size or not page:
                break
            piece = page[4:][: size - have]
            pieces.append(piece)
            have += len(piece)
            number = int.from_bytes(page[:4], "big")
        return b"".join(pieces)


def page_bytes_of(header: bytes) -> int:
    """The page size that a file's first bytes say, 512 where they do not say one."""
    size = int.from_bytes(header[16:18], "big") if header[:16] == b"SQLite format 3\0" else 0
    size = PAGE_BYTES_MAX if size == 1 else size
    return size if size >= PAGE_BYTES_MIN and size & (size - 1) == 0 else PAGE_BYTES_MIN


def _base(number: int) -> int:
    return FILE_HEADER_BYTES if number == 1 else 0


def _cell_count(page: bytes, number: int) -> int:
    base = _base(number)
    if len(page) < base + 8 or page[base] not in (TABLE_LEAF, INDEX_LEAF):
        return 0
    return min(int.from_bytes(page[base + 3 : base + 5], "big"), (len(page) - base - 8) // 2)


def _varint(data: Sequence[int], at: int) -> tuple[int, int]:
    """Up to nine bytes, seven bits each and eight in the last; the value and where it ends."""
    value = 0
    for index in range(VARINT_BYTES_MAX - 1):
        octet = data[at + index]
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + VARINT_BYTES_MAX - 1], at + VARINT_BYTES_MAX


def _fields(data: bytes) -> Record:
    """The columns of a record; the last may be cut where `data` is. Raises `ValueError`, `IndexError`."""
    header_bytes, at = _varint(data, 0)
    kinds: list[int] = []
    while at < header_bytes:
        kind, at = _varint(data, at)
        kinds.append(kind)
        if len(kinds) > COLUMNS_MAX:
            raise ValueError("more columns than any table of ours has")
    fields: Record = []
    for kind in kinds:
        field, at = _field(kind, data, at)
        fields.append(field)
    return fields


def _field(kind: int, data: bytes, at: int) -> tuple[Field, int]:
    if kind < len(_INTEGER_BYTES):
        size = _INTEGER_BYTES[kind]
        return (int.from_bytes(data[at : at + size], "big", signed=True) if kind else None), at + size
    if kind == 7:
        return struct.unpack(">d", data[at : at + 8])[0], at + 8
    if kind in (8, 9):
        return kind - 8, at
    if kind in (10, 11):
        raise ValueError("a type that no file has")
    size = (kind - 12) // 2
    piece = data[at : at + size]
    if kind % 2:
        return piece.decode("utf-8", "replace"), at + size
    return (piece if len(piece) == size else b""), at + size
