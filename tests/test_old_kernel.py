"""The device's programs need no system call that is newer than Linux 2.6.32."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.daemon.test_supervisor_agent import Process, authority, home
from tests.oldkernel import make_interpreter, why_not
from tests.updateagent.test_program import IMAGE_BYTES, Device, firmware, image, keys, software

__all__ = ["authority", "home", "keys"]  # fixtures

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_not()), reason=why_not())]

NEW_CALL = (
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({number}, 0, 0, 0), ctypes.get_errno())"
)
MEMFD_CREATE = {"x86_64": 319, "aarch64": 279, "armv7l": 385}
ENOSYS = 38


@pytest.fixture
def old_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs that the tests start run under it; the build host's do not."""
    interpreter = make_interpreter(tmp_path / "python")
    monkeypatch.setattr(sys, "executable", str(interpreter))
    return interpreter


def test_a_newer_call_is_answered_as_by_an_old_kernel(old_kernel: Path) -> None:
    code = f"import platform; {NEW_CALL.format(number=MEMFD_CREATE[platform.machine()])}; print(platform.release()[:3])"
    done = subprocess.run([str(old_kernel), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"-1 {ENOSYS}\n2.6\n"


def test_an_update_is_verified_installed_tried_and_confirmed(
    keys: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    package, lists = firmware(keys, tmp_path, "2"), software(keys, tmp_path, "1", "one")
    request.getfixturevalue("old_kernel")
    device = Device(tmp_path / "device")
    device.folder.mkdir()
    device.assemble(keys)

    assert device.update("verify", package).returncode == 0
    assert device.update("software", "install", lists).returncode == 0
    device.hand_over(package, "r2")
    assert device.update("boot").returncode == 10
    assert device.slot("B").read_bytes()[:IMAGE_BYTES] == image("2")
    assert device.power_on() == "B"
    assert device.update("boot").returncode == 11
    device.publish_health({"agent_up": True, "meter_port": True})
    assert device.update("guard").returncode == 0
    assert (device.result()["fumo"], device.result()["to_version"]) == (200, "2")


@pytest.mark.usefixtures("old_kernel")
def test_the_agent_starts_answers_and_ends_in_order(home: Path) -> None:
    process = Process(home)
    status = process.ask("status")
    assert isinstance(status, dict)
    assert status["device_id"] == "urn:dcu:1"
    assert process.end() == 0
    assert "Traceback" not in process.text()
