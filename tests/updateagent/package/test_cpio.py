"""The container: one canonical form, bounded, and readable by the ordinary cpio program."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.updateagent.package.buffer import Buffer
from updateagent.errors import FORMAT, LIMIT, TRUNCATED, PackageError
from updateagent.package import cpio


def archive(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    writer = cpio.Writer(out)
    for name, data in files:
        writer.add(name, data)
    writer.close()
    return out.getvalue()


def members(data: bytes) -> list[tuple[str, bytes]]:
    reader = cpio.Reader(Buffer(data))
    found = []
    while member := reader.next():
        found.append((member.name, reader.read(member, 1 << 20)))
    return found


FILES = (("sw-description", b'{"a": 1}'), ("x", b""), ("image.bin", bytes(range(256)) * 5))


def test_what_was_written_is_read_back() -> None:
    assert members(archive(*FILES)) == list(FILES)


def test_an_archive_without_members_is_read() -> None:
    assert members(archive()) == []


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs the cpio program (Debian package cpio)")
@pytest.mark.process
def test_the_cpio_program_extracts_what_was_written(tmp_path: Path) -> None:
    subprocess.run(["cpio", "-i", "--quiet"], input=archive(*FILES), cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict(FILES)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 5000])
def test_the_checksum_is_the_sum_of_the_bytes(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert cpio.checksum(data, 7) == 7 + sum(data)


def test_the_checksum_wraps_at_32_bits() -> None:
    assert cpio.checksum(b"\x02", 0xFFFFFFFF) == 1


@pytest.mark.slow
def test_every_flipped_bit_is_refused_or_gives_another_name() -> None:
    good = archive(*FILES)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            found = members(bytes(bad))
        except PackageError:
            continue
        assert [name for name, _ in found] != [name for name, _ in FILES]


def test_every_truncation_is_refused() -> None:
    good = archive(*FILES)
    for length in range(len(good)):
        with pytest.raises(PackageError) as caught:
            members(good[:length])
        assert caught.value.code in {TRUNCATED, FORMAT}


def test_bytes_after_the_last_unit_are_refused() -> None:
    with pytest.raises(PackageError, match="512 bytes follow"):
        members(archive(*FILES) + bytes(512))


def test_an_archive_fills_whole_units_as_other_programs_expect() -> None:
    assert len(archive(*FILES)) % 512 == 0


def test_a_member_above_the_callers_limit_is_not_read() -> None:
    reader = cpio.Reader(Buffer(archive(("big", bytes(100)))))
    member = reader.next()
    assert member is not None
    with pytest.raises(PackageError) as caught:
        reader.read(member, 99)
    assert caught.value.code is LIMIT


def test_a_length_of_two_gibibytes_is_refused() -> None:
    bad = cpio.emit_header(0, "x", 2**31, 0)
    with pytest.raises(PackageError) as caught:
        members(bad)
    assert caught.value.code is LIMIT


def test_more_members_than_the_limit_are_refused() -> None:
    headers = b"".join(cpio.emit_header(index, "x", 0, 0) for index in range(cpio.MEMBERS_MAX + 1))
    with pytest.raises(PackageError) as caught:
        members(headers)
    assert caught.value.code is LIMIT


@pytest.mark.parametrize("name", ["", "ä", "TRAILER!!!", "x" * cpio.NAME_BYTES_MAX])
def test_the_writer_refuses_a_name_the_reader_would_not_take(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        cpio.Writer(io.BytesIO()).add(name, b"")


def test_the_writer_notices_a_file_that_changed_while_it_was_packed() -> None:
    with pytest.raises(ValueError, match="changed"):
        cpio.Writer(io.BytesIO()).add_stream("x", [b"abc"], 2, 0)
