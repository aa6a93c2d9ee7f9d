"""`dcuctl services` from end to end: the status board, the control socket, the program."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.__main__ import EXIT_REFUSED, main
from agent.daemon.control import ControlServer
from agent.daemon.views.services import ServiceViews
from agent.status import ServiceStatus, Status, StatusBoard

WATCH = ServiceStatus("watch", "1.0", "waiting", 1_800_000_000, 3, 1, 0, 0, "ended by signal 11", "runs as ours")
OTHER = ServiceStatus("other", "2.0", "running", 1_800_000_000, 0, 0, 77, 2048)


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "control.sock"
    views = ServiceViews(
        StatusBoard(Status(services=(OTHER, WATCH))), lambda name, lines: [f"{name} says \x1b[2J", "two"][-lines:]
    )
    server = ControlServer(path, views.handlers())
    server.bind()
    stop = threading.Event()
    thread = threading.Thread(target=server.run, args=(stop, lambda: None))
    thread.start()
    yield path
    stop.set()
    server.wake()
    thread.join()


def test_services_are_listed_with_what_is_wrong(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(socket), "services"]) == 0
    head, other, watch = capsys.readouterr().out.splitlines()
    assert head.split() == ["service", "version", "state", "since", "restarts", "memory", "keeps"]
    assert other.split()[:3] == ["other", "2.0", "running"]
    assert other.rstrip().endswith("2048 KiB  -")
    assert watch.rstrip().endswith("ended by signal 11; runs as ours")
    assert main(["--socket", str(socket), "services", "--json"]) == 0
    assert [one["pid"] for one in json.loads(capsys.readouterr().out)] == [77, 0]


def test_a_log_is_shown_without_what_would_steer_the_terminal(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(socket), "services", "log", "watch"]) == 0
    shown = capsys.readouterr().out
    assert "watch says" in shown
    assert "\x1b" not in shown
    assert main(["--socket", str(socket), "services", "log", "watch", "--limit", "1"]) == 0
    assert capsys.readouterr().out == "two\n"
    assert main(["--socket", str(socket), "services", "log", "none"]) == EXIT_REFUSED
    assert "there are: other, watch" in capsys.readouterr().err
