"""Hash trees: the kernel's format, checked block by block against the root."""

from __future__ import annotations

import random
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.updateagent.package.buffer import Buffer
from updateagent.errors import FORMAT, PAYLOAD, TRUNCATED, PackageError
from updateagent.package import verity
from updateagent.package.verity import BLOCK_BYTES, FANOUT, Tree

SIZES = [1, BLOCK_BYTES, BLOCK_BYTES + 1, FANOUT * BLOCK_BYTES, FANOUT * BLOCK_BYTES + 1, 300 * BLOCK_BYTES + 17]
TWO_LEVELS = 300 * BLOCK_BYTES


def image(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def tree_of(data: bytes, tree: bytes | None = None, root: bytes | None = None) -> Tree:
    good_root, good_tree = verity.build([data])
    tree = good_tree if tree is None else tree
    return Tree(Buffer(tree), 0, len(tree), verity.block_count(len(data)), root or good_root)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.process
@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="needs veritysetup (Debian package cryptsetup-bin)")
def test_veritysetup_accepts_the_tree_and_refuses_a_changed_image(tmp_path: Path, size: int) -> None:
    data = image(size)
    root, tree = verity.build([data])
    (tmp_path / "tree").write_bytes(tree)
    for content, expected in ((data, True), (bytes([data[0] ^ 1]) + data[1:], False)):
        (tmp_path / "image").write_bytes(verity.padded(content))
        command = ["veritysetup", "verify", str(tmp_path / "image"), str(tmp_path / "tree"), root.hex()]
        assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) is expected


@pytest.mark.parametrize("size", SIZES)
def test_the_blocks_of_an_image_pass_in_runs_of_any_start(size: int) -> None:
    data = verity.padded(image(size))
    tree = tree_of(image(size))
    for start in {0, tree.blocks // 2, tree.blocks - 1}:
        tree.check(start, data[start * BLOCK_BYTES :])
    tree.check_all_leaves()


def test_pieces_of_any_length_give_the_same_tree() -> None:
    data = image(TWO_LEVELS + 5)
    cuts = sorted(random.Random(1).sample(range(len(data)), 40))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert verity.build(parts) == verity.build([data])


def test_the_root_of_a_single_block_is_its_hash() -> None:
    assert verity.build([b"x"])[0] == sha256(b"x" + bytes(BLOCK_BYTES - 1)).digest()


def test_a_changed_block_is_named() -> None:
    data = bytearray(image(TWO_LEVELS))
    tree = tree_of(bytes(data))
    data[200 * BLOCK_BYTES + 7] ^= 1
    with pytest.raises(PackageError, match="block 200 ") as caught:
        tree.check(0, bytes(data))
    assert caught.value.code is PAYLOAD


@pytest.mark.parametrize("block", range(5))
def test_a_changed_tree_is_refused(block: int) -> None:
    data = image(TWO_LEVELS)
    _, tree = verity.build([data])
    assert len(tree) == 5 * BLOCK_BYTES  # superblock, one above the leaves, three leaf blocks
    for at in (0, 100, BLOCK_BYTES - 1):
        bad = bytearray(tree)
        bad[block * BLOCK_BYTES + at] ^= 0x80
        with pytest.raises(PackageError) as caught:
            tree_of(data, bytes(bad)).check_all_leaves()
        assert caught.value.code is (FORMAT if block == 0 else PAYLOAD)


def test_another_root_is_refused() -> None:
    with pytest.raises(PackageError):
        tree_of(image(TWO_LEVELS), root=bytes(32))


def test_a_tree_of_another_length_is_refused() -> None:
    data = image(TWO_LEVELS)
    _, tree = verity.build([data])
    with pytest.raises(PackageError, match="does not belong"):
        tree_of(data, tree + bytes(BLOCK_BYTES))


def test_a_file_shorter_than_announced_is_told_from_a_changed_one() -> None:
    root, tree = verity.build([image(TWO_LEVELS)])
    with pytest.raises(PackageError) as caught:
        Tree(Buffer(tree[:-1]), 0, len(tree), 300, root).check_all_leaves()
    assert caught.value.code is TRUNCATED


def test_leaves_are_found_across_the_cache() -> None:
    data = image(5000 * 16)
    blocks = 5000
    root, tree = verity.build(data[i % 7 : i % 7 + BLOCK_BYTES] for i in range(blocks))
    reader = Tree(Buffer(tree), 0, len(tree), blocks, root)
    whole = reader.leaves(0, blocks)
    assert len(whole) == blocks * 32
    for start, count in ((4999, 1), (0, 1), (2040, 300), (127, 2), (3000, 2000)):
        assert reader.leaves(start, count) == whole[start * 32 : (start + count) * 32]


def test_blocks_outside_the_image_are_a_misuse() -> None:
    with pytest.raises(ValueError, match="of 300"):
        tree_of(image(TWO_LEVELS)).leaves(299, 2)


def test_an_empty_image_has_no_tree() -> None:
    with pytest.raises(ValueError, match="empty"):
        verity.build([])


class Pattern:
    """An image of any length that takes no memory; bounded reads are counted."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._block = random.Random(4).randbytes(BLOCK_BYTES)

    def pread(self, size: int, offset: int) -> bytes:
        size = min(size, self._size - offset)
        whole = self._block * (size // BLOCK_BYTES + 2)
        return whole[offset % BLOCK_BYTES :][:size]

    def size(self) -> int:
        return self._size


@pytest.mark.parametrize("size", [*SIZES, FANOUT * FANOUT * BLOCK_BYTES, FANOUT * FANOUT * BLOCK_BYTES + 1])
def test_the_root_alone_is_the_root_of_the_tree(size: int) -> None:
    pattern = Pattern(size)
    assert verity.root_of(pattern, size) == verity.build(verity.pieces(pattern, 0, size))[0]


def test_the_root_of_a_part_of_a_longer_file_is_found() -> None:
    data = image(TWO_LEVELS)
    assert verity.root_of(Buffer(data + b"more"), len(data)) == verity.build([data])[0]
    with pytest.raises(PackageError) as caught:
        verity.root_of(Buffer(data), len(data) + 1)
    assert caught.value.code is TRUNCATED
