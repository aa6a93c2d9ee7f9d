"""X.509 certificates of the one shape that signs packages (RFC 5280), and the check of one signature.

`cryptography.x509` is not used, because loading it costs the device 7 MiB of memory, and the oldest supported versions
have no path validation. `cryptography` checks keys and signatures; this module only parses the structure around them.
See docs/decisions/0003-cms.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from updateagent.errors import SIGNATURE, SIGNATURE_PROFILE, PackageError
from updateagent.package import der

CERTIFICATE_BYTES_MAX = 8 << 10
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 4096
"""Shorter keys are breakable in the lifetime of a meter; longer ones are slow to check on a small ARM core."""

KEY_CERT_SIGN, DIGITAL_SIGNATURE = 5, 0
"""Bit numbers of the keyUsage extension (RFC 5280, section 4.2.1.3)."""
CODE_SIGNING = der.oid("1.3.6.1.5.5.7.3.3")

_RSA_OIDS = {"sha256": "1.2.840.113549.1.1.11", "sha384": "1.2.840.113549.1.1.12", "sha512": "1.2.840.113549.1.1.13"}
_ECDSA_OIDS = {"sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3", "sha512": "1.2.840.10045.4.3.4"}
_NULL = der.tlv(der.NULL)
RSA_ENCRYPTION = der.tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.1.1"), _NULL)
SIGNATURE_ALGORITHMS: dict[bytes, tuple[str, str]] = {
    **{der.tlv(der.SEQUENCE, der.oid(o), _NULL): ("rsa", name) for name, o in _RSA_OIDS.items()},
    **{der.tlv(der.SEQUENCE, der.oid(o)): ("ecdsa", name) for name, o in _ECDSA_OIDS.items()},
}
"""Every accepted AlgorithmIdentifier, whole, with the kind of key and the hash it stands for."""

_EC_PUBLIC_KEY = der.oid("1.2.840.10045.2.1")
_KEY_ALGORITHMS = {
    RSA_ENCRYPTION: "rsa",
    der.tlv(der.SEQUENCE, _EC_PUBLIC_KEY, der.oid("1.2.840.10045.3.1.7")): "p-256",
    der.tlv(der.SEQUENCE, _EC_PUBLIC_KEY, der.oid("1.3.132.0.34")): "p-384",
}
_KIND_OF_KEY = {"rsa": "rsa", "p-256": "ecdsa", "p-384": "ecdsa"}
_POINT_BYTES = {"p-256": 65, "p-384": 97}

_BASIC_CONSTRAINTS = der.oid("2.5.29.19")
_KEY_USAGE = der.oid("2.5.29.15")
_EXTENDED_KEY_USAGE = der.oid("2.5.29.37")


@dataclass(frozen=True, slots=True)
class Certificate:
    """The fields of a certificate that decisions depend on. Names are kept and compared as DER bytes."""

    der: bytes
    signed_part: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    public_key: bytes
    algorithm: tuple[str, str]
    signature: bytes
    is_authority: bool
    path_length: int | None
    key_usage: frozenset[int]
    purposes: tuple[bytes, ...] | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole certificate, in hexadecimal, by which revocations and pins identify it."""
        return sha256(self.der).hexdigest()

    def may(self, usage: int) -> bool:
        """Whether keyUsage allows this."""
        return usage in self.key_usage

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Whether `issuer` is named as the issuer, and the signature was made with its key."""
        if self.issuer != issuer.subject:
            return False
        try:
            verify_signature(issuer.public_key, self.algorithm, self.signature, self.signed_part)
        except PackageError:
            return False
        return True


def parse(data: bytes) -> Certificate:
    """Parse a certificate. Raises `PackageError` (`signature-profile`) for anything outside the profile."""
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise PackageError(SIGNATURE_PROFILE, f"a certificate of {len(data)} bytes")
    whole = der.Cursor(data, "certificate")
    outer = whole.enter(der.SEQUENCE, "body")
    whole.check_end()
    signed_part = outer.raw(der.SEQUENCE)
    outer_algorithm = outer.raw(der.SEQUENCE)
    signature = outer.bits()
    outer.check_end()
    body = der.Cursor(signed_part, "certificate").enter(der.SEQUENCE, "tbsCertificate")
    version = body.enter(der.context(0), "version")
    if version.integer() != 2:
        raise body.fail("only version 3 certificates are accepted")
    version.check_end()
    serial = body.integer()
    if body.raw(der.SEQUENCE) != outer_algorithm or outer_algorithm not in SIGNATURE_ALGORITHMS:
        raise body.fail("a signature algorithm that is not accepted")
    issuer = body.raw(der.SEQUENCE)
    validity = body.enter(der.SEQUENCE, "validity")
    not_before, not_after = validity.time(), validity.time()
    validity.check_end()
    subject, public_key = body.raw(der.SEQUENCE), body.raw(der.SEQUENCE)
    wrapper = body.enter(der.context(3), "extensions")
    extensions = _Extensions(wrapper.enter(der.SEQUENCE, "list"))
    wrapper.check_end()
    body.check_end()
    return Certificate(
        data,
        signed_part,
        serial,
        issuer,
        subject,
        not_before,
        not_after,
        public_key,
        SIGNATURE_ALGORITHMS[outer_algorithm],
        signature,
        extensions.is_authority,
        extensions.path_length,
        extensions.key_usage,
        extensions.purposes,
    )


class _Extensions:
    """The relevant extensions. A certificate with an unknown critical extension is refused (RFC 5280, section 4.2)."""

    def __init__(self, cursor: der.Cursor) -> None:
        self.is_authority = False
        self.path_length: int | None = None
        self.key_usage: frozenset[int] = frozenset()
        self.purposes: tuple[bytes, ...] | None = None
        readers: dict[bytes, Callable[[bytes], None]] = {
            _BASIC_CONSTRAINTS: self._basic_constraints,
            _KEY_USAGE: self._key_usage,
            _EXTENDED_KEY_USAGE: self._extended_key_usage,
        }
        seen = set()
        while cursor.peek() != -1:
            extension = cursor.enter(der.SEQUENCE, "extension")
            name = extension.raw(der.OID)
            critical = extension.boolean() if extension.peek() == der.BOOLEAN else False
            value = extension.value(der.OCTET_STRING)
            extension.check_end()
            if name in seen:
                raise cursor.fail("an extension that appears twice")
            seen.add(name)
            if name in readers:
                readers[name](value)
            elif critical:
                raise cursor.fail("a critical extension that is not understood here")

    def _basic_constraints(self, value: bytes) -> None:
        whole = der.Cursor(value, "certificate, basicConstraints")
        fields = whole.enter(der.SEQUENCE, "fields")
        whole.check_end()
        if fields.peek() == der.BOOLEAN:
            self.is_authority = fields.boolean()
        if fields.peek() == der.INTEGER:
            self.path_length = fields.integer()
        fields.check_end()

    def _key_usage(self, value: bytes) -> None:
        cursor = der.Cursor(value, "certificate, keyUsage")
        content = cursor.value(der.BIT_STRING)
        cursor.check_end()
        if not 2 <= len(content) <= 3 or content[0] > 7:
            raise cursor.fail("not a set of usages")
        bits = int.from_bytes(content[1:].ljust(2, b"\0"), "big")
        self.key_usage = frozenset(number for number in range(16) if bits & (0x8000 >> number))

    def _extended_key_usage(self, value: bytes) -> None:
        whole = der.Cursor(value, "certificate, extendedKeyUsage")
        names = whole.enter(der.SEQUENCE, "purposes")
        whole.check_end()
        found = []
        while names.peek() != -1:
            found.append(names.raw(der.OID))
        self.purposes = tuple(found)


def unrevoked(found: Iterable[Certificate], revoked: frozenset[str]) -> list[Certificate]:
    """Those that were not revoked, nor any of the others with the same key: it is the key that nobody trusts any
    more. `revoked` are fingerprints."""
    every = list(found)
    keys = {one.public_key for one in every if one.fingerprint in revoked}
    return [one for one in every if one.public_key not in keys]


def verify_signature(public_key: bytes, algorithm: tuple[str, str], signature: bytes, message: bytes) -> None:
    """Verify a signature with a DER public key; `algorithm` is the type of the key and the hash.

    Raises `PackageError`: `signature-profile` for a key that is not accepted, `signature` for a wrong signature.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes

    kind, hash_name = algorithm
    digests = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    digest = digests[hash_name]
    kind_of_key, numbers, point = _public_key(public_key)
    if kind != _KIND_OF_KEY[kind_of_key]:
        raise PackageError(SIGNATURE_PROFILE, f"a signature by {kind} and a key of another kind")
    try:
        if kind == "rsa":  # imported separately: what is not needed would cost a third of a MiB
            from cryptography.hazmat.primitives.asymmetric import padding, rsa

            rsa.RSAPublicNumbers(*numbers).public_key().verify(signature, message, padding.PKCS1v15(), digest)
        else:
            from cryptography.hazmat.primitives.asymmetric import ec

            curve = ec.SECP256R1() if kind_of_key == "p-256" else ec.SECP384R1()
            key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
            key.verify(signature, message, ec.ECDSA(digest))
    except InvalidSignature as error:
        raise PackageError(SIGNATURE, "a signature does not fit") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PackageError(SIGNATURE_PROFILE, f"a public key that cannot be used: {error}") from error


def key_kind(one: Certificate) -> str:
    """Kind of the key of a certificate, "rsa" or "ecdsa". Raises `PackageError` (`signature-profile`)."""
    return _KIND_OF_KEY[_public_key(one.public_key)[0]]


def _public_key(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    """Kind of key, exponent and modulus of RSA, point of a curve, of a SubjectPublicKeyInfo (RFC 3279, RFC 5480)."""
    whole = der.Cursor(data, "public key")
    info = whole.enter(der.SEQUENCE, "subjectPublicKeyInfo")
    whole.check_end()
    algorithm, bits = info.raw(der.SEQUENCE), info.bits()
    info.check_end()
    kind = _KEY_ALGORITHMS.get(algorithm)
    if kind is None:
        raise info.fail("a kind of key that is not accepted")
    if kind != "rsa":
        if len(bits) != _POINT_BYTES[kind] or bits[0] != 4:
            raise info.fail("a point of a curve that is not in the long form")
        return kind, (0, 0), bits
    numbers = der.Cursor(bits, "RSA key")
    pair = numbers.enter(der.SEQUENCE, "numbers")
    numbers.check_end()
    modulus, exponent = pair.integer(), pair.integer()
    pair.check_end()
    if not RSA_BITS_MIN <= modulus.bit_length() <= RSA_BITS_MAX or exponent != 65537:
        raise info.fail("an RSA key of a size or exponent that is not accepted")
    return kind, (exponent, modulus), b""
