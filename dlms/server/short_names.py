"""Short-name referencing, the meter's side: base names of the objects, READ and WRITE."""

from __future__ import annotations

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu, Conformance, DataAccessResult, ServiceError, StateError
from dlms.cosem.associations import OBJECT_LIST
from dlms.cosem.classes import interface_class
from dlms.cosem.obis import AttributeRef, MethodRef, Selection
from dlms.cosem.short_names import ASSOCIATION_BASE, method_offset
from dlms.errors import LocalError
from dlms.server.objects import CosemObject
from dlms.server.services import ObjectAccess, RefusalError, need
from dlms.xdlms.apdu import service_errors, sn
from dlms.xdlms.apdu.common import AccessError, Item, Result, emit_results
from dlms.xdlms.exchange_write import BlockSender

FIRST_BASE = 0x0100
ASSOCIATION_LN = 15
READ_BLOCK_HEAD_OCTETS = 10  # tag, count, choice, last, number, a length of up to four octets
_NAMES_STEP = 8


_SERVICES: dict[int, int] = {
    Apdu.READ_REQUEST: service_errors.READ_SERVICE,
    Apdu.WRITE_REQUEST: service_errors.WRITE_SERVICE,
}
_SERVICE_CODES = {ServiceError.PDU_TOO_LONG: 1, ServiceError.SERVICE_NOT_SUPPORTED: 2}  # others are 0, "other"


def refusal_by_name(apdu: bytes, refusal: RefusalError) -> bytes:
    """Refuse `apdu`: a READ or WRITE with a confirmed-service-error, anything else with an exception-response."""
    service = _SERVICES.get(apdu[0] if apdu else -1)
    if service is None:
        return refusal.apdu
    return service_errors.ConfirmedServiceError(
        service, service_errors.SERVICE_CLASS, _SERVICE_CODES.get(refusal.error, 0)
    ).emit()


class ShortNameTable:
    """The short names of a meter's objects, and of the association itself."""

    def __init__(self, objects: list[CosemObject]) -> None:
        self.bases: list[tuple[int, CosemObject]] = []
        base = FIRST_BASE
        for item in objects:
            if item.class_id == ASSOCIATION_LN:
                continue  # Association LN belongs to logical names; Association SN is added at the end
            self.bases.append((base, item))
            base += _span(item)
        if base > ASSOCIATION_BASE:
            raise LocalError(f"{len(objects)} objects have no room below the association's short name")

    def object_list(self) -> Data:
        """Encode `object_list` of Association SN."""
        rows = [(base, item.class_id, item.version, item.obis.code) for base, item in self.bases]
        rows.append((ASSOCIATION_BASE, OBJECT_LIST.class_id, 4, OBJECT_LIST.obis.code))
        return axdr.array(
            axdr.structure(
                axdr.i16(base - 0x10000 if base > 0x7FFF else base),
                axdr.u16(class_id),
                axdr.u8(version),
                axdr.octets(name),
            )
            for base, class_id, version, name in rows
        )

    def find(self, name: int) -> AttributeRef | MethodRef | None:
        """The attribute or method with this short name."""
        if name % _NAMES_STEP:
            return None
        if name == ASSOCIATION_BASE + _NAMES_STEP:
            return OBJECT_LIST
        for base, item in self.bases:
            if base <= name < base + _span(item):
                offset = method_offset(item.class_id)
                if offset is not None and name >= base + offset:
                    return MethodRef(item.class_id, item.obis, (name - base - offset) // _NAMES_STEP + 1)
                return AttributeRef(item.class_id, item.obis, (name - base) // _NAMES_STEP + 1)
        return None


def _span(item: CosemObject) -> int:
    """The range of names that an object takes: its attributes, and its methods from the offset of its class on."""
    known = interface_class(item.class_id, item.version)
    attributes: int = max((1, *item.readers, *item.writers, *(known.attributes if known else ())))
    methods: int = max((0, *item.methods, *(known.methods if known else ())))
    offset: int = method_offset(item.class_id) or 0
    return max(_NAMES_STEP * attributes, offset + _NAMES_STEP * methods)


class ShortNameServices:
    """READ and WRITE of one association. `pdu_size` is the longest answer, in octets."""

    def __init__(
        self, access: ObjectAccess, objects: list[CosemObject], conformance: Conformance, pdu_size: int
    ) -> None:
        self._access = access
        self._names = ShortNameTable(objects)
        self._conformance = conformance
        self._pdu_size = pdu_size
        self._blocks: BlockSender | None = None

    def handle(self, apdu: bytes) -> bytes:
        """Answer one plain request. Raises `RefusalError`, and `DlmsError` for a request that cannot be decoded."""
        if apdu[0] == Apdu.READ_REQUEST:
            need(self._conformance, Conformance.READ)
            return self._read(apdu)
        if apdu[0] in (Apdu.WRITE_REQUEST, Apdu.UNCONFIRMED_WRITE_REQUEST):
            need(
                self._conformance, Conformance.WRITE if apdu[0] == Apdu.WRITE_REQUEST else Conformance.UNCONFIRMED_WRITE
            )
            request = sn.parse_write_request(apdu)
            codes = [
                self._write(variable, value) for variable, value in zip(request.variables, request.values, strict=True)
            ]
            return sn.WriteResponse(tuple(codes)).emit()
        raise RefusalError(StateError.SERVICE_UNKNOWN, ServiceError.SERVICE_NOT_SUPPORTED)

    def _read(self, apdu: bytes) -> bytes:
        request = sn.parse_read_request(apdu)
        if isinstance(request, sn.ReadNext):
            blocks = self._blocks
            if blocks is None or request.number != blocks.number:
                self._blocks = None
                return sn.ReadResponse((AccessError(DataAccessResult.NO_LONG_GET_IN_PROGRESS),)).emit()
            return self._block(blocks)
        self._blocks = None
        results = tuple([self._value(variable) for variable in request.variables])
        whole = sn.ReadResponse(results).emit()
        if len(whole) <= self._pdu_size:
            return whole
        self._blocks = BlockSender(emit_results(results), self._pdu_size - READ_BLOCK_HEAD_OCTETS)
        return self._block(self._blocks)

    def _block(self, blocks: BlockSender) -> bytes:
        block = blocks.next()
        if block.last:
            self._blocks = None
        return sn.ReadBlock(block).emit()

    def _value(self, variable: sn.Variable) -> Result:
        found = self._names.find(variable.name)
        if found == OBJECT_LIST:
            return self._names.object_list()
        if not isinstance(found, AttributeRef):
            return AccessError(DataAccessResult.OBJECT_UNDEFINED)
        selection: Selection | None = variable.selection
        return self._access.get(Item(found, selection))

    def _write(self, variable: sn.Variable, value: Data) -> int:
        found = self._names.find(variable.name)
        if isinstance(found, MethodRef):
            return self._access.act(found, value).code
        if found is None or found == OBJECT_LIST:
            return DataAccessResult.OBJECT_UNDEFINED
        return self._access.set(Item(found, variable.selection), value)
