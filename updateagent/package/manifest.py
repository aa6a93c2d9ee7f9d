"""A package as a whole: its description, its signer, and whether this device may install it.

    description -> signature -> signer -> fit to this device -> layout of the archive -> every payload

`verify_package` checks these in this order and writes nothing. No part of a package is interpreted before the signature
over it was verified, except the structure of the archive and of the signature itself. The headers of an archive are not
signed, but they follow from the signed description (name, size, checksum and order of every member), so a package has
exactly one form and every changed byte is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256

from updateagent.errors import (
    AGENT_VERSION,
    COMPATIBLE,
    DELTA_SOURCE,
    DOWNGRADE,
    FORMAT,
    IMAGE_ROLE,
    IMAGE_SIZE,
    LIMIT,
    PAYLOAD,
    SIGNATURE_MISSING,
    STORAGE_FULL,
    VERSION_REQUIRED,
    DeviceError,
    PackageError,
)
from updateagent.package import cms, cpio, description, roots
from updateagent.package.description import Description, Kind
from updateagent.package.payload import DeltaSource, Encoding, Image, IntegrityTags, Role, Run
from updateagent.package.readable import Package, Readable, opened
from updateagent.package.trust import Trust
from updateagent.package.verity import BLOCK_BYTES

__all__ = [
    "Manifest",
    "Image",
    "Role",
    "Kind",
    "Encoding",
    "DeltaSource",
    "Run",
    "Trust",
    "PackageError",
    "DeviceError",
    "verify_package",
    "verify_description",
    "read_unverified",
    "read_signature",
    "opened",
]

DESCRIPTION_NAME = "sw-description"
SIGNATURE_NAME = "sw-description.sig"


@dataclass(frozen=True, slots=True)
class Manifest(Description):
    """The verified description of a package, and its signer. `signed_at` is in seconds since 1970."""

    signed_at: int
    signer: str
    """SHA-256 fingerprint of the signer's certificate, in hexadecimal."""
    digest: str
    """SHA-256 of the signed description, in hexadecimal: the identity of the release."""
    confirmed_at: int = 0
    """As much of `signed_at` as this device's clock confirms (`Trust.confirmed`): what it may keep as a bound."""
    new_roots: bytes | None = None
    """The newest list of roots in the package that this device has not accepted yet, to be stored when the package is
    installed (and read back with `updateagent.package.roots`)."""

    @property
    def size(self) -> int:
        """Bytes of all images, unpacked."""
        return sum(image.size for image in self.images)

    @property
    def deltas(self) -> Mapping[str, DeltaSource]:
        """The images that are deltas, by name, with the source of each."""
        return {image.name: image.delta for image in self.images if image.delta is not None}

    def image(self, name: str, role: Role = Role.IMAGE) -> Image | None:
        """The image of this role and name."""
        return next((image for image in self.images if (image.role, image.name) == (role, name)), None)


def verify_package(package: Package, trust: Trust, tags: IntegrityTags | None = None) -> Manifest:
    """Check everything about a package that can be checked without writing; return its manifest.

    The source of a delta is not checked here but by `Image.check_source`. `tags` records what was verified, so that
    `Image.blocks` need not hash it again.

    Raises `PackageError` with the number of the first thing that is wrong, and `DeviceError` (`storage`,
    `storage-full`).
    """
    with opened(package) as file:
        manifest = _verify_description(file, trust)
        for image in manifest.images:
            image.check_payload(file, tags)
        return manifest


def verify_description(package: Package, trust: Trust) -> Manifest:
    """Verify a package but for its payloads, in milliseconds: enough to decide whether to go on."""
    with opened(package) as file:
        return _verify_description(file, trust)


def read_unverified(package: Package) -> Manifest:
    """Read the manifest of a package without checking its signer. For showing it to a person; never for installing.

    Raises `PackageError` when the package is malformed or its signature is wrong.
    """
    with opened(package) as file:
        front = _front(file)
        return _located(_manifest(front.text, cms.verify(front.text, front.signature)), front)


def read_signature(file: Readable) -> bytes:
    """The detached signature of a package, as it is stored. Raises `PackageError`."""
    return _front(file).signature


def _verify_description(file: Readable, trust: Trust) -> Manifest:
    front = _front(file)
    new_roots = None
    if front.roots:
        trust, newest = roots.accept(trust, front.roots)
        new_roots = roots.emit(newest) if newest else None
    signed = cms.verify(front.text, front.signature)
    trust.check_signer(signed)
    manifest = replace(
        _manifest(front.text, signed), new_roots=new_roots, confirmed_at=trust.confirmed(signed.signed_at)
    )
    _check_fit(manifest, trust)
    return _located(manifest, front)


@dataclass(frozen=True, slots=True)
class _Front:
    """The members before the images, and the reader positioned after them."""

    text: bytes
    signature: bytes
    roots: tuple[bytes, ...]
    first: cpio.Member | None
    reader: cpio.Reader


def _front(file: Readable) -> _Front:
    reader = cpio.Reader(file)
    member = reader.next()
    if member is None or member.name != DESCRIPTION_NAME:
        raise PackageError(FORMAT, f"the archive does not begin with {DESCRIPTION_NAME}")
    text = reader.read(member, description.DESCRIPTION_BYTES_MAX)
    member = reader.next()
    if member is None or member.name != SIGNATURE_NAME:
        raise PackageError(SIGNATURE_MISSING, "the package is not signed")
    signature = reader.read(member, cms.SIGNATURE_BYTES_MAX)
    lists: list[bytes] = []
    newest = 0
    while (member := reader.next()) is not None and roots.is_member_name(member.name):
        if len(lists) == roots.LISTS_MAX:
            raise PackageError(LIMIT, f"more than {roots.LISTS_MAX} lists of roots")
        lists.append(reader.read(member, roots.ENVELOPE_BYTES_MAX))
        version = roots.parse(lists[-1]).version
        if member.name != roots.member_name(version) or version <= newest:
            raise PackageError(FORMAT, f"{member.name} is not named by its version, or not in ascending order")
        newest = version
    return _Front(text, signature, tuple(lists), member, reader)


def _manifest(text: bytes, signed: cms.SignedContent) -> Manifest:
    said = description.parse(text)
    return Manifest(
        **{field.name: getattr(said, field.name) for field in fields(said)},
        signed_at=signed.signed_at,
        signer=signed.signer.fingerprint,
        digest=sha256(text).hexdigest(),
    )


def _check_fit(manifest: Manifest, trust: Trust) -> None:
    if trust.compatible not in manifest.compatible:
        made_for = ", ".join(manifest.compatible)
        raise PackageError(COMPATIBLE, f"the package is for {made_for}, this device is {trust.compatible}")
    floor = trust.security_version
    if manifest.kind is Kind.SOFTWARE:
        floor = trust.software_security.get(manifest.software_id, 0)
    if manifest.security_version < floor:
        why = f"security version {manifest.security_version} is older than {floor}, the oldest that is still allowed"
        raise PackageError(DOWNGRADE, why)
    if manifest.requires_version and trust.version is not None and trust.version not in manifest.requires_version:
        needed = ", ".join(manifest.requires_version)
        code = DELTA_SOURCE if manifest.deltas else VERSION_REQUIRED
        raise PackageError(code, f"the package needs version {needed}, this device runs {trust.version}")
    if trust.agent_version is not None and _numbers(trust.agent_version) < _numbers(manifest.requires_agent):
        why = f"the package needs Update Agent {manifest.requires_agent}, this is {trust.agent_version}"
        raise PackageError(AGENT_VERSION, why)
    _check_space(manifest, trust)


def _check_space(manifest: Manifest, trust: Trust) -> None:
    needed = 0
    for image in manifest.images:
        filled = image.block_count * BLOCK_BYTES
        if image.role is not Role.IMAGE:
            needed += filled
        elif trust.capacity is not None:
            if image.name not in trust.capacity:
                raise PackageError(IMAGE_ROLE, f"this device has no place for an image {image.name}")
            if filled > trust.capacity[image.name]:
                why = f"{image.name} needs {filled} bytes, its place has {trust.capacity[image.name]}"
                raise PackageError(IMAGE_SIZE, why)
    if trust.free_bytes is not None and needed > trust.free_bytes:
        raise DeviceError(STORAGE_FULL, f"the files of the package need {needed} bytes, {trust.free_bytes} are free")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _located(manifest: Manifest, front: _Front) -> Manifest:
    """Read the headers of the rest of the archive; every member must be the one that the description announces."""
    images = []
    member = front.first
    for image in manifest.images:
        tree = _expect(member, image.tree_name, image.tree_size, image.tree_check)
        payload = _expect(front.reader.next(), image.payload_name, image.payload_size, image.payload_check)
        images.append(replace(image, tree_offset=tree, payload_offset=payload))
        member = front.reader.next()
    if member is not None:
        raise PackageError(FORMAT, "the archive holds more than the description announces")
    return replace(manifest, images=tuple(images))


def _expect(member: cpio.Member | None, name: str, size: int, check: int) -> int:
    if member is None or member.name != name:
        raise PackageError(FORMAT, f"the archive does not hold {name} where the description announces it")
    if (member.size, member.check) != (size, check):
        raise PackageError(PAYLOAD, f"size or checksum of {name} is not what was signed")
    return member.data_offset
