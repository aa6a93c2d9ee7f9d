"""A package is taken into the inbox for good, wherever it lies, and whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest

from tests.sim.faulty_disk import FaultyDisk, Operation, PowerCut, Survival
from updateagent.disk import RealDisk
from updateagent.engine.mailbox import COPY_BYTES, Mailbox
from updateagent.errors import PACKAGE_MISSING, STORAGE, STORAGE_FULL, Code, UpdateError

PACKAGE = Random(1).randbytes(2 * COPY_BYTES + 700)
FOLDER, SOURCE = Path("/data/update"), Path("/data/home/new.swu")
TAKEN = FOLDER / "inbox/by-hand.swu"


class OtherFileSystem(FaultyDisk):
    """What is linked here lies on another file system than what it is linked to."""

    def link(self, src: Path, dst: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def disk_with_package(kind: type[FaultyDisk]) -> FaultyDisk:
    disk = kind()
    disk.mkdir_durable(TAKEN.parent)
    disk.mkdir_durable(SOURCE.parent)
    with disk.open_raw(SOURCE, write=True, create=True) as file:
        file.pwrite(PACKAGE, 0)  # not synced: somebody has just copied it here
    disk.sync_dir(SOURCE.parent)
    disk.operations = 0
    return disk


@pytest.mark.parametrize("kind", [FaultyDisk, OtherFileSystem])
def test_whatever_is_cut_a_package_in_the_inbox_is_whole(kind: type[FaultyDisk]) -> None:
    count = disk_with_package(kind)
    Mailbox(count, FOLDER).take_in(SOURCE, TAKEN.name)
    assert count.operations > 3
    fired = 0
    for number in range(1, count.operations + 1):
        for tear in (0.0, 0.5, 1.0):
            for survival in Survival:
                disk = disk_with_package(kind)

                def cut(operation: Operation, number: int = number, tear: float = tear) -> float | None:
                    return tear if operation.number == number else None

                disk.on_operation = cut
                with pytest.raises(PowerCut):
                    Mailbox(disk, FOLDER).take_in(SOURCE, TAKEN.name)
                fired += 1
                found = disk.after_power_cut(survival, Random(number))
                if found.exists(TAKEN):
                    assert found.read_bytes(TAKEN) == PACKAGE
                if found.exists(SOURCE):
                    Mailbox(found, FOLDER).take_in(SOURCE, TAKEN.name)
                assert found.listdir(TAKEN.parent) in ([], [TAKEN.name], [f".{TAKEN.name}.tmp"])
    assert fired == count.operations * 3 * len(Survival)


@pytest.mark.parametrize("kind", [FaultyDisk, OtherFileSystem])
def test_when_it_returns_no_power_cut_takes_the_package_away(kind: type[FaultyDisk]) -> None:
    for survival in Survival:
        disk = disk_with_package(kind)
        Mailbox(disk, FOLDER).take_in(SOURCE, TAKEN.name)
        assert disk.after_power_cut(survival, Random(1)).read_bytes(TAKEN) == PACKAGE


def test_on_the_same_file_system_nothing_is_written_again() -> None:
    disk = disk_with_package(FaultyDisk)
    kinds: list[str] = []

    def note(operation: Operation) -> None:
        kinds.append(operation.kind)

    disk.on_operation = note
    Mailbox(disk, FOLDER).take_in(SOURCE, TAKEN.name)
    assert "write" not in kinds
    assert "create" not in kinds


@pytest.mark.parametrize(("error", "code"), [(errno.EIO, STORAGE), (errno.ENOSPC, STORAGE_FULL)])
@pytest.mark.parametrize("kind", [FaultyDisk, OtherFileSystem])
def test_an_error_at_any_operation_has_a_number_and_harms_neither_side(
    kind: type[FaultyDisk], error: int, code: Code
) -> None:
    count = disk_with_package(kind)
    Mailbox(count, FOLDER).take_in(SOURCE, TAKEN.name)
    codes: set[Code] = set()
    for number in range(1, count.operations + 1):
        disk = disk_with_package(kind)

        def fail(operation: Operation, number: int = number) -> None:
            if operation.number == number:
                raise OSError(error, os.strerror(error))

        disk.on_operation = fail
        try:
            Mailbox(disk, FOLDER).take_in(SOURCE, TAKEN.name)
        except UpdateError as caught:
            codes.add(caught.code)
        disk.on_operation = None
        assert disk.read_bytes(SOURCE) == PACKAGE
        assert not disk.exists(TAKEN) or disk.read_bytes(TAKEN) == PACKAGE
        Mailbox(disk, FOLDER).take_in(SOURCE, TAKEN.name)
        assert disk.read_bytes(TAKEN) == PACKAGE
    assert codes == {code}


def test_links_the_inbox_itself_and_missing_packages(tmp_path: Path) -> None:
    mailbox = Mailbox(RealDisk(), tmp_path)
    mailbox.inbox.mkdir()
    source, taken = tmp_path / "new.swu", mailbox.inbox / "by-hand.swu"
    source.write_bytes(PACKAGE)
    (tmp_path / "link").symlink_to("new.swu")

    mailbox.take_in(tmp_path / "link", taken.name)
    assert not taken.is_symlink()
    assert taken.samefile(source)

    mailbox.take_in(source, taken.name)  # once more: the same file already
    mailbox.take_in(taken, taken.name)
    assert taken.read_bytes() == PACKAGE
    assert [path.name for path in mailbox.inbox.iterdir()] == [taken.name]

    with pytest.raises(UpdateError) as caught:
        mailbox.take_in(tmp_path / "none.swu", taken.name)
    assert caught.value.code is PACKAGE_MISSING
    assert taken.read_bytes() == PACKAGE
