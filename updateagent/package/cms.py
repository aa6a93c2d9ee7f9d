"""CMS SignedData (RFC 5652) in the one form that signs a package: detached, DER, one signer.

    ContentInfo      := SEQUENCE { id-signedData, [0] SignedData }
    SignedData       := SEQUENCE { 1, SET { digest }, SEQUENCE { id-data }, [0] certificates, SET { SignerInfo } }
    SignerInfo       := SEQUENCE { 1, SEQUENCE { issuer, serial }, digest, [0] signedAttrs, algorithm, OCTET STRING }
    signedAttrs      := contentType id-data, messageDigest, signingTime; each once, nothing else

The digest is SHA-256, SHA-384 or SHA-512. `openssl cms -sign -binary -nosmimecap -outform DER` makes this form too, so
any tool that can use a hardware token can sign. Everything else in CMS (other signers, counter-signatures, unsigned
attributes, revocation lists, BER) is refused with `signature-profile`: fewer forms leave fewer places to hide
something. The reasons are in docs/decisions/0003-cms.md.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import new as new_hash

from updateagent.errors import SIGNATURE, SIGNATURE_PROFILE, PackageError
from updateagent.package import certificate, der
from updateagent.package.certificate import Certificate

SIGNATURE_BYTES_MAX = 16 << 10
"""Four certificates of RSA-4096 and a signature are about 8 KiB."""
CERTIFICATES_MAX = 4
"""The signer, and intermediate authorities; the root is pinned on the device."""

ID_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
ID_DATA = der.oid("1.2.840.113549.1.7.1")
CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
SIGNING_TIME = der.oid("1.2.840.113549.1.9.5")

_NULL = der.tlv(der.NULL)
_DIGEST_OIDS = {
    "sha256": der.oid("2.16.840.1.101.3.4.2.1"),
    "sha384": der.oid("2.16.840.1.101.3.4.2.2"),
    "sha512": der.oid("2.16.840.1.101.3.4.2.3"),
}
# RFC 5754, section 2: parameters are absent, but a NULL must be accepted.
_DIGESTS = {
    der.tlv(der.SEQUENCE, name_oid, parameters): name
    for name, name_oid in _DIGEST_OIDS.items()
    for parameters in (b"", _NULL)
}
_ECDSA_SHA256 = der.tlv(der.SEQUENCE, der.oid("1.2.840.10045.4.3.2"))


@dataclass(frozen=True, slots=True)
class SignedContent:
    """A valid signature over the content. `updateagent.package.trust` decides whether its signer may sign."""

    signer: Certificate
    others: tuple[Certificate, ...]
    signed_at: int
    """The signer's own signingTime, seconds since 1970."""


def verify(content: bytes, signature: bytes) -> SignedContent:
    """Verify a detached signature over `content` with the key of the certificate that it names and carries.

    Raises `PackageError`: `signature-profile` when the structure is not the one above, `signature` when the digest or
    the signature is wrong.
    """
    if len(signature) > SIGNATURE_BYTES_MAX:
        raise PackageError(SIGNATURE_PROFILE, f"a signature of {len(signature)} bytes")
    signed_data = _enter_signed_data(signature)
    if signed_data.integer() != 1:
        raise signed_data.fail("a version of SignedData other than 1")
    digest_set = signed_data.enter(der.SET, "digestAlgorithms")
    digest_name = _digest_name(digest_set)
    digest_set.check_end()
    if signed_data.value(der.SEQUENCE) != ID_DATA:
        raise signed_data.fail("the content is not detached data")
    certificates = _certificates(signed_data.enter(der.context(0), "certificates"))
    signers = signed_data.enter(der.SET, "signerInfos")
    signed_data.check_end()
    info = signers.enter(der.SEQUENCE, "signerInfo")
    signers.check_end()
    return _verify_signer(info, digest_name, certificates, content)


def _enter_signed_data(data: bytes) -> der.Cursor:
    whole = der.Cursor(data, "signature")
    content_info = whole.enter(der.SEQUENCE, "contentInfo")
    whole.check_end()
    if content_info.raw(der.OID) != ID_SIGNED_DATA:
        raise content_info.fail("this is not SignedData")
    wrapper = content_info.enter(der.context(0), "content")
    content_info.check_end()
    signed_data = wrapper.enter(der.SEQUENCE, "signedData")
    wrapper.check_end()
    return signed_data


def _digest_name(cursor: der.Cursor) -> str:
    raw = cursor.raw(der.SEQUENCE)
    if raw not in _DIGESTS:
        raise cursor.fail("a digest algorithm that is not accepted")
    return _DIGESTS[raw]


def _certificates(cursor: der.Cursor) -> list[Certificate]:
    found: list[Certificate] = []
    while cursor.peek() != -1:
        if len(found) == CERTIFICATES_MAX:
            raise cursor.fail(f"more than {CERTIFICATES_MAX} certificates")
        found.append(certificate.parse(cursor.raw(der.SEQUENCE)))
    return found


def _verify_signer(
    info: der.Cursor, digest_name: str, certificates: list[Certificate], content: bytes
) -> SignedContent:
    if info.integer() != 1:
        raise info.fail("the signer is not named by issuer and serial number")
    name = info.enter(der.SEQUENCE, "issuerAndSerialNumber")
    issuer, serial = name.raw(der.SEQUENCE), name.integer()
    name.check_end()
    if _digest_name(info) != digest_name:
        raise info.fail("two digest algorithms that differ")
    attributes = info.value(der.context(0))
    algorithm = _signature_algorithm(info, digest_name)
    value = info.value(der.OCTET_STRING)
    info.check_end()
    matching = [found for found in certificates if (found.issuer, found.serial) == (issuer, serial)]
    if len(matching) != 1:
        raise info.fail("the certificate of the signer is not there, or twice")
    signer = matching[0]
    message_digest, signed_at = _read_attributes(attributes)
    if not hmac.compare_digest(message_digest, new_hash(digest_name, content, usedforsecurity=True).digest()):
        raise PackageError(SIGNATURE, "the description is not the one that was signed")
    # The signature is over the attributes as a SET, not as the [0] that is sent (RFC 5652, section 5.4).
    certificate.verify_signature(signer.public_key, algorithm, value, der.tlv(der.SET, attributes))
    return SignedContent(signer, tuple(found for found in certificates if found is not signer), signed_at)


def _signature_algorithm(cursor: der.Cursor, digest_name: str) -> tuple[str, str]:
    raw = cursor.raw(der.SEQUENCE)
    if raw == certificate.RSA_ENCRYPTION:
        return ("rsa", digest_name)
    algorithm = certificate.SIGNATURE_ALGORITHMS.get(raw)
    if algorithm is None or algorithm[1] != digest_name:
        raise cursor.fail("a signature algorithm that is not accepted")
    return algorithm


def _read_attributes(data: bytes) -> tuple[bytes, int]:
    """Return message digest and signing time of the signed attributes."""
    cursor = der.Cursor(data, "signature, signedAttrs")
    values: dict[bytes, der.Cursor] = {}
    while cursor.peek() != -1:
        attribute = cursor.enter(der.SEQUENCE, "attribute")
        name = attribute.raw(der.OID)
        value = attribute.enter(der.SET, "values")
        attribute.check_end()
        if name in values or name not in {CONTENT_TYPE, MESSAGE_DIGEST, SIGNING_TIME}:
            raise cursor.fail("a signed attribute that is not accepted, or twice")
        values[name] = value
    if len(values) != 3:
        raise cursor.fail("contentType, messageDigest and signingTime must be signed")
    if values[CONTENT_TYPE].raw(der.OID) != ID_DATA:
        raise cursor.fail("a content type other than data")
    digest, signed_at = values[MESSAGE_DIGEST].value(der.OCTET_STRING), values[SIGNING_TIME].time()
    for value in values.values():
        value.check_end()
    return digest, signed_at


def signed_attributes(content: bytes, signed_at: int, digest_name: str = "sha256") -> bytes:
    """Return the bytes that a signer signs for `content`: the DER SET of attributes."""
    attributes = [
        der.tlv(der.SEQUENCE, CONTENT_TYPE, der.tlv(der.SET, ID_DATA)),
        der.tlv(der.SEQUENCE, SIGNING_TIME, der.tlv(der.SET, der.utc_time(signed_at))),
        der.tlv(
            der.SEQUENCE,
            MESSAGE_DIGEST,
            der.tlv(der.SET, der.tlv(der.OCTET_STRING, new_hash(digest_name, content).digest())),
        ),
    ]
    return der.tlv(der.SET, *sorted(attributes))


def emit(attributes: bytes, value: bytes, signer: Certificate, others: tuple[Certificate, ...], kind: str) -> bytes:
    """Encode a signature: `value` is the signature by a key of type `kind` over `attributes`, with SHA-256."""
    digest = der.tlv(der.SEQUENCE, _DIGEST_OIDS["sha256"])
    algorithm = certificate.RSA_ENCRYPTION if kind == "rsa" else _ECDSA_SHA256
    attribute_content = der.Cursor(attributes, "signedAttrs").value(der.SET)
    info = der.tlv(
        der.SEQUENCE,
        der.integer(1),
        der.tlv(der.SEQUENCE, signer.issuer, der.integer(signer.serial)),
        digest,
        der.tlv(der.context(0), attribute_content),
        algorithm,
        der.tlv(der.OCTET_STRING, value),
    )
    signed_data = der.tlv(
        der.SEQUENCE,
        der.integer(1),
        der.tlv(der.SET, digest),
        der.tlv(der.SEQUENCE, ID_DATA),
        der.tlv(der.context(0), *sorted([signer.der, *(other.der for other in others)])),
        der.tlv(der.SET, info),
    )
    return der.tlv(der.SEQUENCE, ID_SIGNED_DATA, der.tlv(der.context(0), signed_data))
