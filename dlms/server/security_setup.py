"""Security Setup (class 64 version 1, BB 4.4.7) of a meter: lets a client change policy, keys and certificates.

    setup = SecuritySetup(server, security)
    server.add(setup.item)

A change takes effect with the next association; the association that made it keeps its keys until it ends. A new
encryption key has new counters. The methods work only in ciphered associations, which `View` enforces.

security_policy is the octet of version 1: 04, 08, 10 require authenticated, encrypted, signed requests; 20, 40, 80
require the same of responses. Our `Policy` has no direction: what is required in one is done in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import ActionResult
from dlms.cosem.obis import Obis, Selection
from dlms.errors import DlmsError, PeerError
from dlms.security.certificates import (
    CertificateQuery,
    CertificateType,
    Entity,
    StoredCertificate,
    certificate_request,
    check_issued,
    public_key_of,
    read_certificate,
    stored_certificate,
)
from dlms.security.keys import (
    KeyAgreement,
    KeyId,
    curve_of,
    policy_bits,
    policy_of,
    public_octets,
    rekeyed,
    transferred_keys,
)
from dlms.security.random_octets import new_key_pair
from dlms.security.settings import InvocationCounters, MemoryCounters, Security
from dlms.server.objects import DENIED, DONE, OTHER_REASON, UNAVAILABLE, CosemObject, constant
from dlms.xdlms.apdu.common import ActionOutcome, Result

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

    from dlms.server.server import MeterServer

SECURITY_SETUP = Obis.parse("0.0.43.0.0.255")
CERTIFICATES_MAX = 16
KEYS_MAX = 4  # in one transfer or agreement: there are four key ids


class SecuritySetup:
    """The object and its methods. `security` holds the settings in force: at first those that `server` was made with.

    Certificates are accepted from the authorities in `trusted` only. `new_counters` makes the counters of a new
    encryption key. `changed` is called with new settings before they take effect, to store them; if it raises
    `LocalError`, nothing changes.
    """

    def __init__(
        self,
        server: MeterServer,
        security: Security,
        *,
        trusted: tuple[Certificate, ...] = (),
        new_counters: Callable[[], InvocationCounters] = MemoryCounters,
        changed: Callable[[Security], None] | None = None,
    ) -> None:
        self.security = security
        self.certificates: list[StoredCertificate] = []
        self._policy = policy_bits(security)
        self._server = server
        self._trusted = trusted
        self._new_counters = new_counters
        self._changed = changed
        self._pairs: dict[CertificateType, EllipticCurvePrivateKey] = {}
        self.item = CosemObject(64, SECURITY_SETUP, version=1)
        self.item.readers = {
            2: lambda _selection: axdr.enum(self._policy),
            3: constant(axdr.enum(security.suite)),
            4: lambda _selection: axdr.octets(self._client_title or b""),
            5: constant(axdr.octets(security.system_title)),
            6: self._list,
        }
        methods = (
            self._activate, self._transfer, self._agree, self._generate, self._request, self._import, self._export,
            self._remove,
        )  # fmt: skip
        self.item.methods = {number: self._guarded(method) for number, method in enumerate(methods, start=1)}

    @property
    def _client_title(self) -> bytes | None:
        return self._server.asking_title or self.security.peer_title

    def _guarded(self, method: Callable[[Data], ActionOutcome]) -> Callable[[Data | None], ActionOutcome]:
        """Wrap `method` so that a client's mistake becomes a result, not an exception."""

        def call(parameters: Data | None) -> ActionOutcome:
            if parameters is None:
                return ActionOutcome(ActionResult.TYPE_UNMATCHED)
            try:
                return method(parameters)
            except (DlmsError, ValueError):  # ValueError: an enumeration without that number
                return OTHER_REASON

        return call

    def _use(self, security: Security) -> None:
        if self._changed is not None:
            self._changed(security)
        self._server.change_security(self.security, security)
        self.security = security

    # ------------------------------------------------------------------------------------------------ policy and keys

    def _activate(self, parameters: Data) -> ActionOutcome:
        """security_activate: the policy can only become stronger (BB 4.4.7)."""
        bits = parameters.integer()
        if bits & self._policy != self._policy:
            return DENIED
        policy, signs = policy_of(bits)
        if signs and self.security.signing_key is None:
            return OTHER_REASON
        self._use(replace(self.security, policy=policy | self.security.policy, sign=signs or self.security.sign))
        self._policy = bits
        return DONE

    def _transfer(self, parameters: Data) -> ActionOutcome:
        """key_transfer: takes all the keys or none."""
        master = self.security.options.master_key
        if not master or len(parameters.members()) > KEYS_MAX:
            return OTHER_REASON
        self._use(rekeyed(self.security, transferred_keys(master, parameters), self._new_counters))
        return DONE

    def _agree(self, parameters: Data) -> ActionOutcome:
        """key_agreement by the ephemeral unified model C(2e, 0s), in which the client is party U."""
        security = self.security
        client = self._client_title
        if security.signing_key is None or security.peer_signing_key is None or client is None:
            return OTHER_REASON
        theirs = parameters.members()
        if not 0 < len(theirs) <= KEYS_MAX:
            return OTHER_REASON
        keys: dict[KeyId, bytes] = {}
        halves: list[Data] = []
        for half in theirs:
            key_id = KeyId(half.members()[0].integer())
            ours = KeyAgreement(
                security.suite, key_id, security.signing_key, party_u=client, party_v=security.system_title
            )
            keys[key_id] = ours.agree(half, security.peer_signing_key)
            halves.append(ours.data())
        self._use(rekeyed(security, keys, self._new_counters))
        return ActionOutcome(ActionResult.SUCCESS, axdr.array(halves))

    # ---------------------------------------------------------------------------------------- key pairs, certificates

    def _generate(self, parameters: Data) -> ActionOutcome:
        """generate_key_pair: the old pair stays in use until the certificate of the new one is imported."""
        certificate_type = CertificateType(parameters.integer())
        if certificate_type is CertificateType.OTHER:
            return OTHER_REASON
        self._pairs[certificate_type] = new_key_pair(curve_of(self.security.suite))
        return DONE

    def _request(self, parameters: Data) -> ActionOutcome:
        """generate_certificate_request, for the key pair that was generated last."""
        pair = self._pairs.get(CertificateType(parameters.integer()))
        if pair is None:
            return UNAVAILABLE
        return ActionOutcome(ActionResult.SUCCESS, axdr.octets(certificate_request(self.security.system_title, pair)))

    def _import(self, parameters: Data) -> ActionOutcome:
        """import_certificate from a trusted authority. It replaces one of the same entity and type; its key is used."""
        der = parameters.octets()
        certificate = read_certificate(der)
        known = [read_certificate(one.der) for one in self.certificates if one.entity is Entity.CERTIFICATION_AUTHORITY]
        check_issued(certificate, (*self._trusted, *known))
        one = stored_certificate(certificate, der, self.security.system_title, self._client_title)
        kept = [other for other in self.certificates if not _same(one, other)]
        if len(kept) >= CERTIFICATES_MAX:
            return OTHER_REASON
        self._take_key(one, certificate)
        self.certificates = [*kept, one]
        return DONE

    def _take_key(self, one: StoredCertificate, certificate: Certificate) -> None:
        security, public = self.security, public_key_of(certificate)
        options, certificate_type = security.options, one.certificate_type
        if one.entity is Entity.SERVER:
            pair = self._pairs.get(certificate_type)
            if pair is None or public_octets(pair.public_key()) != public_octets(public):
                raise PeerError("a certificate of a key that we do not have")
            if certificate_type is CertificateType.DIGITAL_SIGNATURE and security.peer_signing_key is not None:
                self._use(replace(security, signing_key=pair))
            elif certificate_type is CertificateType.KEY_AGREEMENT:
                self._use(replace(security, options=replace(options, agreement_key=pair)))
        elif one.entity is Entity.CLIENT:
            if certificate_type is CertificateType.DIGITAL_SIGNATURE and security.signing_key is not None:
                self._use(replace(security, peer_signing_key=public))
            elif certificate_type is CertificateType.KEY_AGREEMENT:
                self._use(replace(security, options=replace(options, peer_agreement_key=public)))

    def _export(self, parameters: Data) -> ActionOutcome:
        one = self._find(parameters)
        return UNAVAILABLE if one is None else ActionOutcome(ActionResult.SUCCESS, axdr.octets(one.der))

    def _remove(self, parameters: Data) -> ActionOutcome:
        """remove_certificate: its key stays in use until another one is imported."""
        one = self._find(parameters)
        if one is None:
            return UNAVAILABLE
        self.certificates.remove(one)
        return DONE

    def _find(self, parameters: Data) -> StoredCertificate | None:
        wanted = CertificateQuery.of(parameters)
        return next((one for one in self.certificates if wanted.matches(one)), None)

    def _list(self, _selection: Selection | None) -> Result:
        return axdr.array([one.info() for one in self.certificates])


def _same(one: StoredCertificate, other: StoredCertificate) -> bool:
    if one.entity in (Entity.SERVER, Entity.CLIENT):
        return (one.entity, one.certificate_type) == (other.entity, other.certificate_type)
    return (one.serial, one.issuer) == (other.serial, other.issuer)
