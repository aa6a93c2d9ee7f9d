"""Divides a set of attributes into requests, with as few round trips as the negotiated sizes allow.

An item of a list costs 10 octets in the request, and the result octet plus the value in the answer. A request must fit
one APDU, and so must its answer, judged by the sizes known from earlier readings. The total sizes give the number of
requests; the items are divided evenly over them, in the order asked for, so that a lost request loses little. Where
long answers cluster and an even division does not fit, requests are filled one after another; if that takes more
requests, long and short answers are spread over them instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dlms.client.knowledge import MeterKnowledge
from dlms.cosem.obis import AttributeRef
from dlms.cosem.scaler_unit import scaler_ref
from dlms.xdlms.apdu.get import ITEM_OCTETS_MIN, LIST_HEAD_OCTETS

ANSWER_OCTETS_GUESS = 8  # most answers are a result octet, a tag and up to four octets; strings are longer
COUNT_OCTETS = 2  # of a list's length field up to 255 items
LIST_ITEMS_MAX = 255  # one octet of count; meters hold less

Chunk = tuple[AttributeRef, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many octets a request and an answer may have, and whether the association allows lists."""

    request: int
    answer: int
    lists: bool


class Planner:
    """A queue of attributes, taken from in chunks."""

    def __init__(self, refs: Iterable[AttributeRef], known: MeterKnowledge) -> None:
        self._queue = list(refs)
        self._known = known
        self._chunks: deque[Chunk] = deque()

    def put_back(self, refs: Iterable[AttributeRef]) -> None:
        """Put `refs` back at the front: their list was refused, and the limits have changed."""
        self._queue = [*refs, *(ref for chunk in self._chunks for ref in chunk), *self._queue]
        self._chunks.clear()

    def take(self, limits: Limits) -> Chunk:
        """Take the attributes of the next request; more than one only where a list may be sent."""
        if self._queue:
            self._chunks.extend(self._cut(self._queue, limits))
            self._queue = []
        return self._chunks.popleft() if self._chunks else ()

    def _cut(self, refs: list[AttributeRef], limits: Limits) -> list[Chunk]:
        items_max = self._items_max(limits)
        room = limits.answer - LIST_HEAD_OCTETS - COUNT_OCTETS
        in_order = self._in_order(refs, items_max, room)
        least = max(-(-len(refs) // items_max), -(-sum(map(self._size, refs)) // max(1, room)))
        for chunks in (self._even(refs, min(least, len(in_order))), in_order, self._spread(refs, least)):
            if len(chunks) <= least and all(self._fits(chunk, items_max, room) for chunk in chunks):
                return chunks
        return in_order

    def _fits(self, chunk: Chunk, items_max: int, room: int) -> bool:
        return len(chunk) <= items_max and (len(chunk) == 1 or sum(map(self._size, chunk)) <= room)

    @staticmethod
    def _even(refs: list[AttributeRef], count: int) -> list[Chunk]:
        """`count` chunks with equal numbers of items, in order."""
        return [tuple(refs[len(refs) * at // count : len(refs) * (at + 1) // count]) for at in range(count)]

    def _in_order(self, refs: list[AttributeRef], items_max: int, room: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        chunk: list[AttributeRef] = []
        left = room
        for ref in refs:
            size = self._size(ref)
            if chunk and (len(chunk) >= items_max or size > left):
                chunks.append(tuple(chunk))
                chunk, left = [], room
            chunk.append(ref)
            left -= size
        if chunk:
            chunks.append(tuple(chunk))
        return chunks

    def _spread(self, refs: list[AttributeRef], count: int) -> list[Chunk]:
        """`count` chunks with nearly equal lengths: dealt out by size, back and forth."""
        chunks: list[list[AttributeRef]] = [[] for _ in range(count)]
        for at, ref in enumerate(sorted(refs, key=self._size, reverse=True)):
            turn, at_chunk = divmod(at, count)
            chunks[at_chunk if turn % 2 == 0 else count - 1 - at_chunk].append(ref)
        return [tuple(chunk) for chunk in chunks]

    def _size(self, ref: AttributeRef) -> int:
        return self._known.sizes.get(ref, ANSWER_OCTETS_GUESS)

    def _items_max(self, limits: Limits) -> int:
        if not limits.lists or self._known.list_max == 1:
            return 1
        fit = (limits.request - LIST_HEAD_OCTETS - COUNT_OCTETS) // ITEM_OCTETS_MIN
        return max(1, min(fit, LIST_ITEMS_MAX, self._known.list_max or LIST_ITEMS_MAX))


class ReadJob:
    """One `read`: the attributes still to request, and how many have had no event yet."""

    def __init__(self, wanted: Sequence[AttributeRef], known: MeterKnowledge) -> None:
        asked = [ref for ref in dict.fromkeys(wanted) if ref not in known.undefined]
        self.undefined = [ref for ref in dict.fromkeys(wanted) if ref in known.undefined]
        self.wanted = frozenset(asked)
        self.missing = dict.fromkeys(
            where for ref in asked if (where := scaler_ref(ref)) and where not in known.scalers
        )
        self.scalers = Planner(self.missing, known)
        self.values = Planner([ref for ref in asked if ref not in self.missing], known)
        self.in_flight: tuple[AttributeRef, ...] = ()
        self._unanswered = set(self.missing)
        self._failed: dict[AttributeRef, str] = {}

    def answered(self, scaler: AttributeRef, failure: str = "") -> None:
        """One of `missing` is answered; `failure`: by an error that may pass, so that nobody knows what it is."""
        self._unanswered.discard(scaler)
        if failure:
            self._failed[scaler] = failure

    def is_early(self, ref: AttributeRef) -> bool:
        """Whether this value has come before its scaler, whose list has to be asked for again."""
        return scaler_ref(ref) in self._unanswered

    def without_scaler(self, ref: AttributeRef) -> str:
        """The error for which the scaler of this value is not known; empty where it is, or there is none."""
        where = scaler_ref(ref)
        return "" if where is None else self._failed.get(where, "")

    def take(self, limits: Limits) -> tuple[AttributeRef, ...]:
        """The next request: all scalers before the first value, since a value is complete only with its scaler."""
        self.in_flight = self.scalers.take(limits) or self.values.take(limits)
        return self.in_flight

    def put_back(self, refs: tuple[AttributeRef, ...]) -> None:
        """Ask for `refs` again in smaller requests: their list was refused, or its answer malformed."""
        queue = self.scalers if refs[0] in self.missing else self.values
        queue.put_back(refs)
