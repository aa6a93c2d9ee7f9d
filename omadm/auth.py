"""Credentials of OMA DM 1.2: basic, md5, and the MAC over a whole message (OMA-TS-DM_Security 1.2, section 5).

    basic  B64(user ":" secret)
    md5    B64(H(B64(H(user ":" secret)) ":" nonce))
    MAC    B64(H(B64(H(user ":" secret)) ":" nonce ":" B64(H(body))))

H is MD5; the nonce is used decoded, as bytes. The MAC is sent in the transport header
`x-syncml-hmac: algorithm=…, username="…", mac=…`, in which `algorithm` can be any token: `SHA-256` replaces MD5 by
SHA-256 throughout, and is what this project's two ends use. It is not the HMAC of RFC 2104.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final

from omadm.codes import Code

AUTH_BASIC: Final = "syncml:auth-basic"
AUTH_MD5: Final = "syncml:auth-md5"
AUTH_MAC: Final = "syncml:auth-MAC"

# The `AAuthType` of an account, what protects most first. All but the last prove a name with a secret.
HMAC, DIGEST, BASIC, TRANSPORT = "HMAC", "DIGEST", "BASIC", "TRANSPORT"
SECRET_TYPES: Final = (HMAC, DIGEST, BASIC)
AUTH_TYPES: Final = (*SECRET_TYPES, TRANSPORT)

# Whose secret the MAC of a client provisioning document is made with: a person's digits, the network's octets.
ACCOUNT_SECURITY: Final = ("USERPIN", "NETWPIN")

HMAC_HEADER: Final = "x-syncml-hmac"
HEADER_CHARS_MAX: Final = 1024
NONCE_BYTES: Final = 16
NONCE_BYTES_MAX: Final = 256  # what a peer may send us; the standard sets no limit

_HASHES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
    "SHA-256": lambda data: hashlib.sha256(data).digest(),
}
_MAC_BYTES: Final = {"MD5": 16, "SHA-256": 32}
ALGORITHMS: Final = tuple(_HASHES)

_PARAMETER = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')


class AuthFailure(Enum):
    """Why a peer's credentials were refused. `MISSING` is answered with 407, everything else with 401."""

    MISSING = "no credentials"
    MALFORMED = "credentials that cannot be read"
    ALGORITHM = "an algorithm that is not allowed"
    USERNAME = "another user's name"
    WRONG = "credentials that do not match"


class AuthError(Exception):
    """The peer's credentials were refused. Contains no secret and no expected value."""

    def __init__(self, failure: AuthFailure) -> None:
        super().__init__(failure.value)
        self.failure = failure

    @property
    def status(self) -> Code:
        """The status code to answer with: 407 for missing credentials, else 401."""
        return Code.CREDENTIALS_MISSING if self.failure is AuthFailure.MISSING else Code.UNAUTHORIZED


def _b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def basic(user: str, secret: str) -> str:
    """`Cred/Data` of `syncml:auth-basic`."""
    return _b64(f"{user}:{secret}".encode()).decode("ascii")


def md5(user: str, secret: str, nonce: bytes) -> str:
    """`Cred/Data` of `syncml:auth-md5`; `nonce` is decoded."""
    digest = _HASHES["MD5"]
    return _b64(digest(_b64(digest(f"{user}:{secret}".encode())) + b":" + nonce)).decode("ascii")


def mac(body: bytes, user: str, secret: str, nonce: bytes, algorithm: str = "SHA-256") -> str:
    """The MAC over the exact bytes of the message. Raises `ValueError` for an unknown algorithm (our mistake)."""
    digest = _HASHES.get(algorithm)
    if digest is None:
        raise ValueError(f"MAC algorithm {algorithm!r}: one of {', '.join(ALGORITHMS)}")
    identity = _b64(digest(f"{user}:{secret}".encode()))
    return _b64(digest(identity + b":" + nonce + b":" + _b64(digest(body)))).decode("ascii")


def hmac_header(body: bytes, user: str, secret: str, nonce: bytes, algorithm: str = "SHA-256") -> str:
    """The value of `x-syncml-hmac` for `body`. Raises `ValueError` like `mac`."""
    name = user.replace("\\", "\\\\").replace('"', '\\"')
    return f'algorithm={algorithm}, username="{name}", mac={mac(body, user, secret, nonce, algorithm)}'


@dataclass(frozen=True, slots=True)
class HmacHeader:
    """A parsed `x-syncml-hmac`. `mac` is decoded."""

    algorithm: str
    username: str
    mac: bytes


def parse_hmac_header(value: str) -> HmacHeader:
    """Parse the header. Parameters may be in any order; `algorithm` defaults to MD5; the username may be unquoted, as
    some devices send it.

    Raises `AuthError(MALFORMED)`, and `AuthError(ALGORITHM)` for an unknown algorithm.
    """
    parameters: dict[str, str] = {}
    at = 0
    while at < len(value) <= HEADER_CHARS_MAX:
        match = _PARAMETER.match(value, at)
        name = match.group(1).lower() if match else ""
        if match is None or name in parameters:
            raise AuthError(AuthFailure.MALFORMED)
        quoted, bare = match.group(2), match.group(3)
        parameters[name] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = match.end()
    algorithm = parameters.get("algorithm", "MD5").upper()
    if "username" not in parameters or "mac" not in parameters:
        raise AuthError(AuthFailure.MALFORMED)
    if algorithm not in _HASHES:
        raise AuthError(AuthFailure.ALGORITHM)
    try:
        raw = base64.b64decode(parameters["mac"], validate=True)
    except ValueError:
        raise AuthError(AuthFailure.MALFORMED) from None
    if len(raw) != _MAC_BYTES[algorithm]:
        raise AuthError(AuthFailure.MALFORMED)
    return HmacHeader(algorithm, parameters["username"], raw)


def verify_hmac(
    header: str | None, body: bytes, user: str, secret: str, nonce: bytes, allowed: Collection[str] = ("SHA-256",)
) -> None:
    """Verify the MAC of a message. Raises `AuthError` when it is wrong, with `MISSING` when there is no header."""
    if header is None or not header.strip():
        raise AuthError(AuthFailure.MISSING)
    parsed = parse_hmac_header(header)
    if parsed.algorithm not in allowed:
        raise AuthError(AuthFailure.ALGORITHM)
    if not hmac.compare_digest(parsed.username.encode(), user.encode()):
        raise AuthError(AuthFailure.USERNAME)
    expected = mac(body, user, secret, nonce, parsed.algorithm)
    if not hmac.compare_digest(expected.encode(), _b64(parsed.mac)):
        raise AuthError(AuthFailure.WRONG)


def verify_basic(data: str, user: str, secret: str) -> None:
    """Verify `Cred/Data` of `syncml:auth-basic`. Raises `AuthError`."""
    if not hmac.compare_digest("".join(data.split()).encode(), basic(user, secret).encode()):
        raise AuthError(AuthFailure.WRONG)


def verify_md5(data: str, user: str, secret: str, nonce: bytes) -> None:
    """Verify `Cred/Data` of `syncml:auth-md5`. Raises `AuthError`."""
    if not hmac.compare_digest("".join(data.split()).encode(), md5(user, secret, nonce).encode()):
        raise AuthError(AuthFailure.WRONG)
