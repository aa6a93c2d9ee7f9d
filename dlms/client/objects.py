"""Objects of a meter with methods that deserve an API of their own: clock, security setup, disconnect control."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from dlms import axdr
from dlms.client.reading import Reading
from dlms.client.services import MeterServices
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError, PeerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from dlms.security.certificates import CertificateQuery, CertificateType
    from dlms.security.keys import KeyAgreement, KeyId
    from dlms.xdlms.apdu.common import Result

_CONTACTOR = Obis.parse("0.0.96.3.10.255")
DISCONNECT = MethodRef(70, _CONTACTOR, 1)
RECONNECT = MethodRef(70, _CONTACTOR, 2)


class MeterClock:
    """The clock object of one meter."""

    def __init__(self, meter: MeterServices, obis: str = "0.0.1.0.0.255") -> None:
        self._meter = meter
        self._time = AttributeRef(8, Obis.parse(obis), 2)

    def get(self) -> Reading:
        """Read the meter's time; `quality` says whether the meter itself doubts it."""
        return self._meter.read(self._time)

    def set(self, when: datetime, *, dst: bool = False) -> None:
        """Set the time, encoded by the meter's clock policy (`CosemDateTime.from_instant`); `dst` sets the
        daylight-saving bit. Raises `ItemFailed`, and `LocalError` for a time without a zone."""
        if when.tzinfo is None:
            raise LocalError("a clock is set with a time that has a zone")
        self._meter.set(self._time, axdr.octets(CosemDateTime.from_instant(when, self._meter.policy, dst=dst).emit()))

    def shift(self, seconds: int) -> None:
        """Shift the clock by -900 to 900 seconds, without a jump if the meter can. Raises `ItemFailed`."""
        if not -900 <= seconds <= 900:
            raise LocalError("a clock is shifted by at most 900 seconds")
        self._meter.action(MethodRef(8, self._time.obis, 6), axdr.i16(seconds))


class MeterSecurity:
    """The security setup of a meter: policy, keys and certificates. Raises `ItemFailed` when the meter refuses.

    New keys apply from the next association on; `dlms.security.keys.rekeyed` makes the settings for it.
    """

    def __init__(self, meter: MeterServices, obis: str = "0.0.43.0.0.255") -> None:
        self._meter = meter
        self._obis = Obis.parse(obis)

    def activate(self, policy_bits: int) -> None:
        """Strengthen the security policy (version 1 of the class): the bits 04, 08, 10 require authenticated,
        encrypted, signed requests; 20, 40, 80 require the same of responses."""
        self._call(1, axdr.enum(policy_bits))

    def transfer(self, master: bytes, keys: Mapping[KeyId, bytes]) -> None:
        """Transfer `keys`, wrapped under the master key that both sides have. Raises `ItemFailed`."""
        from dlms.security.keys import key_transfer

        self._call(2, key_transfer(master, keys))

    def agree(self, ours: KeyAgreement, verifying: EllipticCurvePublicKey) -> bytes:
        """Agree on one key with the meter, whose static public key is `verifying`, and return it.

        Raises `ItemFailed` when the meter refuses, `PeerError` when its part is wrong.
        """
        returned = self._call(3, axdr.array([ours.data()]))
        if not isinstance(returned, axdr.Data):
            raise PeerError("the meter returned no ephemeral key of its own")
        members = returned.members()
        if len(members) != 1:
            raise PeerError(f"the meter returned {len(members)} ephemeral keys where one was asked for")
        return ours.agree(members[0], verifying)

    def generate_key_pair(self, certificate_type: CertificateType) -> None:
        """Have the meter generate a key pair, which it uses once the certificate is imported."""
        self._call(4, axdr.enum(certificate_type))

    def certificate_request(self, certificate_type: CertificateType) -> bytes:
        """A PKCS #10 certificate request in DER for the key pair that was generated."""
        return self._octets(self._call(5, axdr.enum(certificate_type)))

    def import_certificate(self, der: bytes) -> None:
        """Give the meter a certificate, X.509 in DER."""
        self._call(6, axdr.octets(der))

    def export_certificate(self, wanted: CertificateQuery) -> bytes:
        """Read one of the meter's certificates, in DER."""
        return self._octets(self._call(7, wanted.data()))

    def remove_certificate(self, wanted: CertificateQuery) -> None:
        """Have the meter remove a certificate."""
        self._call(8, wanted.data())

    def _call(self, method: int, parameters: axdr.Data) -> Result | None:
        return self._meter.action(MethodRef(64, self._obis, method), parameters)

    @staticmethod
    def _octets(returned: Result | None) -> bytes:
        if not isinstance(returned, axdr.Data) or not isinstance(returned.value, bytes):
            raise PeerError("the meter returned no octets")
        return returned.value
