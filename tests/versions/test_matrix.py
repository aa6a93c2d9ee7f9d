"""Files and messages of each released version, read by each program: forward, back, and across (docs/versions.md).

The files of a release were made by its own code (generate.py), and that code lies beside them, so that what an older
program does with today's files is seen and not supposed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIXTURES = HERE / "fixtures"
RELEASES = tuple(sorted(folder.name for folder in FIXTURES.iterdir()))
TODAY = "today"

# What generate.py wrote, whatever release wrote it.
WRITTEN: dict[str, Any] = {
    "tree": {
        "tasks": {"billing": "86400", "load": "900"},
        "secret": "client secret",
        "firmware": [30, "job-5"],
        "software": ["job-7"],
    },
    "nonces": ["client nonce", "server nonce", 41],
    "readings": 12,
    "registry": ["KEP0000001", "rs485-17"],
    "journal": {
        "floors": [7, {"reading-lists": 3}, 1763913600],
        "update": ["staged", "0123456789abcdef", "A"],
        "lost": False,
    },
    "result": ["0123456789abcdef", "job-5", 410, "meter_port", "3"],
    "request": ["0123456789abcdef", "package.swu", "job-5"],
    "download": [500, 1000],
    "uplink": ["urn:dcu:KR-000042", 12, "0"],
    "headend": {"devices": True, "jobs": ["get", "provision"], "readings": 12},
    "settings": "urn:dcu:KR-000042",
}

# What the programs of before this policy do with later files, and cannot be taught any more.
SETTINGS_LIE_IN_THE_SLOT = "ConfigError: "  # an image has its own
REFUSED_WHOLE = "SchemaError: the database has schema 3, this head-end needs 1"
SET_ASIDE = 0  # until today's program is back: `test_readings_come_back…`
OLDER: dict[tuple[str, str], dict[str, Any]] = {
    ("0.1.0", "0.2.0"): {"settings": SETTINGS_LIE_IN_THE_SLOT},
    ("0.1.0", TODAY): {"settings": SETTINGS_LIE_IN_THE_SLOT, "headend": REFUSED_WHOLE, "readings": SET_ASIDE},
    ("0.2.0", TODAY): {"settings": SETTINGS_LIE_IN_THE_SLOT, "headend": REFUSED_WHOLE, "readings": SET_ASIDE},
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder with the code of each version."""
    folder = tmp_path_factory.mktemp("programs")
    for release in RELEASES:
        with tarfile.open(FIXTURES / release / "program.tar.xz") as packed:
            packed.extractall(folder / release, filter="data")
    return {TODAY: ROOT, **{release: folder / release for release in RELEASES}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder with the files that each version has made."""
    folder = tmp_path_factory.mktemp("files") / TODAY
    run("generate.py", ROOT, folder)
    return {TODAY: folder, **{release: FIXTURES / release for release in RELEASES}}


def run(script: str, source: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, HERE / script, source, folder], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(programs: dict[str, Path], program: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("readback.py", programs[program], folder))
    found.pop("update_settings")  # differs with the shipped file; that it is read is seen in its type
    return found


@pytest.mark.parametrize("made_by", [*RELEASES, TODAY])
@pytest.mark.parametrize("program", [*RELEASES, TODAY])
def test_each_program_reads_what_each_version_has_written(
    programs: dict[str, Path], files: dict[str, Path], tmp_path: Path, program: str, made_by: str
) -> None:
    shutil.copytree(files[made_by], tmp_path / "data")
    found = read(programs, program, tmp_path / "data")
    known = OLDER.get((program, made_by), {})
    assert {part: value for part, value in found.items() if part not in known} == {
        part: value for part, value in WRITTEN.items() if part not in known
    }
    for part, value in known.items():
        assert str(found[part]).startswith(str(value)), part


@pytest.mark.parametrize("older", RELEASES)
def test_readings_come_back_with_the_version_that_an_older_one_did_not_understand(
    programs: dict[str, Path], files: dict[str, Path], tmp_path: Path, older: str
) -> None:
    """A rollback, and the update once more: what today's program had stored is delivered, and nothing else is lost."""
    shutil.copytree(files[TODAY], tmp_path / "data")
    assert read(programs, older, tmp_path / "data")["readings"] == SET_ASIDE
    again = read(programs, TODAY, tmp_path / "data")
    assert again == WRITTEN


def test_every_release_of_the_changelog_has_its_files() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = [
        line.split()[1] for line in text.splitlines() if line.startswith("## ") and line.split()[1][0].isdigit()
    ]
    assert sorted(released) == list(RELEASES)
