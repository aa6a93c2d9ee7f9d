"""Large objects from the server, in pieces over consecutive messages (OMA-TS-DM_Protocol 1.2, section 7).

`Size` stands in the first piece, `MoreData` in all but the last. The object is applied when it is complete and has the
size that was announced; anything else that comes in between drops it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agent.tree.nodes import value_bytes
from omadm.codes import AlertCode, Code, Refusal
from omadm.syncml.messages import Add, Alert, Item, Meta, Replace

OBJECT_BYTES_MAX = 256 * 1024  # MaxObjSize: the largest object that is assembled from pieces


@dataclass(slots=True)
class _Chunks:
    """A large object on its way."""

    command: type[Add | Replace]
    target: str
    size: int
    item: Item
    meta: Meta | None
    pieces: list[str | bytes] = field(default_factory=list)
    received: int = 0


class Incoming:
    """The object that is being received; at most one at a time. Lives as long as its session."""

    def __init__(self) -> None:
        self._chunks: _Chunks | None = None

    @property
    def receiving(self) -> bool:
        return self._chunks is not None

    def chunk(self, command: Add | Replace, item: Item) -> Item | None:
        """Take one piece. The whole item when it was the last, `None` before. Raises `Refusal`, dropping the object."""
        chunks = self._chunks
        if chunks is None:
            chunks = self._first_chunk(command, item)
            self._chunks = chunks
        piece = item.data if isinstance(item.data, str | bytes) else ""
        chunks.received += value_bytes(piece)
        if chunks.received > chunks.size or (chunks.pieces and not isinstance(piece, type(chunks.pieces[0]))):
            self._chunks = None
            raise Refusal(Code.SIZE_MISMATCH, f"more than {chunks.size} bytes")
        chunks.pieces.append(piece)
        if item.more_data:
            return None
        self._chunks = None
        if chunks.received != chunks.size:
            raise Refusal(Code.SIZE_MISMATCH, f"{chunks.received} of {chunks.size} bytes")
        whole = [piece for piece in chunks.pieces if isinstance(piece, bytes)]
        data: str | bytes = b"".join(whole) if whole else "".join(str(piece) for piece in chunks.pieces)
        return replace(chunks.item, data=data, more_data=False, meta=chunks.item.meta or chunks.meta)

    def _first_chunk(self, command: Add | Replace, item: Item) -> _Chunks:
        size = next((meta.size for meta in (item.meta, command.meta) if meta and meta.size is not None), None)
        if size is None:
            raise Refusal(Code.INCOMPLETE, "a first chunk without Size")
        if size > OBJECT_BYTES_MAX:
            raise Refusal(Code.TOO_LARGE, f"{size} bytes, more than {OBJECT_BYTES_MAX}")
        return _Chunks(type(command), item.target or "", size, item, command.meta)

    def interrupted(self, command: Add | Replace | None, item: Item | None) -> Alert | None:
        """Called before anything that is not the awaited next chunk: drops the object and says so (Alert 1225)."""
        chunks = self._chunks
        if chunks is None:
            return None
        same_target = item is not None and item.target in {chunks.target, None}
        if isinstance(command, chunks.command) and same_target:
            return None
        self._chunks = None
        return Alert("", AlertCode.NO_END_OF_DATA, (Item(target=chunks.target or None),))
