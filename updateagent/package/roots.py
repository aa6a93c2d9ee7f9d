"""Lists of roots: how a device learns which roots to trust next, and which certificates are revoked.

    list     := JSON {"format": 1, "version": N, "threshold": M, "issued": seconds, "roots": [base64 DER, ...],
                      "revoked": [SHA-256 in hexadecimal, ...]}
    envelope := JSON {"signed": the list as text, "signatures": {fingerprint of a root: base64}}

As in The Update Framework, version N + 1 is accepted only when it is signed by at least M of the roots of version N (M
being the threshold of version N), and by at least as many of its own roots as its own threshold requires. Thus a
minority of the old roots cannot take over, and no list can be issued whose keys nobody holds. Versions increase one at
a time, and a package may carry several, for devices that missed some. A device keeps the newest list, so each list has
all revocations that are to stay in force.

The roots in the device's PEM file are version 0; a majority of them must sign version 1.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from updateagent.errors import ROOTS, PackageError
from updateagent.package import certificate
from updateagent.package.certificate import KEY_CERT_SIGN, Certificate
from updateagent.package.description import Fields, load_json
from updateagent.package.trust import ROOTS_MAX, Trust

FORMAT_VERSION = 1
ENVELOPE_BYTES_MAX = 128 << 10
"""16 roots and 16 signatures of RSA-4096, and 256 revocations, with room."""
LISTS_MAX = 8
"""Lists in one package. A device that missed more than eight rotations needs manual help."""
REVOKED_MAX = 256
VERSION_MAX = 10**6
TIME_MAX = 2**32

_NAME = re.compile(r"roots-([1-9][0-9]{0,6})\.json")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{1,12000}={0,2}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RootList:
    """One version of the list, and the signatures that came with it."""

    version: int
    threshold: int
    issued: int
    """Seconds since 1970. Refused where it is known to lie in the future; no bound is taken from it."""
    roots: tuple[Certificate, ...]
    revoked: frozenset[str]
    text: bytes = field(repr=False)
    """What is signed."""
    signatures: Mapping[str, bytes] = field(repr=False)
    """By the fingerprint of the root that signed."""

    def signed_by(self, roots: Sequence[Certificate]) -> int:
        """How many of these roots signed the list."""
        # Keys are counted, not certificates: several certificates of one key are one root.
        return len({root.public_key for root in roots if self._is_signed_by(root)})

    def _is_signed_by(self, root: Certificate) -> bool:
        signature = self.signatures.get(root.fingerprint)
        if signature is None:
            return False
        try:
            certificate.verify_signature(root.public_key, (certificate.key_kind(root), "sha256"), signature, self.text)
        except PackageError:
            return False
        return True


def member_name(version: int) -> str:
    """The name of the member of a package that holds this version."""
    return f"roots-{version}.json"


def is_member_name(name: str) -> bool:
    """Whether a member of a package is a list of roots."""
    return _NAME.fullmatch(name) is not None


def parse(envelope: bytes) -> RootList:
    """Read an envelope; who signed it is not checked. Raises `PackageError` (`roots`)."""
    try:
        outer = Fields(load_json(envelope, ENVELOPE_BYTES_MAX, "roots"), "roots")
        outer.check_known({"signed", "signatures"})
        text = outer.text("signed", None).encode("utf-8")
        signatures = outer.child("signatures")
        found = _list(text, {name: _bytes(signatures, name) for name in signatures.keys(ROOTS_MAX * 2, _FINGERPRINT)})
    except (PackageError, UnicodeEncodeError) as error:
        why = error.message if isinstance(error, PackageError) else "not text"
        raise PackageError(ROOTS, f"a list of roots that cannot be read: {why}") from error
    if emit(found) != envelope:
        raise PackageError(ROOTS, "a list of roots that is not in canonical form")
    return found


def _list(text: bytes, signatures: Mapping[str, bytes]) -> RootList:
    inner = Fields(load_json(text, ENVELOPE_BYTES_MAX, "roots.signed"), "roots.signed")
    inner.check_known({"format", "version", "threshold", "issued", "roots", "revoked"})
    if inner.number("format", FORMAT_VERSION) != FORMAT_VERSION:
        inner.fail("format", f"only format {FORMAT_VERSION} is understood")
    roots = tuple(
        certificate.parse(_decoded(one, "roots.signed.roots")) for one in inner.texts("roots", _BASE64, ROOTS_MAX)
    )
    if not all(root.is_authority and root.may(KEY_CERT_SIGN) for root in roots):
        inner.fail("roots", "not every certificate is one of an authority")
    threshold = inner.number("threshold", ROOTS_MAX)
    if not 1 <= threshold <= len({root.public_key for root in roots}):
        inner.fail("threshold", f"{threshold} signatures of {len(roots)} roots")
    return RootList(
        version=inner.number("version", VERSION_MAX),
        threshold=threshold,
        issued=inner.number("issued", TIME_MAX),
        roots=roots,
        revoked=frozenset(inner.texts("revoked", _FINGERPRINT, REVOKED_MAX)),
        text=text,
        signatures=signatures,
    )


def _bytes(fields: Fields, key: str) -> bytes:
    return _decoded(fields.text(key, _BASE64), f"roots.signatures.{key[:16]}")


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise PackageError(ROOTS, f"{where}: not base64") from error


def emit(one: RootList) -> bytes:
    """Encode the envelope in its canonical form."""
    signatures = {name: base64.b64encode(one.signatures[name]).decode() for name in sorted(one.signatures)}
    return (json.dumps({"signed": one.text.decode(), "signatures": signatures}, indent=1) + "\n").encode()


def make(
    version: int, threshold: int, issued: int, roots: Sequence[Certificate], revoked: Sequence[str] = ()
) -> RootList:
    """Make an unsigned list. Raises `PackageError` (`roots`, `description`) for an inconsistent one."""
    said = {
        "format": FORMAT_VERSION,
        "version": version,
        "threshold": threshold,
        "issued": issued,
        "roots": [base64.b64encode(root.der).decode() for root in roots],
        "revoked": sorted(revoked),
    }
    return _list(json.dumps(said, indent=1).encode(), {})


def with_signature(one: RootList, root: Certificate, signature: bytes) -> RootList:
    """The list with one more signature. Raises `PackageError` (`roots`) when the signature is wrong."""
    signed = replace(one, signatures={**one.signatures, root.fingerprint: signature})
    if not signed.signed_by([root]):
        raise PackageError(ROOTS, "the signature is not one of this root over this list")
    return signed


def accept(trust: Trust, envelopes: Sequence[bytes]) -> tuple[Trust, RootList | None]:
    """Apply lists to what a device trusts now; return what it trusts then, and the newest list, if any.

    Lists that the device already has are skipped. Raises `PackageError` (`roots`) for one that is not the next version,
    was issued in the future, or is not signed by enough of the old and of the new roots.
    """
    newest = None
    for envelope in envelopes:
        found = parse(envelope)
        if found.version <= trust.root_version:
            continue
        if found.version != trust.root_version + 1:
            raise PackageError(ROOTS, f"roots version {found.version} does not follow {trust.root_version}")
        if trust.is_ahead(found.issued):
            raise PackageError(ROOTS, f"roots version {found.version} was issued in the future")
        needed = trust.root_threshold or len(trust.roots) // 2 + 1
        if found.signed_by(certificate.unrevoked(trust.roots, trust.revoked)) < needed:
            raise PackageError(ROOTS, f"roots version {found.version}: fewer than {needed} of the present roots signed")
        trust, newest = apply_roots(trust, found), found
    return trust, newest


def apply_roots(trust: Trust, found: RootList) -> Trust:
    """What a device trusts after accepting this list, now or earlier (if the list is from its own storage).

    Raises `PackageError` (`roots`) when the list lacks signatures of its own roots, as a damaged one would.
    """
    if found.signed_by(certificate.unrevoked(found.roots, found.revoked)) < found.threshold:
        raise PackageError(
            ROOTS, f"roots version {found.version}: fewer than {found.threshold} of its own roots signed"
        )
    return replace(
        trust,
        roots=found.roots,
        root_version=found.version,
        root_threshold=found.threshold,
        revoked=trust.revoked | found.revoked,
    )
