"""Files and messages of each released version, read by each program: forward, back, and across (docs/versions.md).

The files of a release were made by its own code (generate.py), and that code lies beside them, so that what an older
program does with today's files is seen and not supposed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.versions.releases import FIXTURES, HERE, RELEASES, ROOT, TODAY, environment, unpacked
from tests.versions.written import LATER, OLDER, WORKED, WRITTEN

pytestmark = pytest.mark.process

MADE_TODAY = {**WRITTEN, **LATER}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return unpacked(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder with the files that each version has made."""
    folder = tmp_path_factory.mktemp("files") / TODAY
    run("generate.py", ROOT, folder)
    return {TODAY: folder, **{release: FIXTURES / release for release in RELEASES}}


def run(script: str, source: Path, folder: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, HERE / script, source, folder, *more],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(programs: dict[str, Path], program: str, folder: Path, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("readback.py", programs[program], folder, *more))
    found.pop("update_settings")  # differs with the shipped file; that it is read is seen in its type
    return found


@pytest.mark.parametrize("made_by", [*RELEASES, TODAY])
@pytest.mark.parametrize("program", [*RELEASES, TODAY])
def test_each_program_reads_what_each_version_has_written(
    programs: dict[str, Path], files: dict[str, Path], tmp_path: Path, program: str, made_by: str
) -> None:
    shutil.copytree(files[made_by], tmp_path / "data", symlinks=True)
    found = read(programs, program, tmp_path / "data")
    known = OLDER.get((program, made_by), {})
    wanted = MADE_TODAY if made_by == TODAY else WRITTEN
    if program == TODAY:
        assert set(found) == set(wanted)
    assert {part: value for part, value in found.items() if part not in known} == {
        part: value for part, value in wanted.items() if part in found and part not in known
    }
    for part, value in known.items():
        if isinstance(value, str):
            assert str(found.get(part, value)).startswith(value), part
        else:
            assert found[part] == value, part
    assert set(found) >= set(WRITTEN)


@pytest.mark.parametrize("older", RELEASES)
def test_what_an_older_program_leaves_is_all_there_when_todays_is_back(
    programs: dict[str, Path], files: dict[str, Path], tmp_path: Path, older: str
) -> None:
    """A rollback, a day of the old program, and the update once more: what it did not understand is as it was, and what
    it has changed is as it left it."""
    shutil.copytree(files[TODAY], tmp_path / "data", symlinks=True)
    untouched = ("headend.db", "rows/headend.db", "operator/headend.db", "headend-settings/headend.yaml")
    before = {name: (tmp_path / "data" / name).read_bytes() for name in untouched}
    assert read(programs, older, tmp_path / "data", "work")["readings"] == OLDER[older, TODAY]["readings"]
    for name in untouched:
        assert (tmp_path / "data" / name).read_bytes() == before[name], name
    again = read(programs, TODAY, tmp_path / "data")
    assert again == {**MADE_TODAY, **WORKED}


@pytest.mark.parametrize("made_by", RELEASES)
def test_todays_program_goes_on_with_what_an_older_one_left(
    programs: dict[str, Path], files: dict[str, Path], tmp_path: Path, made_by: str
) -> None:
    """An update, and the rollback after a day: the old program finds its own, with what happened since."""
    shutil.copytree(files[made_by], tmp_path / "data", symlinks=True)
    assert read(programs, TODAY, tmp_path / "data", "work") == WRITTEN
    back = read(programs, made_by, tmp_path / "data")
    databases = {name: OLDER[made_by, TODAY][name] for name in ("headend", "rows", "readings")}
    wanted = {**WRITTEN, **{name: WORKED[name] for name in WORKED if name in WRITTEN}, **databases}
    assert back == wanted


def test_every_release_of_the_changelog_has_its_files() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = [
        line.split()[1] for line in text.splitlines() if line.startswith("## ") and line.split()[1][0].isdigit()
    ]
    assert sorted(released) == list(RELEASES)
