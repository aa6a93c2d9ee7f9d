"""The meter's side of DLMS/COSEM, sans-IO: one `MeterServer` per meter, one `ServerAssociation` per connection.

    server = MeterServer(objects_from_rows(rows, values), auth={1: Lls("secret")}, pdu_size=1024)
    association = server.new_association(client_sap=1)
    for answer in association.receive_apdu(apdu, now): ...

Responses that exceed the client's PDU size go out in blocks. Nothing that a client sends raises: an APDU that cannot be
read gets an exception-response.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from dlms.axdr import Data
from dlms.codes import (
    DLMS_VERSION,
    LN_CLIENT_CONFORMANCE,
    PROTECTED_TAGS,
    SN_CLIENT_CONFORMANCE,
    VAA_NAME_LN,
    VAA_NAME_SN,
    ActionResult,
    Apdu,
    AssociationResult,
    Conformance,
    Context,
    DataAccessResult,
    Diagnostic,
    Mechanism,
    ServiceError,
    StateError,
    is_unconfirmed,
)
from dlms.cosem.obis import MethodRef, Obis
from dlms.errors import DecodeError, DlmsError, LocalError, PeerError
from dlms.security.ciphering import Ciphering
from dlms.security.gcm import Replayed
from dlms.security.hls import Challenges, check_challenges, make_challenge, prove, verify
from dlms.security.settings import (
    CHALLENGE_OCTETS_MAX,
    CHALLENGE_OCTETS_MIN,
    Auth,
    Hls,
    Lls,
    NoAuth,
    Security,
    own_title,
)
from dlms.server.hls import reply_to_hls
from dlms.server.objects import (
    CosemObject,
)
from dlms.server.rights import MANAGEMENT, NOTHING, Rights
from dlms.server.services import RefusalError, Services
from dlms.server.short_names import ShortNameServices, refusal_by_name
from dlms.server.view import Terms, View
from dlms.statemachine import Stateful, Transitions
from dlms.xdlms.acse import PDU_SIZE_MIN, PDU_UNLIMITED, Aare, Aarq, InitiateRequest, InitiateResponse, ReleaseApdu
from dlms.xdlms.apdu import notify, service_errors
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item, Result
from dlms.xdlms.gbt import BlockTransfer


class MeterServer:
    """The objects of one meter, and which clients may associate.

    `auth` is what clients must prove: one for all, or by client SAP (other SAPs are then refused). With `security`, one
    for all or by client SAP, associations are ciphered. `short_names` also allows short-name referencing. `rights` are
    what clients may do, one for all or by client SAP (`dlms.server.rights`; other SAPs then see nothing). `pdu_size` is
    the largest APDU that the meter takes, in octets.
    """

    def __init__(
        self,
        objects: Iterable[CosemObject],
        *,
        auth: Auth | Mapping[int, Auth] | None = None,
        security: Security | Mapping[int, Security] | None = None,
        pdu_size: int = 1024,
        conformance: Conformance = LN_CLIENT_CONFORMANCE,
        short_names: bool = False,
        rights: Rights | Mapping[int, Rights] = MANAGEMENT,
    ) -> None:
        if not PDU_SIZE_MIN <= pdu_size <= PDU_UNLIMITED:
            raise LocalError(f"a PDU size is {PDU_SIZE_MIN} to {PDU_UNLIMITED} octets, not {pdu_size}")
        self.pdu_size = pdu_size
        self.conformance = conformance | SN_CLIENT_CONFORMANCE if short_names else conformance
        self.short_names = short_names
        self.asking_title: bytes | None = None  # system title of the client whose request is being served
        self._auth = NoAuth() if auth is None else auth
        self._changed_auth: dict[int, Auth] = {}
        self._security = security
        self._rights = rights
        self._objects: dict[Obis, dict[int, CosemObject]] = {}
        for item in objects:
            self.add(item)

    def add(self, item: CosemObject) -> None:
        """Add an object; it replaces one of the same class and code."""
        self._objects.setdefault(item.obis, {})[item.class_id] = item

    def objects(self) -> list[CosemObject]:
        return [item for classes in self._objects.values() for item in classes.values()]

    def auth_of(self, client_sap: int) -> Auth | None:
        """The authentication required of this client; None when it may not associate at all."""
        if client_sap in self._changed_auth:
            return self._changed_auth[client_sap]
        return self._auth.get(client_sap) if isinstance(self._auth, Mapping) else self._auth

    def change_auth(self, client_sap: int, auth: Auth) -> None:
        """Change the authentication required of this client, from its next association on."""
        self._changed_auth[client_sap] = auth

    def rights_of(self, client_sap: int) -> Rights:
        """The access rights of this client."""
        return self._rights.get(client_sap, NOTHING) if isinstance(self._rights, Mapping) else self._rights

    def security_of(self, client_sap: int) -> Security | None:
        """The keys for this client; None when its associations are plain."""
        return self._security.get(client_sap) if isinstance(self._security, Mapping) else self._security

    def change_security(self, old: Security, new: Security) -> None:
        """Replace the settings `old` by `new` for every client that has them, from its next association on."""
        if isinstance(self._security, Mapping):
            self._security = {sap: new if held is old else held for sap, held in self._security.items()}
        elif self._security is old:
            self._security = new

    def find(self, class_id: int, obis: Obis) -> CosemObject | DataAccessResult:
        classes = self._objects.get(obis)
        if classes is None:
            return DataAccessResult.OBJECT_UNDEFINED
        return classes.get(class_id, DataAccessResult.OBJECT_CLASS_INCONSISTENT)

    def get(self, item: Item) -> Result:
        found = self.find(item.ref.class_id, item.ref.obis)
        if isinstance(found, CosemObject):
            return found.get(item.ref.attribute, item.selection)
        return AccessError(found)

    def set(self, item: Item, value: Data) -> int:
        found = self.find(item.ref.class_id, item.ref.obis)
        return found.set(item.ref.attribute, value) if isinstance(found, CosemObject) else found

    def act(self, method: MethodRef, parameters: Data | None) -> ActionOutcome:
        found = self.find(method.class_id, method.obis)
        if isinstance(found, CosemObject):
            return found.act(method.method, parameters)
        return ActionOutcome(ActionResult(int(found)))

    def new_association(self, client_sap: int) -> ServerAssociation:
        """Make the association of one client, in the state IDLE."""
        return ServerAssociation(self, client_sap)


class State(Enum):
    """Where an association stands."""

    IDLE = auto()
    PROVING = auto()
    ASSOCIATED = auto()


class Event(Enum):
    """What moves an association on."""

    ACCEPT = auto()
    CHALLENGE = auto()
    PROVED = auto()
    END = auto()


TRANSITIONS: Transitions[State, Event] = Transitions(
    {
        (State.IDLE, Event.ACCEPT): State.ASSOCIATED,
        (State.IDLE, Event.CHALLENGE): State.PROVING,
        (State.IDLE, Event.END): State.IDLE,
        (State.PROVING, Event.PROVED): State.ASSOCIATED,
        (State.PROVING, Event.END): State.IDLE,
        (State.ASSOCIATED, Event.END): State.IDLE,
    }
)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A client whose proof (high level security) has not come yet."""

    auth: Hls
    challenges: Challenges


class ServerAssociation(Stateful[State, Event]):
    """One client's association. With high level security it is PROVING from the AARQ to a valid proof."""

    def __init__(self, server: MeterServer, client_sap: int) -> None:
        super().__init__(State.IDLE, TRANSITIONS)
        self.client_sap = client_sap
        self._server = server
        self._services: Services | ShortNameServices = Services(server, Conformance(0), PDU_UNLIMITED)
        self._ciphering: Ciphering | None = None
        self._security: Security | None = None  # as it was when the association was made
        self._pending: _Pending | None = None
        self._proof_ciphering: Ciphering | None = None
        self._transfer: BlockTransfer | None = None
        self._client_pdu_size = PDU_UNLIMITED
        self._conformance = Conformance(0)

    def receive_apdu(self, apdu: bytes, now: float) -> list[bytes]:  # noqa: ARG002 - the contract of the cores
        """Take one APDU; return its answers, in order; none to an unconfirmed request. `now`: monotonic seconds."""
        try:
            return self._receive(apdu)
        except RefusalError as refusal:
            return [self._refusal(apdu, refusal)]
        except DecodeError:
            return [self._refusal(apdu, RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OTHER_REASON))]
        except DlmsError:
            return [
                self._refusal(apdu, RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE))
            ]

    def _refusal(self, apdu: bytes, refusal: RefusalError) -> bytes:
        """An exception-response, or a confirmed-service-error with short names."""
        if self._state is State.ASSOCIATED and isinstance(self._services, ShortNameServices):
            return refusal_by_name(apdu, refusal)
        return refusal.apdu

    def notify(self, message: notify.Notification) -> bytes | None:
        """Encode `message` for this client; None when it did not negotiate such messages.

        Raises `LocalError` when it is too long for the client.
        """
        wanted = _NOTIFYING[type(message)]
        if self._state is not State.ASSOCIATED or not self._conformance & wanted:
            return None
        apdu = message.emit() if self._ciphering is None else self._ciphering.protect(message.emit())
        if len(apdu) > self._client_pdu_size:
            raise LocalError(f"a notification of {len(apdu)} octets for a client that takes {self._client_pdu_size}")
        return apdu

    def reset(self) -> None:
        """Drop the association, because the link is down."""
        self._step(Event.END)
        self._ciphering = self._pending = self._transfer = None

    def _receive(self, apdu: bytes) -> list[bytes]:
        tag = apdu[0] if apdu else -1
        if tag == Apdu.AARQ:
            return [self._aarq(apdu)]
        if tag == Apdu.GENERAL_BLOCK_TRANSFER and self._transfer is not None:
            answers, complete = self._transfer.receive(apdu)
            return answers if complete is None else self._whole(complete)
        if self._transfer is not None:
            self._transfer.reset()
        return self._whole(apdu)

    def _whole(self, apdu: bytes) -> list[bytes]:
        """Answer a complete APDU, with general block transfer where the answer is too long."""
        answer = self._answer(apdu)
        if not answer:
            return []
        if self._transfer is None or len(answer) <= self._client_pdu_size:
            return [answer]
        return self._transfer.send(answer)

    def _answer(self, apdu: bytes) -> bytes:
        """Answer one APDU; b"" for an unconfirmed request."""
        tag = apdu[0] if apdu else -1
        if tag == Apdu.DATA_NOTIFICATION_CONFIRM:
            return b""
        if tag not in _KNOWN:
            raise RefusalError(StateError.SERVICE_UNKNOWN, ServiceError.SERVICE_NOT_SUPPORTED)
        if self._state is State.IDLE:
            raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
        if tag == Apdu.RLRQ:
            return self._rlrq(apdu)
        plain = self._unprotect(apdu)
        self._server.asking_title = None if self._ciphering is None else self._ciphering.peer_title
        answer = self._serve(plain) if self._state is State.ASSOCIATED else self._prove(plain)
        if self._ciphering is None or not answer:
            return answer
        return self._ciphering.protect(answer, tag)

    def _serve(self, plain: bytes) -> bytes:
        """Serve one request of an associated client; an unconfirmed one gets no answer, not even a refusal."""
        if plain[:1] == bytes((Apdu.DATA_NOTIFICATION_CONFIRM,)):
            return b""
        if not is_unconfirmed(plain):
            return self._services.handle(plain)
        with contextlib.suppress(DlmsError):
            self._services.handle(plain)
        return b""

    # ------------------------------------------------------------------------------------------------- association

    def _aarq(self, apdu: bytes) -> bytes:
        self.reset()
        aarq = Aarq.parse(apdu)
        security = self._server.security_of(self.client_sap)
        if aarq.context.short_names and not self._server.short_names:
            return _rejection(aarq.context, Diagnostic.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED)
        if aarq.context.ciphered != (security is not None and security.ciphered_context):
            return _rejection(aarq.context, Diagnostic.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED)
        failure = self._check_auth(aarq)
        if failure is not None:
            return _rejection(aarq.context, failure)
        if aarq.user_information is None:
            return _rejection(aarq.context, Diagnostic.NO_REASON_GIVEN)
        ciphering = None
        if security is not None:
            ciphering = Ciphering(security, is_server=True)
            ciphering.peer_title = aarq.system_title or security.peer_title
        try:
            request = _initiate(aarq, ciphering)
        except PeerError:
            return _rejection(aarq.context, Diagnostic.AUTHENTICATION_FAILURE)
        error = _initiate_problem(request, self._server.conformance)
        if error is not None:
            return _initiate_error(aarq.context, error)
        return self._accept(aarq, request, ciphering)

    def _check_auth(self, aarq: Aarq) -> Diagnostic | None:
        auth = self._server.auth_of(self.client_sap)
        if auth is None:
            return Diagnostic.CALLING_AP_TITLE_NOT_RECOGNIZED
        if auth.mechanism != aarq.mechanism:
            if aarq.mechanism == Mechanism.NONE:
                return Diagnostic.AUTHENTICATION_REQUIRED
            return Diagnostic.AUTHENTICATION_MECHANISM_NAME_NOT_RECOGNISED
        if isinstance(auth, Lls) and not hmac.compare_digest(auth.password, aarq.authentication or b""):
            return Diagnostic.AUTHENTICATION_FAILURE
        if (
            isinstance(auth, Hls)
            and not CHALLENGE_OCTETS_MIN <= len(aarq.authentication or b"") <= CHALLENGE_OCTETS_MAX
        ):
            return Diagnostic.AUTHENTICATION_FAILURE
        return None

    def _accept(self, aarq: Aarq, request: InitiateRequest, ciphering: Ciphering | None) -> bytes:
        server = self._server
        auth = server.auth_of(self.client_sap)
        security = server.security_of(self.client_sap)
        protecting = Conformance.GENERAL_PROTECTION if aarq.context.ciphered else Conformance(0)
        conformance = request.conformance & (server.conformance | protecting)
        vaa_name = VAA_NAME_SN if aarq.context.short_names else VAA_NAME_LN
        response = InitiateResponse(conformance, server.pdu_size, vaa_name).emit()
        size = self._client_pdu_size = request.pdu_size or PDU_UNLIMITED
        if aarq.context.ciphered and ciphering is not None and security is not None:
            response = ciphering.protect_initiate(response)
            # general-ciphering is answered with general-ciphering, whatever our own settings prefer
            named = replace(security, general_ciphering=True, dedicated=False, general=False)
            size = max(PDU_SIZE_MIN, size - (named if conformance & protecting else security).overhead)
            if request.dedicated_key is not None:
                ciphering.use_dedicated(request.dedicated_key)
        if conformance & Conformance.GENERAL_BLOCK_TRANSFER:
            self._transfer = BlockTransfer(self._client_pdu_size)
            size = PDU_UNLIMITED  # the services see whole answers: general block transfer divides them after protection
        self._ciphering = ciphering if aarq.context.ciphered else None
        self._security = security
        self._conformance = conformance
        rights = server.rights_of(self.client_sap)
        view = View(
            server,
            Terms(self.client_sap, auth or NoAuth(), aarq.context, conformance, server.pdu_size,
                  self._client_pdu_size, rights),
        )  # fmt: skip
        self._services = (
            ShortNameServices(view, view.objects(), conformance, size)
            if aarq.context.short_names
            else Services(view, conformance, size)
        )
        title = None if auth is None else own_title(auth, security)
        if not isinstance(auth, Hls):
            self._step(Event.ACCEPT)
            return Aare(aarq.context, AssociationResult.ACCEPTED, Diagnostic.NULL, response, system_title=title).emit()
        ours = make_challenge(auth)
        challenges = Challenges(ours, aarq.authentication or b"", title or b"", aarq.system_title or b"")
        self._pending = _Pending(auth, challenges)
        self._proof_ciphering = ciphering
        self._step(Event.CHALLENGE)
        return Aare(
            aarq.context,
            AssociationResult.ACCEPTED,
            Diagnostic.AUTHENTICATION_REQUIRED,
            response,
            auth.mechanism,
            ours,
            title,
        ).emit()

    def _prove(self, plain: bytes) -> bytes:
        """Passes 3 and 4 of high level security: the only request that is served before the client is associated."""
        pending = self._pending
        reply = (
            None if pending is None else reply_to_hls(plain, short_names=isinstance(self._services, ShortNameServices))
        )
        if pending is None or reply is None:
            raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
        try:
            check_challenges(pending.challenges.ours, pending.challenges.theirs)
            verify(pending.auth, pending.challenges, reply.proof, self._proof_ciphering)
        except (PeerError, DecodeError):
            ciphering = self._ciphering
            self.reset()
            self._ciphering = ciphering  # for this last answer
            return reply.refusal()
        ours = prove(pending.auth, pending.challenges, self._proof_ciphering)
        self._pending = None
        self._step(Event.PROVED)
        return reply.acceptance(ours)

    def _rlrq(self, apdu: bytes) -> bytes:
        release = ReleaseApdu.parse(apdu)
        if self._ciphering is not None and release.user_information is not None:
            self._ciphering.unprotect(release.user_information)
        self.reset()
        return ReleaseApdu(is_response=True).emit()

    # --------------------------------------------------------------------------------------------------- protection

    def _unprotect(self, apdu: bytes) -> bytes:
        ciphering = self._ciphering
        if ciphering is None:
            return apdu
        if apdu[0] not in PROTECTED_TAGS:
            security = self._security
            if security is not None and (security.policy or security.signs):
                raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.OPERATION_NOT_POSSIBLE)
            return apdu
        try:
            return ciphering.unprotect(apdu)
        except Replayed as replay:
            raise RefusalError(
                StateError.SERVICE_NOT_ALLOWED, ServiceError.INVOCATION_COUNTER_ERROR, replay.expected
            ) from replay
        except DlmsError as error:
            raise RefusalError(StateError.SERVICE_NOT_ALLOWED, ServiceError.DECIPHERING_ERROR) from error


_NOTIFYING: dict[type[notify.Notification], Conformance] = {
    notify.DataNotification: Conformance.DATA_NOTIFICATION,
    notify.EventNotification: Conformance.EVENT_NOTIFICATION,
    notify.InformationReport: Conformance.INFORMATION_REPORT,
}
_KNOWN = PROTECTED_TAGS | {
    Apdu.RLRQ,
    Apdu.GET_REQUEST,
    Apdu.SET_REQUEST,
    Apdu.ACTION_REQUEST,
    Apdu.ACCESS_REQUEST,
    Apdu.READ_REQUEST,
    Apdu.WRITE_REQUEST,
    Apdu.UNCONFIRMED_WRITE_REQUEST,
}
_VERSION_TOO_LOW, _INCOMPATIBLE_CONFORMANCE, _PDU_TOO_SHORT = 1, 2, 3


def _initiate(aarq: Aarq, ciphering: Ciphering | None) -> InitiateRequest:
    """The InitiateRequest, deciphered in a ciphered context. Raises `DlmsError`."""
    information = aarq.user_information or b""
    if aarq.context.ciphered and ciphering is not None:
        information = ciphering.unprotect(information)
    return InitiateRequest.parse(information)


def _initiate_problem(request: InitiateRequest, conformance: Conformance) -> int | None:
    """The code of the InitiateError for an unacceptable `request`; None when it is acceptable."""
    if request.version < DLMS_VERSION:
        return _VERSION_TOO_LOW
    if 0 < request.pdu_size < PDU_SIZE_MIN:
        return _PDU_TOO_SHORT
    return None if request.conformance & conformance else _INCOMPATIBLE_CONFORMANCE


def _rejection(context: Context, diagnostic: Diagnostic) -> bytes:
    return Aare(context, AssociationResult.REJECTED_PERMANENT, diagnostic).emit()


def _initiate_error(context: Context, code: int) -> bytes:
    error = service_errors.ConfirmedServiceError(service_errors.INITIATE_SERVICE, service_errors.INITIATE_CLASS, code)
    return Aare(context, AssociationResult.REJECTED_PERMANENT, Diagnostic.NO_REASON_GIVEN, error.emit()).emit()
