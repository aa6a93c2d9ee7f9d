"""READ and WRITE as exchanges, for short-name referencing (GB 9.3.7 to 9.3.9; see `dlms.xdlms.exchange`)."""

from __future__ import annotations

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu, DataAccessResult
from dlms.cosem.associations import OBJECT_LIST
from dlms.cosem.obis import AttributeRef, MethodRef, Selection
from dlms.cosem.short_names import (
    ASSOCIATION_BASE,
    REPLY_TO_HLS_NAME,
    ShortNames,
    association_names,
    method_name,
    name_of,
)
from dlms.cursor import Cursor, length_octets
from dlms.errors import DecodeError, LocalError, PeerError
from dlms.xdlms.apdu import sn
from dlms.xdlms.apdu.common import Item, read_results
from dlms.xdlms.exchange import ANSWER_BYTES_MAX, Answer, GetAnswer, SetAnswer

REPLY_TO_HLS_SELECTOR = 1


class SnReadExchange:
    """READ of attributes. Its answer has the form of a GET's, so it is a `GetAnswer`.

    Raises `LocalError` for an attribute without a short name.
    """

    response_tag = int(Apdu.READ_RESPONSE)
    has_invoke_id = False

    def __init__(self, items: tuple[Item, ...], names: ShortNames) -> None:
        self._items = items
        self._variables = tuple([sn.Variable(_known(names, item.ref), item.selection) for item in items])
        self._blocks = bytearray()
        self._number = 0
        self._stopped = False

    @classmethod
    def reply_to_hls(cls, proof: bytes) -> SnReadExchange:
        """Pass 3 of high level security: a READ with our proof as its parameter; its value is the meter's proof."""
        ref = AttributeRef(OBJECT_LIST.class_id, OBJECT_LIST.obis, (REPLY_TO_HLS_NAME - ASSOCIATION_BASE) // 8 + 1)
        selection = Selection(REPLY_TO_HLS_SELECTOR, axdr.octets(proof))
        return cls((Item(ref, selection),), association_names())

    def value_from(self, start: int) -> bytes:
        """Return what has come so far, from octet `start` on, of the one encoded value that comes in blocks."""
        head = 2 if self._blocks[:1] == b"\x01" else 1  # count, which some meters leave out, and choice of the result
        return bytes(self._blocks[head + start :])

    def stop(self) -> None:
        """End the exchange with the next block. A new request tells the meter that no more blocks are wanted."""
        self._stopped = True

    def start(self, _invoke: int) -> bytes:
        return sn.ReadRequest(self._variables).emit()

    def advance(self, apdu: bytes) -> bytes | GetAnswer:
        if apdu[1] != 1 or len(apdu) < 3 or apdu[2] != sn.RESULT_BLOCK:
            return GetAnswer(self._items, "list", apdu[1:])
        response = sn.parse_read_response(apdu)
        if not isinstance(response, sn.ReadBlock):
            raise PeerError("a read-response without a block where a block is due")
        block = response.block
        if block.number != self._number + 1:
            raise PeerError(f"block {block.number} where block {self._number + 1} is due")
        self._number = block.number
        if len(self._blocks) + len(block.data) > ANSWER_BYTES_MAX:
            raise PeerError(f"an answer of more than {ANSWER_BYTES_MAX} octets")
        self._blocks += block.data
        if not block.last and not self._stopped:
            return sn.ReadNext(block.number).emit()
        return GetAnswer(self._items, "list", self._counted(bytes(self._blocks)))

    def _counted(self, raw: bytes) -> bytes:
        """The results preceded by their count, which some meters leave out of the blocks."""
        cursor = Cursor(raw, "read-response in blocks")
        try:
            complete = len(read_results(cursor)) == len(self._items) and not cursor.remaining
        except DecodeError:
            complete = False
        return raw if complete else length_octets(len(self._items)) + raw


class SnWriteExchange:
    """WRITE of attributes, or a method call, which is a write to the method's name. The answer is a `SetAnswer`."""

    response_tag = int(Apdu.WRITE_RESPONSE)
    has_invoke_id = False

    def __init__(self, items: tuple[Item, ...], values: tuple[Data, ...], names: ShortNames) -> None:
        self._items = items
        self._request = sn.WriteRequest(
            tuple([sn.Variable(_known(names, item.ref), item.selection) for item in items]), values
        )

    @classmethod
    def call(cls, method: MethodRef, parameters: Data | None, names: ShortNames) -> SnWriteExchange:
        """Call one method. Raises `LocalError` when it has no short name."""
        name = method_name(names, method)
        if name is None:
            raise LocalError(f"{method} has no short name")
        exchange = cls((), (), names)
        exchange._items = (Item(AttributeRef(method.class_id, method.obis, 0)),)
        exchange._request = sn.WriteRequest((sn.Variable(name),), (parameters or axdr.i8(0),))
        return exchange

    def start(self, _invoke: int) -> bytes:
        return self._request.emit()

    def advance(self, apdu: bytes) -> bytes | Answer:
        response = sn.parse_write_response(apdu)
        if len(response.results) != len(self._items):
            raise PeerError(f"{len(response.results)} results for {len(self._items)} variables")
        return SetAnswer(self._items, response.results)


def _known(names: ShortNames, ref: AttributeRef) -> int:
    name = name_of(names, ref)
    if name is None:
        raise LocalError(f"{ref} has no short name: {DataAccessResult.OBJECT_UNDEFINED.text}")
    return name
