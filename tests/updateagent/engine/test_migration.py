"""Hooks and the migration of state: what a real package does on real files, and the verbs of the state folders."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.updateagent.board import Board
from tests.updateagent.package.signed import NEW, pem
from tests.updateagent.packages import HARDWARE, NOW, Workshop, release, root
from updateagent.config import load
from updateagent.disk import RealDisk
from updateagent.engine.deps import EngineDeps
from updateagent.engine.hooks import run_hook
from updateagent.engine.journal import Update
from updateagent.engine.migration import StateFolders
from updateagent.errors import EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED, STORAGE_FULL, DeviceError, RequestError
from updateagent.handover import InstallRequest
from updateagent.package.payload import Role
from updateagent.package.verifier import SignedPackages, VerifierDeps

REPO = Path(__file__).parents[3]
SCRIPT = b"""#!/bin/sh
set -e
test "$DCU_HOOK $DCU_FROM_VERSION $DCU_TO_VERSION" = "migrate 1 2"
for folder in $(echo "$DCU_STATE" | tr : ' '); do
    echo two >"$folder/form"
done
"""


class StateBoard(Board):
    """A board with two state folders on a real disk, and real packages."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dirs = (folder / "data" / "state", folder / "data" / "store")
        self.settings = tuple(str(one) for one in self.dirs)

    def assemble(self) -> None:
        super().assemble()
        (self.folder / "root.pem").write_bytes(pem(root()))
        for one in self.dirs:
            one.mkdir(parents=True)
            (one / "form").write_text("one\n")
            (one / "key").write_text("secret")
            (one / "key").chmod(0o440)
            (one / "current").symlink_to("form")

    def deps(self) -> EngineDeps:
        deps = super().deps()
        packages = SignedPackages(
            VerifierDeps(
                disk=self.disk,
                roots=self.folder / "root.pem",
                newer_roots=self.update_dir / "roots.json",
                compatible=HARDWARE,
                partitions=deps.partitions,
                running_version=deps.booted_version,
                clock=lambda: float(NOW),
                run_hook=lambda step, content, variables: run_hook(step, content, self.folder / "run", variables),
            )
        )
        return replace(deps, packages=packages, state_dirs=self.settings)

    def hand_over_script(self, script: bytes) -> None:
        shop = Workshop(self.folder)
        # Asks for the version before, and is verified again while its own version runs.
        said = release(requires_version=("1",))
        raw = shop.build([shop.image("rootfs", NEW), shop.image("migrate", script, Role.HOOK)], said)
        self.disk.write_durable(self.update_dir / "inbox" / "package.swu", raw)
        request = InstallRequest("r1", "package.swu", "", 1.0)
        self.disk.write_durable(self.update_dir / "inbox" / "request.json", request.emit())

    def forms(self) -> list[str]:
        return [(one / "form").read_text() for one in self.dirs]

    def start(self) -> int:
        self.power_on()
        return self.updater().boot()


@pytest.fixture
def board(tmp_path: Path) -> StateBoard:
    made = StateBoard(tmp_path)
    made.assemble()
    return made


@pytest.mark.process
def test_state_is_migrated_on_a_copy_before_the_new_system_goes_on(board: StateBoard) -> None:
    board.hand_over_script(SCRIPT)

    assert board.start() == EXIT_REBOOT_WANTED
    assert board.forms() == ["one\n", "one\n"]
    assert board.start() == EXIT_GUARD_WANTED

    assert board.forms() == ["two\n", "two\n"]
    assert [(one / "key").stat().st_mode & 0o777 for one in board.dirs] == [0o440, 0o440]
    assert os.readlink(board.dirs[0] / "current") == "form"  # noqa: PTH115
    assert len(list((board.folder / "data").iterdir())) == 4, "the old state is kept"
    board.updater().confirm()
    assert sorted((board.folder / "data").iterdir()) == sorted(board.dirs)


@pytest.mark.process
def test_a_version_that_does_not_get_well_gives_the_old_state_back(board: StateBoard) -> None:
    board.hand_over_script(SCRIPT)
    assert board.start() == EXIT_REBOOT_WANTED
    while board.start() == EXIT_GUARD_WANTED and board.booted == "B":
        (board.dirs[0] / "written on trial").write_text("x")

    assert board.booted == "A"
    assert board.forms() == ["one\n", "one\n"]
    assert sorted(one.name for one in board.dirs[0].iterdir()) == ["current", "form", "key"]
    assert sorted((board.folder / "data").iterdir()) == sorted(board.dirs)
    assert board.result()["fumo"] == 410  # type: ignore[index]


@pytest.mark.process
def test_a_migration_that_fails_rolls_back_and_says_why(board: StateBoard) -> None:
    board.hand_over_script(b"#!/bin/sh\nrm -r ${DCU_STATE%%:*}/*; echo no space for the index >&2; exit 4\n")
    assert board.start() == EXIT_REBOOT_WANTED
    assert board.start() == EXIT_REBOOT_WANTED
    assert board.booted == "B"
    assert board.start() in (EXIT_OK, EXIT_GUARD_WANTED)

    result = board.result()
    assert result is not None
    assert (board.booted, result["name"], "no space for the index" in result["message"]) == ("A", "hook", True)
    assert board.forms() == ["one\n", "one\n"]


def test_a_package_that_migrates_is_refused_where_no_state_is_set(board: StateBoard) -> None:
    board.settings = ()
    board.hand_over_script(SCRIPT)
    slot = board.slot_file("B").read_bytes()
    assert board.start() in (EXIT_OK, EXIT_GUARD_WANTED)
    assert board.result()["name"] == "hook"  # type: ignore[index]
    assert board.slot_file("B").read_bytes() == slot


def test_what_an_earlier_update_left_behind_is_not_taken_for_the_old_state(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "form").write_text("one")
    for kind in ("new", "old", "out"):
        (tmp_path / f".state.dcu-{kind}").mkdir()
        (tmp_path / f".state.dcu-{kind}" / "ancient").write_text("x")
    folders = StateFolders(RealDisk(), [str(state)])
    folders.copy()
    folders.sync()
    folders.put_in_place()
    folders.put_in_place()
    assert [one.name for one in state.iterdir()] == ["form"]
    folders.put_back()
    folders.put_back()
    folders.forget()
    assert [one.name for one in tmp_path.iterdir()] == ["state"]
    assert (state / "form").read_text() == "one"


def test_a_socket_in_the_state_is_left_out_and_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    import socket

    state = tmp_path / "state"
    state.mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(state / "control"))
        folders = StateFolders(RealDisk(), [str(state), str(tmp_path / "other")])
        folders.copy()
    assert [list(copy.iterdir()) for copy in folders.copies] == [[], []]


def test_a_full_disk_is_said_with_its_number(tmp_path: Path) -> None:
    class Full(RealDisk):
        def mkdir(self, path: Path, mode: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DeviceError) as caught:
        StateFolders(Full(), [str(tmp_path / "state")]).copy()
    assert caught.value.code is STORAGE_FULL


def test_an_older_journal_without_the_migration_is_read(board: StateBoard) -> None:
    from updateagent.engine.journal import Record, emit, parse
    from updateagent.engine.sealed import seal, unseal

    raw = emit(Record().stage(Update("r1", "package.swu")), 1)
    found = unseal(raw)
    assert found is not None
    document = json.loads(found[2])
    del document["update"]["state_dirs"], document["update"]["migrated"]
    update = parse(seal(json.dumps(document).encode(), 2))[1].update
    assert update is not None
    assert (update.state_dirs, update.migrated) == ((), False)


@pytest.mark.parametrize(
    "folders", [["state"], ["/data/a:b"], ["/data/../a"], ["/data/a", "/data/a/b"], ["/data"], ["/data/update/x"]]
)
def test_state_folders_that_cannot_be_swapped_are_a_mistake_of_the_settings(tmp_path: Path, folders: list[str]) -> None:
    text = (REPO / "etc" / "dcu-update.toml").read_text()
    text = text.replace('"/var/lib/dcu/update"', '"/data/update"')
    text = text.replace('state_dirs = ["/var/lib/dcu/dm"]', f"state_dirs = {json.dumps(folders)}")
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(RequestError, match="state_dirs"):
        load(tmp_path / "settings.toml")


def test_state_folders_are_read_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text((REPO / "etc" / "dcu-update.toml").read_text())
    assert load(tmp_path / "settings.toml").state_dirs == (Path("/var/lib/dcu/dm"),)
