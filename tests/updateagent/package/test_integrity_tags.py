"""Bytes that were verified are recognised, and nothing else is; a package that changes under way is still refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.updateagent.package.buffer import Buffer
from tests.updateagent.packages import Workshop, device
from updateagent.errors import PAYLOAD, UpdateError
from updateagent.package.manifest import verify_package
from updateagent.package.payload import Encoding, Image, IntegrityTags
from updateagent.package.verity import BLOCK_BYTES, RUN_BLOCKS, RUN_BYTES

RUNS = [random.Random(seed).randbytes(RUN_BYTES) for seed in range(3)]
ROOTFS = random.Random(1).randbytes(40 * BLOCK_BYTES + 123)


@pytest.fixture
def tags() -> IntegrityTags:
    found = IntegrityTags()
    for number, data in enumerate(RUNS):
        found.note("a", number, data)
    found.note("b", 0, RUNS[0][:BLOCK_BYTES])
    return found


def test_a_run_is_known_by_its_image_its_place_and_all_its_bytes(tags: IntegrityTags) -> None:
    assert all(tags.knows("a", number, data) for number, data in enumerate(RUNS))
    assert tags.knows("b", 0, RUNS[0][:BLOCK_BYTES])
    assert not tags.knows("a", 1, RUNS[0])
    assert not tags.knows("b", 0, RUNS[0])
    assert not tags.knows("c", 0, RUNS[0])
    assert not tags.knows("a", 3, RUNS[0])
    assert not tags.knows("a", 0, RUNS[0][:-1])


def test_a_single_bit_makes_a_run_unknown(tags: IntegrityTags) -> None:
    for bit in range(0, 8 * RUN_BYTES, 4099):
        changed = bytearray(RUNS[1])
        changed[bit // 8] ^= 1 << bit % 8
        assert not tags.knows("a", 1, bytes(changed))


def test_no_tag_is_ever_replaced_and_none_is_noted_out_of_order(tags: IntegrityTags) -> None:
    tags.note("a", 0, RUNS[2])
    assert not tags.knows("a", 0, RUNS[2])
    assert tags.knows("a", 0, RUNS[0])
    tags.note("d", 1, RUNS[1])
    assert not tags.knows("d", 1, RUNS[1])


def test_two_processes_share_no_key() -> None:
    one, other = IntegrityTags(), IntegrityTags()
    one.note("a", 0, RUNS[0])
    other.note("a", 0, RUNS[1])
    assert one._images["a"][1] != other._images["a"][1]
    assert not other.knows("a", 0, RUNS[0])


class Counting(IntegrityTags):
    """Counts how often it recognised a run."""

    def __init__(self) -> None:
        super().__init__()
        self.recognised = 0

    def knows(self, image: str, run: int, data: bytes) -> bool:
        found = super().knows(image, run, data)
        self.recognised += found
        return found


@pytest.fixture(params=[Encoding.RAW, Encoding.ZLIB])
def verified(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Image, bytes, Counting]:
    shop = Workshop(tmp_path)
    package = shop.build([shop.image("rootfs", ROOTFS, encoding=request.param)])
    tags = Counting()
    said = verify_package(Buffer(package), device(), tags)
    return said.images[0], package, tags


def test_what_was_verified_is_handed_out_without_hashing_it_again(verified: tuple[Image, bytes, Counting]) -> None:
    image, package, tags = verified
    out = b"".join(run.data for run in image.blocks(Buffer(package), 0, None, tags))
    assert out[: len(ROOTFS)] == ROOTFS
    assert tags.recognised == -(-image.block_count // RUN_BLOCKS)


def test_a_start_inside_a_run_is_hashed(verified: tuple[Image, bytes, Counting]) -> None:
    image, package, tags = verified
    start = RUN_BLOCKS + 1
    out = b"".join(run.data for run in image.blocks(Buffer(package), start, None, tags))
    assert out[: len(ROOTFS) - start * BLOCK_BYTES] == ROOTFS[start * BLOCK_BYTES :]
    if image.encoding is Encoding.RAW:
        assert tags.recognised == 0


def test_a_payload_that_changed_since_it_was_verified_hands_out_nothing_of_the_changed_run(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    package = shop.build([shop.image("rootfs", ROOTFS)])
    tags = Counting()
    (image,) = verify_package(Buffer(package), device(), tags).images
    at = image.payload_offset + RUN_BYTES + 5
    changed = package[:at] + bytes([package[at] ^ 1]) + package[at + 1 :]
    blocks = image.blocks(Buffer(changed), 0, None, tags)
    assert next(blocks).data == ROOTFS[:RUN_BYTES]
    with pytest.raises(UpdateError) as caught:
        next(blocks)
    assert caught.value.code is PAYLOAD
    assert f"block {RUN_BLOCKS} " in caught.value.message


def test_a_delta_is_noted_as_it_is_written_and_only_as_a_whole(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    package = shop.build([shop.image("rootfs", ROOTFS)])
    (image,) = verify_package(Buffer(package), device()).images
    runs = -(-image.block_count // RUN_BLOCKS)
    resumed, whole = IntegrityTags(), IntegrityTags()
    list(image.blocks(Buffer(package), RUN_BLOCKS, None, resumed))
    assert not resumed.has_all(image.payload_name, runs)
    list(image.blocks(Buffer(package), 0, None, whole))
    assert whole.has_all(image.payload_name, runs)
    assert not whole.has_all(image.payload_name, runs + 1)
    assert not whole.has_all("kernel.img", 1)


def test_an_image_that_was_not_verified_by_this_process_is_hashed(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    package = shop.build([shop.image("rootfs", ROOTFS)])
    (image,) = verify_package(Buffer(package), device()).images
    tags = Counting()
    assert b"".join(run.data for run in image.blocks(Buffer(package), 0, None, tags))[: len(ROOTFS)] == ROOTFS
    assert tags.recognised == 0
