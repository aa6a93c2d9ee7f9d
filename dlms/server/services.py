"""GET, SET, ACTION and ACCESS as a meter serves them, in blocks where an APDU would be too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu, Conformance, DataAccessResult, ServiceError, StateError
from dlms.cosem.obis import MethodRef
from dlms.cursor import Cursor, length_octets
from dlms.errors import DlmsError
from dlms.xdlms.apdu import access, action, get, service_errors
from dlms.xdlms.apdu import set as set_apdu
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item, Result, emit_results
from dlms.xdlms.exchange_write import BLOCK_HEAD_OCTETS, BlockSender

RECEIVED_BYTES_MAX = 1024 * 1024  # of one SET or ACTION that comes in blocks


class ObjectAccess(Protocol):
    """The objects that the services act on, with or without the rights of a client."""

    def get(self, item: Item) -> Result: ...

    def set(self, item: Item, value: Data) -> int: ...

    def act(self, method: MethodRef, parameters: Data | None) -> ActionOutcome: ...


class RefusalError(DlmsError):
    """A request is refused with this exception-response."""

    def __init__(self, state_error: StateError, service_error: ServiceError, counter: int | None = None) -> None:
        super().__init__(service_error.name)
        self.error = service_error
        self.apdu = exception(state_error, service_error, counter)


def need(conformance: Conformance, service: Conformance) -> None:
    """Refuse a service that the association has not negotiated. Raises `RefusalError`."""
    if not conformance & service:
        raise RefusalError(StateError.SERVICE_UNKNOWN, ServiceError.SERVICE_NOT_SUPPORTED)


def exception(state_error: StateError, service_error: ServiceError, counter: int | None = None) -> bytes:
    return service_errors.ExceptionResponse(state_error, service_error, counter).emit()


@dataclass(slots=True)
class _Incoming:
    """A SET or ACTION whose parameters arrive in blocks."""

    first: set_apdu.SetFirstBlock | action.ActionFirstBlock
    data: bytearray
    number: int


class Services:
    """The services of one association, as negotiated. `pdu_size` is the longest answer, in octets."""

    def __init__(self, access: ObjectAccess, conformance: Conformance, pdu_size: int) -> None:
        self._access = access
        self._conformance = conformance
        self._pdu_size = pdu_size
        self._get_blocks: BlockSender | None = None
        self._action_blocks: BlockSender | None = None
        self._incoming: _Incoming | None = None
        self._services: dict[int, Callable[[bytes], bytes]] = {
            Apdu.GET_REQUEST: self._get,
            Apdu.SET_REQUEST: self._set,
            Apdu.ACTION_REQUEST: self._action,
            Apdu.ACCESS_REQUEST: self._access_service,
        }

    def handle(self, apdu: bytes) -> bytes:
        """Answer one plain request. Raises `RefusalError`, and `DlmsError` for a request that cannot be decoded."""
        service = self._services.get(apdu[0])
        if service is None:
            raise RefusalError(StateError.SERVICE_UNKNOWN, ServiceError.SERVICE_NOT_SUPPORTED)
        return service(apdu)

    # --------------------------------------------------------------------------------------------------------- GET

    def _get(self, apdu: bytes) -> bytes:
        need(self._conformance, Conformance.GET)
        request = get.parse_request(apdu)
        if isinstance(request, get.GetNext):
            return self._get_next(request)
        self._get_blocks = None
        if isinstance(request, get.GetRequest):
            result = self._access.get(request.item)
            whole = get.GetResponse(request.invoke, result).emit()
            raw = result.emit() if isinstance(result, Data) else b""
        else:
            need(self._conformance, Conformance.MULTIPLE_REFERENCES)
            results = tuple([self._access.get(item) for item in request.items])
            raw = emit_results(results)
            whole = bytes((Apdu.GET_RESPONSE, get.LIST, request.invoke)) + raw
        if len(whole) <= self._pdu_size:
            return whole
        if not self._conformance & Conformance.BLOCK_TRANSFER_WITH_GET:
            return get.GetResponse(request.invoke, AccessError(DataAccessResult.OTHER_REASON)).emit()
        self._get_blocks = BlockSender(raw, self._pdu_size - BLOCK_HEAD_OCTETS)
        return self._get_block(request.invoke, self._get_blocks)

    def _get_next(self, request: get.GetNext) -> bytes:
        blocks = self._get_blocks
        if blocks is None:
            code = AccessError(DataAccessResult.NO_LONG_GET_IN_PROGRESS)
            return get.GetBlock(request.invoke, last=True, number=request.number, content=code).emit()
        if request.number != blocks.number:
            self._get_blocks = None
            code = AccessError(DataAccessResult.DATA_BLOCK_NUMBER_INVALID)
            return get.GetBlock(request.invoke, last=True, number=request.number, content=code).emit()
        return self._get_block(request.invoke, blocks)

    def _get_block(self, invoke: int, blocks: BlockSender) -> bytes:
        block = blocks.next()
        if block.last:
            self._get_blocks = None
        return get.GetBlock(invoke, block.last, block.number, block.data).emit()

    # --------------------------------------------------------------------------------------------------------- SET

    def _set(self, apdu: bytes) -> bytes:
        need(self._conformance, Conformance.SET)
        request = set_apdu.parse_request(apdu)
        if isinstance(request, set_apdu.SetRequest):
            return set_apdu.SetResponse(request.invoke, (self._access.set(request.item, request.value),)).emit()
        if isinstance(request, set_apdu.SetListRequest):
            need(self._conformance, Conformance.MULTIPLE_REFERENCES)
            results = self._set_all(request.items, request.values)
            return set_apdu.SetResponse(request.invoke, results, as_list=True).emit()
        need(self._conformance, Conformance.BLOCK_TRANSFER_WITH_SET)
        incoming = self._collect(request)
        if not isinstance(incoming, set_apdu.SetFirstBlock):
            return set_apdu.SetBlockAck(request.invoke, request.block.number).emit()
        cursor = Cursor(self._collected(), "SET-request in blocks")
        values = set_apdu.read_values(cursor) if incoming.as_list else (axdr.read(cursor),)
        cursor.check_end()
        if len(values) != len(incoming.items):
            raise cursor.error(f"{len(values)} values for {len(incoming.items)} attributes")
        results = self._set_all(incoming.items, values)
        return set_apdu.SetResponse(request.invoke, results, request.block.number, incoming.as_list).emit()

    def _set_all(self, items: tuple[Item, ...], values: tuple[Data, ...]) -> tuple[int, ...]:
        return tuple([self._access.set(item, value) for item, value in zip(items, values, strict=True)])

    def _collect(
        self, request: set_apdu.SetFirstBlock | set_apdu.SetBlock | action.ActionFirstBlock | action.ActionBlock
    ) -> set_apdu.SetFirstBlock | action.ActionFirstBlock | None:
        """Take one block; return the opening request after the last one, else None. Raises `RefusalError`."""
        block = request.block
        if isinstance(request, set_apdu.SetFirstBlock | action.ActionFirstBlock):
            self._incoming = _Incoming(request, bytearray(), 0)
        incoming = self._incoming
        wrong = incoming is None or block.number != incoming.number + 1
        if wrong or incoming is None or len(incoming.data) + len(block.data) > RECEIVED_BYTES_MAX:
            self._incoming = None
            raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
        incoming.data += block.data
        incoming.number = block.number
        return incoming.first if block.last else None

    def _collected(self) -> bytes:
        incoming, self._incoming = self._incoming, None
        return b"" if incoming is None else bytes(incoming.data)

    # ------------------------------------------------------------------------------------------------------ ACCESS

    def _access_service(self, apdu: bytes) -> bytes:
        need(self._conformance, Conformance.ACCESS)
        request = access.AccessRequest.parse(apdu)
        outcomes = tuple([self._one(item) for item in request.items])
        answer = access.AccessResponse(request.invoke, outcomes).emit()
        if len(answer) > self._pdu_size:
            raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.PDU_TOO_LONG)
        return answer

    def _one(self, item: access.Access) -> access.AccessOutcome:
        if isinstance(item.target, MethodRef):
            outcome = self._access.act(item.target, item.value)
            returned = outcome.returned if isinstance(outcome.returned, Data) else axdr.null()
            return access.AccessOutcome(access.ACTION, outcome.code, returned)
        if item.value is not None:
            return access.AccessOutcome(access.SET, self._access.set(item.target, item.value), axdr.null())
        result = self._access.get(item.target)
        if isinstance(result, AccessError):
            return access.AccessOutcome(access.GET, result.code, axdr.null())
        return access.AccessOutcome(access.GET, 0, result)

    # ------------------------------------------------------------------------------------------------------ ACTION

    def _action(self, apdu: bytes) -> bytes:
        need(self._conformance, Conformance.ACTION)
        request = action.parse_request(apdu)
        if isinstance(request, action.ActionNext):
            blocks = self._action_blocks
            if blocks is None or request.number != blocks.number:
                self._action_blocks = None
                raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
            return self._action_block(request.invoke, blocks)
        self._action_blocks = None
        if isinstance(request, action.ActionRequest):
            return self._outcomes(request.invoke, (self._access.act(request.method, request.parameters),))
        if isinstance(request, action.ActionListRequest):
            need(self._conformance, Conformance.MULTIPLE_REFERENCES)
            return self._outcomes(request.invoke, self._act_all(request.methods, request.parameters), as_list=True)
        need(self._conformance, Conformance.BLOCK_TRANSFER_WITH_ACTION)
        incoming = self._collect(request)
        if not isinstance(incoming, action.ActionFirstBlock):
            return action.ActionBlockAck(request.invoke, request.block.number).emit()
        cursor = Cursor(self._collected(), "ACTION-request in blocks")
        values = set_apdu.read_values(cursor) if incoming.as_list else (axdr.read(cursor),)
        cursor.check_end()
        if len(values) != len(incoming.methods):
            raise cursor.error(f"{len(values)} parameters for {len(incoming.methods)} methods")
        return self._outcomes(request.invoke, self._act_all(incoming.methods, values), as_list=incoming.as_list)

    def _act_all(self, methods: tuple[MethodRef, ...], values: tuple[Data, ...]) -> tuple[ActionOutcome, ...]:
        return tuple([self._access.act(method, value) for method, value in zip(methods, values, strict=True)])

    def _outcomes(self, invoke: int, outcomes: tuple[ActionOutcome, ...], *, as_list: bool = False) -> bytes:
        raw = b"".join([outcome.emit() for outcome in outcomes])
        if as_list:
            raw = length_octets(len(outcomes)) + raw
        form = action.RESPONSE_LIST if as_list else action.NORMAL
        whole = bytes((Apdu.ACTION_RESPONSE, form, invoke)) + raw
        if len(whole) <= self._pdu_size:
            return whole
        need(self._conformance, Conformance.BLOCK_TRANSFER_WITH_ACTION)
        self._action_blocks = BlockSender(raw, self._pdu_size - BLOCK_HEAD_OCTETS)
        return self._action_block(invoke, self._action_blocks)

    def _action_block(self, invoke: int, blocks: BlockSender) -> bytes:
        block = blocks.next()
        if block.last:
            self._action_blocks = None
        return action.ActionResponseBlock(invoke, block).emit()
