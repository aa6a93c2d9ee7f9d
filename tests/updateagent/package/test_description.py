"""The signed text: one meaning for every reader, a typed error for everything else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from updateagent.errors import DESCRIPTION, LIMIT, Code, PackageError
from updateagent.package import description, payload
from updateagent.package.description import Kind
from updateagent.package.payload import Encoding, Role


def entry(name: str = "rootfs", **ours: Any) -> dict[str, Any]:
    base = {
        "role": "image",
        "encoding": "raw",
        "size": 5000,
        "root": "ab" * 32,
        "stored": 5000,
        "checksum": 7,
        "tree": f"{name.replace('/', '-')}.verity",
        "tree_checksum": 8,
    }
    filename = f"{name.replace('/', '-')}.img"
    return {"name": name, "filename": filename, "sha256": "cd" * 32, "type": "raw", "dcu": {**base, **ours}}


def text(change: Callable[[dict[str, Any]], object] | None = None, **ours: Any) -> bytes:
    """A good description, changed."""
    software: dict[str, Any] = {
        "version": "2",
        "hardware-compatibility": ["dcu-a1"],
        "dcu": {"format": 1, "kind": "firmware", "security_version": 2, **ours},
        "images": [entry()],
    }
    if change is not None:
        change(software)
    return json.dumps({"software": software}).encode()


def refused(data: bytes) -> Code:
    with pytest.raises(PackageError) as caught:
        description.parse(data)
    return caught.value.code


def test_a_good_description_is_read() -> None:
    said = description.parse(text())
    assert (said.kind, said.version, said.security_version, said.compatible) == (Kind.FIRMWARE, "2", 2, ("dcu-a1",))
    (image,) = said.images
    assert (image.name, image.role, image.size, image.encoding) == ("rootfs", Role.IMAGE, 5000, Encoding.RAW)
    assert (image.payload_name, image.tree_name, image.root.hex()) == ("rootfs.img", "rootfs.verity", "ab" * 32)


def test_what_swupdate_adds_for_itself_is_ignored() -> None:
    said = description.parse(text(lambda software: software.update({"bootenv": [], "scripts": [{"filename": "x"}]})))
    assert len(said.images) == 1


def test_files_follow_images() -> None:
    def add(software: dict[str, Any]) -> None:
        software["files"] = [entry("etc/a.yaml", role="file")]

    assert [image.name for image in description.parse(text(add)).images] == ["rootfs", "etc/a.yaml"]


def test_a_software_package_has_an_id_and_only_files() -> None:
    def files(software: dict[str, Any]) -> None:
        del software["images"]
        software["files"] = [entry("a", role="file")]

    said = description.parse(text(files, kind="software", id="lists"))
    assert (said.kind, said.software_id) == (Kind.SOFTWARE, "lists")
    assert refused(text(kind="software", id="lists")) is DESCRIPTION
    assert refused(text(files, kind="software")) is DESCRIPTION
    assert refused(text(files)) is DESCRIPTION  # firmware without an image
    assert refused(text(id="lists")) is DESCRIPTION  # firmware has no id


def test_requirements_are_read() -> None:
    said = description.parse(text(requires={"version": ["1", "1.5"], "agent": "1.2"}))
    assert (said.requires_version, said.requires_agent) == (("1", "1.5"), "1.2")


@pytest.mark.parametrize(
    "ours",
    [
        {"format": 2},
        {"format": True},
        {"format": "1"},
        {"kind": "other"},
        {"kind": []},
        {"kind": {}},
        {"security_version": -1},
        {"security_version": 2**31},
        {"security_version": None},
        {"unknown": 1},
        {"requires": []},
        {"requires": {"version": "1"}},
        {"requires": {"agent": "one"}},
        {"requires": {"other": "1"}},
    ],
)
def test_a_wrong_fact_about_the_package_is_refused(ours: dict[str, Any]) -> None:
    assert refused(text(**ours)) is DESCRIPTION


@pytest.mark.parametrize(
    "ours",
    [
        {"size": 0},
        {"size": 2**31, "stored": 2**31},
        {"size": 4999},  # raw, but not what is stored
        {"size": "5000"},
        {"stored": 0, "encoding": "zlib"},
        {"root": "AB" * 32},
        {"root": "ab" * 31},
        {"role": "other"},
        {"encoding": "lzo"},
        {"encoding": "bsdiff40"},  # without a source
        {"delta": {"version": "1", "size": 1, "root": "ab" * 32}},  # a source without a delta
        {"encoding": "bsdiff40", "delta": {"version": "1", "size": 0, "root": "ab" * 32}},
        {"encoding": "bsdiff40", "delta": {"version": "1", "size": 1, "root": "ab" * 32, "more": 1}},
        {"tree": "rootfs.img"},  # the name of the payload
        {"tree": "../x"},
        {"checksum": 2**32},
        {"unknown": 1},
    ],
)
def test_a_wrong_fact_about_an_image_is_refused(ours: dict[str, Any]) -> None:
    assert refused(text(lambda software: software.update(images=[entry(**ours)]))) is DESCRIPTION


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", ""),
        ("version", "a b"),
        ("version", "../1"),
        ("version", 2),
        ("hardware-compatibility", []),
        ("hardware-compatibility", "dcu-a1"),
        ("hardware-compatibility", [1]),
        ("description", "two\nlines"),
        ("images", {}),
        ("images", [1]),
        ("images", [{"name": "rootfs"}]),
        ("dcu", None),
    ],
)
def test_a_wrong_value_among_swupdates_keys_is_refused(key: str, value: object) -> None:
    assert refused(text(lambda software: software.update({key: value}))) is DESCRIPTION


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "/a",
        "a/../b",
        "a//b",
        "a/",
        ".hidden",
        "a/.b",
        "a\\b",
        "a\0b",
        "ä",
        "x" * 65,
        "a/" * 8 + "b",
    ],
)
def test_the_path_of_a_file_stays_inside_its_folder(name: str) -> None:
    assert (
        refused(text(lambda software: software.update(files=[{**entry("a", role="file"), "name": name}])))
        is DESCRIPTION
    )


@pytest.mark.parametrize("name", ["Rootfs", "1a", "a b", "a/b", "x" * 33])
def test_the_name_of_a_slot_is_a_word(name: str) -> None:
    assert refused(text(lambda software: software.update(images=[{**entry(), "name": name}]))) is DESCRIPTION


def test_two_images_of_one_name_are_refused() -> None:
    second = {**entry(), "filename": "other"}
    second["dcu"] = {**second["dcu"], "tree": "other.verity"}
    assert refused(text(lambda software: software.update(images=[entry(), second]))) is DESCRIPTION


def test_a_file_below_a_file_is_refused() -> None:
    files = [entry("a", role="file"), entry("a/b/c", role="file")]
    assert refused(text(lambda software: software.update(files=files))) is DESCRIPTION


def test_more_images_than_the_limit_are_refused() -> None:
    many = [entry(f"i{number}") for number in range(payload.IMAGES_MAX + 1)]
    assert refused(text(lambda software: software.update(images=many))) is LIMIT
    assert refused(text(lambda software: software.update(images=[]))) is LIMIT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"software",
        b"[]",
        b'{"software": 1}',
        b"\xff\xfe",
        b'{"software": {}, "software": {}}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b"NaN",
        b'{"software": {"version": 1.5}}',
        b'{"software": {"version": 1e400}}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_the_json_that_is_meant_is_refused(data: bytes) -> None:
    assert refused(data) is DESCRIPTION


def test_a_key_that_appears_twice_is_refused() -> None:
    assert refused(text().replace(b'"version": "2"', b'"version": "2", "version": "3"')) is DESCRIPTION


def test_a_description_above_the_limit_is_not_parsed() -> None:
    assert refused(text() + b" " * description.DESCRIPTION_BYTES_MAX) is LIMIT


def test_changed_bytes_give_a_description_or_its_error_and_nothing_else() -> None:
    good = text(requires={"version": ["1"], "agent": "1"})
    chance = random.Random(20)
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        with suppress(PackageError):
            description.parse(bytes(bad))
