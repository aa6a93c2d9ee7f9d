"""dcuctl: readable answers, the same as JSON, and an exit code that says what is wrong."""

from __future__ import annotations

import getpass
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.cli import show
from agent.cli.__main__ import EXIT_NOT_RUNNING, EXIT_REFUSED, main
from agent.daemon.control import ControlError, ControlServer

NOW = 1_800_000_000.0

METER = {
    "meter_id": "KEP0001", "port": "plc0", "address": 5, "state": "read", "joined": NOW - 5000,
    "last_success": NOW - 30, "last_attempt": NOW - 30, "last_error": "",
}  # fmt: skip
QUEUE = {
    "records": 12, "oldest": NOW - 7200, "forwarded": 5000, "last_uplink": NOW - 7300, "last_error": "no route",
    "lost": 3, "refused": 0,
}  # fmt: skip
SINK = {
    "name": "mqtt", "per_min": 480, "last_delivery": NOW - 3, "last_error": "", "failures": 0, "again_in_s": 0.0,
    "backlog_per_min": 0, "backlog_in_s": 0.0, "waiting": 5, "missed": 40,
}  # fmt: skip
SINKS = [{**SINK, "name": "head-end", "waiting": 12, "missed": 3, "backlog_per_min": 6000, "backlog_in_s": 17.2}, SINK]
SLOTS = [
    {"name": "A", "version": "1", "booted": True, "state": "good"},
    {"name": "B", "version": "", "booted": False, "state": "empty"},
]
SESSION = {
    "started": NOW - 61, "ended": NOW - 60, "trigger": "push", "session_id": "1A", "messages": 3, "commands": 5,
    "result": "ok",
}  # fmt: skip
TASK = {
    "state": "idle", "last_run": int(NOW) - 300, "next_run": int(NOW) + 600, "last_result": "1 of 2 read, 1 silent",
    "local": "", "times": "every 900 s", "windows": "", "selection": "all", "meters": 2, "waiting": [], "left_out": [],
}  # fmt: skip
GAPS = [
    {"meter": "KEP0001", "task": "billing", "profile": "", "first": 1799978400, "last": 1799998200, "every": 900,
     "reason": "concentrator-off", "slots": 23, "going_on": False},
    {"meter": "KEP0002", "task": "billing", "profile": "1.0.99.1.0.255", "first": 1799978400, "last": 1799998200,
     "every": 900, "reason": "meter-silent", "slots": 23, "going_on": True},
]  # fmt: skip
EVENT = {
    "received": 1799978400.0, "meter": "KEP0001", "sender": "plc0/5", "event": "push", "code": 40, "grave": True,
    "name": "terminal cover removed", "security": "both", "meter_time": "2027-01-15T02:00:00Z", "error": None,
}  # fmt: skip
STRANGER = {**EVENT, "meter": "", "code": None, "grave": False, "name": "", "security": "unopened", "error": "no keys",
            "meter_time": None}  # fmt: skip
EVENTS = {"events": [EVENT, STRANGER], "repeated": 3, "too_many": 0, "refused": 0, "replayed": 1}
CHECK = {"ok": True, "at": NOW - 1, "detail": "plc0"}
STATUS = {
    "device_id": "urn:dcu:1", "fw_version": "2", "sw_version": "0.1.0", "started": NOW - 86_400, "now": NOW,
    "clock_trusted": True, "update_state": "idle", "workers": ["dm"], "beats": {"dm": 0.2},
    "dm": {"state": "registered", "server_id": "head", "server_url": "https://h/dm", "error": "",
           "last_session": SESSION},
    "meters": [METER, {**METER, "meter_id": "KEP0002", "state": "failing", "last_error": "no answer in time"}],
    "warnings": [], "queue": QUEUE, "slots": SLOTS, "tasks": {"billing": TASK}, "health": {"meter_port": CHECK},
}  # fmt: skip


class Daemon:
    """The daemon's control server with answers of the test."""

    def __init__(self, path: Path) -> None:
        self.asked: list[Mapping[str, object]] = []
        self.answers: dict[str, Any] = {
            "status": STATUS,
            "meters": STATUS["meters"],
            "queue": {**QUEUE, "store": "ab" * 16, "kept": 7, "sinks": SINKS},
            "tasks": {"billing": TASK},
            "health": {"meter_port": CHECK},
            "session": {"asked": True},
            "update": {"state": "idle", "progress": 0, "slots": SLOTS, "result": None},
            "forget-meter": {"forgotten": ["KEP0001"]},
            "gaps": {"total": 2, "gaps": GAPS},
            "give-up": {"closed": 2},
            "events": EVENTS,
        }
        self.path = path
        self.stop = threading.Event()
        ready = threading.Event()
        self.server = server = ControlServer(path, {name: self._handler(name) for name in self.answers})
        self.thread = threading.Thread(target=server.run, args=(self.stop, ready.set))
        self.thread.start()
        assert ready.wait(10)

    def _handler(self, name: str) -> Callable[[Mapping[str, object]], object]:
        def handle(request: Mapping[str, object]) -> object:
            self.asked.append(request)
            answer = self.answers[name]
            answer = answer.pop(0) if isinstance(answer, list) and name == "update" else answer
            if isinstance(answer, ControlError):
                raise answer
            return answer

        return handle

    def end(self) -> None:
        self.stop.set()
        self.server.wake()
        self.thread.join(10)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("run") / "control.sock")
    yield daemon
    daemon.end()


@pytest.fixture
def daemon(running: Daemon) -> Iterator[Daemon]:
    before = dict(running.answers)
    running.asked.clear()
    yield running
    running.answers.update(before)


def run(daemon: Daemon, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["--socket", str(daemon.path), *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_tasks_are_shown_in_their_local_time_with_the_meters_that_are_not_in_them(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TASK | {
        "local": "2026-11-22 11:10:00+01:00", "times": "10 11 * * * (CET-1)", "windows": "", "selection": "groups two",
        "meters": 1, "waiting": [["m2", "its name is not known yet"]], "left_out": [["m3", "it is not in group two"]],
    }  # fmt: skip
    daemon.answers["tasks"] = {"billing": task}
    _, shown, _ = run(daemon, capsys, "tasks")
    assert "2026-11-22 11:10:00+01:00 (" in shown
    assert "billing  10 11 * * * (CET-1)  any time  groups two       1" in shown
    assert "billing  m2     waits      its name is not known yet" in shown
    assert "billing  m3     not in it  it is not in group two" in shown


def test_status_shows_device_account_session_meters_queue_and_slots(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(daemon, capsys, "status")
    assert code == 0
    for text in (
        "device        urn:dcu:1",
        "firmware      2",
        "account       head at https://h/dm",
        "last session  2027-01-15 07:59:00Z (60 s ago), push, 3 messages, ok",
        "meters        2: 1 failing, 1 read",
        "12 readings wait, the oldest since 2 h; 5000 delivered, 3 lost; no route",
        "health        all good",
        "A     1        good   booted",
        "billing",
        "1 of 2 read, 1 silent",
    ):
        assert text in out, text


def test_json_gives_the_same(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "meters", "queue", "tasks", "health"):
        code, out, _ = run(daemon, capsys, command, "--json")
        assert code == 0
        assert json.loads(out) == daemon.answers[command]


def test_a_refusal_by_the_security_server_is_said(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"state": "refused", "server_id": "", "server_url": "", "last_session": None,
               "error": "refused by the security server: unknown device or wrong key"}  # fmt: skip
    daemon.answers["status"] = {**STATUS, "dm": refused, "meters": [], "tasks": {}, "slots": []}
    _, out, _ = run(daemon, capsys, "status")
    assert "account       refused: refused by the security server: unknown device or wrong key" in out
    assert "last session  none yet" in out
    assert "meters        0\n" in out


def test_meters_are_a_table(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(daemon, capsys, "meters")
    head, first, second = out.splitlines()
    assert head.split() == ["meter", "model", "port", "address", "state", "last", "read", "error"]
    assert first.startswith("KEP0001  -      plc0        5  read")
    assert second.endswith("no answer in time")


def test_gaps_are_ranges_with_a_reason(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(daemon, capsys, "gaps", "--meter", "KEP0001", "--limit", "5")
    assert code == 0
    assert daemon.asked == [{"command": "gaps", "meter": "KEP0001", "limit": 5, "peer": getpass.getuser()}]
    head, first, second = out.splitlines()
    assert head.split() == ["meter", "task", "first", "last", "slots", "reason"]
    assert first.split() == ["KEP0001", "billing", *["2027-01-15", "02:00:00Z", "2027-01-15", "07:30:00Z", "23"],
                             "concentrator-off"]  # fmt: skip
    assert second.split()[1:5] == ["1.0.99.1.0.255", "2027-01-15", "02:00:00Z", "goes"]
    daemon.answers["gaps"] = {"total": 0, "gaps": []}
    assert run(daemon, capsys, "gaps")[1] == "nothing is missing\n"
    daemon.answers["gaps"] = {"total": 9, "gaps": GAPS}
    assert run(daemon, capsys, "gaps")[1].endswith("2 of 9 gaps\n")


def test_events_are_shown_with_what_was_not_kept(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(daemon, capsys, "events", "--limit", "5")
    assert code == 0
    assert daemon.asked == [{"command": "events", "limit": 5, "peer": getpass.getuser()}]
    head, first, second, not_kept = out.splitlines()
    assert head.split()[:4] == ["received", "meter", "known", "by"]
    assert "KEP0001" in first
    assert "terminal cover removed" in first
    assert "alarm" in first
    assert "unknown (plc0/5)" in second
    assert "no keys" in second
    assert not_kept == "not kept since the start: 3 sent again by their meters, 1 replayed"
    daemon.answers["events"] = {"events": [], "repeated": 0, "too_many": 0, "refused": 0, "replayed": 0}
    assert run(daemon, capsys, "events")[1] == "no events\n"


def test_gaps_are_given_up_for_a_reason(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(daemon, capsys, "gaps", "give-up", "KEP0001")[0] == 2
    assert run(daemon, capsys, "gaps", "give-up", "KEP0001", "--why", "dark house")[:2] == (0, "2 gaps closed\n")
    assert daemon.asked == [
        {"command": "give-up", "meter": "KEP0001", "task": "", "why": "dark house", "peer": getpass.getuser()}
    ]


def test_status_says_what_the_clock_rests_on_and_how_many_gaps_there_are(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = {"wall": NOW, "trusted": True, "source": "server", "age_s": 30.0, "why": ""}
    daemon.answers["status"] = {**STATUS, "clock": judged, "gaps": {"open": 3, "going_on": 1}}
    out = run(daemon, capsys, "status")[1]
    assert "clock         2027-01-15 08:00:00Z (by server, 30 s ago)" in out
    assert "gaps          3, 1 of them go on; `dcuctl gaps` lists them" in out
    judged |= {"trusted": False, "why": "7200 s ahead of what kernel said"}
    daemon.answers["status"] = {**STATUS, "clock_trusted": False, "clock": judged, "gaps": None}
    assert "(not trusted: 7200 s ahead of what kernel said)" in run(daemon, capsys, "status")[1]


def test_status_has_a_line_for_each_port_with_why_and_since_when_it_does_not_work(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    port = {"port": "plc0", "where": "/dev/ttyS1", "works": True, "problem": "", "excused": False, "since": NOW - 60}
    gone = {**port, "port": "bus1", "where": "tcp://h:1", "works": False, "problem": "refused", "since": NOW - 7200}
    daemon.answers["status"] = {**STATUS, "ports": [port, gone, {**gone, "port": "bus2", "excused": True}]}
    out = [" ".join(line.split()) for line in run(daemon, capsys, "status")[1].splitlines()]
    assert "plc0 /dev/ttyS1 works 2027-01-15 07:59:00Z (60 s ago)" in out
    assert "bus1 tcp://h:1 DOES NOT WORK 2027-01-15 06:00:00Z (2 h ago) refused" in out
    assert "bus2 tcp://h:1 not proven 2027-01-15 06:00:00Z (2 h ago) refused" in out


def test_a_meter_can_be_forgotten(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(daemon, capsys, "meters", "forget", "KEP0001")[:2] == (0, "forgotten: KEP0001\n")
    assert daemon.asked == [{"command": "forget-meter", "meter": "KEP0001", "peer": getpass.getuser()}]


def test_the_queue_says_of_each_sink_what_waits_its_pace_and_what_it_missed(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(daemon, capsys, "queue")[1].splitlines()
    head, first, second = (line.split("  ") for line in shown[-3:])
    assert [cell.strip() for cell in head if cell] == [
        "sink", "waiting", "per min", "pace", "missed", "last delivery", "error",
    ]  # fmt: skip
    cells = [cell.strip() for cell in first if cell]
    assert cells[:5] == ["head-end", "12", "480", "fresh at once, backlog in 17 s at 6000 per min", "3"]
    cells = [cell.strip() for cell in second if cell]
    assert cells[:5] == ["mqtt", "5", "480", "at once", "40"]


def test_a_sink_that_fails_says_so_and_when_it_goes_on(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    failing = {**SINK, "failures": 4, "again_in_s": 33.0, "last_error": "the broker does not answer"}
    daemon.answers["queue"] = {**daemon.answers["queue"], "sinks": [failing]}
    last = run(daemon, capsys, "queue")[1].splitlines()[-1]
    assert "4 failures, again in 33 s" in last
    assert last.endswith("the broker does not answer")


def test_queue_session_and_update_answer(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert "waiting        12 readings" in run(daemon, capsys, "queue")[1]
    assert "a session was asked for" in run(daemon, capsys, "session")[1]
    assert "no update under way" in run(daemon, capsys, "update", "status")[1]


def test_an_update_can_be_followed_to_its_end(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.follow.FOLLOW_S", 0.0)
    result = {"name": "ok", "fumo": 200, "from_version": "1", "to_version": "2", "message": ""}
    step = {"state": "writing", "progress": 40, "slots": SLOTS, "result": None, "to_version": "2"}
    waits = {"state": "idle", "progress": 0, "slots": SLOTS, "result": None}
    daemon.answers["update"] = [
        {**waits, "job": "downloading", "download": {"have": 1_200_000, "total": 4_800_000}},
        {**waits, "job": "verifying", "download": None},
        {**waits, "job": "handed over", "download": None},
        step,
        step,
        {**step, "progress": 80},
        {**step, "state": "trial", "attempts": 1},
        {**step, "state": "idle", "result": result},
    ]
    code, out, _ = run(daemon, capsys, "update", "status", "--follow")
    assert code == 0
    assert out.splitlines()[:7] == [
        "downloading, 25 %, 1.2 of 4.8 MB",
        "verifying",
        "handed over, waits for the reboot",
        "writing, version 2, 40 %",
        "writing, version 2, 80 %",
        "trial, version 2, attempt 1",
        "no update under way",
    ]
    assert "last result  ok (200), not yet reported" in out


def test_while_the_agent_does_not_run_the_update_agents_file_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "status.json"
    document = {
        "version": 1, "state": "writing", "progress": 40, "booted": "A", "error": "", "last": None,
        "slots": [{"name": "A", "version": "1", "state": "good"}, {"name": "B", "version": "", "state": "bad"}],
        "update": {"id": "x", "to_version": "2", "attempts": 0},
    }  # fmt: skip
    file.write_text(json.dumps(document))
    asking = ["--socket", str(tmp_path / "none"), "update", "status", "--file", str(file)]
    assert main(asking) == 0
    out = capsys.readouterr().out
    assert out.startswith("writing, version 2, 40 %\n")
    assert "dcu-agent does not run" in out
    assert main([*asking, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to_version"] == "2"

    looks: list[object] = []

    def later(_: float) -> None:
        looks.append(None)
        if len(looks) == 1:
            file.unlink()  # the agent starts: for a moment there is nobody, and then the end
        else:
            file.write_text(json.dumps(document | {"state": "idle", "last": {"name": "ok", "message": "runs"}}))

    monkeypatch.setattr("agent.cli.follow.time.sleep", later)
    assert main([*asking, "--follow"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("writing, version 2, 40 %\nno update under way\n")
    assert "ok: runs" in out


def test_a_terminal_gets_one_line_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.cli.follow import CLEAR_LINE, Following

    found = {"state": "writing", "progress": 50, "slots": [], "result": None, "to_version": "2"}
    answers = [found, found, {**found, "progress": 75}, {**found, "state": "idle"}]
    monkeypatch.setattr("agent.cli.follow.time.sleep", lambda _: None)
    Following(lambda: answers.pop(0), live=True, as_json=False).run(follow=True)
    assert capsys.readouterr().out == (
        f"{CLEAR_LINE}writing, version 2, 50 %  [############............]"
        f"{CLEAR_LINE}writing, version 2, 75 %  [##################......]"
        f"{CLEAR_LINE}no update under way\n"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"state": 5, "slots": {}, "update": 7, "last": 1}', "\x00"])
def test_a_status_file_that_cannot_be_read_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "status.json").write_text(content)
    code = main(["--socket", str(tmp_path / "none"), "update", "status", "--file", str(tmp_path / "status.json")])
    assert code in (0, EXIT_NOT_RUNNING)
    assert "dcu-agent does not run" in "".join(capsys.readouterr())


def test_a_failed_check_is_an_exit_code(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["health"] = {"storage": {"ok": False, "at": NOW, "detail": "disk full"}}
    with pytest.raises(SystemExit) as ended:
        run(daemon, capsys, "health")
    assert ended.value.code == EXIT_REFUSED
    assert "NOT OK" in capsys.readouterr().out


def test_what_the_daemon_refuses_is_said_with_exit_code_1(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["session"] = ControlError("the device is not registered yet")
    code, out, err = run(daemon, capsys, "session")
    assert (code, out, err) == (EXIT_REFUSED, "", "dcuctl: the device is not registered yet\n")


def test_without_a_daemon_the_exit_code_is_3_and_the_reason_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--socket", str(tmp_path / "none"), "status"]) == EXIT_NOT_RUNNING
    assert f"dcu-agent does not run (no socket {tmp_path / 'none'})" in capsys.readouterr().err
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    monkeypatch.setenv("DCU_CONTROL_SOCKET", str(tmp_path / "dead"))
    assert main(["status"]) == EXIT_NOT_RUNNING
    assert "nobody listens" in capsys.readouterr().err


def test_wrong_usage_has_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "No such command" in capsys.readouterr().err
    assert main(["--help"]) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s ago"), (-5, "in 5 s"), (600, "10 min ago"), (7200, "2 h ago"), (10 * 86_400, "10 d ago")],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert show.age(seconds) == text


def test_never_is_never() -> None:
    assert show.when(0.0, NOW) == "never"
