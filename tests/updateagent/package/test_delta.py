"""Deltas: made on the host, applied as a stream on the device, never believed."""

from __future__ import annotations

import bz2
import io
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.updateagent.package.buffer import Buffer
from tests.updateagent.packages import Workshop, device
from updateagent.buildhost import bsdiff
from updateagent.errors import COMPRESSION, DELTA_SOURCE, PATCH, PAYLOAD, STORAGE, TRUNCATED, Code, UpdateError
from updateagent.package import delta, verity
from updateagent.package.delta import emit_number, parse_number
from updateagent.package.manifest import Image, verify_package
from updateagent.package.payload import DeltaSource, Encoding
from updateagent.package.verity import BLOCK_BYTES

OLD = random.Random(1).randbytes(40_000)


def edited(old: bytes, seed: int) -> bytes:
    """What a new release does to an old one: insertions, removals, moves, changed bytes."""
    chance = random.Random(seed)
    new = bytearray(old)
    for _ in range(chance.randint(0, 8)):
        at = chance.randrange(len(new) + 1)
        new[at : at + chance.randrange(200)] = chance.randbytes(chance.randrange(400))
    for at in range(chance.randrange(50), len(new), chance.randint(7, 3000)):
        new[at] = (new[at] + 1) % 256
    cut = chance.randrange(len(new) + 1)
    return bytes(new[cut:] + new[:cut]) or b"x"


def patch_of(old: bytes, new: bytes) -> bytes:
    out = io.BytesIO()
    bsdiff.write(old, new, bsdiff.stretches(old, new), out)
    return out.getvalue()


def applied(patch: bytes, old: bytes, size: int) -> bytes:
    return b"".join(pieces(patch, old, size))


def pieces(patch: bytes, old: bytes, size: int) -> Iterator[bytes]:
    return delta.apply(Buffer(patch), 0, len(patch), source=Buffer(old), source_size=len(old), result_size=size)


def refused(patch: bytes, size: int, old: bytes = OLD) -> Code:
    with pytest.raises(UpdateError) as caught:
        applied(patch, old, size)
    return caught.value.code


@pytest.mark.parametrize("seed", range(60))
def test_a_patch_makes_the_new_image_from_the_old_one(seed: int) -> None:
    new = edited(OLD, seed)
    assert applied(patch_of(OLD, new), OLD, len(new)) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a", b"b"),
        (b"a", OLD),
        (OLD, b"a"),
        (OLD, OLD),
        (bytes(100_000), bytes(250_000)),
        (OLD, OLD * 3),
        (OLD, bytes(value ^ 0x80 for value in OLD)),
    ],
)
def test_images_that_have_little_or_all_in_common_are_patched(old: bytes, new: bytes) -> None:
    assert applied(patch_of(old, new), old, len(new)) == new


def test_a_patch_holds_little_more_than_what_changed() -> None:
    new = OLD[:10_000] + b"inserted" * 10 + OLD[10_000:]
    assert len(patch_of(OLD, new)) < 400


def test_bytes_changed_all_over_moved_code_cost_little() -> None:
    new = bytearray(OLD[5000:])
    for at in range(0, len(new), 50):
        new[at] = (new[at] + 4) % 256
    assert len(patch_of(OLD, bytes(new))) < 500


@pytest.mark.process
@pytest.mark.skipif(shutil.which("bspatch") is None, reason="needs bspatch (Debian package bsdiff)")
def test_bspatch_applies_our_patches_and_we_apply_those_of_bsdiff(tmp_path: Path) -> None:
    new = edited(OLD, 77)
    for name, data in (("old", OLD), ("new", new), ("ours", patch_of(OLD, new))):
        (tmp_path / name).write_bytes(data)
    subprocess.run(["bspatch", "old", "made", "ours"], cwd=tmp_path, check=True)
    assert (tmp_path / "made").read_bytes() == new
    subprocess.run(["bsdiff", "old", "new", "theirs"], cwd=tmp_path, check=True)
    assert applied((tmp_path / "theirs").read_bytes(), OLD, len(new)) == new


def test_pieces_are_small_however_long_a_stretch_is() -> None:
    old = bytes(1 << 20)
    assert max(len(piece) for piece in pieces(patch_of(old, old), old, len(old))) <= 64 << 10


@pytest.mark.parametrize("number", [0, 1, -1, 255, 256, -(2**31), 2**62])
def test_numbers_are_read_as_written(number: int) -> None:
    assert parse_number(emit_number(number)) == number


def raw_patch(
    triples: list[tuple[int, int, int]],
    diff: bytes = b"",
    extra: bytes = b"",
    size: int = 10,
    magic: bytes = b"BSDIFF40",
) -> bytes:
    control = b"".join(emit_number(number) for triple in triples for number in triple)
    parts = [bz2.compress(part) for part in (control, diff, extra)]
    return magic + emit_number(len(parts[0])) + emit_number(len(parts[1])) + emit_number(size) + b"".join(parts)


def test_where_the_source_has_no_byte_zero_is_added() -> None:
    patch = raw_patch([(2, 0, len(OLD) - 1), (4, 0, -len(OLD) - 10), (4, 0, 0)], bytes(range(10)))
    assert applied(patch, OLD, 10)[4:] == bytes(range(4, 10))


@pytest.mark.parametrize(
    "patch",
    [
        b"",
        b"BSDIFF40",
        raw_patch([(0, 10, 0)], extra=bytes(10), magic=b"BSDIFF41"),
        raw_patch([(0, 10, 0)], extra=bytes(10), size=11),
        raw_patch([(0, 11, 0)], extra=bytes(11)),
        raw_patch([(-1, 11, 0)], extra=bytes(11)),
        raw_patch([(0, 10, 0)], extra=bytes(9)),
        raw_patch([(0, 10, 0)], extra=bytes(11)),
        raw_patch([(10, 0, 0)], diff=bytes(9)),
        raw_patch([(10, 0, 0)], diff=bytes(10), extra=b"x"),
        raw_patch([(0, 10, 0), (0, 0, 0)], extra=bytes(10)),
        raw_patch([(0, 5, 0)], extra=bytes(5)),
        raw_patch([(0, 5, 2**62), (0, 5, 0)], extra=bytes(10)),
        raw_patch([(0, 0, 1)] * 2000 + [(0, 10, 0)], extra=bytes(10)),
    ],
)
def test_a_patch_that_is_not_one_of_this_image_is_refused(patch: bytes) -> None:
    assert refused(patch, 10) in {PATCH, TRUNCATED}


def test_lengths_in_the_header_that_do_not_fit_are_refused() -> None:
    good = raw_patch([(0, 10, 0)], extra=bytes(10))
    for at in (8, 16):
        for number in (-1, 2**62, 1):
            assert refused(good[:at] + emit_number(number) + good[at + 8 :], 10) in {PATCH, COMPRESSION}


def test_changed_bytes_give_a_result_or_an_error_of_ours_and_nothing_else() -> None:
    new = edited(OLD, 5)
    good = patch_of(OLD, new)
    chance = random.Random(9)
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        with suppress(UpdateError):
            assert len(applied(bytes(bad), OLD, len(new))) == len(new)


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


NEW = edited(OLD, 3)


def delta_package(shop: Workshop, patch: bytes | None = None) -> bytes:
    (shop.folder / "patch").write_bytes(patch_of(OLD, NEW) if patch is None else patch)
    source = DeltaSource("1", len(OLD), verity.build([OLD])[0])
    one = shop.image("rootfs", NEW, encoding=Encoding.BSDIFF, delta=source)
    return shop.build([replace(one, patch=shop.folder / "patch")])


def image_of(package: bytes) -> Image:
    return verify_package(Buffer(package), device()).images[0]


def test_a_delta_package_gives_the_new_image_from_its_source(shop: Workshop) -> None:
    package = delta_package(shop)
    image = image_of(package)
    image.check_source(Buffer(OLD + bytes(5000)))  # a slot is longer than its image
    padded = verity.padded(NEW)
    for start in (0, 1, image.block_count - 1, image.block_count):
        runs = list(image.blocks(Buffer(package), start, Buffer(OLD + bytes(5000))))
        assert b"".join(run.data for run in runs) == padded[start * BLOCK_BYTES :]


def test_another_source_is_noticed_before_anything_is_made_from_it(shop: Workshop) -> None:
    image = image_of(delta_package(shop))
    for source in (OLD[:-1], OLD[:-1] + b"x", b""):
        with pytest.raises(UpdateError) as caught:
            image.check_source(Buffer(source))
        assert caught.value.code is DELTA_SOURCE


def test_no_block_made_from_another_source_is_handed_out(shop: Workshop) -> None:
    package = delta_package(shop)
    image = image_of(package)
    with pytest.raises(UpdateError) as caught:
        next(image.blocks(Buffer(package), 0, Buffer(bytes(len(OLD)))))
    assert caught.value.code is PAYLOAD


def test_a_delta_without_its_source_is_refused(shop: Workshop) -> None:
    package = delta_package(shop)
    with pytest.raises(UpdateError) as caught:
        next(image_of(package).blocks(Buffer(package)))
    assert caught.value.code is DELTA_SOURCE


def test_a_whole_image_needs_no_source(shop: Workshop) -> None:
    image_of(shop.build([shop.image("rootfs", NEW)])).check_source(Buffer(b""))


def test_a_signed_patch_that_makes_another_image_gives_no_block(shop: Workshop) -> None:
    other = patch_of(OLD, bytes(len(NEW)))
    package = delta_package(shop, other)
    with pytest.raises(UpdateError) as caught:
        next(image_of(package).blocks(Buffer(package), 0, Buffer(OLD)))
    assert caught.value.code is PAYLOAD


def test_a_source_that_cannot_be_read_is_trouble_of_the_device(shop: Workshop) -> None:
    class Broken(Buffer):
        def pread(self, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

    package = delta_package(shop)
    with pytest.raises(UpdateError) as caught:
        next(image_of(package).blocks(Buffer(package), 0, Broken(OLD)))
    assert caught.value.code is STORAGE


@pytest.mark.slow
def test_a_flipped_bit_of_a_patch_is_refused_before_it_is_applied(shop: Workshop) -> None:
    good = delta_package(shop)
    image = image_of(good)
    for at in range(image.payload_offset, image.payload_offset + image.payload_size, 3):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        with pytest.raises(UpdateError) as caught:
            image_of(bytes(bad))
        assert caught.value.code is PAYLOAD
