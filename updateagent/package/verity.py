"""dm-verity version 1 hash trees over SHA-256, blocks of 4 KiB, no salt: building, reading, and checking blocks.

    tree file := superblock block, then the levels from the one below the root to the leaves
    level     := hash blocks of 128 digests of 32 bytes, the last one filled with zeros
    root      := SHA-256 of the single block of the topmost level (of the data block itself when there is only one)

    superblock (512 bytes used, the rest of its block is zero; little-endian; cryptsetup's `verity.h`):
      0 "verity\\0\\0" | 8 u32 version 1 | 12 u32 hash type 1 | 16 uuid[16] | 32 algorithm[32] "sha256"
      64 u32 data block size | 68 u32 hash block size | 72 u64 data blocks | 80 u16 salt size 0 | 88 salt[256]

`veritysetup verify` reads these files. The salt is empty because the root is signed: there is nothing to gain from
making equal images hash differently. The uuid is the start of the root hash, so that equal images give equal trees.
An image whose length is not a multiple of 4 KiB is hashed as if followed by zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256

from updateagent.errors import FORMAT, PAYLOAD, PackageError
from updateagent.package.readable import Readable, read_exactly

BLOCK_BYTES = 4096
DIGEST_BYTES = 32
FANOUT = BLOCK_BYTES // DIGEST_BYTES
RUN_BLOCKS = 16
"""Blocks that are read, checked and yielded at a time: 64 KiB. More needs more memory and was not faster."""
RUN_BYTES = RUN_BLOCKS * BLOCK_BYTES

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_LEAVES_AHEAD = 4
"""Leaf blocks read at once: 4 cover 512 data blocks, 2 MiB."""


def block_count(size: int) -> int:
    """How many blocks an image of `size` bytes fills."""
    return -(-size // BLOCK_BYTES)


def level_blocks(blocks: int) -> list[int]:
    """Return the number of hash blocks of each level, leaves first; empty for a single data block."""
    levels = []
    while blocks > 1:
        blocks = -(-blocks // FANOUT)
        levels.append(blocks)
    return levels


def tree_bytes(blocks: int) -> int:
    """Length of the tree file for `blocks` data blocks."""
    return BLOCK_BYTES * (1 + sum(level_blocks(blocks)))


def superblock(blocks: int, root: bytes) -> bytes:
    """Return the first block of the tree file."""
    packed = _SUPERBLOCK.pack(
        b"verity\0\0", 1, 1, root[:16], b"sha256", BLOCK_BYTES, BLOCK_BYTES, blocks, 0, bytes(256)
    )
    return packed + bytes(BLOCK_BYTES - len(packed))


def digests(data: bytes | bytearray | memoryview) -> bytes:
    """Return the digests of the blocks of `data` one after the other; the last block must be whole."""
    view = memoryview(data)
    return b"".join([sha256(view[at : at + BLOCK_BYTES]).digest() for at in range(0, len(view), BLOCK_BYTES)])


def padded(data: bytes) -> bytes:
    """Return `data` with zeros up to a whole block."""
    missing = -len(data) % BLOCK_BYTES
    return data + bytes(missing) if missing else data


class Builder:
    """Collects the tree of an image that arrives in pieces; keeps 1/128 of it in memory."""

    def __init__(self) -> None:
        self._leaves = bytearray()
        self._rest = b""
        self.size = 0

    def update(self, data: bytes) -> None:
        """Add the next bytes of the image."""
        self.size += len(data)
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % BLOCK_BYTES
        self._leaves += digests(memoryview(data)[:whole])
        self._rest = data[whole:]

    def finish(self) -> tuple[bytes, bytes]:
        """Return the root hash and the content of the tree file. Raises `ValueError` for an empty image."""
        if not self.size:
            raise ValueError("an empty image has no hash tree")
        if self._rest:
            self._leaves += digests(padded(self._rest))
            self._rest = b""
        blocks = block_count(self.size)
        levels = []
        hashes = bytes(self._leaves)
        while len(hashes) > DIGEST_BYTES:
            levels.append(padded(hashes))
            hashes = digests(levels[-1])
        return hashes, b"".join([superblock(blocks, hashes), *reversed(levels)])


def build(pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return root hash and tree file of an image."""
    builder = Builder()
    for piece in pieces:
        builder.update(piece)
    return builder.finish()


def root_of(file: Readable, size: int) -> bytes:
    """Return the root hash of the first `size` bytes of `file`, in memory that does not grow with them.

    Raises `PackageError` (`truncated`) when there are fewer, `ValueError` for 0 bytes.
    """
    levels: list[bytearray] = [bytearray()]  # the digests of each level that are not in a whole hash block yet
    for piece in pieces(file, 0, size):
        levels[0] += digests(padded(piece))
        for height, level in enumerate(levels):
            whole = len(level) - len(level) % BLOCK_BYTES
            if whole and height + 1 == len(levels):
                levels.append(bytearray())
            if whole:
                levels[height + 1] += digests(memoryview(level)[:whole].tobytes())
                del level[:whole]
    # Fill the last hash block of each level, from the leaves up; a single digest with nothing beside it is the root.
    for height, level in enumerate(levels):
        above = levels[height + 1 :]
        if len(level) == DIGEST_BYTES and not any(above):
            return bytes(level)
        if level:
            if not above:
                levels.append(bytearray())
            levels[height + 1] += digests(padded(bytes(level)))
    raise ValueError("an empty image has no hash tree")


def pieces(file: Readable, offset: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of `file` from `offset` on in pieces of at most 64 KiB."""
    end = offset + size
    while offset < end:
        length = min(RUN_BYTES, end - offset)
        yield read_exactly(file, length, offset, "image")
        offset += length


class Tree:
    """A hash tree inside a package, checked against its root as it is read.

    The levels above the leaves are read and checked at once (1/16384 of the image), the leaves when they are needed,
    a few at a time. Raises `PackageError`: `format` for a superblock or length that is not the one for this image,
    `payload` where a hash differs.
    """

    def __init__(self, file: Readable, offset: int, size: int, blocks: int, root: bytes) -> None:
        if blocks < 1 or size != tree_bytes(blocks):
            raise PackageError(FORMAT, f"a hash tree of {size} bytes does not belong to an image of {blocks} blocks")
        if read_exactly(file, BLOCK_BYTES, offset, "hash tree") != superblock(blocks, root):
            raise PackageError(FORMAT, "the superblock of the hash tree is not the one of this image")
        self.blocks = blocks
        self._file = file
        self._parents = root
        self._cache = b""
        self._cache_start = 0
        at = offset + BLOCK_BYTES
        levels = level_blocks(blocks)
        for count in reversed(levels[1:]):
            self._parents = self._read_level(at, count, self._parents)
            at += count * BLOCK_BYTES
        self._leaves_at = at

    def leaves(self, start: int, count: int) -> bytes:
        """Return the checked digests of `count` data blocks from number `start` on."""
        if self.blocks == 1:
            return self._parents
        if not 0 <= start < start + count <= self.blocks:
            raise ValueError(f"blocks {start}..{start + count} of {self.blocks}")
        found = []
        while count > 0:
            first = start // FANOUT
            if not self._cache_start <= first < self._cache_start + len(self._cache) // BLOCK_BYTES:
                self._load(first)
            begin = (start - self._cache_start * FANOUT) * DIGEST_BYTES
            part = self._cache[begin : begin + count * DIGEST_BYTES]
            found.append(part)
            start += len(part) // DIGEST_BYTES
            count -= len(part) // DIGEST_BYTES
        return b"".join(found)

    def check(self, start: int, data: bytes | memoryview) -> None:
        """Check that the whole blocks of `data` are those from number `start` on. Raises `PackageError` (`payload`)."""
        count = len(data) // BLOCK_BYTES
        expected = self.leaves(start, count)
        actual = digests(data)
        if actual != expected:
            raise PackageError(PAYLOAD, f"block {start + _first_difference(actual, expected)} is not what was signed")

    def check_all_leaves(self) -> None:
        """Check the whole tree file, including leaves whose data was not read."""
        for start in range(0, self.blocks, _LEAVES_AHEAD * FANOUT):
            self.leaves(start, 1)

    def _load(self, first: int) -> None:
        total = block_count(self.blocks * DIGEST_BYTES)
        count = min(_LEAVES_AHEAD, total - first)
        parents = self._parents[first * DIGEST_BYTES : (first + count) * DIGEST_BYTES]
        data = read_exactly(self._file, count * BLOCK_BYTES, self._leaves_at + first * BLOCK_BYTES, "hash tree")
        _check_level(data, parents)
        self._cache, self._cache_start = data, first

    def _read_level(self, at: int, count: int, parents: bytes) -> bytes:
        data = read_exactly(self._file, count * BLOCK_BYTES, at, "hash tree")
        _check_level(data, parents[: count * DIGEST_BYTES])
        return data


def _check_level(data: bytes, parents: bytes) -> None:
    actual = digests(data)
    if actual != parents:
        raise PackageError(PAYLOAD, f"hash block {_first_difference(actual, parents)} is not what was signed")


def _first_difference(actual: bytes, expected: bytes) -> int:
    for at in range(0, len(expected), DIGEST_BYTES):
        if actual[at : at + DIGEST_BYTES] != expected[at : at + DIGEST_BYTES]:
            return at // DIGEST_BYTES
    return len(expected) // DIGEST_BYTES
