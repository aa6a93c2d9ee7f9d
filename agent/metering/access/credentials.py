"""From what was provisioned to what `dlms` takes: the authentication of an association, and its keys.

Every mechanism that the library has can be used. Mechanism 2 is the maker's own business: only the transform that many
makers share is known, AES-128-ECB of the challenge (`aes`); a meter with another one cannot be authenticated this way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.settings.provisioning import POLICIES, MeterAccess
from dlms.codes import Mechanism
from dlms.errors import DlmsError, LocalError
from dlms.security.settings import Auth, GeneralOptions, Hls, InvocationCounters, Policy, Security, open_auth

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_POLICIES = dict(zip(POLICIES, (Policy.NONE, Policy.AUTHENTICATE, Policy.ENCRYPT, Policy.BOTH), strict=True))


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one association is opened with. `text` says it in words, without any secret."""

    client: int
    auth: Auth
    security: Security | None
    text: str


def credentials(
    access: MeterAccess, system_title: bytes, counters: Callable[[bytes], InvocationCounters]
) -> Credentials:
    """Make the credentials of one association. `counters` gives the counters that belong to a key.

    Raises `LocalError` when what was provisioned does not fit together; the text never contains a secret.
    """
    try:
        auth = _auth(access, system_title)
        security = _security(access, system_title, counters)
    except LocalError:
        raise
    except DlmsError as error:  # a public key that is no point of the curve
        raise LocalError(str(error)) from error
    return Credentials(access.client, auth, security, describe(access))


def push_security(
    access: MeterAccess, system_title: bytes, counters: Callable[[bytes], InvocationCounters]
) -> Security | None:
    """What a meter with this access may protect notifications with; `None` where there are no keys for it. Signatures
    are checked where both keys of ECDSA are there, whatever the association is authenticated with. Raises `LocalError`
    as `credentials`."""
    security = credentials(access, system_title, counters).security
    if security is None:
        return None
    agreed = security.policy if access.policy != "plain" else Policy.NONE
    if not (access.suite and access.signing_key and access.meter_key):
        return replace(security, policy=agreed)
    from dlms.security.keys import public_key

    try:
        ours, theirs = _private_key(access.signing_key), public_key(access.suite, access.meter_key)
    except LocalError:
        raise
    except DlmsError as error:  # a public key that is no point of the curve
        raise LocalError(str(error)) from error
    return replace(security, policy=agreed, signing_key=ours, peer_signing_key=theirs, sign=False)


def describe(access: MeterAccess) -> str:
    """The kind of access, for status and log: `gmac, suite 0, both, client 1`."""
    parts = [access.auth]
    if access.auth in ("gmac", "ecdsa") or access.policy != "plain":
        parts.append(f"suite {access.suite}")
        parts.append(access.policy)
    return ", ".join([*parts, f"client {access.client}"])


def _auth(access: MeterAccess, system_title: bytes) -> Auth:
    if access.auth == "aes":
        from dlms.security.hls import aes_ecb

        return Hls(Mechanism.HLS, transform=aes_ecb(access.secret))
    if access.auth == "ecdsa":
        from dlms.security.keys import public_key

        if not access.meter_key:
            raise LocalError("ecdsa needs the public key of the meter")
        peer = public_key(access.suite, access.meter_key)
        return Hls(
            Mechanism.HLS_ECDSA,
            private_key=_private_key(access.signing_key),
            peer_key=peer,
            system_title=system_title,
        )
    return open_auth(access.auth, access.secret, system_title)


def _private_key(der: bytes) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        key = load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise LocalError("the signing key is no PKCS #8 key in DER") from None  # the cause might quote the key
    if not isinstance(key, EllipticCurvePrivateKey):
        raise LocalError("the signing key is of no elliptic curve")
    return key


def _security(
    access: MeterAccess, system_title: bytes, counters: Callable[[bytes], InvocationCounters]
) -> Security | None:
    ciphered = access.policy != "plain"
    if not ciphered and access.auth != "gmac":
        return None
    if not access.encryption_key:
        raise LocalError(f"{describe(access)} needs an encryption key")
    if access.auth == "gmac" and not access.authentication_key:
        raise LocalError("gmac needs an authentication key")
    options = GeneralOptions()
    if access.broadcast_key:
        options = GeneralOptions(broadcast_key=access.broadcast_key, broadcast_counters=counters(access.broadcast_key))
    policy = _POLICIES.get(access.policy)
    if policy is None:
        raise LocalError(f"{access.policy!r} is not a policy: {', '.join(POLICIES)}")
    return Security(
        system_title=system_title,
        ek=access.encryption_key,
        ak=access.authentication_key,
        suite=access.suite,
        policy=policy,
        counters=counters(access.encryption_key),
        ciphered_context=ciphered,
        options=options,
    )
