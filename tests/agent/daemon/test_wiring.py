"""How `agent/__main__.py` puts parts together: in a process of its own, which does not come to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agent.daemon.memory.test_memory import REPO, configured

PROVOKE = """
import json, sys
from agent import __main__ as program
from agent.clock_keeper import ClockKeeper
from agent.dm.push import PushListener
from agent.dm.service import DmService
from agent.jobs import device, waiting
from agent.metering.store.reading_store import Store
from agent.services.worker import ServiceWorker
from agent.ssmp import security_module

for part in (ClockKeeper, PushListener, DmService, Store, ServiceWorker):
    part.warnings = lambda self, name=part.__name__: [name]

opened = {}
def open_module(*given, kept=security_module.open_module, **named):
    opened.update(named)
    return kept(*given, **named)
security_module.open_module = open_module

def run(daemon):
    print(json.dumps(daemon.views.document()["warnings"]))
    with daemon.tree.transaction() as changing:
        device.set_locked(changing, True)
        waiting.keep_damaged(changing, "fumo", {})
    daemon._renewal_told("the token is gone")
    (daemon.config.state_dir / "dm" / "tree.json.newer-99").touch()
    print(json.dumps(daemon.views.document()["warnings"]))
    print(json.dumps(opened["moved"]()))
    daemon.network.registration = "https://new.example/ssmp"
    print(json.dumps(opened["moved"]()))
    return 0

program.Daemon.run = run
sys.exit(program.main(["--config", sys.argv[1]]))
"""
PARTS = ["ClockKeeper", "Store", "DmService", "ServiceWorker", "PushListener"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wired")


@pytest.fixture(scope="module")
def told(folder: Path) -> list[Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", PROVOKE, configured(folder)],
        cwd=REPO,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.process
def test_whatever_a_part_warns_of_is_in_the_status(told: list[Any], folder: Path) -> None:
    at_first, then, *_ = told
    assert at_first == PARTS
    assert [one for one in then if one in PARTS] == PARTS
    assert sorted(set(then) - set(PARTS)) == sorted(
        [
            "the device is locked: it reads no meters and takes no orders",
            "the secret of this device was not renewed: the token is gone",
            f"{folder / 'state/dm/tree.json.newer-99'} is of a later version of this software, and not in use",
            "records of firmware jobs that were damaged, and ended as failed: 1",
        ]
    )


@pytest.mark.process
def test_a_certificate_is_looked_at_for_the_host_where_the_device_registers_now(told: list[Any]) -> None:
    assert told[2:] == ["https://127.0.0.1:9/ssmp", "https://new.example/ssmp"]
