"""What ./DiagMon tells: logs of a time span, and pictures that one Get reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent import log
from agent.clock import SystemClock
from agent.clock_floor import ClockFloor
from agent.daemon.diagnostics import (
    LOG_BYTES_MAX,
    MEMORY_CHARS_MAX,
    FileLog,
    JournalLog,
    MemoryLog,
    clock_picture,
    storage_picture,
)
from agent.metering.store.reading_store import Store
from agent.mo.diagmon import Excerpt, Pictures
from omadm.syncml.messages import Results
from tests.agent.dm.server import FakeDmServer, execute, get, put
from tests.agent.dm_device import Device
from tests.agent.virtual import VirtualClock

COLLECT = "./DiagMon/Log/Operations/Collect"
OLD = "2026-11-22T09:00:00.000Z INFO agent.dm dm.session.end: before\n"
LINES = """2026-11-22T10:00:00.000Z INFO agent.dm dm.session.end: one
2026-11-22T10:00:01.500Z ERROR agent.dm dm.storage: two
Traceback (most recent call last):
2026-11-22T10:00:02.000Z DEBUG agent.dm: three
2026-11-22T10:00:03.000Z WARNING agent.dm: token is hunter2hunter2
"""
TEN = 1_795_341_600  # 2026-11-22T10:00:00Z


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets that other tests of this process had hidden: a key of zeros is in many a line."""
    monkeypatch.setattr(log.SECRETS, "_hidden", ())


@pytest.fixture
def files(tmp_path: Path) -> FileLog:
    (tmp_path / "dcu.log.1").write_text(OLD)
    (tmp_path / "dcu.log").write_text(LINES)
    return FileLog(tmp_path / "dcu.log")


@pytest.mark.parametrize(
    ("since", "until", "level", "wanted"),
    [
        (0, 0, "debug", ["before", "one", "two", "last):", "three", "hunter2hunter2"]),
        (0, 0, "info", ["before", "one", "two", "last):", "hunter2hunter2"]),
        (TEN, 0, "info", ["one", "two", "last):", "hunter2hunter2"]),
        (TEN + 1, TEN + 2, "debug", ["two", "last):", "three"]),
        (0, TEN, "error", []),
        (0, 0, "error", ["two", "last):"]),
    ],
)
def test_a_span_and_a_level_choose_lines_with_what_belongs_to_them(
    files: FileLog, since: int, until: int, level: str, wanted: list[str]
) -> None:
    found = files.collect(since, until, level)
    assert [line.split()[-1] for line in found.text.splitlines()] == wanted
    assert (found.lines, found.shortened) == (len(wanted), False)


def test_secrets_that_are_known_by_now_are_blotted_out(files: FileLog) -> None:
    log.hide("hunter2hunter2")
    assert files.collect(0, 0, "warning").text.splitlines()[-1].endswith("token is [secret]")


def test_of_too_many_lines_the_newest_are_told_and_that_others_are_not(tmp_path: Path) -> None:
    file = tmp_path / "dcu.log"
    file.write_text("".join(f"2026-11-22T10:00:00.000Z INFO agent: {number:0500}\n" for number in range(1000)))
    found = FileLog(file).collect(0, 0, "info")
    assert found.shortened
    assert found.text.endswith(f"{999:0500}")
    assert LOG_BYTES_MAX - 600 < len(found.text) <= LOG_BYTES_MAX


def test_the_journal_is_asked_for_what_is_wanted() -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> bytes:
        asked.append(command)
        return b"2026-11-22T10:00:00+0000 box dcu-agent[1]: INFO agent: one\n"

    found = JournalLog(run).collect(5, 9, "error")
    assert (found.lines, found.shortened) == (1, False)
    assert {"--priority=err", "--since=@5", "--until=@9", "--identifier=dcu-agent"} <= set(asked[0])


def test_without_file_and_journal_the_last_lines_are_in_memory() -> None:
    memory = MemoryLog()
    for number in range(3000):
        memory.handle(logging.LogRecord("agent", logging.INFO, "", 0, "line %d", (number,), None))
    found = memory.collect(0, 0, "info")
    assert found.text.endswith("line 2999")
    assert len(found.text) <= MEMORY_CHARS_MAX
    assert memory.collect(0, 0, "error") == Excerpt()


def device(source: FileLog | JournalLog) -> tuple[Device, FakeDmServer]:
    server = FakeDmServer()
    return Device(server, pictures=Pictures(log=source, meters=lambda: {"meters": 3})).registered(), server


def test_a_server_gets_a_log_as_a_large_object_and_a_picture_in_one_get(tmp_path: Path) -> None:
    file = tmp_path / "dcu.log"
    file.write_text("".join(f"2026-11-22T10:00:00.000Z INFO agent: {number:0500}\n" for number in range(200)))
    one, server = device(FileLog(file))
    wanted = [put("./DiagMon/Log/From", str(TEN), "int"), execute(COLLECT)]
    asks = [get("./DiagMon/Log/Data")]
    one.session(wanted, [get("./DiagMon/Log/Status/Lines", "./DiagMon/Meters")], asks, *[[]] * 10)
    assert server.codes[:4] == [200, 200, 200, 200]
    assert server.values["./DiagMon/Log/Status/Lines"] == "200"
    assert json.loads(str(server.values["./DiagMon/Meters"])) == {"meters": 3}
    items = [part for reply in server.replies if isinstance(reply, Results) for part in reply.items]
    pieces = [str(part.data) for part in items if part.source == "./DiagMon/Log/Data"]
    assert len(pieces) > 1
    assert "".join(pieces) == file.read_text().rstrip("\n")
    assert one.last_result == "ok"


def test_a_log_that_cannot_be_read_is_500_with_the_reason(tmp_path: Path) -> None:
    one, server = device(FileLog(tmp_path / "gone.log"))
    one.session([execute(COLLECT)], [get("./DiagMon/Log/Status/State", "./DiagMon/Log/Status/Error")])
    assert server.codes[0] == 500
    assert list(server.values.values()) == ["failed", "No such file or directory"]
    one.session([put("./DiagMon/Log/From", "9", "int"), put("./DiagMon/Log/To", "8", "int"), execute(COLLECT)])
    assert server.codes == [200, 200, 412]


def test_storage_and_clock_tell_what_they_know(tmp_path: Path) -> None:
    store = Store(tmp_path / "readings.db", VirtualClock(), records_max=1000, keep_forwarded_max=0)
    found = storage_picture(store, {"state": tmp_path, "lost": tmp_path / "nowhere"})
    store.close()
    assert json.loads(json.dumps(found))["store"]["pending"] == 0
    assert json.loads(json.dumps(found))["free"]["state"]["free_bytes"] > 0
    assert json.loads(json.dumps(found))["free"]["lost"] == {"error": "No such file or directory"}
    clock = SystemClock(floor=ClockFloor(1_700_000_000.0), monotonic=lambda: 50.0, system=lambda: 1000.0)
    told = json.loads(json.dumps(clock_picture(clock)))
    assert (told["trusted"], told["why"], told["up_s"]) == (False, "nothing has vouched for the time yet", 50.0)
    assert told["floor"] == {"earliest": 1_700_000_000.0, "built": 1_700_000_000.0, "set_aside": False}
