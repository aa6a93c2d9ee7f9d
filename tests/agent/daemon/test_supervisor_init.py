"""The scripts of BusyBox init and the units of systemd that start the agent."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
SCRIPT = REPO / "etc" / "init.d" / "S80dcu-agent"

# A program that writes down that it ran, and ends as the next line of a file says; `wait` waits for TERM.
PROGRAM = """#!/bin/sh
cd {folder}
trap 'echo term >>ran; exit 0' TERM
echo "$*" >>ran
n=$(wc -l <ran)
code=$(sed -n "${{n}}p" codes)
if [ "$code" = wait ]; then
    while :; do sleep 0.05; done
fi
exit "$code"
"""


def supervise(folder: Path, *codes: str) -> subprocess.Popen[str]:
    """The script's loop around a program that ends with these codes, one a run."""
    program = folder / "program"
    program.write_text(PROGRAM.format(folder=folder))
    program.chmod(0o755)
    (folder / "codes").write_text("\n".join(codes) + "\n")
    (folder / "ran").touch()
    defaults = folder / "defaults"
    defaults.write_text(f"PROGRAM={program}\nCONFIG=/etc/x.yaml\nRESPAWN_S=0\nRESPAWN_LATER_S=0\n")
    return subprocess.Popen(
        ["/bin/sh", str(SCRIPT), "supervise"],
        env={"PATH": "/usr/bin:/bin", "DCU_AGENT_DEFAULTS": str(defaults)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.process
def test_an_agent_that_died_is_started_again_until_it_ends_in_order(tmp_path: Path) -> None:
    with supervise(tmp_path, "70", "137", "0") as loop:
        _, said = loop.communicate(timeout=20)
    assert loop.returncode == 0
    assert (tmp_path / "ran").read_text() == "--config /etc/x.yaml\n" * 3
    assert said.count("again in 0 s") == 2


@pytest.mark.process
def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    with supervise(tmp_path, "2", "0") as loop:
        _, said = loop.communicate(timeout=20)
    assert loop.returncode == 2
    assert (tmp_path / "ran").read_text() == "--config /etc/x.yaml\n"
    assert "not started again" in said


@pytest.mark.process
def test_a_stop_reaches_the_agent(tmp_path: Path) -> None:
    with supervise(tmp_path, "wait") as loop:
        while not (tmp_path / "ran").read_text():
            assert loop.poll() is None
        loop.send_signal(signal.SIGTERM)
        loop.communicate(timeout=20)
    assert loop.returncode == 0
    assert (tmp_path / "ran").read_text().endswith("term\n")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "dcu-agent.service"
    unit.write_text(
        (REPO / "etc" / "systemd" / "dcu-agent.service").read_text().replace("/usr/bin/dcu-agent", "/bin/true")
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "dcu-agent" in line]
    assert ours == []
