"""Large objects in both directions (OMA-TS-DM_Protocol 1.2, section 7): one value over consecutive messages.

`Size` is in the first chunk only, `MoreData` in all but the last. Sizes are in bytes; text is counted in UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from omadm.codes import Code
from omadm.syncml.messages import Item, Meta


class LargeObject:
    """A value that is being sent. `chunk(limit)` returns the next chunk; `back()` takes the last one back."""

    def __init__(self, data: str | bytes) -> None:
        self._text = isinstance(data, str)
        self._data = data.encode("utf-8") if isinstance(data, str) else data
        self._at = self._before = 0

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def finished(self) -> bool:
        """Whether every byte has been returned."""
        return self._at >= len(self._data)

    @property
    def first(self) -> bool:
        """Whether nothing has been returned yet."""
        return self._at == 0

    def back(self) -> None:
        self._at = self._before

    def chunk(self, limit: int) -> str | bytes:
        """The next chunk: at most `limit` bytes, but at least one character."""
        self._before = self._at
        end = min(len(self._data), self._at + max(limit, 4))
        while self._text and end < len(self._data) and self._data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        piece = self._data[self._at : end]
        self._at = end
        return piece.decode("utf-8") if self._text else piece


@dataclass(frozen=True, slots=True)
class Assembled:
    """The effect of a chunk: `status` for the peer, `item` when the object is complete, `broken` when another object
    interrupted it."""

    status: int | None
    item: Item | None = None
    broken: bool = False


class Incoming:
    """A value that is being received; the protocol allows one at a time."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._first: Item | None = None
        self._uri = ""
        self._parts: list[str | bytes] = []
        self._bytes = 0

    @property
    def pending(self) -> bool:
        """Whether the next message must bring the next chunk."""
        return self._first is not None

    def feed(self, uri: str, item: Item) -> Assembled:
        """Take the value of a Results item. Complete values pass through unchanged."""
        broken = self._first is not None and uri != self._uri
        if broken:
            self._drop()
        if self._first is None and not item.more_data:
            if _is_short(item):
                return Assembled(Code.SIZE_MISMATCH, None, broken)
            return Assembled(None, item, broken)
        if self._first is None:
            self._first, self._uri = item, uri
        piece = item.data if isinstance(item.data, str | bytes) else ""
        self._parts.append(piece)
        self._bytes += len(piece.encode("utf-8") if isinstance(piece, str) else piece)
        if self._bytes > self._bytes_max:
            self._drop()
            return Assembled(Code.OBJECT_TOO_LARGE, None, broken)
        if item.more_data:
            return Assembled(Code.CHUNK_BUFFERED, None, broken)
        return self._finish(broken=broken)

    def _finish(self, *, broken: bool) -> Assembled:
        first, parts, size = self._first, self._parts, self._bytes
        self._drop()
        if first is None:
            raise RuntimeError("an object ends that never began")
        meta = first.meta or Meta()
        if meta.size is not None and meta.size != size:
            return Assembled(Code.SIZE_MISMATCH, None, broken)
        texts = [part for part in parts if isinstance(part, str)]
        data: str | bytes
        if len(texts) == len(parts):
            data = "".join(texts)
        else:
            data = b"".join(part.encode("utf-8") if isinstance(part, str) else part for part in parts)
        return Assembled(None, replace(first, data=data, more_data=False), broken)

    def _drop(self) -> None:
        self._first, self._uri, self._parts, self._bytes = None, "", [], 0


def _is_short(item: Item) -> bool:
    """Whether a value of one message is shorter than its `Size` says. Devices give that of the base64 text as well."""
    if item.meta is None or item.meta.size is None or item.meta.format == "node":
        return False
    if isinstance(item.data, bytes):
        base64_bytes = (len(item.data) + 2) // 3 * 4
        return len(item.data) < item.meta.size and base64_bytes < item.meta.size
    return isinstance(item.data, str) and len(item.data.encode()) < item.meta.size
