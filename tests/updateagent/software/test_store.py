"""Software packages on disk: whole or not there, over every power cut; and the files of the configuration and disk."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import cast

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from tests.updateagent.package.buffer import Buffer
from updateagent.disk import RealDisk
from updateagent.errors import (
    DOWNGRADE,
    HOOK,
    KIND,
    NOT_FOUND,
    PAYLOAD,
    VERSION_REQUIRED,
    DeviceError,
    PackageError,
    RequestError,
)
from updateagent.package.manifest import Kind, Manifest, Role
from updateagent.package.readable import Readable
from updateagent.software.store import NEVER_ACTIVE, TERMS, SoftwareStore

FOLDER = Path("/software")
NOTHING = Buffer(b"")


@dataclass(frozen=True)
class PlainFile:
    """One file of a package, without a package around it."""

    name: str
    data: bytes
    role: Role = Role.FILE
    broken: bool = False
    executable: bool = False

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
    requires_version: tuple[str, ...] = ()


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


def test_what_somebody_went_back_to_is_kept_when_the_next_version_comes(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for version in ("1.0", "2.0"):
        store.install(NOTHING, software(version))
        store.activate("lists")
    store.activate("lists", "1.0")  # since 2.0 does not work
    store.install(NOTHING, software("3.0"))
    store.activate("lists", "3.0")
    assert [one.version for one in store.installed()] == ["1.0", "3.0"]
    store.activate("lists", "3.0")
    assert [one.version for one in store.installed()] == ["1.0", "3.0"]


def test_a_power_cut_while_going_on_never_costs_the_version_that_was_active(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for version in ("1.0", "2.0"):
        store.install(NOTHING, software(version))
        store.activate("lists")
    store.activate("lists", "1.0")
    store.install(NOTHING, software("3.0"))
    disk.sync_all()
    for number in itertools.count(1):
        cut = disk.after_power_cut(Survival.LOST, Random(number))
        last = cut.operations + number
        cut.on_operation = lambda operation, last=last: 0.5 if operation.number == last else None
        try:
            SoftwareStore(cut, FOLDER).activate("lists", "3.0")
        except PowerCut:
            after = cut.after_power_cut(Survival.LOST, Random(number))
            SoftwareStore(after, FOLDER).activate("lists", "3.0")
            versions = [one.version for one in SoftwareStore(after, FOLDER).installed()]
            assert {"1.0", "3.0"} <= set(versions), number
        else:
            assert number > 5
            return


def test_a_version_below_the_floor_or_for_another_firmware_cannot_be_made_active_again(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for version, security, firmware in (("1", 1, ()), ("2", 2, ("7", "8")), ("3", 3, ())):
        package = cast("PlainManifest", software(version))
        terms = replace(package, security_version=security, requires_version=firmware)
        store.install(NOTHING, cast("Manifest", terms))
        if version != "3":
            store.activate("lists", version)
    with pytest.raises(PackageError) as caught:
        store.activate("lists", "1", floor=2, running="7")
    assert caught.value.code is DOWNGRADE
    assert active_file(disk) == expected("2")
    store.activate("lists", "3", floor=2, running="9")
    with pytest.raises(PackageError) as caught:
        store.activate("lists", "2", floor=2, running="9")
    assert caught.value.code is VERSION_REQUIRED
    assert store.activate("lists", "2", floor=2, running="8") == "2"


def test_what_an_earlier_update_agent_installed_is_active_again_only_without_a_floor(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for version in ("1", "2"):
        store.install(NOTHING, software(version))
        store.activate("lists")
        disk.remove_durable(FOLDER / "lists" / version / TERMS)
    assert store.activate("lists", "2", floor=1) == "2"  # it is active
    with pytest.raises(PackageError, match="before its floor"):
        store.activate("lists", "1", floor=1)
    assert store.activate("lists", "1") == "1"


def test_programs_of_a_package_can_be_run(tmp_path: Path) -> None:
    store = SoftwareStore(RealDisk(), tmp_path)
    program = PlainFile("bin/hello", b"#!/bin/sh\necho hello\n", executable=True)
    store.install(NOTHING, software("1", program))
    store.activate("lists")
    folder = tmp_path / "active" / "lists"
    assert stat.S_IMODE((folder / "bin/hello").stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "list.csv").stat().st_mode) == 0o644


def test_installing_what_is_active_changes_nothing(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("1"))
    store.activate("lists")
    before = disk.operations

    store.install(NOTHING, software("1"))
    assert disk.operations == before


def test_a_damaged_version_is_repaired_without_a_moment_in_which_none_is_active(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    store.install(NOTHING, software("1"))
    store.activate("lists")
    for number in ("1,2", "1,3"):
        disk.write_durable(store.folder("lists", "1") / "list.csv", b"damaged")
        seen: list[bytes | None] = []

        def look(_: Operation, seen: list[bytes | None] = seen) -> None:
            disk.on_operation = None
            seen.append(active_file(disk))
            disk.on_operation = look

        disk.on_operation = look
        store.install(NOTHING, software("1"))
        disk.on_operation = None
        assert set(seen) == {b"damaged", expected("1")}
        assert active_file(disk) == expected("1")
        assert disk.listdir(FOLDER / "lists") == [number]
        assert store.active_version("lists") == "1"
        assert [one.version for one in store.installed()] == ["1"]
    store.install(NOTHING, software("2"))
    store.activate("lists", "2")
    store.activate("lists", "1")
    assert active_file(disk) == expected("1")


SERVICE = b'{"format": 1, "kind": "service", "service": {"program": "run"}}'


@pytest.mark.parametrize(
    ("said", "executable", "taken"),
    [(SERVICE, True, True), (SERVICE, False, False), (b'{"format": 9}', True, False), (b" " * 70_000, True, False)],
)
def test_a_component_that_cannot_be_what_it_says_is_not_installed(
    disk: FaultyDisk, said: bytes, executable: bool, taken: bool
) -> None:
    store = SoftwareStore(disk, FOLDER)
    files = (PlainFile("component.json", said), PlainFile("run", b"#!/bin/sh", executable=executable))
    if taken:
        store.install(NOTHING, software("1", *files))
        assert [one.version for one in store.installed()] == ["1"]
        return
    with pytest.raises(PackageError):
        store.install(NOTHING, software("1", *files))
    assert store.installed() == ()


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
    failed = 0
    for number in range(1, whole.operations + 1):
        victim = disk.copy()

        def fail(operation: Operation, number: int = number) -> None:
            if operation.number == number:
                raise OSError(28, "No space left on device")

        victim.on_operation = fail
        try:
            _update(victim)
        except DeviceError:
            failed += 1
        else:  # what is reported as done is so: only the note that it was active is still to be made
            assert active_file(victim) == expected("2")
        victim.on_operation = None
        assert active_file(victim) in (expected("1"), expected("2"))
        _update(victim)
        assert active_file(victim) == expected("2")
    assert failed >= whole.operations - disk.operations - 2


def versions(disk: FaultyDisk) -> list[str]:
    return [one.version for one in SoftwareStore(disk, FOLDER).installed()]


def never_active(disk: FaultyDisk) -> list[str]:
    store = SoftwareStore(disk, FOLDER)
    return [v for v in versions(disk) if disk.exists(store.folder("lists", v) / NEVER_ACTIVE)]


def with_active(disk: FaultyDisk, *some: str) -> SoftwareStore:
    store = SoftwareStore(disk, FOLDER)
    for version in some:
        store.install(NOTHING, software(version))
        store.activate("lists", version)
    return store


def test_of_versions_that_were_never_active_the_last_one_is_kept(disk: FaultyDisk) -> None:
    store = with_active(disk, "1", "2")
    for version in ("9", "5", "3"):  # the one that was asked for last, whatever its number
        store.install(NOTHING, software(version))
        assert versions(disk) == ["1", "2", version]
        assert never_active(disk) == [version]
    store.activate("lists", "2")  # it is active
    store.activate("lists", "1")
    store.activate("lists", "2")
    assert versions(disk) == ["1", "2", "3"]
    store.activate("lists", "3")
    assert versions(disk) == ["2", "3"]
    store.deactivate("lists")
    store.install(NOTHING, software("4"))
    store.install(NOTHING, software("5"))
    assert versions(disk) == ["2", "3", "5"]
    assert store.activate("lists", "5") == "5"
    assert versions(disk) == ["3", "5"]  # 3 was active, 2 before it


def test_a_package_that_turns_out_broken_does_not_cost_the_one_that_waits(disk: FaultyDisk) -> None:
    store = with_active(disk, "1")
    store.install(NOTHING, software("2"))
    with pytest.raises(PackageError):
        store.install(NOTHING, software("3", PlainFile("broken", b"x" * 900, broken=True)))
    assert versions(disk) == ["1", "2"]


def cuts(disk: FaultyDisk, work: Callable[[FaultyDisk], None]) -> Iterator[FaultyDisk]:
    """The disk after a power cut before, inside and after each operation of `work`."""
    disk.sync_all()
    whole = disk.copy()
    first = whole.operations
    work(whole)
    assert whole.operations > first
    for number in range(first + 1, whole.operations + 1):
        for tear, survival in itertools.product((0.0, 0.5, 1.0), (*Survival, Survival.HOLED)):
            victim = disk.copy()
            victim.random = Random(number)
            victim.on_operation = lambda one, number=number, tear=tear: tear if one.number == number else None
            with pytest.raises(PowerCut):
                work(victim)
            yield victim.after_power_cut(survival, Random(f"{number} {tear} {survival}"))


def assert_whole(disk: FaultyDisk) -> None:
    store = SoftwareStore(disk, FOLDER)
    for version in versions(disk):
        folder = store.folder("lists", version)
        assert disk.read_bytes(folder / "list.csv") == expected(version)
        assert store.terms("lists", version) is not None


def test_a_power_cut_leaves_what_waits_bounded_and_what_was_active_there(disk: FaultyDisk) -> None:
    with_active(disk, "1", "2").install(NOTHING, software("3"))

    def wait_and_go_on(disk: FaultyDisk) -> None:
        store = SoftwareStore(disk, FOLDER)
        store.install(NOTHING, software("4"))
        store.activate("lists", "4")
        store.install(NOTHING, software("5"))

    tried = 0
    for found in cuts(disk, wait_and_go_on):
        tried += 1
        assert_whole(found)
        active = SoftwareStore(found, FOLDER).active_version("lists")
        assert active in ("2", "4")
        assert "2" in versions(found)
        assert len(versions(found)) <= 4
        another = found.copy()
        wait_and_go_on(found)
        assert (versions(found), never_active(found)) == (["2", "4", "5"], ["5"])
        store = SoftwareStore(another, FOLDER)  # or somebody wants something else now
        for version in ("6", "7"):
            store.install(NOTHING, software(version))
        store.activate("lists", "7")
        store.install(NOTHING, software("8"))
        assert versions(another) == sorted({str(active), "7", "8"})
        assert never_active(another) == ["8"]
        assert store.activate("lists", str(active)) == active
    assert tried > 100


def test_a_power_cut_never_costs_the_version_of_before_that_is_installed_again(disk: FaultyDisk) -> None:
    store = with_active(disk, "1", "2")

    def again(disk: FaultyDisk) -> None:
        SoftwareStore(disk, FOLDER).install(NOTHING, software("1"))

    for found in cuts(disk, again):
        assert_whole(found)
        assert versions(found) == ["1", "2"]
        again(found)
        assert never_active(found) == []
        assert len(found.listdir(FOLDER / "lists")) == 2
    again(disk)
    assert store.activate("lists", "1") == "1"


def test_a_power_cut_in_a_deactivation_leaves_what_was_active_known_as_such(disk: FaultyDisk) -> None:
    store = with_active(disk, "1")
    disk.write_durable(store.folder("lists", "1") / NEVER_ACTIVE, b"")  # the power went before this was noted
    for found in cuts(disk, lambda disk: SoftwareStore(disk, FOLDER).deactivate("lists")):
        SoftwareStore(found, FOLDER).deactivate("lists")
        for version in ("2", "3"):
            SoftwareStore(found, FOLDER).install(NOTHING, software(version))
        assert (versions(found), never_active(found)) == (["1", "3"], ["3"])
