"""Fitting answers into messages, sans-IO: by size, and large results in chunks (OMA-TS-DM_Protocol 1.2, 6 and 7)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.tree.nodes import value_bytes
from omadm.codes import Code
from omadm.syncml.codec import encode, encode_tnds, media_type
from omadm.syncml.document import TNDS_WBXML, TNDS_XML
from omadm.syncml.messages import (
    Alert,
    Command,
    Item,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    TndsNode,
)
from omadm.syncml.text import B64, repeatable

Outgoing = Status | Results | Alert | Replace

OVERHEAD_BYTES = 64  # numbers of commands and messages that grow, the second encoding of a tag
CHUNK_BYTES_MIN = 32  # a peer whose messages leave less room than this gets the whole, and may refuse it


@dataclass(slots=True)
class Limits:
    """What the peer takes, in bytes (Meta of its SyncHdr); 0 is "did not say"."""

    message: int = 0
    object: int = 0


class Packer:
    """The answers that still have to go out, in order."""

    def __init__(self, content_type: str, message_bytes_max: int) -> None:
        self._content_type = content_type
        self._own_max = message_bytes_max
        self._queue: deque[Outgoing] = deque()
        self._continuing = False  # the head of the queue is the rest of a result that has begun
        self.limits = Limits()
        self.unsendable: list[str] = []  # what was left out, for the log

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, replies: list[Outgoing]) -> None:
        """Queue. What the peer cannot take, or the encoding cannot carry, becomes an error status of its command.

        Text that XML cannot carry goes as octets, with format b64. An Alert or DevInfo item that cannot be written even
        so is left out and noted in `unsendable`; an alert stays in its queue on the device.
        """
        for reply in replies:
            if isinstance(reply, Results):
                self._put_results(reply)
                continue
            carried = self.carried(reply)
            if carried is None:
                self.unsendable.append(f"{type(reply).__name__}: not to be written in this encoding")
            else:
                self._queue.append(carried)

    def carried(self, reply: Outgoing) -> Outgoing | None:
        """The command as this encoding can carry it; `None` if it cannot."""
        if self._size(reply) is not None:
            return reply
        if isinstance(reply, Status):
            # Only what it refers to can be at fault: the code and the reference to its command stand.
            bare = replace(reply, target_refs=(), source_refs=(), items=())
            return bare if self._size(bare) is not None else None
        items = tuple(_as_bytes(item) for item in reply.items)
        whole = replace(reply, items=items)
        if isinstance(reply, Replace) and self._size(whole) is None:
            items = tuple(item for item in items if self._size(replace(reply, items=(item,))) is not None)
            self.unsendable.append(f"{len(reply.items) - len(items)} values of DevInfo cannot be written")
            whole = replace(reply, items=items)
        return whole if whole.items and self._size(whole) is not None else None

    def take(self, hdr: SyncHdr, first: list[Outgoing]) -> tuple[Command, ...]:
        """The commands of the next message, numbered: `first`, then as many of the queue as fit.

        Raises `SyncmlValueError` when `first` cannot be encoded.
        """
        commands: list[Command] = list(first)
        room = self._room(hdr, first)
        while self._queue:
            reply = self._queue[0]
            size = self._size(reply) or 0
            if size > room:
                chunk = self._chunk(reply, room) if isinstance(reply, Results) else None
                if chunk is not None:
                    commands.append(chunk)  # the next piece belongs into the next message, with nothing between
                    break
                if len(commands) > len(first):
                    break
                # Larger than an empty message: the peer's limit cannot be kept.
            commands.append(self._queue.popleft())
            self._continuing = False
            room -= size
        return numbered(commands)

    def _room(self, hdr: SyncHdr, first: list[Outgoing]) -> int:
        limit = min(self.limits.message or self._own_max, self._own_max)
        return limit - OVERHEAD_BYTES - len(encode(SyncML(hdr, numbered(first)), self._content_type))

    def _size(self, reply: Outgoing) -> int | None:
        """Bytes that a command adds to a message; `None` when it cannot be encoded."""
        hdr = SyncHdr("1", 1, "t", "s")
        try:
            return len(encode(SyncML(hdr, (replace(reply, cmd_id="999"),)), self._content_type)) - len(
                encode(SyncML(hdr, ()), self._content_type)
            )
        except SyncmlValueError:
            return None

    # -- results ----------------------------------------------------------------------------------------------

    def _put_results(self, results: Results) -> None:
        carried = self.carried(results)
        if not isinstance(carried, Results):
            self._fail(results, Code.COMMAND_FAILED)
            return
        results = carried
        limit = min(self.limits.message or self._own_max, self._own_max) // 2
        pieces = [results]
        if len(results.items) > 1 and (self._size(results) or 0) > limit:
            pieces = [replace(results, items=(item,)) for item in results.items]
        pieces = [self._serialised(piece, limit) for piece in pieces]
        if self.limits.object and any(_data_bytes(piece) > self.limits.object for piece in pieces):
            self._fail(results, Code.TOO_LARGE)
            return
        self._queue.extend(pieces)

    def _serialised(self, results: Results, limit: int) -> Results:
        """A tree that needs chunks becomes the document that is cut."""
        item = results.items[0]
        if len(results.items) != 1 or not isinstance(item.data, MgmtTree) or (self._size(results) or 0) <= limit:
            return results
        binary = media_type(self._content_type).endswith("wbxml")
        document = encode_tnds(item.data, TNDS_WBXML if binary else TNDS_XML)
        meta = Meta(format="xml", type=TNDS_WBXML if binary else TNDS_XML)
        data: str | bytes = document if binary else document.decode("utf-8")
        return replace(results, items=(replace(item, meta=meta, data=data),))

    def _fail(self, results: Results, code: Code) -> None:
        """The Get was answered 200 just before: say what became of it instead."""
        for index in range(len(self._queue) - 1, -1, -1):
            reply = self._queue[index]
            if isinstance(reply, Status) and reply.cmd_ref == results.cmd_ref and reply.cmd == "Get":
                self._queue[index] = replace(reply, code=int(code))
                return

    def _chunk(self, results: Results, room: int) -> Results | None:
        """Cut a piece that fits `room` bytes off the first queued Results. `None` when that makes no sense."""
        item = results.items[0]
        if len(results.items) != 1 or not isinstance(item.data, str | bytes):
            return None
        meta = item.meta or Meta()
        if not self._continuing:
            meta = replace(meta, size=value_bytes(item.data))
        want = room
        while want >= CHUNK_BYTES_MIN:
            head, tail = _cut(item.data, want)
            chunk = replace(results, items=(replace(item, data=head, meta=meta, more_data=True),))
            if tail and (self._size(chunk) or 0) <= room:
                self._queue[0] = replace(results, items=(replace(item, data=tail),))
                self._continuing = True
                return chunk
            want = want * 3 // 4  # room for the shell, and for characters that the encoding writes longer
        return None


def _as_bytes(item: Item) -> Item:
    """The item with its text as octets where no XML can carry it; its type still says that it is text."""
    if isinstance(item.data, MgmtTree):
        return replace(item, data=replace(item.data, nodes=tuple(map(_node_as_bytes, item.data.nodes))))
    if not isinstance(item.data, str) or repeatable(item.data):
        return item
    return replace(item, data=_octets(item.data), meta=replace(item.meta or Meta(), format=B64))


def _node_as_bytes(node: TndsNode) -> TndsNode:
    node = replace(node, children=tuple(map(_node_as_bytes, node.children)))
    if not isinstance(node.value, str) or repeatable(node.value):
        return node
    return replace(node, value=_octets(node.value), format=B64, type=node.type or "text/plain")


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def numbered(commands: Sequence[Command]) -> tuple[Command, ...]:
    """With CmdIDs from 1."""
    return tuple(replace(command, cmd_id=str(number)) for number, command in enumerate(commands, start=1))


def _cut(data: str | bytes, size: int) -> tuple[str | bytes, str | bytes]:
    """About `size` bytes and the rest; text between characters."""
    if isinstance(data, bytes):
        return data[:size], data[size:]
    head = data.encode("utf-8")[:size].decode("utf-8", "ignore")
    return head, data[len(head) :]


def _data_bytes(results: Results) -> int:
    return sum(value_bytes(item.data) for item in results.items if isinstance(item.data, str | bytes))
