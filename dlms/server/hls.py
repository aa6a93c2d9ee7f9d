"""Pass 3 of high level security as a meter receives it: an ACTION, or a READ with short names (GB 9.2.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from dlms import axdr
from dlms.codes import ActionResult, Apdu, DataAccessResult
from dlms.cosem.associations import REPLY_TO_HLS
from dlms.cosem.short_names import REPLY_TO_HLS_NAME
from dlms.xdlms.apdu import action, sn
from dlms.xdlms.apdu.common import AccessError, ActionOutcome


@dataclass(frozen=True, slots=True)
class HlsReply:
    """A client's proof, and how to answer it: `invoke` is None for a READ of the method's short name."""

    invoke: int | None
    proof: bytes

    def refusal(self) -> bytes:
        if self.invoke is None:
            return sn.ReadResponse((AccessError(DataAccessResult.READ_WRITE_DENIED),)).emit()
        return action.ActionResponse(self.invoke, ActionOutcome(ActionResult.READ_WRITE_DENIED)).emit()

    def acceptance(self, proof: bytes) -> bytes:
        if self.invoke is None:
            return sn.ReadResponse((axdr.octets(proof),)).emit()
        return action.ActionResponse(self.invoke, ActionOutcome(ActionResult.SUCCESS, axdr.octets(proof))).emit()


def reply_to_hls(plain: bytes, *, short_names: bool) -> HlsReply | None:
    """Find a call of reply_to_HLS_authentication in `plain`; None for any other request. Raises `DecodeError`."""
    invoke, parameters = None, None
    if short_names and plain[0] == Apdu.READ_REQUEST:
        read = sn.parse_read_request(plain)
        if not isinstance(read, sn.ReadRequest) or [one.name for one in read.variables] != [REPLY_TO_HLS_NAME]:
            return None
        selection = read.variables[0].selection
        parameters = None if selection is None else selection.parameters
    elif not short_names and plain[0] == Apdu.ACTION_REQUEST:
        request = action.parse_request(plain)
        if not isinstance(request, action.ActionRequest) or request.method != REPLY_TO_HLS:
            return None
        invoke, parameters = request.invoke, request.parameters
    else:
        return None
    proof = parameters.value if parameters is not None else None
    return HlsReply(invoke, proof if isinstance(proof, bytes) else b"")
