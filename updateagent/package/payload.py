"""The payload of one image: how it is encoded, and the only way in which its bytes leave a package.

`Image.blocks` is that way. It unpacks the payload as a stream, checks every block of 4 KiB against the hash tree
(whose root is in the signed description), and only then yields it. Memory does not grow with the image, except for the
upper levels of its tree (1/16384 of the image): a run of 64 KiB, and what the decompressor needs
(`updateagent.package.unpack`).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b, sha256
from typing import NamedTuple

from updateagent.errors import DELTA_SOURCE, PAYLOAD, PackageError
from updateagent.package import unpack, verity
from updateagent.package.readable import Package, Readable, opened
from updateagent.package.verity import BLOCK_BYTES, RUN_BLOCKS, RUN_BYTES, Tree

TAG_BYTES = 16
KEY_BYTES = 32
IMAGES_MAX = 64  # of a package (`description` refuses more)


class Role(Enum):
    """What an image is for."""

    IMAGE = "image"
    """Is written to the partition of its name in a slot."""
    FILE = "file"
    """A file of a software package; its name is the path in the package's folder."""
    HOOK = "hook"
    """A program that the Update Agent runs at the step that it is named after."""


class Encoding(Enum):
    """How the payload is packed."""

    RAW = "raw"
    ZLIB = "zlib"
    XZ = "xz"
    BSDIFF = "bsdiff40"


@dataclass(frozen=True, slots=True)
class DeltaSource:
    """The image that a delta was made from."""

    version: str
    size: int
    root: bytes

    def check(self, name: str, source: Readable) -> None:
        """Check that `source` holds this image, which is called `name`. Raises `PackageError` (`delta-source`)."""
        try:
            root = verity.root_of(source, self.size)
        except PackageError as error:
            raise PackageError(DELTA_SOURCE, f"the source of {name} is shorter than the delta needs") from error
        if root != self.root:
            raise PackageError(DELTA_SOURCE, f"the source of {name} is not version {self.version} as it was released")


class Run(NamedTuple):
    """Checked blocks: `data` is a whole number of blocks (the last one filled with zeros), at most 64 KiB."""

    block: int
    data: bytes


class IntegrityTags:
    """What this process has verified, as authentication tags. `image` is the name of a payload, `run` counts from 0.

    A package is verified whole before a slot is touched, and every block again when it is written, because the file
    may have changed in between. On a CPU without SHA instructions, hashing is most of the cost of an installation.
    Therefore the first pass keeps a tag of each run that it verified, and the second pass compares tags: a run with the
    same tag has the same bytes, since nobody outside this process knows the key. Poly1305 costs a fifth to a tenth of
    SHA-256 there.

    Poly1305 (RFC 8439, section 2.5) must never use a key for two messages: keyed BLAKE2b derives one from the position
    of the run and a secret drawn for each object. Where there is no tag, or a different one, the hash tree decides:
    tags only save work. They are never stored. Memory: 16 bytes per run of 64 KiB.
    """

    def __init__(self) -> None:
        # Here, because the agent loads this module for its types long before there is a package to verify, if ever.
        from cryptography.hazmat.primitives.poly1305 import Poly1305

        self._mac = Poly1305.generate_tag
        self._secret = os.urandom(KEY_BYTES)
        self._images: dict[str, tuple[int, bytearray]] = {}

    def note(self, image: str, run: int, data: bytes) -> None:
        """Record a run that was just verified. Runs are recorded in order from 0; others are left to the hash tree."""
        number, tags = self._images.setdefault(image, (len(self._images), bytearray()))
        if run * TAG_BYTES == len(tags) and number < IMAGES_MAX:
            tags += self._tag(number, run, data)

    def knows(self, image: str, run: int, data: bytes) -> bool:
        """Whether these are the bytes that were recorded for this run."""
        number, tags = self._images.get(image, (0, b""))
        noted = tags[run * TAG_BYTES : (run + 1) * TAG_BYTES]
        return len(noted) == TAG_BYTES and hmac.compare_digest(noted, self._tag(number, run, data))

    def has_all(self, image: str, runs: int) -> bool:
        """Whether all `runs` runs of an image were recorded."""
        return len(self._images.get(image, (0, b""))[1]) == runs * TAG_BYTES

    def _tag(self, number: int, run: int, data: bytes) -> bytes:
        position = number.to_bytes(4, "little") + run.to_bytes(8, "little")
        return self._mac(blake2b(position, key=self._secret, digest_size=KEY_BYTES).digest(), data)


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a package. Sizes and offsets in bytes; everything but the offsets is from the signed description."""

    name: str
    role: Role
    size: int
    root: bytes
    encoding: Encoding
    payload_name: str
    payload_size: int
    payload_sha256: bytes
    payload_check: int
    tree_name: str
    tree_check: int
    delta: DeltaSource | None = None
    executable: bool = False
    """Whether this is a file that is installed as a program."""
    payload_offset: int = 0
    tree_offset: int = 0

    @property
    def block_count(self) -> int:
        """Blocks of 4 KiB that the image fills."""
        return verity.block_count(self.size)

    @property
    def tree_size(self) -> int:
        """Length of the hash tree in the package."""
        return verity.tree_bytes(self.block_count)

    def tree(self, file: Readable) -> Tree:
        """The hash tree, its upper levels checked. Raises `PackageError`."""
        return Tree(file, self.tree_offset, self.tree_size, self.block_count, self.root)

    def blocks(
        self,
        package: Package,
        start_block: int = 0,
        source: Readable | None = None,
        tags: IntegrityTags | None = None,
    ) -> Iterator[Run]:
        """Yield the image from `start_block` on, in order, each block checked before it is yielded.

        A delta needs `source`, which holds the image it was made from; the caller must have checked it with
        `check_source`. A packed image or delta is unpacked from its beginning, whatever `start_block` is. Runs that
        this process has verified are recognised by `tags`; all others are hashed, and recorded there.

        Raises `PackageError` (`payload`, `compression`, `patch`, `delta-source`, `truncated`) and
        `DeviceError` (`storage`).
        """
        with opened(package) as file:
            tree = self.tree(file)
            for run in self._runs(file, start_block, source):
                number, inside = divmod(run.block, RUN_BLOCKS)
                if inside or tags is None:
                    tree.check(run.block, run.data)
                elif not tags.knows(self.payload_name, number, run.data):
                    tree.check(run.block, run.data)
                    tags.note(self.payload_name, number, run.data)
                yield run

    def content(self, package: Package) -> Iterator[bytes]:
        """Yield the image without the zeros that fill its last block, each piece checked and at most 64 KiB."""
        for run in self.blocks(package):
            yield run.data[: self.size - run.block * BLOCK_BYTES]

    def check_source(self, source: Readable) -> None:
        """Check that `source` holds the image that the delta was made from. Raises `PackageError` (`delta-source`)."""
        if self.delta is not None:
            self.delta.check(self.name, source)

    def check_payload(self, file: Readable, tags: IntegrityTags | None = None) -> None:
        """Check as much of the payload as is possible without the source of a delta. Writes nothing.

        `tags` records each run that was verified.
        """
        tree = self.tree(file)
        if self.encoding is not Encoding.RAW:
            self._check_stored(file)
        if self.encoding is Encoding.BSDIFF:
            tree.check_all_leaves()
            return
        for number, run in enumerate(self._runs(file, 0, None)):
            tree.check(run.block, run.data)
            if tags is not None:
                tags.note(self.payload_name, number, run.data)

    def _check_stored(self, file: Readable) -> None:
        digest = sha256()
        for piece in verity.pieces(file, self.payload_offset, self.payload_size):
            digest.update(piece)
        if digest.digest() != self.payload_sha256:
            raise PackageError(PAYLOAD, f"{self.payload_name} is not what was signed")

    def _runs(self, file: Readable, start_block: int, source: Readable | None) -> Iterator[Run]:
        """The image from `start_block` on, unchecked."""
        if not 0 <= start_block <= self.block_count:
            raise ValueError(f"block {start_block} of {self.block_count}")
        if self.encoding is Encoding.RAW:
            offset = start_block * BLOCK_BYTES
            pieces = verity.pieces(file, self.payload_offset + offset, self.size - offset)
        else:
            pieces = _skip(_regrouped(self._unpacked(file, source), self.size, self.name), start_block * BLOCK_BYTES)
        block = start_block
        for piece in pieces:
            data = verity.padded(piece)
            yield Run(block, data)
            block += len(data) // BLOCK_BYTES

    def _unpacked(self, file: Readable, source: Readable | None) -> Iterator[bytes]:
        packed = (file, self.payload_offset, self.payload_size)
        if self.encoding is Encoding.ZLIB:
            return unpack.inflate(*packed)
        if self.encoding is Encoding.XZ:
            return unpack.unxz(*packed)
        if source is None or self.delta is None:
            raise PackageError(DELTA_SOURCE, f"{self.name} is a delta, and there is no source for it")
        from updateagent.package.delta import apply

        return apply(*packed, source=source, source_size=self.delta.size, result_size=self.size)


def _regrouped(pieces: Iterable[bytes], size: int, name: str) -> Iterator[bytes]:
    """Regroup `pieces` into runs of 64 KiB, and stop as soon as there is more than `size`."""
    collected: list[bytes] = []
    missing = RUN_BYTES
    left = size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise PackageError(PAYLOAD, f"{name} unpacks to more than the {size} bytes that were signed")
        while len(piece) >= missing:
            collected.append(piece[:missing])
            piece = piece[missing:]
            run = b"".join(collected)
            collected.clear()
            missing = RUN_BYTES
            yield run
        collected.append(piece)
        missing -= len(piece)
    if left:
        raise PackageError(PAYLOAD, f"{name} unpacks to {size - left} of the {size} bytes that were signed")
    if missing < RUN_BYTES:
        yield b"".join(collected)


def _skip(runs: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Drop the first `count` bytes."""
    for run in runs:
        if count < len(run):
            yield run[count:] if count else run
        count = max(0, count - len(run))
