"""`dcu-headend` where only the device's part of the distribution is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

REPO = Path(__file__).resolve().parents[2]


def start_without(module: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a Python in which `module` cannot be imported."""
    code = f"import sys; sys.modules[{module!r}] = None; from headend.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)


def test_a_missing_library_is_named_with_what_to_install() -> None:
    done = start_without("uvicorn")
    assert done.returncode == 1
    assert (
        done.stderr == "dcu-headend: uvicorn is not installed; the head-end needs: pip install 'dcu-agent[headend]'\n"
    )


def test_a_missing_module_of_our_own_is_a_defect_and_looks_like_one() -> None:
    done = start_without("headend.cli")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
