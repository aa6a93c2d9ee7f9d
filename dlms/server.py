"""The meter's side of DLMS/COSEM, sans-IO: one `MeterServer` a meter, one `ServerAssociation` a connection.

    server = MeterServer(objects_from_csv(path, values), auth={1: Lls("secret")}, pdu_size=1024)
    association = server.new_association(client_sap=1)
    for answer in association.receive_apdu(apdu, now): ...

Answers that outgrow the client's PDU size go out in blocks. Nothing that a client sends raises: what cannot be read is
answered with an exception-response.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from dlms import axdr
from dlms.acse import Aare, Aarq, InitiateRequest, InitiateResponse, Release
from dlms.apdu import action, faults, get
from dlms.apdu import set as set_apdu
from dlms.apdu.common import AccessError, ActionOutcome, Item, Result, emit_results
from dlms.axdr import Data
from dlms.codes import (
    DLMS_VERSION,
    LN_CLIENT_CONFORMANCE,
    ActionResult,
    Apdu,
    AssociationResult,
    Conformance,
    Context,
    DataAccessResult,
    Diagnostic,
    ServiceError,
    StateError,
)
from dlms.cosem.obis import MethodRef, Obis
from dlms.cursor import Cursor, length_octets
from dlms.errors import DecodeError, DlmsError, LocalError
from dlms.exchange import BLOCK_HEAD_OCTETS, BlockSender
from dlms.objects import (
    Row,
    ServerObject,
    ValueSource,
    constant,
    objects_from_csv,
    objects_from_rows,
    rows_from_csv,
)
from dlms.security import Auth, Lls, NoAuth

__all__ = [
    "MeterServer", "Row", "ServerAssociation", "ServerObject", "ValueSource", "constant", "objects_from_csv",
    "objects_from_rows", "rows_from_csv",
]  # fmt: skip

RECEIVED_BYTES_MAX = 1024 * 1024  # of one SET or ACTION that comes in blocks
PDU_SIZE_MIN = 12
PDU_UNLIMITED = 0xFFFF


class MeterServer:
    """The objects of one meter and who may associate.

    `auth` is what every client must prove, or a mapping from client SAP to it (other SAPs are then refused).
    """

    def __init__(
        self,
        objects: Iterable[ServerObject],
        *,
        auth: Auth | Mapping[int, Auth] | None = None,
        pdu_size: int = 1024,
        conformance: Conformance = LN_CLIENT_CONFORMANCE,
    ) -> None:
        if not PDU_SIZE_MIN <= pdu_size <= PDU_UNLIMITED:
            raise LocalError(f"a PDU size is {PDU_SIZE_MIN} to {PDU_UNLIMITED} octets, not {pdu_size}")
        self.pdu_size = pdu_size
        self.conformance = conformance
        self._auth = NoAuth() if auth is None else auth
        self._objects: dict[Obis, dict[int, ServerObject]] = {}
        for item in objects:
            self.add(item)

    def add(self, item: ServerObject) -> None:
        """One more object; it replaces one of the same class and code."""
        self._objects.setdefault(item.obis, {})[item.class_id] = item

    def objects(self) -> list[ServerObject]:
        return [item for classes in self._objects.values() for item in classes.values()]

    def auth_of(self, client_sap: int) -> Auth | None:
        """What this client must prove; None when it may not associate at all."""
        return self._auth.get(client_sap) if isinstance(self._auth, Mapping) else self._auth

    def find(self, class_id: int, obis: Obis) -> ServerObject | DataAccessResult:
        classes = self._objects.get(obis)
        if classes is None:
            return DataAccessResult.OBJECT_UNDEFINED
        return classes.get(class_id, DataAccessResult.OBJECT_CLASS_INCONSISTENT)

    def get(self, item: Item) -> Result:
        found = self.find(item.ref.class_id, item.ref.obis)
        if isinstance(found, ServerObject):
            return found.get(item.ref.attribute, item.selection)
        return AccessError(found)

    def set(self, item: Item, value: Data) -> int:
        found = self.find(item.ref.class_id, item.ref.obis)
        return found.set(item.ref.attribute, value) if isinstance(found, ServerObject) else found

    def act(self, method: MethodRef, parameters: Data | None) -> ActionOutcome:
        found = self.find(method.class_id, method.obis)
        if isinstance(found, ServerObject):
            return found.act(method.method, parameters)
        return ActionOutcome(ActionResult(int(found)))

    def new_association(self, client_sap: int) -> ServerAssociation:
        """For a connection just made."""
        return ServerAssociation(self, client_sap)


class State(Enum):
    IDLE = auto()
    ASSOCIATED = auto()


@dataclass(slots=True)
class _Incoming:
    """A SET or ACTION whose parameters come in blocks."""

    first: set_apdu.SetFirstBlock | action.ActionFirstBlock
    data: bytearray
    number: int


class ServerAssociation:
    """See the module. `now` is monotonic seconds."""

    def __init__(self, server: MeterServer, client_sap: int) -> None:
        self.state = State.IDLE
        self.client_sap = client_sap
        self._server = server
        self._conformance = Conformance(0)
        self._client_pdu_size = PDU_UNLIMITED
        self._get_blocks: BlockSender | None = None
        self._action_blocks: BlockSender | None = None
        self._incoming: _Incoming | None = None
        self._services: dict[int, Callable[[bytes], bytes]] = {
            Apdu.AARQ: self._aarq,
            Apdu.RLRQ: self._rlrq,
            Apdu.GET_REQUEST: self._get,
            Apdu.SET_REQUEST: self._set,
            Apdu.ACTION_REQUEST: self._action,
        }

    def receive_apdu(self, apdu: bytes, now: float) -> list[bytes]:  # noqa: ARG002 - the contract of the cores
        """The answers to one APDU, in order."""
        tag = apdu[0] if apdu else -1
        service = self._services.get(tag)
        if service is None:
            return [_exception(StateError.SERVICE_UNKNOWN, ServiceError.SERVICE_NOT_SUPPORTED)]
        if self.state is State.IDLE and tag != Apdu.AARQ:
            return [_exception(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)]
        try:
            answer = service(apdu)
        except _Refuse as refusal:
            return [refusal.apdu]
        except DecodeError:
            return [_exception(StateError.SERVICE_NOT_ALLOWED, ServiceError.OTHER_REASON)]
        except DlmsError:
            return [_exception(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)]
        return [answer]

    def reset(self) -> None:
        """The link went down: the association is gone."""
        self.state = State.IDLE
        self._get_blocks = self._action_blocks = self._incoming = None

    # ------------------------------------------------------------------------------------------------- association

    def _aarq(self, apdu: bytes) -> bytes:
        self.reset()
        aarq = Aarq.parse(apdu)
        if aarq.context is not Context.LN:
            return _rejection(aarq.context, Diagnostic.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED)
        failure = self._check_auth(aarq)
        if failure is not None:
            return _rejection(aarq.context, failure)
        if aarq.user_information is None:
            return _rejection(aarq.context, Diagnostic.NO_REASON_GIVEN)
        request = InitiateRequest.parse(aarq.user_information)
        if request.version < DLMS_VERSION:
            return _initiate_error(aarq.context, 1)
        if 0 < request.pdu_size < PDU_SIZE_MIN:
            return _initiate_error(aarq.context, 3)
        self._conformance = request.conformance & self._server.conformance
        if not self._conformance:
            return _initiate_error(aarq.context, 2)
        self._client_pdu_size = request.pdu_size or PDU_UNLIMITED
        self.state = State.ASSOCIATED
        response = InitiateResponse(self._conformance, self._server.pdu_size)
        return Aare(aarq.context, AssociationResult.ACCEPTED, Diagnostic.NULL, response.emit()).emit()

    def _check_auth(self, aarq: Aarq) -> Diagnostic | None:
        auth = self._server.auth_of(self.client_sap)
        if auth is None:
            return Diagnostic.CALLING_AP_TITLE_NOT_RECOGNIZED
        if auth.mechanism != aarq.mechanism:
            if aarq.mechanism == 0:
                return Diagnostic.AUTHENTICATION_REQUIRED
            return Diagnostic.AUTHENTICATION_MECHANISM_NAME_NOT_RECOGNISED
        if isinstance(auth, Lls) and not hmac.compare_digest(auth.password, aarq.authentication or b""):
            return Diagnostic.AUTHENTICATION_FAILURE
        return None

    def _rlrq(self, apdu: bytes) -> bytes:
        Release.parse(apdu)
        self.reset()
        return Release(is_response=True).emit()

    def _need(self, service: Conformance) -> None:
        if not self._conformance & service:
            raise _Refuse(StateError.SERVICE_UNKNOWN, ServiceError.SERVICE_NOT_SUPPORTED)

    # --------------------------------------------------------------------------------------------------------- GET

    def _get(self, apdu: bytes) -> bytes:
        self._need(Conformance.GET)
        request = get.parse_request(apdu)
        if isinstance(request, get.GetNext):
            return self._get_next(request)
        self._get_blocks = None
        if isinstance(request, get.GetRequest):
            result = self._server.get(request.item)
            whole = get.GetResponse(request.invoke, result).emit()
            raw = result.emit() if isinstance(result, Data) else b""
        else:
            self._need(Conformance.MULTIPLE_REFERENCES)
            results = tuple([self._server.get(item) for item in request.items])
            raw = emit_results(results)
            whole = bytes((Apdu.GET_RESPONSE, get.LIST, request.invoke)) + raw
        if len(whole) <= self._client_pdu_size:
            return whole
        if not self._conformance & Conformance.BLOCK_TRANSFER_WITH_GET:
            return get.GetResponse(request.invoke, AccessError(DataAccessResult.OTHER_REASON)).emit()
        self._get_blocks = BlockSender(raw, self._client_pdu_size - BLOCK_HEAD_OCTETS)
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
        self._need(Conformance.SET)
        request = set_apdu.parse_request(apdu)
        if isinstance(request, set_apdu.SetRequest):
            return set_apdu.SetResponse(request.invoke, (self._server.set(request.item, request.value),)).emit()
        if isinstance(request, set_apdu.SetListRequest):
            self._need(Conformance.MULTIPLE_REFERENCES)
            results = self._set_all(request.items, request.values)
            return set_apdu.SetResponse(request.invoke, results, as_list=True).emit()
        self._need(Conformance.BLOCK_TRANSFER_WITH_SET)
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
        return tuple([self._server.set(item, value) for item, value in zip(items, values, strict=True)])

    def _collect(
        self, request: set_apdu.SetFirstBlock | set_apdu.SetBlock | action.ActionFirstBlock | action.ActionBlock
    ) -> set_apdu.SetFirstBlock | action.ActionFirstBlock | None:
        """Take in one block; the opening request when it was the last one. Raises `_Refuse`."""
        block = request.block
        if isinstance(request, set_apdu.SetFirstBlock | action.ActionFirstBlock):
            self._incoming = _Incoming(request, bytearray(), 0)
        incoming = self._incoming
        wrong = incoming is None or block.number != incoming.number + 1
        if wrong or incoming is None or len(incoming.data) + len(block.data) > RECEIVED_BYTES_MAX:
            self._incoming = None
            raise _Refuse(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
        incoming.data += block.data
        incoming.number = block.number
        return incoming.first if block.last else None

    def _collected(self) -> bytes:
        incoming, self._incoming = self._incoming, None
        return b"" if incoming is None else bytes(incoming.data)

    # ------------------------------------------------------------------------------------------------------ ACTION

    def _action(self, apdu: bytes) -> bytes:
        self._need(Conformance.ACTION)
        request = action.parse_request(apdu)
        if isinstance(request, action.ActionNext):
            blocks = self._action_blocks
            if blocks is None or request.number != blocks.number:
                self._action_blocks = None
                raise _Refuse(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
            return self._action_block(request.invoke, blocks)
        self._action_blocks = None
        if isinstance(request, action.ActionRequest):
            return self._outcomes(request.invoke, (self._server.act(request.method, request.parameters),))
        if isinstance(request, action.ActionListRequest):
            self._need(Conformance.MULTIPLE_REFERENCES)
            return self._outcomes(request.invoke, self._act_all(request.methods, request.parameters), as_list=True)
        self._need(Conformance.BLOCK_TRANSFER_WITH_ACTION)
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
        return tuple([self._server.act(method, value) for method, value in zip(methods, values, strict=True)])

    def _outcomes(self, invoke: int, outcomes: tuple[ActionOutcome, ...], *, as_list: bool = False) -> bytes:
        raw = b"".join([outcome.emit() for outcome in outcomes])
        if as_list:
            raw = length_octets(len(outcomes)) + raw
        form = action.RESPONSE_LIST if as_list else action.NORMAL
        whole = bytes((Apdu.ACTION_RESPONSE, form, invoke)) + raw
        if len(whole) <= self._client_pdu_size:
            return whole
        self._need(Conformance.BLOCK_TRANSFER_WITH_ACTION)
        self._action_blocks = BlockSender(raw, self._client_pdu_size - BLOCK_HEAD_OCTETS)
        return self._action_block(invoke, self._action_blocks)

    def _action_block(self, invoke: int, blocks: BlockSender) -> bytes:
        block = blocks.next()
        if block.last:
            self._action_blocks = None
        return action.ActionResponseBlock(invoke, block).emit()


class _Refuse(DlmsError):
    """A request that is answered with this exception-response."""

    def __init__(self, state_error: StateError, service_error: ServiceError) -> None:
        super().__init__(service_error.name)
        self.apdu = _exception(state_error, service_error)


def _exception(state_error: StateError, service_error: ServiceError) -> bytes:
    return faults.ExceptionResponse(state_error, service_error).emit()


def _rejection(context: Context, diagnostic: Diagnostic) -> bytes:
    return Aare(context, AssociationResult.REJECTED_PERMANENT, diagnostic).emit()


def _initiate_error(context: Context, code: int) -> bytes:
    error = faults.ConfirmedServiceError(faults.INITIATE_SERVICE, faults.INITIATE_CLASS, code)
    return Aare(context, AssociationResult.REJECTED_PERMANENT, Diagnostic.NO_REASON_GIVEN, error.emit()).emit()
