"""A meter as one association sees it: the objects its rights allow, and the association object itself (class 15).

Each client reads an association object of its own: the object list has what the client may see, the other attributes
what was negotiated. A client with the right to write may change its secret, which applies from the next association on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import DLMS_VERSION, ActionResult, Conformance, Context, DataAccessResult
from dlms.cosem.associations import ASSOCIATION
from dlms.cosem.obis import MethodRef, Obis
from dlms.errors import LocalError
from dlms.security.settings import PASSWORD_OCTETS_MAX, Auth, Hls, Lls
from dlms.server.objects import CosemObject, constant
from dlms.server.rights import MANAGEMENT, Rights, object_list
from dlms.xdlms.acse import context_name, mechanism_name
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item, Result

ASSOCIATED = 2  # association_status
SERVER_SAP = 1
SECURITY_SETUP_CLASS = 64
_DENIED = AccessError(DataAccessResult.READ_WRITE_DENIED)


class Objects(Protocol):
    """The objects of a meter, without rights."""

    def find(self, class_id: int, obis: Obis) -> CosemObject | DataAccessResult: ...

    def objects(self) -> list[CosemObject]: ...

    def change_auth(self, client_sap: int, auth: Auth) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of an association. `pdu_size` is the largest APDU that the meter takes, `client_pdu_size` the largest
    that the client takes, in octets."""

    client_sap: int
    auth: Auth
    context: Context
    conformance: Conformance
    pdu_size: int
    client_pdu_size: int
    rights: Rights


class View:
    """GET, SET and ACTION with one client's rights; an object that it may not see does not exist for it."""

    def __init__(self, meter: Objects, terms: Terms) -> None:
        self._meter = meter
        self._terms = terms
        self._rights = terms.rights

    def objects(self) -> list[CosemObject]:
        """The objects that the client may see."""
        return [item for item in self._meter.objects() if self._rights.sees(item.class_id, item.obis)]

    def get(self, item: Item) -> Result:
        ref = item.ref
        found = self._find(ref.class_id, ref.obis)
        if not isinstance(found, CosemObject):
            return AccessError(found)
        if ref.attribute != 1 and not self._rights.reads(ref.class_id, ref.obis, ref.attribute):
            return _DENIED
        return found.get(ref.attribute, item.selection)

    def set(self, item: Item, value: Data) -> int:
        ref = item.ref
        found = self._find(ref.class_id, ref.obis)
        if not isinstance(found, CosemObject):
            return found
        if not self._rights.writes(ref.class_id, ref.obis, ref.attribute):
            return DataAccessResult.READ_WRITE_DENIED
        return found.set(ref.attribute, value)

    def act(self, method: MethodRef, parameters: Data | None) -> ActionOutcome:
        found = self._find(method.class_id, method.obis)
        if not isinstance(found, CosemObject):
            return ActionOutcome(ActionResult(int(found)))
        if method.class_id == SECURITY_SETUP_CLASS and not self._terms.context.ciphered:
            return ActionOutcome(ActionResult.READ_WRITE_DENIED)  # keys are not changed in an unciphered association
        if not self._rights.calls(method.class_id, method.obis, method.method):
            return ActionOutcome(ActionResult.READ_WRITE_DENIED)
        return found.act(method.method, parameters)

    def _listed(self) -> list[CosemObject]:
        """All objects of the meter, with this client's own association object."""
        found = [self._find(item.class_id, item.obis) for item in self._meter.objects()]
        return [item for item in found if isinstance(item, CosemObject)]

    def _find(self, class_id: int, obis: Obis) -> CosemObject | DataAccessResult:
        if not self._rights.sees(class_id, obis):
            return DataAccessResult.OBJECT_UNDEFINED
        found = self._meter.find(class_id, obis)
        own = isinstance(found, CosemObject) and class_id == ASSOCIATION.class_id and obis == ASSOCIATION.obis
        return self._association() if own else found

    # ---- the association object

    def _association(self) -> CosemObject:
        terms = self._terms
        partners = axdr.structure(axdr.i8(terms.client_sap & 0x7F), axdr.u16(SERVER_SAP))
        item = CosemObject(ASSOCIATION.class_id, ASSOCIATION.obis, version=1)
        item.readers = {
            2: lambda _selection: object_list(self._listed(), self._rights),
            3: constant(partners),
            4: constant(axdr.octets(context_name(terms.context))),
            5: constant(self._context_info()),
            6: constant(axdr.octets(mechanism_name(terms.auth.mechanism))),
            8: constant(axdr.enum(ASSOCIATED)),
            9: constant(axdr.octets(Obis.parse("0.0.43.0.0.255").code)),
        }
        item.writers = {7: self._change_password}
        item.methods = {2: self._change_secret}
        return item

    def _context_info(self) -> Data:
        terms = self._terms
        bits = f"{int(terms.conformance):024b}"
        return axdr.structure(
            axdr.bits(bits),
            axdr.u16(terms.pdu_size),
            axdr.u16(min(terms.client_pdu_size, 0xFFFF)),
            axdr.u8(DLMS_VERSION),
            axdr.i8(0),
            axdr.octets(b""),
        )

    def _change_password(self, value: Data) -> DataAccessResult:
        """Write the attribute `secret` (low level security)."""
        if not isinstance(self._terms.auth, Lls):
            return DataAccessResult.READ_WRITE_DENIED
        if not isinstance(value.value, bytes) or not 0 < len(value.value) <= PASSWORD_OCTETS_MAX:
            return DataAccessResult.TYPE_UNMATCHED
        self._meter.change_auth(self._terms.client_sap, Lls(value.value))
        return DataAccessResult.SUCCESS

    def _change_secret(self, parameters: Data | None) -> ActionOutcome:
        """The method `change_HLS_secret`, for mechanisms with a secret."""
        auth = self._terms.auth
        if not isinstance(auth, Hls) or not auth.secret:
            return ActionOutcome(ActionResult.READ_WRITE_DENIED)
        secret = None if parameters is None else parameters.value
        if not isinstance(secret, bytes) or not 0 < len(secret) <= PASSWORD_OCTETS_MAX:
            return ActionOutcome(ActionResult.TYPE_UNMATCHED)
        try:
            changed = replace(auth, secret=secret)
        except LocalError:
            return ActionOutcome(ActionResult.OTHER_REASON)
        self._meter.change_auth(self._terms.client_sap, changed)
        return ActionOutcome(ActionResult.SUCCESS)


def association_object(meter: Objects) -> CosemObject:
    """Association LN (class 15, version 1) for a meter's list of objects, with all objects in its object list.

    A client never reads this one: its `View` returns the client's own association instead.
    """
    return CosemObject(
        ASSOCIATION.class_id,
        ASSOCIATION.obis,
        version=1,
        readers={2: lambda _selection: object_list(meter.objects(), MANAGEMENT), 8: constant(axdr.enum(ASSOCIATED))},
    )
