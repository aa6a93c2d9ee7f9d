"""A device whose key is not the enrolled one, as real processes: refused by the security server, said by `dcuctl`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo import factory
from tests.demo.factory import DEVICE_ID, Board, Ports
from tests.demo.headend import HeadEnd
from tests.demo.image import REPO
from tests.demo.processes import Processes

pytestmark = pytest.mark.process


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path, REPO)
    yield made
    made.end()


def dcuctl(board: Board, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(factory.tool("dcuctl")), "--socket", str(board.control), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_wrong_device_key_is_refused_and_dcuctl_says_so(processes: Processes, tmp_path: Path) -> None:
    headend = HeadEnd(tmp_path / "headend")
    headend.init()
    processes.start(
        "head-end", [str(factory.tool("dcu-headend")), "serve", "--config", str(headend.folder / "headend.yaml")]
    )
    processes.ready("head-end")
    headend.enrol(DEVICE_ID, factory.device_key())
    board = Board(tmp_path / "b")
    image, root = tmp_path / "image", tmp_path / "root.crt"
    image.write_bytes(b"")
    root.write_bytes(headend.ca.read_bytes())
    wrong = factory.device_key()
    url = f"{headend.url('security')}/ssmp"
    board.assemble(image, wrong, url, headend.ca, root, Ports(tmp_path / "none-a", tmp_path / "none-b"))
    rootfs = board.folder / "ram" / "rootfs" / "etc"
    rootfs.mkdir(parents=True)
    (rootfs / "dcu-release").write_text("NAME=x\nVERSION=1\n")
    (board.folder / "ram" / "boot_id").write_text("boot\n")
    agent = processes.start("dcu-agent", [sys.executable, "-m", "agent", "--config", str(board.etc / "dcu.yaml")])

    def refused() -> dict[str, object] | None:
        done = dcuctl(board, "status", "--json")
        status = json.loads(done.stdout)["dm"] if done.returncode == 0 else {}
        return status if status.get("state") == "refused" else None

    status = processes.until(refused, 30, "the refusal in dcuctl status")
    assert "refused by the security server" in str(status["error"])
    assert "refused" in dcuctl(board, "status").stdout
    code = headend.one("SELECT code FROM registrations WHERE device = :d", d=DEVICE_ID)
    assert code == 401
    assert headend.one("SELECT count(*) FROM dm_accounts") == 0
    agent.stop()
    headend.close()
    for log in tmp_path.glob("*.log"):
        assert wrong not in log.read_text(errors="replace")


def test_dcuctl_says_when_no_daemon_runs(tmp_path: Path) -> None:
    done = dcuctl(Board(tmp_path), "status")
    assert done.returncode not in (0, 1)
    assert "does not run" in done.stderr


def test_every_mistake_in_dcu_yaml_is_named_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "dcu.yaml"
    bad.write_text("device:\n  id: 7\n  colour: blue\nports: none\nmetring: {}\n")
    done = subprocess.run(
        [sys.executable, "-m", "agent", "--config", str(bad)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert done.returncode == 2
    for wanted in (f"{bad}:2: device.id", f"{bad}:3: device.colour", f"{bad}:4: ports", f"{bad}:5: metring"):
        assert wanted in done.stderr
    assert "Traceback" not in done.stderr
