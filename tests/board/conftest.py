"""The board of these tests is built once; without the emulator's packages they are skipped, and say so."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.board.emulation.factory import Factory
from tests.board.emulation.story import BoardRunner, Outcome
from tests.board.image import build, debian


@pytest.fixture(scope="session")
def built() -> build.BuiltBoard:
    why = debian.missing()
    if why:
        pytest.skip(why)
    try:
        return build.build(say=False)
    except debian.NoPackagesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def scratch(built: build.BuiltBoard) -> Iterator[Path]:
    """Room for disks, which are large: removed at the end."""
    with tempfile.TemporaryDirectory(prefix="runs-", dir=build.CACHE) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def runner(built: build.BuiltBoard) -> BoardRunner:
    return BoardRunner(built, build.CACHE / "consoles")


@pytest.fixture(scope="session")
def factory(built: build.BuiltBoard, scratch: Path) -> Factory:
    folder = scratch / "factory"
    folder.mkdir()
    return Factory(built, folder)


@pytest.fixture
def folder(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the test's own."""
    path = Path(tempfile.mkdtemp(prefix="test-", dir=scratch))
    yield path
    shutil.rmtree(path)


@dataclass(frozen=True)
class Recorded:
    """An update from the package in the inbox to the result, with every write to the disk."""

    base: Path
    """The disk as it was before."""
    disk: Path
    log: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def recorded(runner: BoardRunner, factory: Factory, scratch: Path) -> Recorded:
    folder = scratch / "recorded"
    folder.mkdir()
    disk = factory.disk(folder, update="2")
    base = folder / "base.img"
    debian.run("cp", "--sparse=always", disk, base)
    log = folder / "writes.log"
    outcome = runner.run("update", disk, runner.report_job(folder), log)
    return Recorded(base, disk, log, outcome)
