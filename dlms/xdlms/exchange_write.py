"""SET, ACTION and ACCESS as exchanges (`dlms.xdlms.exchange`). Long requests of SET and ACTION are sent in blocks."""

from __future__ import annotations

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cosem.obis import MethodRef
from dlms.cursor import Cursor
from dlms.errors import PeerError
from dlms.xdlms.apdu import access as access_apdu
from dlms.xdlms.apdu import action as action_apdu
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.common import (
    INVOKE_ID_MASK,
    LONG_CONFIRMED,
    ActionOutcome,
    DataBlock,
    Item,
    read_count,
    read_outcome,
)
from dlms.xdlms.exchange import ANSWER_BYTES_MAX, AccessAnswer, ActionAnswer, SetAnswer

BLOCK_HEAD_OCTETS = 16  # at most, before the raw data of a block: tag, choice, invoke, last, number, length


class SetExchange:
    """SET of one attribute or a list, in blocks when the request is longer than `pdu_size` octets."""

    response_tag = int(Apdu.SET_RESPONSE)
    has_invoke_id = True

    def __init__(self, items: tuple[Item, ...], values: tuple[Data, ...], pdu_size: int) -> None:
        self._items = items
        self._values = values
        self._pdu_size = pdu_size
        self._as_list = len(items) > 1
        self._invoke = 0
        self._sender: BlockSender | None = None

    def start(self, invoke: int) -> bytes:
        self._invoke = invoke
        whole = (
            set_apdu.SetListRequest(invoke, self._items, self._values).emit()
            if self._as_list
            else set_apdu.SetRequest(invoke, self._items[0], self._values[0]).emit()
        )
        if len(whole) <= self._pdu_size:
            return whole
        raw = set_apdu.emit_values(self._values) if self._as_list else self._values[0].emit()
        head = sum(len(item.emit()) for item in self._items)
        self._sender = BlockSender(raw, self._pdu_size - BLOCK_HEAD_OCTETS)
        block = self._sender.next(self._pdu_size - BLOCK_HEAD_OCTETS - head)
        return set_apdu.SetFirstBlock(invoke, self._items, block, as_list=self._as_list).emit()

    def advance(self, apdu: bytes) -> bytes | SetAnswer:
        response = set_apdu.parse_response(apdu)
        if isinstance(response, set_apdu.SetBlockAck):
            if self._sender is None:
                raise PeerError("a block is asked for, but none was announced")
            self._sender.acknowledge(response.number)
            return set_apdu.SetBlock(self._invoke, self._sender.next()).emit()
        if len(response.results) != len(self._items):
            raise PeerError(f"{len(response.results)} results for {len(self._items)} attributes")
        return SetAnswer(self._items, response.results)


class ActionExchange:
    """ACTION of one method or a list, its parameters in blocks when the request is longer than `pdu_size` octets."""

    response_tag = int(Apdu.ACTION_RESPONSE)
    has_invoke_id = True

    def __init__(self, methods: tuple[MethodRef, ...], parameters: tuple[Data | None, ...], pdu_size: int) -> None:
        self._methods = methods
        self._parameters = parameters
        self._pdu_size = pdu_size
        self._as_list = len(methods) > 1
        self._invoke = 0
        self._sender: BlockSender | None = None
        self._blocks = bytearray()
        self._number = 0

    def start(self, invoke: int) -> bytes:
        self._invoke = invoke
        values = tuple([axdr.null() if value is None else value for value in self._parameters])
        whole = (
            action_apdu.ActionListRequest(invoke, self._methods, values).emit()
            if self._as_list
            else action_apdu.ActionRequest(invoke, self._methods[0], self._parameters[0]).emit()
        )
        if len(whole) <= self._pdu_size:
            return whole
        raw = set_apdu.emit_values(values) if self._as_list else values[0].emit()
        head = sum(len(method.emit()) for method in self._methods)
        self._sender = BlockSender(raw, self._pdu_size - BLOCK_HEAD_OCTETS)
        block = self._sender.next(self._pdu_size - BLOCK_HEAD_OCTETS - head)
        return action_apdu.ActionFirstBlock(invoke, self._methods, block, as_list=self._as_list).emit()

    def advance(self, apdu: bytes) -> bytes | ActionAnswer:
        response = action_apdu.parse_response(apdu)
        if isinstance(response, action_apdu.ActionBlockAck):
            if self._sender is None:
                raise PeerError("a block is asked for, but none was announced")
            self._sender.acknowledge(response.number)
            return action_apdu.ActionBlock(self._invoke, self._sender.next()).emit()
        if isinstance(response, action_apdu.ActionResponseBlock):
            return self._block(response.block)
        if isinstance(response, action_apdu.ActionListResponse):
            return self._finish(response.outcomes)
        return self._finish((response.outcome,))

    def _block(self, block: DataBlock) -> bytes | ActionAnswer:
        if block.number != self._number + 1:
            raise PeerError(f"block {block.number} where block {self._number + 1} is due")
        self._number = block.number
        if len(self._blocks) + len(block.data) > ANSWER_BYTES_MAX:
            raise PeerError(f"an answer of more than {ANSWER_BYTES_MAX} octets")
        self._blocks += block.data
        if not block.last:
            return action_apdu.ActionNext(self._invoke, block.number).emit()
        cursor = Cursor(bytes(self._blocks), "ACTION-response in blocks")
        count = read_count(cursor, 2) if self._as_list else 1
        outcomes = tuple([read_outcome(cursor) for _ in range(count)])
        cursor.check_end()
        return self._finish(outcomes)

    def _finish(self, outcomes: tuple[ActionOutcome, ...]) -> ActionAnswer:
        if len(outcomes) != len(self._methods):
            raise PeerError(f"{len(outcomes)} outcomes for {len(self._methods)} methods")
        return ActionAnswer(self._methods, outcomes)


class BlockSender:
    """Cuts `raw` into numbered blocks of at most `size` octets."""

    def __init__(self, raw: bytes, size: int) -> None:
        self._raw = raw
        self._size = max(1, size)
        self._pos = 0
        self.number = 0

    def next(self, size: int | None = None) -> DataBlock:
        """The next block; `size` overrides its length once. Raises `PeerError` when nothing is left to send."""
        if self.number and self._pos >= len(self._raw):
            raise PeerError("a block is asked for after the last one")
        take = max(1, self._size if size is None else min(size, self._size))
        piece = self._raw[self._pos : self._pos + take]
        self._pos += len(piece)
        self.number += 1
        return DataBlock(self._pos >= len(self._raw), self.number, piece)

    def acknowledge(self, number: int) -> None:
        """Check an acknowledgement. Raises `PeerError` when `number` is not that of the block sent last."""
        if number != self.number:
            raise PeerError(f"block {number} acknowledged where block {self.number} was sent")


class AccessExchange:
    """ACCESS: a list of gets, sets and method calls, carried out in order. For `dlms.client.meter.Meter.request`."""

    response_tag = int(Apdu.ACCESS_RESPONSE)
    has_invoke_id = False  # it has a long-invoke-id instead

    def __init__(self, items: tuple[access_apdu.Access, ...]) -> None:
        self._items = items
        self._invoke = 0

    def start(self, invoke: int) -> bytes:
        self._invoke = LONG_CONFIRMED | access_apdu.HIGH_PRIORITY | (invoke & INVOKE_ID_MASK)
        return access_apdu.AccessRequest(self._invoke, self._items).emit()

    def advance(self, apdu: bytes) -> AccessAnswer:
        response = access_apdu.AccessResponse.parse(apdu)
        if len(response.outcomes) != len(self._items):
            raise PeerError(f"{len(response.outcomes)} outcomes for {len(self._items)} specifications")
        return AccessAnswer(self._items, response.outcomes)
