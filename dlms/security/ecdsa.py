"""ECDSA signatures in the form of DLMS: r followed by s, on the curve of the suite (GB 9.2.3.4.6).

Each of r and s is as long as the field of the curve: 32 octets on P-256, 48 on P-384.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlms.errors import SecurityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurve,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384


def hash_of(curve: EllipticCurve) -> SHA256 | SHA384:
    """The hash that goes with a curve: SHA-256 with P-256, SHA-384 with P-384."""
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA384() if curve.key_size == 384 else hashes.SHA256()


def sign(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign `data`; return r followed by s, each as long as the field of the curve."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hash_of(key.curve))))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def check_signature(key: EllipticCurvePublicKey, data: bytes, signature: bytes) -> None:
    """Verify `signature` over `data`. Raises `SecurityError` when it is wrong."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    size = (key.curve.key_size + 7) // 8
    if len(signature) != 2 * size:
        raise SecurityError(f"a signature of {len(signature)} octets where {2 * size} are due")
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hash_of(key.curve)))
    except InvalidSignature as error:
        raise SecurityError("the signature of the other side is wrong") from error
