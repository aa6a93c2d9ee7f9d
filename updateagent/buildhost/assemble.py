"""Writes packages on the build host: hash, describe, pack. The device never imports this.

The same inputs give the same bytes: the archive has no times, owners or inode numbers of the host, hash trees have no
salt, the JSON has one layout, and the compressors run with fixed settings.
"""

from __future__ import annotations

import json
import lzma
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from updateagent.buildhost import bsdiff
from updateagent.errors import REQUEST, RequestError
from updateagent.package import cpio, description, roots, verity
from updateagent.package.description import Kind
from updateagent.package.manifest import DESCRIPTION_NAME, SIGNATURE_NAME, Manifest
from updateagent.package.payload import DeltaSource, Encoding, Image, Role
from updateagent.package.readable import opened
from updateagent.package.roots import RootList
from updateagent.package.unpack import GZIP_WINDOW

XZ_DICTIONARY_BYTES = 384 << 10
"""The memory that the device needs to unpack. With 1 MiB the image of a system was only 4 % smaller."""
_XZ_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": XZ_DICTIONARY_BYTES}]
_SUFFIXES = {Encoding.RAW: "", Encoding.ZLIB: ".gz", Encoding.XZ: ".xz", Encoding.BSDIFF: ".bsdiff"}
_SWUPDATE_COMPRESSION = {Encoding.ZLIB: "zlib", Encoding.XZ: "xz"}
DELTA_WORTH = 0.9
"""A patch larger than this part of the whole payload is not worth the device's work."""
SOFTWARE_FOLDER = "/var/lib/dcu/software"
"""Where a stock SWUpdate would put the files of a software package; our own agent decides by its configuration."""


@dataclass(frozen=True, slots=True)
class Input:
    """One image as given to `dcu-pack`. A delta has the image it was made from, and the patch that is packed."""

    role: Role
    name: str
    path: Path
    encoding: Encoding = Encoding.RAW
    device: str = ""
    delta: DeltaSource | None = None
    patch: Path | None = None


@dataclass(frozen=True, slots=True)
class PackageMetadata:
    """The part of the description that is about the package as a whole."""

    kind: Kind
    version: str
    security_version: int
    compatible: tuple[str, ...]
    software_id: str = ""
    description: str = ""
    requires_version: tuple[str, ...] = ()
    requires_agent: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready to be written: its entry in the description, its hash tree, and the file that is stored."""

    image: Image
    tree: bytes = field(repr=False)
    stored: Path
    device: str = ""


def prepare(one: Input, index: int, work: Path) -> Prepared:
    """Hash an image, and compress it into the folder `work` if so encoded. Raises `RequestError`, `OSError`."""
    builder = verity.Builder()
    for piece in read_pieces(one.path):
        builder.update(piece)
    if not builder.size:
        raise RequestError(REQUEST, f"{one.path} is empty, and an empty image cannot be packed")
    root, tree = builder.finish()
    stored = _stored(one, work / f"{index}.packed")
    digest, size, check = sha256(), 0, 0
    for piece in read_pieces(stored):
        digest.update(piece)
        check = cpio.checksum(piece, check)
        size += len(piece)
    if max(size, builder.size) > cpio.SIZE_BYTES_MAX:
        raise RequestError(REQUEST, f"{one.path} is larger than the {cpio.SIZE_BYTES_MAX} bytes a package can hold")
    stem = _member_stem(one, index)
    image = Image(
        name=one.name,
        role=one.role,
        size=builder.size,
        root=root,
        encoding=one.encoding,
        payload_name=stem + _SUFFIXES[one.encoding],
        payload_size=size,
        payload_sha256=digest.digest(),
        payload_check=check,
        tree_name=stem + ".verity",
        tree_check=cpio.checksum(tree),
        delta=one.delta,
        executable=one.role is Role.FILE and bool(one.path.stat().st_mode & stat.S_IXUSR),
    )
    return Prepared(image, tree, stored, one.device)


def _member_stem(one: Input, index: int) -> str:
    if one.role is Role.IMAGE:
        return f"{one.name}.img"
    # Two files of one package may have the same last name: the number keeps their members apart.
    return f"{index:02d}-{one.name.rpartition('/')[2]}"[:48]


def _stored(one: Input, target: Path) -> Path:
    """The file whose bytes go into the archive for this image."""
    if one.patch is not None:
        return one.patch
    if one.encoding is Encoding.RAW:
        return one.path
    with target.open("wb") as file:
        file.writelines(_packed(one))
    return target


def _packed(one: Input) -> Iterator[bytes]:
    packer: Any
    if one.encoding is Encoding.ZLIB:
        packer = zlib.compressobj(9, zlib.DEFLATED, GZIP_WINDOW)
    elif one.encoding is Encoding.XZ:
        packer = lzma.LZMACompressor(format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=_XZ_FILTERS)
    else:
        raise RequestError(REQUEST, f"{one.name}: a delta without a patch")
    for piece in read_pieces(one.path):
        yield packer.compress(piece)
    yield packer.flush()


def read_pieces(path: Path) -> Iterator[bytes]:
    """The content of a file in pieces that fit in memory."""
    with path.open("rb") as file:
        while piece := file.read(verity.RUN_BYTES):
            yield piece


def ordered(prepared: Sequence[Prepared]) -> list[Prepared]:
    """Images of slots first, then files and hooks: the order of the two lists in the description."""
    return sorted(prepared, key=lambda one: one.image.role is not Role.IMAGE)


def describe(release: PackageMetadata, prepared: Sequence[Prepared]) -> bytes:
    """Return the text to be signed. Raises `PackageError` for values that a device would refuse."""
    ours: dict[str, Any] = {"format": description.FORMAT_VERSION, "kind": release.kind.value}
    if release.kind is Kind.SOFTWARE:
        ours["id"] = release.software_id
    ours["security_version"] = release.security_version
    requires: dict[str, Any] = {}
    if release.requires_version:
        requires["version"] = list(release.requires_version)
    if release.requires_agent:
        requires["agent"] = release.requires_agent
    if requires:
        ours["requires"] = requires
    software: dict[str, Any] = {"version": release.version}
    if release.description:
        software["description"] = release.description
    software["hardware-compatibility"] = list(release.compatible)
    software["dcu"] = ours
    folder = f"{SOFTWARE_FOLDER}/{release.software_id or 'firmware'}"
    for key, wanted in (("images", True), ("files", False)):
        entries = [
            _entry(one, release.version, folder)
            for one in ordered(prepared)
            if (one.image.role is Role.IMAGE) is wanted
        ]
        if entries:
            software[key] = entries
    text = (json.dumps({"software": software}, indent=1) + "\n").encode("utf-8")
    description.parse(text)
    return text


def _entry(one: Prepared, version: str, folder: str) -> dict[str, Any]:
    """One image as SWUpdate and we read it."""
    image = one.image
    entry: dict[str, Any] = {"name": image.name, "version": version, "filename": image.payload_name}
    if image.encoding is Encoding.BSDIFF:
        # A stock SWUpdate has no handler for our deltas, and must not write a patch where an image belongs.
        entry["type"] = "dummy"
    elif image.role is Role.IMAGE:
        entry["type"] = "raw"
        entry["device"] = one.device or f"/dev/disk/by-partlabel/{image.name}"
    else:
        entry["type"] = "rawfile"
        entry["path"] = f"{folder}/{image.name}"
        entry["properties"] = {"create-destination": "true"}
    if image.encoding in _SWUPDATE_COMPRESSION:
        entry["compressed"] = _SWUPDATE_COMPRESSION[image.encoding]
    entry["sha256"] = image.payload_sha256.hex()
    ours: dict[str, Any] = {
        "role": image.role.value,
        "encoding": image.encoding.value,
        "size": image.size,
        "root": image.root.hex(),
        "stored": image.payload_size,
        "checksum": image.payload_check,
        "tree": image.tree_name,
        "tree_checksum": image.tree_check,
    }
    if image.delta is not None:
        source = image.delta
        ours["delta"] = {"version": source.version, "size": source.size, "root": source.root.hex()}
    if image.executable:  # left out otherwise: an Update Agent of before this key refuses it
        ours["executable"] = True
    entry["dcu"] = ours
    return entry


def write(
    file: BinaryIO,
    text: bytes,
    signature: bytes | None,
    prepared: Sequence[Prepared],
    root_lists: Sequence[RootList] = (),
) -> None:
    """Write the archive. Without a signature no device accepts it; it can be signed later."""
    writer = cpio.Writer(file)
    writer.add(DESCRIPTION_NAME, text)
    if signature is not None:
        writer.add(SIGNATURE_NAME, signature)
    for found in sorted(root_lists, key=lambda one: one.version):
        writer.add(roots.member_name(found.version), roots.emit(found))
    for one in ordered(prepared):
        image = one.image
        writer.add(image.tree_name, one.tree)
        writer.add_stream(image.payload_name, read_pieces(one.stored), image.payload_size, image.payload_check)
    writer.close()


def sign_again(package: Path, out: BinaryIO, signature: bytes) -> None:
    """Copy a package with another signature, or the first one. Raises `PackageError` when it is no archive."""
    with opened(package) as file:
        reader, writer = cpio.Reader(file), cpio.Writer(out)
        for member in _members(reader):
            if member.name == SIGNATURE_NAME:
                continue
            data = verity.pieces(file, member.data_offset, member.size)
            writer.add_stream(member.name, data, member.size, member.check)
            if member.name == DESCRIPTION_NAME:
                writer.add(SIGNATURE_NAME, signature)
        writer.close()


def _members(reader: cpio.Reader) -> Iterator[cpio.Member]:
    while member := reader.next():
        yield member


def read_description(package: Path) -> bytes:
    """The description of a package, signed or not. Raises `PackageError`, `RequestError`."""
    with opened(package) as file:
        reader = cpio.Reader(file)
        member = reader.next()
        if member is None or member.name != DESCRIPTION_NAME:
            raise RequestError(REQUEST, f"{package} does not begin with {DESCRIPTION_NAME}")
        return reader.read(member, description.DESCRIPTION_BYTES_MAX)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Write a file that replaces `path` when it is complete, or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def delta_input(old: Path, before: Manifest, new: Path, image: Image, work: Path, encoding: Encoding) -> Input:
    """An image of the package `new` as a patch against the one of `old`, or whole where a patch would save little."""
    whole, source_file, patch = work.with_suffix(".new"), work.with_suffix(".old"), work.with_suffix(".patch")
    _extract(image, new, whole)
    full = Input(image.role, image.name, whole, encoding)
    source = before.image(image.name, image.role)
    if source is None or image.role is not Role.IMAGE:
        return full
    _extract(source, old, source_file)
    with patch.open("wb") as file:
        bsdiff.make(source_file, whole, file)
    if patch.stat().st_size >= DELTA_WORTH * image.payload_size:
        return full
    made_from = DeltaSource(before.version, source.size, source.root)
    return Input(image.role, image.name, whole, Encoding.BSDIFF, delta=made_from, patch=patch)


def _extract(image: Image, package: Path, out: Path) -> None:
    if image.encoding is Encoding.BSDIFF:
        raise RequestError(REQUEST, f"{package} holds {image.name} as a delta; a package with whole images is needed")
    with out.open("wb") as file:
        file.writelines(image.content(package))
