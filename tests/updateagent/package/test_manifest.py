"""Whether this device may install a package, and that no unverified byte of one is handed out."""

from __future__ import annotations

import io
import lzma
import random
import zlib
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tests.updateagent.package.buffer import Buffer
from tests.updateagent.packages import HARDWARE, NOW, Workshop, device, other_root, party, release, signer
from updateagent.buildhost import assemble
from updateagent.errors import (
    AGENT_VERSION,
    CERTIFICATE_CHAIN,
    COMPATIBLE,
    COMPRESSION,
    DELTA_SOURCE,
    DESCRIPTION,
    DOWNGRADE,
    FORMAT,
    IMAGE_ROLE,
    IMAGE_SIZE,
    PACKAGE_MISSING,
    PAYLOAD,
    SIGNATURE,
    SIGNATURE_MISSING,
    STORAGE,
    STORAGE_FULL,
    TRUNCATED,
    VERSION_REQUIRED,
    Code,
    UpdateError,
)
from updateagent.package import cpio, manifest
from updateagent.package.description import Kind
from updateagent.package.manifest import Image, Manifest, PackageError, Trust, verify_package
from updateagent.package.payload import DeltaSource, Encoding, Role
from updateagent.package.verity import BLOCK_BYTES, RUN_BLOCKS, RUN_BYTES

ROOTFS = random.Random(1).randbytes(600 * BLOCK_BYTES + 123)
KERNEL = b"kernel" * 1000


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def firmware(shop: Workshop, encoding: Encoding = Encoding.RAW) -> bytes:
    return shop.build([shop.image("rootfs", ROOTFS, encoding=encoding), shop.image("kernel", KERNEL)])


def refused(package: bytes, trust: Trust | None = None) -> Code:
    with pytest.raises(UpdateError) as caught:
        verify_package(Buffer(package), trust or device())
    return caught.value.code


def content(image: Image, package: bytes) -> bytes:
    return b"".join(image.content(Buffer(package)))


def only(said: Manifest) -> Image:
    (image,) = said.images
    return image


def test_a_good_package_says_what_was_built(shop: Workshop) -> None:
    package = firmware(shop)
    said = verify_package(Buffer(package), device())
    assert (said.kind, said.version, said.security_version) == (Kind.FIRMWARE, "2", 2)
    assert (said.compatible, said.signed_at) == ((HARDWARE,), NOW)
    assert [(image.name, image.role, image.size) for image in said.images] == [
        ("rootfs", Role.IMAGE, len(ROOTFS)),
        ("kernel", Role.IMAGE, len(KERNEL)),
    ]
    assert said.size == len(ROOTFS) + len(KERNEL)
    kernel = said.image("kernel")
    assert kernel is not None
    assert content(kernel, package) == KERNEL
    assert said.image("bootscript") is None


@pytest.mark.parametrize("encoding", [Encoding.RAW, Encoding.ZLIB, Encoding.XZ])
def test_the_blocks_of_an_image_come_in_order_from_any_start(shop: Workshop, encoding: Encoding) -> None:
    package = firmware(shop, encoding)
    image = verify_package(Buffer(package), device()).images[0]
    padded = ROOTFS + bytes(-len(ROOTFS) % BLOCK_BYTES)
    for start in (0, 1, 255, 256, 257, 600, image.block_count):
        at = start
        out = b""
        for run in image.blocks(Buffer(package), start):
            assert run.block == at
            assert 0 < len(run.data) <= RUN_BYTES
            assert len(run.data) % BLOCK_BYTES == 0
            at += len(run.data) // BLOCK_BYTES
            out += run.data
        assert out == padded[start * BLOCK_BYTES :]
    assert content(image, package) == ROOTFS


def test_a_start_outside_the_image_is_a_misuse(shop: Workshop) -> None:
    package = firmware(shop)
    image = verify_package(Buffer(package), device()).images[0]
    with pytest.raises(ValueError, match="block 602 of 601"):
        next(image.blocks(Buffer(package), 602))


def test_a_package_is_read_from_its_path(shop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "p.swu"
    path.write_bytes(firmware(shop))
    said = verify_package(path, device())
    assert sum(len(run.data) for run in said.images[0].blocks(path)) == said.images[0].block_count * BLOCK_BYTES


def test_a_package_that_is_not_there_has_its_own_number(tmp_path: Path) -> None:
    with pytest.raises(UpdateError) as caught:
        verify_package(tmp_path / "none.swu", device())
    assert caught.value.code is PACKAGE_MISSING
    with pytest.raises(UpdateError) as caught:
        verify_package(tmp_path, device())
    assert caught.value.code is STORAGE


def test_hardware_that_the_package_is_not_for_is_refused(shop: Workshop) -> None:
    assert refused(firmware(shop), device(compatible="dcu-b")) is COMPATIBLE


def test_any_of_several_kinds_of_hardware_is_taken(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", KERNEL)], release(compatible=("dcu-x", HARDWARE)))
    verify_package(Buffer(package), device())


def test_an_older_security_version_is_refused_and_the_same_is_not(shop: Workshop) -> None:
    package = firmware(shop)
    verify_package(Buffer(package), device(security_version=2))
    assert refused(package, device(security_version=3)) is DOWNGRADE


def test_the_floor_of_software_is_kept_for_each_id(shop: Workshop) -> None:
    said = release(kind=Kind.SOFTWARE, software_id="lists")
    package = shop.build([shop.image("a", b"1", Role.FILE)], said)
    verify_package(Buffer(package), device(security_version=9, software_security={"other": 9, "lists": 2}))
    assert refused(package, device(software_security={"lists": 3})) is DOWNGRADE


def test_a_required_version_is_checked_when_the_device_knows_its_own(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", KERNEL)], release(requires_version=("1", "1.5")))
    for version in ("1", "1.5", None):
        verify_package(Buffer(package), device(version=version))
    assert refused(package, device(version="1.4")) is VERSION_REQUIRED


def test_a_delta_for_another_version_is_told_apart_from_a_package_for_another_version(shop: Workshop) -> None:
    source, patch = DeltaSource("1", 5, bytes(32)), shop.folder / "patch"
    patch.write_bytes(b"BSDIFF40")
    image = shop.image("rootfs", KERNEL, encoding=Encoding.BSDIFF, delta=source, patch=patch)
    package = shop.build([image], release(requires_version=("1",)))
    assert refused(package, device(version="1.4")) is DELTA_SOURCE
    assert verify_package(Buffer(package), device(version="1")).deltas == {"rootfs": source}


def test_only_the_image_of_a_slot_can_be_a_delta(shop: Workshop) -> None:
    source, patch = DeltaSource("1", 5, bytes(32)), shop.folder / "patch"
    patch.write_bytes(b"BSDIFF40")
    file = shop.image("list.csv", KERNEL, Role.FILE, Encoding.BSDIFF, delta=source, patch=patch)
    with pytest.raises(PackageError) as caught:
        shop.build([file], release(kind=Kind.SOFTWARE, software_id="lists"))
    assert caught.value.code is DESCRIPTION


def test_a_least_version_of_the_agent_is_compared_by_number(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", KERNEL)], release(requires_agent="1.9"))
    for version in ("1.9", "1.10", "2", None):
        verify_package(Buffer(package), device(agent_version=version))
    assert refused(package, device(agent_version="1.8.7")) is AGENT_VERSION


def test_an_image_that_does_not_fit_its_place_is_refused(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", b"x" * (BLOCK_BYTES + 1))])
    verify_package(Buffer(package), device(capacity={"rootfs": 2 * BLOCK_BYTES}))
    assert refused(package, device(capacity={"rootfs": 2 * BLOCK_BYTES - 1})) is IMAGE_SIZE
    assert refused(package, device(capacity={"kernel": 1 << 30})) is IMAGE_ROLE


def test_files_that_do_not_fit_are_refused(shop: Workshop) -> None:
    said = release(kind=Kind.SOFTWARE, software_id="lists")
    package = shop.build([shop.image("a", b"1", Role.FILE), shop.image("b/c", b"2", Role.FILE)], said)
    verify_package(Buffer(package), device(free_bytes=2 * BLOCK_BYTES))
    assert refused(package, device(free_bytes=2 * BLOCK_BYTES - 1)) is STORAGE_FULL


def test_a_package_signed_for_another_fleet_is_refused(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", KERNEL)], by=party("signer", other_root()))
    assert refused(package) is CERTIFICATE_CHAIN


def test_a_package_without_a_signature_is_refused(shop: Workshop) -> None:
    prepared = [assemble.prepare(shop.image("rootfs", KERNEL), 0, shop.folder)]
    out = io.BytesIO()
    assemble.write(out, assemble.describe(release(), prepared), None, prepared)
    assert refused(out.getvalue()) is SIGNATURE_MISSING


def test_a_description_is_not_interpreted_before_its_signature_is_checked(shop: Workshop) -> None:
    package = firmware(shop)
    tampered = package.replace(b'"security_version": 2', b'"security_version": 3')
    code = refused(tampered)
    assert code in {FORMAT, SIGNATURE}  # the container's checksum notices first


def test_a_signed_description_without_sense_is_refused_by_its_number(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", KERNEL)], change=lambda text: text.replace(b'"kind"', b'"kinb"'))
    assert refused(package) is DESCRIPTION


def test_members_that_the_description_does_not_announce_are_refused(shop: Workshop) -> None:
    reader = cpio.Reader(Buffer(firmware(shop)))
    out = io.BytesIO()
    writer = cpio.Writer(out)
    while member := reader.next():
        writer.add(member.name, reader.read(member, 1 << 22))
    writer.add("extra", b"1")
    writer.close()
    assert refused(out.getvalue()) is FORMAT


def test_a_changed_payload_is_refused_by_its_block(shop: Workshop) -> None:
    package = bytearray(firmware(shop))
    said = verify_package(Buffer(bytes(package)), device())
    package[said.images[0].payload_offset + 300 * BLOCK_BYTES] ^= 1
    assert refused(bytes(package)) is PAYLOAD


def test_no_block_of_a_payload_that_changes_after_the_check_is_handed_out(shop: Workshop) -> None:
    package = bytearray(firmware(shop))
    image = verify_package(Buffer(bytes(package)), device()).images[0]
    package[image.payload_offset + 300 * BLOCK_BYTES] ^= 1
    got: list[bytes] = []
    with pytest.raises(UpdateError) as caught:
        got.extend(run.data for run in image.blocks(Buffer(bytes(package))))
    assert caught.value.code is PAYLOAD
    assert b"".join(got) == ROOTFS[: 300 // RUN_BLOCKS * RUN_BYTES]


def test_a_tree_that_changes_after_the_check_is_noticed(shop: Workshop) -> None:
    package = bytearray(firmware(shop))
    image = verify_package(Buffer(bytes(package)), device()).images[0]
    package[image.tree_offset + image.tree_size - 1] ^= 1
    with pytest.raises(UpdateError) as caught:
        list(image.blocks(Buffer(bytes(package))))
    assert caught.value.code is PAYLOAD


def packed_as(shop: Workshop, data: bytes, stored: bytes, encoding: Encoding) -> bytes:
    """A package whose signed description promises `data`, while its packed payload is `stored`."""
    (shop.folder / "stored").write_bytes(stored)
    one = assemble.prepare(shop.image("rootfs", data), 0, shop.folder)
    image = replace(
        one.image,
        encoding=encoding,
        payload_size=len(stored),
        payload_sha256=sha256(stored).digest(),
        payload_check=cpio.checksum(stored),
    )
    prepared = [replace(one, image=image, stored=shop.folder / "stored")]
    text = assemble.describe(release(), prepared)
    out = io.BytesIO()
    assemble.write(out, text, signer().cms(text), prepared)
    return out.getvalue()


def gz(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


DATA = bytes(3 * BLOCK_BYTES)
LONG = bytes(80 * RUN_BYTES)


@pytest.mark.parametrize("pack", [gz, xz])
def test_a_payload_that_unpacks_to_more_than_was_signed_is_stopped(shop: Workshop, pack: object) -> None:
    assert callable(pack)
    encoding = Encoding.ZLIB if pack is gz else Encoding.XZ
    assert refused(packed_as(shop, DATA, pack(LONG), encoding)) is PAYLOAD
    assert refused(packed_as(shop, DATA, pack(DATA[:-1]), encoding)) is PAYLOAD
    assert refused(packed_as(shop, DATA, pack(DATA[:-1] + b"1"), encoding)) is PAYLOAD
    verify_package(Buffer(packed_as(shop, DATA, pack(DATA), encoding)), device())


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        (Encoding.ZLIB, b"no stream"),
        (Encoding.ZLIB, gz(DATA)[:-1]),
        (Encoding.ZLIB, gz(DATA) + b"x"),
        (Encoding.ZLIB, gz(DATA) + gz(b"")),
        (Encoding.XZ, b"no stream"),
        (Encoding.XZ, xz(DATA)[:-1]),
        (Encoding.XZ, xz(DATA) + b"x"),
        (Encoding.XZ, gz(DATA)),
    ],
)
def test_a_payload_that_is_not_one_whole_stream_is_refused(shop: Workshop, encoding: Encoding, stored: bytes) -> None:
    assert refused(packed_as(shop, DATA, stored, encoding)) is COMPRESSION


def test_an_xz_stream_that_wants_more_memory_than_allowed_is_refused(shop: Workshop) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 << 20}]
    stored = lzma.compress(DATA, format=lzma.FORMAT_XZ, filters=filters)
    assert refused(packed_as(shop, DATA, stored, Encoding.XZ)) is COMPRESSION


def small(shop: Workshop) -> bytes:
    return shop.build([shop.image("rootfs", ROOTFS[:99])])


def test_every_flipped_bit_of_a_package_is_refused(shop: Workshop) -> None:
    """All eight bits of the description, one bit of each byte after it (for a signature's other bits see test_cms)."""
    good = small(shop)
    signature = good.index(b"sw-description.sig")
    for at in range(len(good)):
        for bit in range(8) if at < signature else (at % 8,):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            assert refused(bytes(bad)), (at, bit)


def test_every_truncation_of_a_package_is_refused(shop: Workshop) -> None:
    good = small(shop)
    chance = random.Random(3)
    lengths = {*range(0, len(good), 97), *range(len(good) - 600, len(good)), chance.randrange(len(good))}
    for length in lengths:
        assert refused(good[:length]) in {TRUNCATED, FORMAT}


def test_showing_a_package_does_not_need_trust_but_a_signature_that_fits(shop: Workshop) -> None:
    package = shop.build([shop.image("rootfs", KERNEL)], by=party("signer", other_root()))
    assert manifest.read_unverified(Buffer(package)).version == "2"
    with pytest.raises(UpdateError):
        manifest.read_unverified(Buffer(package[:2000]))
