"""`dcuctl queue refused` from end to end: a head-end that refuses, the store, the control socket, the program."""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.__main__ import EXIT_REFUSED, main
from agent.cli.client import NotRunningError, RefusedError, ask
from agent.daemon.control import ControlServer
from agent.daemon.diagnostics import status_picture
from agent.daemon.health import Health
from agent.daemon.views.daemon import QUEUE_WARNING_S, Views
from agent.metering.collector import Collector
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.metering.registry.registry import Registry
from agent.metering.scheduling.readinglist import ReadingLists
from agent.metering.store.reading_store import REFUSED_MAX, Store
from agent.ota.handover import HandOver
from agent.settings.config import MeteringConfig
from agent.status import DmStatus, SessionSummary, Status, StatusBoard
from omadm.readings import Raw
from tests.agent.metering.readings import reading
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk


def metering(folder: Path) -> MeteringConfig:
    return MeteringConfig(
        reading_lists_dir=folder,
        store_file=folder / "readings.db",
        registry_file=folder / "meters.json",
        store_records_max=1_000_000,
        store_keep_forwarded_max=0,
        parallel_max=1,
        retries_max=0,
        retry_backoff_s=1.0,
        visit_timeout_s=1.0,
        catch_up_s=1,
        leave_after_s=1.0,
        pdu_size=1024,
        profile_first_s=1,
        meter_utc_offset_min=None,
        uplink_backoff_min_s=1.0,
        uplink_backoff_max_s=1.0,
    )


class Daemon:
    """A store with its views behind the real control socket."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        config, disk = metering(folder), RealDisk()
        self.store = Store(config.store_file, self.clock, records_max=1_000_000, keep_forwarded_max=0)
        registry = Registry(disk, config.registry_file, self.clock, leave_after_s=1.0)
        collector = Collector(
            (),
            config,
            store=self.store,
            registry=registry,
            orders=OrderBook(Journal(disk, folder / "orders"), self.clock, allowed=(), known=registry.names),
            lists=ReadingLists(folder, folder),
            clock=self.clock,
            rng=random.Random(1),
            open_bridge=lambda _: pytest.fail("there is no port"),
        )
        self.registry = registry
        self.views = views = Views(
            board=StatusBoard(Status(device_id="urn:dcu:1")),
            store=self.store,
            collector=collector,
            health=Health(folder / "run", folder / "boot_id", self.clock),
            handover=HandOver(disk, folder / "update"),
            clock=self.clock,
            session_now=lambda _: None,
            ages=dict,
        )
        self.socket = folder / "control.sock"
        self._server = ControlServer(self.socket, views.handlers())
        self._stop = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._server.run, args=(self._stop, ready.set))
        self._thread.start()
        assert ready.wait(10)

    def refuse(self, meter: str, why: str, raw: Raw = 5) -> None:
        """One reading that the head-end will not take."""
        self.store.append([replace(reading(1, meter), raw=raw)])
        batch = self.store.batch(1)
        assert batch is not None
        self.store.refuse(batch, why)

    def end(self) -> None:
        self._stop.set()
        self._server.wake()
        self._thread.join(10)
        self.store.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path)
    yield running
    running.end()


def run(daemon: Daemon, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["--socket", str(daemon.socket), *arguments])
    return code, capsys.readouterr().out


def test_a_server_reads_the_status_that_dcuctl_shows_without_the_list_of_meters(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.registry.join("plc0", 2)
    shown = json.loads(run(daemon, capsys, "status", "--json")[1])
    assert [meter["state"] for meter in shown.pop("meters")] == ["joined"]
    assert (shown["device_id"], shown["gaps"]) == ("urn:dcu:1", {"open": 0, "going_on": 0})
    assert json.loads(json.dumps(status_picture(daemon.views))) == shown


def test_status_warns_of_meters_that_do_not_take_their_keys_until_they_do(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    meter, other = daemon.registry.join("plc0", 2), daemon.registry.join("plc0", 3)
    daemon.registry.note_keys(meter.key, 3, "gmac, suite 0, both, client 1")
    for one in (meter, other):
        daemon.registry.attempted(one.key, "something is wrong")
    assert "meters that do not take their keys: 1" in run(daemon, capsys, "status")[1]
    daemon.registry.attempted(meter.key)
    assert "keys" not in run(daemon, capsys, "status")[1]


def test_without_a_refusal_nothing_is_listed_and_nobody_is_warned(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, capsys, "queue", "refused") == (0, "no reading was refused\n")
    assert "warning" not in run(daemon, capsys, "status")[1]


def test_refused_readings_are_listed_newest_first_with_meter_code_and_reason(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.refuse("KEP0001", "unknown unit", raw=7)
    daemon.clock.now += 60.0
    daemon.refuse("KEP0002", "too old", raw="abc")
    code, out = run(daemon, capsys, "queue", "refused")
    head, newest, oldest, total = out.splitlines()
    assert code == 0
    assert head.split() == ["refused", "meter", "attribute", "value", "why"]
    assert "KEP0002" in newest
    assert newest.endswith('"abc"  too old')
    assert "KEP0001" in oldest
    assert "3/1.0.1.8.0.255/2" in oldest
    assert oldest.endswith("7      unknown unit")
    assert total == "2 of 2 refused readings"


def test_as_json_every_entry_says_when_which_and_why(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.refuse("KEP0001", "unknown unit", raw=7)
    found = json.loads(run(daemon, capsys, "queue", "refused", "--json")[1])
    (entry,) = found["readings"]
    assert found["total"] == 1
    assert entry == {
        "id": 1, "refused_at": daemon.clock.wall(), "why": "unknown unit", "task": "t1", "meter": "KEP0001",
        "cls": 3, "obis": "1.0.1.8.0.255", "attr": 2, "tag": "u32", "received": 1_800_000_000.25,
        "value": "7", "store": daemon.store.file.sign.store, "sink": "head-end",
    }  # fmt: skip


def test_the_status_counts_and_warns_until_the_last_refusal_is_a_week_old(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.refuse("KEP0001", "unknown unit")
    daemon.refuse("KEP0002", "unknown unit")
    out = run(daemon, capsys, "status")[1]
    assert "0 delivered, 2 refused" in out
    assert "warning       the head-end refused 2 readings for good: `dcuctl queue refused` has the reasons" in out
    status = json.loads(run(daemon, capsys, "status", "--json")[1])
    assert status["queue"]["refused_at"] == daemon.clock.wall()
    daemon.clock.now += QUEUE_WARNING_S
    out = run(daemon, capsys, "status")[1]
    assert "warning" not in out
    assert "2 refused" in out


def test_a_refusal_is_logged_with_its_event_meter_and_code(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        daemon.refuse("KEP0001", "unknown unit")
    (line,) = [entry for entry in caplog.records if getattr(entry, "event", "") == "store.refused"]
    assert line.getMessage() == (
        "record 1 (meter KEP0001, 3/1.0.1.8.0.255/2) was refused by the head-end for good: unknown unit"
    )


def test_what_is_shown_is_bounded(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        daemon.refuse(f"KEP{number:04}", "no", raw="x" * 5000)
    out = run(daemon, capsys, "queue", "refused")[1]
    assert len(out.splitlines()) == 22
    assert out.endswith("20 of 25 refused readings\n")
    assert max(map(len, out.splitlines())) < 250
    assert len(run(daemon, capsys, "queue", "refused", "--limit", "3")[1].splitlines()) == 5
    for wrong in (0, REFUSED_MAX + 1, "3", True, None):
        with pytest.raises(RefusedError, match="limit is 1 to 1000"):
            ask(daemon.socket, "refused", limit=wrong)


def test_a_head_end_cannot_draw_on_the_terminal(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.refuse("KEP0001", "\x1b[2Jwrong\nline")
    assert run(daemon, capsys, "queue", "refused")[1].splitlines()[1].endswith("?[2Jwrong?line")


def test_refusals_of_an_older_version_and_damaged_ones_are_listed_without_their_time(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(1, json.dumps({"id": 1, "meter": "KEP0001"}), "old"), (2, "{", "torn"), (3, "[]", "odd")]
    daemon.store.file.run(lambda db, _: db.executemany("INSERT INTO refused VALUES (?, ?, ?)", rows))
    lines = run(daemon, capsys, "queue", "refused")[1].splitlines()[1:4]
    assert [line.split()[0] for line in lines] == ["-", "-", "-"]
    assert [line.split()[-1] for line in lines] == ["odd", "torn", "old"]


def test_a_store_that_cannot_be_read_is_said(daemon: Daemon, tmp_path: Path) -> None:
    daemon.store.close()
    (tmp_path / "readings.db").unlink(missing_ok=True)
    (tmp_path / "readings.db").mkdir()
    assert main(["--socket", str(daemon.socket), "queue", "refused"]) == EXIT_REFUSED


# --- the other commands, where they cannot do what was asked ------------------------------------------------------


def test_a_session_cannot_be_asked_for_before_the_device_is_registered(daemon: Daemon) -> None:
    with pytest.raises(RefusedError, match="not registered yet"):
        ask(daemon.socket, "session")


@pytest.mark.parametrize("meter", ["KEP0404", 7, None])
def test_a_meter_that_is_not_known_cannot_be_forgotten(daemon: Daemon, meter: object) -> None:
    with pytest.raises(RefusedError, match=f"no meter {meter}"):
        ask(daemon.socket, "forget-meter", meter=meter)


def test_update_files_that_cannot_be_read_are_said(daemon: Daemon, tmp_path: Path) -> None:
    assert ask(daemon.socket, "update")["result"] is None
    (tmp_path / "update").write_text("a file where a folder belongs")
    with pytest.raises(RefusedError, match="the Update Agent's files"):
        ask(daemon.socket, "update")


def test_what_the_update_agent_cannot_do_is_said_though_no_update_is_under_way(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    why = "environment (64): no copy of the boot environment has a good checksum"
    daemon.views._board.publish(update_error=why)
    assert json.loads(run(daemon, capsys, "status", "--json")[1])["warnings"] == [f"the Update Agent: {why}"]
    (tmp_path / "update").mkdir(exist_ok=True)
    (tmp_path / "update" / "status.json").write_text(json.dumps({"version": 1, "state": "idle", "error": why}))
    shown = run(daemon, capsys, "update", "status")[1]
    assert shown.splitlines()[0] == "no update under way"
    assert f"error  {why}" in shown


def test_times_of_before_the_clock_was_put_right_are_shown_by_the_clock_of_now(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = daemon.clock
    right, clock.wall_offset = clock.wall_offset, -clock.now  # 1970
    began, at = clock.wall(), clock.monotonic()
    last = SessionSummary(began + 1, began + 3, "boot", "1", 1, 0, "ok", up=at + 3)
    daemon.views._board.publish(started=began, up=at, dm=DmStatus("registered", last_session=last))
    clock.wall_offset = right
    clock.advance(60)
    shown = json.loads(run(daemon, capsys, "status", "--json")[1])
    session = shown["dm"]["last_session"]
    now = clock.wall()
    assert [now - each for each in (shown["started"], session["started"], session["ended"])] == [60, 59, 57]


def test_readings_that_may_be_lost_are_not_called_none(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = replace(daemon.store.stats(), lost=0, lost_at=daemon.clock.wall())
    monkeypatch.setattr(daemon.store, "stats", lambda: stats)
    (warning,) = json.loads(run(daemon, capsys, "status", "--json")[1])["warnings"]
    assert warning.startswith("readings may be lost, how many is not known")


def test_a_path_that_is_no_socket_is_told_from_a_daemon_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="does not run"):
        ask(tmp_path / "nothing.sock", "status")
    with pytest.raises(NotRunningError, match="too long"):
        ask(tmp_path / ("x" * 200), "status")


def test_an_answer_that_is_cut_short_is_none(tmp_path: Path) -> None:
    path = tmp_path / "half.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b'{"ok": tr')

        thread = threading.Thread(target=half)
        thread.start()
        with pytest.raises(NotRunningError, match="cut short"):
            ask(path, "status")
        thread.join(10)


def test_what_another_sink_did_not_take_is_listed_and_warned_of_and_is_not_the_head_ends(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.refuse("KEP0001", "unknown unit")
    daemon.store.add_sink("mqtt")
    daemon.store.append([reading(1, "KEP0002")])
    batch = daemon.store.sink_batch("mqtt", 9)
    assert batch is not None
    why = "the broker refuses dcu/x/readings/KEP0002: Not authorized (0x87)"
    daemon.store.sink_done("mqtt", batch.store, batch.last, 1, [(batch.records[0], why)])
    found = json.loads(run(daemon, capsys, "queue", "refused", "--json")[1])
    assert found["total"] == 2
    assert [(each["sink"], each["meter"]) for each in found["readings"]] == [
        ("mqtt", "KEP0002"),
        ("head-end", "KEP0001"),
    ]
    assert f"mqtt: {why}" in run(daemon, capsys, "queue", "refused")[1]
    shown = json.loads(run(daemon, capsys, "status", "--json")[1])
    assert shown["warnings"] == [
        "the head-end refused 1 readings for good: `dcuctl queue refused` has the reasons",
        f"mqtt did not take 1 readings, the last one since {why}: `dcuctl queue refused` lists them",
    ]
    assert shown["queue"]["refused"] == 1
    daemon.clock.advance(QUEUE_WARNING_S + 1)
    assert json.loads(run(daemon, capsys, "status", "--json")[1])["warnings"] == []
