"""Software packages on disk: whole or not there, over every power cut; and the files of the configuration and disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import cast

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from tests.updateagent.package.buffer import Buffer
from updateagent.errors import (
    HOOK,
    KIND,
    NOT_FOUND,
    PAYLOAD,
    DeviceError,
    PackageError,
    RequestError,
)
from updateagent.package.manifest import Kind, Manifest, Role
from updateagent.package.readable import Readable
from updateagent.software.store import SoftwareStore

FOLDER = Path("/software")
NOTHING = Buffer(b"")


@dataclass(frozen=True)
class PlainFile:
    """One file of a package, without a package around it."""

    name: str
    data: bytes
    role: Role = Role.FILE
    broken: bool = False

    @property
    def size(self) -> int:
        return len(self.data)

    def content(self, package: Readable) -> Iterator[bytes]:
        yield self.data[:700]
        if self.broken:
            raise PackageError(PAYLOAD, "not what was signed")
        yield self.data[700:]


@dataclass(frozen=True)
class PlainManifest:
    software_id: str
    version: str
    images: tuple[PlainFile, ...]
    kind: Kind = Kind.SOFTWARE
    security_version: int = 1


def software(version: str, *more: PlainFile, name: str = "lists", kind: Kind = Kind.SOFTWARE) -> Manifest:
    files = (PlainFile("list.csv", f"list {version} ".encode() * 100), PlainFile("sub/other", version.encode()), *more)
    return cast("Manifest", PlainManifest(name, version, files, kind))


@pytest.fixture
def disk() -> FaultyDisk:
    made = FaultyDisk()
    made.mkdir_durable(FOLDER)
    made.sync_all()
    return made


def active_file(disk: FaultyDisk) -> bytes | None:
    try:
        return disk.read_bytes(FOLDER / "active" / "lists" / "list.csv")
    except FileNotFoundError:
        return None


def expected(version: str) -> bytes:
    return f"list {version} ".encode() * 100


def test_an_installed_version_is_active_when_it_is_activated(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("1"))
    assert active_file(disk) is None
    store.activate("lists")

    assert active_file(disk) == expected("1")
    assert disk.read_bytes(FOLDER / "active/lists/sub/other") == b"1"
    assert [(one.id, one.version, one.active) for one in store.installed()] == [("lists", "1", True)]


def test_the_version_before_is_kept_and_older_ones_go(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for version in ("1.9", "1.10", "1.11"):
        store.install(NOTHING, software(version))
        assert store.activate("lists") == version

    assert [one.version for one in store.installed()] == ["1.10", "1.11"]
    store.activate("lists", "1.10")
    assert active_file(disk) == expected("1.10")


def test_installing_what_is_active_changes_nothing(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("1"))
    store.activate("lists")
    before = disk.operations

    store.install(NOTHING, software("1"))
    assert disk.operations == before


def test_what_is_deactivated_stays_installed_and_what_is_removed_is_gone(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("1"))
    store.activate("lists")
    store.deactivate("lists")
    assert active_file(disk) is None
    assert [one.active for one in store.installed()] == [False]
    store.remove("lists")
    assert store.installed() == ()
    with pytest.raises(RequestError) as caught:
        store.remove("lists")
    assert caught.value.code is NOT_FOUND


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "none"])
def test_a_name_that_is_not_installed_is_not_found(disk: FaultyDisk, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        SoftwareStore(disk, FOLDER).activate(name)
    assert caught.value.code is NOT_FOUND


def test_packages_of_the_wrong_kind_are_refused(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for manifest, code in (
        (software("1", kind=Kind.FIRMWARE), KIND),
        (software("1", name="active"), KIND),
        (software("1", PlainFile("post-install", b"", Role.HOOK)), HOOK),
    ):
        with pytest.raises(PackageError) as caught:
            store.install(NOTHING, manifest)
        assert caught.value.code is code
    assert disk.listdir(FOLDER) == []


def test_a_package_that_turns_out_broken_leaves_what_was_active(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("1"))
    store.activate("lists")
    with pytest.raises(PackageError):
        store.install(NOTHING, software("2", PlainFile("broken", b"x" * 900, broken=True)))

    assert active_file(disk) == expected("1")
    assert [one.version for one in store.installed()] == ["1"]
    store.install(NOTHING, software("2"))
    assert disk.listdir(FOLDER / "lists") == ["1", "2"]


def _update(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("2"))
    store.activate("lists", "2")


def test_a_power_cut_at_any_operation_leaves_one_whole_version_active(disk: FaultyDisk) -> None:
    for version in ("0", "1"):
        SoftwareStore(disk, FOLDER).install(NOTHING, software(version))
        SoftwareStore(disk, FOLDER).activate("lists", version)
    disk.sync_all()
    whole = disk.copy()
    _update(whole)
    planned = fired = 0
    for number in range(1, whole.operations + 1):
        for tear in (None, 0.5, 1.0):
            for throw, survival in enumerate((*Survival, Survival.HOLED)):
                planned += 1
                victim = disk.copy()
                victim.random = Random(number)

                def plan(operation: Operation, number: int = number, tear: float | None = tear) -> float | None:
                    if operation.number != number:
                        return None
                    if tear is None:
                        raise PowerCut
                    return tear

                victim.on_operation = plan
                try:
                    _update(victim)
                except PowerCut:
                    fired += 1
                found = victim.after_power_cut(survival, Random(f"{number} {tear} {throw}"))
                assert active_file(found) in (expected("1"), expected("2"))
                _update(found)
                assert active_file(found) == expected("2")
                assert found.read_bytes(FOLDER / "active/lists/sub/other") == b"2"
                assert found.listdir(FOLDER / "lists") == ["1", "2"]
    assert fired == planned > 0


def test_a_disk_error_at_any_operation_leaves_one_whole_version_active(disk: FaultyDisk) -> None:
    SoftwareStore(disk, FOLDER).install(NOTHING, software("1"))
    SoftwareStore(disk, FOLDER).activate("lists", "1")
    whole = disk.copy()
    _update(whole)
    for number in range(1, whole.operations + 1):
        victim = disk.copy()

        def fail(operation: Operation, number: int = number) -> None:
            if operation.number == number:
                raise OSError(28, "No space left on device")

        victim.on_operation = fail
        with pytest.raises(DeviceError):
            _update(victim)
        victim.on_operation = None
        assert active_file(victim) in (expected("1"), expected("2"))
        _update(victim)
        assert active_file(victim) == expected("2")
