"""CI_STRICT: with 1 a skip fails the run; without, empty or with 0 it is only said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.process
@pytest.mark.parametrize(("setting", "code"), [(None, 0), ("", 0), ("0", 0), ("1", 1)])
def test_a_skip_fails_the_run_only_when_ci_is_strict(tmp_path: Path, setting: str | None, code: int) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  fast\n  timeout\n")
    (tmp_path / "test_skips.py").write_text("import pytest\ndef test_it(): pytest.skip('no such tool')\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI_STRICT"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if setting is None else {"CI_STRICT": setting})
    options = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pytest.ini", ".")
    command = [sys.executable, "-m", "pytest", *options]
    run = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert run.returncode == code, run.stdout + run.stderr
    assert "1 skipped" in run.stdout
    assert ("CI_STRICT is set: this run failed" in run.stdout) == bool(code)
