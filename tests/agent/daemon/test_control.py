"""The control socket, the health file and the reboot request."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.control import CONNECTION_S, REQUEST_BYTES_MAX, ControlError, ControlServer
from agent.daemon.health import REFRESH_S, Health
from agent.daemon.reboot import RETRY_S, UNDER_WAY_S, Rebooter


class VirtualClock:
    def __init__(self) -> None:
        self.now = 50.0
        self.epoch = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.epoch + self.now

    def trusted(self) -> bool:
        return True


def refuse(_: Mapping[str, object]) -> object:
    raise ControlError("not today")


def defect(_: Mapping[str, object]) -> object:
    raise KeyError("a mistake of ours")


HANDLERS = {"echo": lambda request: request.get("value"), "refuse": refuse, "defect": defect}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    control_path = tmp_path / "run" / "control.sock"
    control = ControlServer(control_path, HANDLERS)
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=control.run, args=(stop, ready.set))
    thread.start()
    assert ready.wait(10)
    yield control_path
    stop.set()
    control.wake()
    thread.join(10)
    assert not thread.is_alive()
    assert not control_path.exists()


def ask(path: Path, *lines: bytes) -> list[dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"".join(lines))
        client.shutdown(socket.SHUT_WR)
        data = b""
        while piece := client.recv(65536):
            data += piece
    return [json.loads(line) for line in data.splitlines()]


def test_a_request_is_answered_with_its_result(server: Path) -> None:
    assert ask(server, b'{"command":"echo","value":[1,"x"]}\n') == [{"ok": True, "result": [1, "x"]}]


def test_one_connection_may_ask_several_times(server: Path) -> None:
    answers = ask(server, b'{"command":"echo","value":1}\n{"command":"ec', b'ho","value":2}\n')
    assert [answer["result"] for answer in answers] == [1, 2]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"what\n", "the request is not JSON"),
        (b"[]\n", 'the request is an object with a "command"'),
        (b'{"command":5}\n', 'the request is an object with a "command"'),
        (b'{"command":"fly"}\n', "unknown command 'fly'; known: defect, echo, refuse"),
        (b'{"command":"refuse"}\n', "not today"),
        (b'{"command":"defect"}\n', "internal error; the daemon's log says more"),
        (b"\xff\xfe\n", "the request is not JSON"),
        (b"[" * 4000 + b"\n", "the request is not JSON"),
        (b"x" * (2 * REQUEST_BYTES_MAX) + b"\n", "the request is too long"),
    ],
)
def test_a_bad_request_gets_an_error_and_the_server_lives_on(server: Path, line: bytes, error: str) -> None:
    assert ask(server, line) == [{"ok": False, "error": error}]
    assert ask(server, b'{"command":"echo","value":1}\n')[0]["ok"] is True


@pytest.mark.parametrize("before", [b"", b" " * (REQUEST_BYTES_MAX + 1)])
def test_who_drips_bytes_is_left_when_his_time_is_over_however_lively_he_is(tmp_path: Path, before: bytes) -> None:
    clock = VirtualClock()
    drips: list[float] = []

    def monotonic() -> float:  # each look at the clock is a drip later
        clock.now += 1.0
        drips.append(clock.now)
        with contextlib.suppress(OSError):
            client.send(b" ")
        return clock.now

    control = ControlServer(tmp_path / "control.sock", HANDLERS, monotonic=monotonic)
    with control.listen() as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "control.sock"))
        client.sendall(before)
        control.serve_one(listener)
    assert CONNECTION_S <= drips[-1] - drips[0] < control.budget_s


def test_only_owner_and_group_may_ask(server: Path) -> None:
    assert stat.S_IMODE(server.stat().st_mode) == 0o660


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    with ControlServer(path, HANDLERS).listen():
        pass


def test_an_unknown_group_is_said_and_does_not_stop_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ControlServer(tmp_path / "control.sock", HANDLERS, group="no-such-group").listen():
        pass
    assert "group no-such-group" in caplog.text


# --- health.json ---


def health(tmp_path: Path, clock: VirtualClock) -> Health:
    (tmp_path / "boot_id").write_text("boot-1\n")
    return Health(tmp_path / "run", tmp_path / "boot_id", clock)


def published(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "run" / "health.json").read_text())


def test_every_check_is_published_and_not_ok_before_it_was_made(tmp_path: Path) -> None:
    health(tmp_path, VirtualClock()).tick()
    document = published(tmp_path)
    assert document["version"] == 1
    assert document["boot"] == "boot-1"
    assert {name: check["ok"] for name, check in document["checks"].items()} == {
        "agent_up": True,
        "dm_session": False,
        "key_store": False,
        "meter_port": False,
        "meters": False,
        "push": False,
        "reading_lists": False,
        "storage": False,
        "unlocked": False,
    }


def test_a_change_is_published_at_once_and_a_repetition_when_due(tmp_path: Path) -> None:
    clock = VirtualClock()
    checked = health(tmp_path, clock)
    checked.set("meter_port", ok=True, detail="plc0")
    assert published(tmp_path)["checks"]["meter_port"] == {"ok": True, "at": clock.wall(), "detail": "plc0"}
    before = clock.wall()
    clock.now += REFRESH_S / 2
    checked.set("meter_port", ok=True, detail="plc0")
    assert published(tmp_path)["checks"]["meter_port"]["at"] == before
    clock.now += REFRESH_S
    checked.set("meter_port", ok=True, detail="plc0")
    checked.tick()
    assert published(tmp_path)["checks"]["meter_port"]["at"] == clock.wall()
    assert published(tmp_path)["checks"]["agent_up"]["at"] == clock.wall()


def test_a_check_can_fail_again(tmp_path: Path) -> None:
    checked = health(tmp_path, VirtualClock())
    checked.set("storage", ok=True)
    checked.set("storage", ok=False, detail="x" * 1000)
    check = published(tmp_path)["checks"]["storage"]
    assert check["ok"] is False
    assert len(str(check["detail"])) == 200


def test_an_unwritable_run_directory_is_logged_once_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    clock = VirtualClock()
    checked = health(tmp_path, clock)
    for _ in range(3):
        clock.now += REFRESH_S
        checked.tick()
    assert caplog.text.count("cannot be written") == 1


# --- reboot ---


def rounds(rebooter: Rebooter, clock: VirtualClock, seconds: float, step: float = 1.0) -> None:
    """Let `seconds` pass, and each child come to its end between two looks."""
    for _ in range(int(seconds / step)):
        rebooter.tick()
        if rebooter.child is not None:
            rebooter.child.wait(10)
        clock.now += step


@pytest.mark.process
def test_the_reboot_command_runs_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    clock, woken = VirtualClock(), []
    mark = tmp_path / "rebooted"
    command = [sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x')"]
    rebooter = Rebooter(command, clock, lambda: woken.append(1))
    rounds(rebooter, clock, 3)
    assert not mark.exists()
    rebooter.request("update staged")
    rebooter.request("again")
    rounds(rebooter, clock, 3 * RETRY_S)
    assert mark.read_text() == "x"
    assert woken == [1]


@pytest.mark.process
def test_a_reboot_that_was_accepted_and_never_comes_is_asked_for_again(tmp_path: Path) -> None:
    clock, mark = VirtualClock(), tmp_path / "asked"
    rebooter = Rebooter([sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x')"], clock)
    rebooter.request("update staged")
    rounds(rebooter, clock, UNDER_WAY_S + 60, step=20.0)
    assert mark.read_text() == "xx"


@pytest.mark.process
def test_a_reboot_command_that_fails_is_tried_again_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    mark = tmp_path / "tried"
    command = [sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x'); raise SystemExit(3)"]
    rebooter = Rebooter(command, clock)
    rebooter.request("update staged")
    rounds(rebooter, clock, RETRY_S + 5)
    assert mark.read_text() == "xx"
    assert "ended with code 3" in caplog.text


def test_a_reboot_command_that_does_not_exist_is_logged_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rebooter = Rebooter([str(tmp_path / "none")], VirtualClock())
    rebooter.request("update staged")
    rebooter.tick()
    assert "cannot be run" in caplog.text
