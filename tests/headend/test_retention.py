"""What leaves the head-end's database by itself, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from headend import retention
from headend.config import Retention
from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.jobs.steps import Waiting
from headend.dm.server import DmServer, ServerConfig
from headend.metering import readings
from headend.retention import DAY_S, ROWS_PER_STEP, RetentionWorker, expire_jobs, prune
from headend.security import devices
from headend.software import repository as software
from tests.headend.dm_device import Device, alert

DEVICE = "urn:dcu:KR-000001"
NOW = 1_800_000_000.0
FOREVER = Retention(0, 0, 0, 0, 0)


def ago(days: float) -> float:
    return NOW - days * DAY_S


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAUSE_S", 0.0)


@pytest.fixture
def engine(database: Engine) -> Engine:
    with database.begin() as conn:
        accounts.create(conn, DEVICE, server_id="headend", url="https://headend/dm")
    return database


def count(engine: Engine, table: Any) -> int:
    with engine.begin() as conn:
        return int(conn.scalars(select(func.count()).select_from(table)).one())


def session(engine: Engine, at: float, *, alert_at: float | None = None) -> int:
    with engine.begin() as conn:
        key = conn.execute(
            insert(tables.sessions).values(
                device_id=DEVICE, session_id="1", state="done", messages=1, commands=0, started=at, updated=at
            )
        ).inserted_primary_key
        assert key is not None
        if alert_at is not None:
            row = {"device_id": DEVICE, "session": key[0], "identity": f"i{key[0]}", "code": 1226}
            conn.execute(insert(tables.alerts).values(**row, received=alert_at))
    return int(key[0])


def reading(engine: Engine, number: int, *, run: float, stored: float) -> None:
    row: dict[str, Any] = {
        "device": DEVICE, "store": "0" * 32, "id": number, "task": "t", "meter": "m", "cls": 3, "obis": "1.0.1.8.0.255",
        "attr": 2, "tag": "u32", "raw": "1", "unit_symbol": "", "received": run, "trusted": True, "run": int(run),
        "stored": stored,
    }  # fmt: skip
    with engine.begin() as conn:
        conn.execute(insert(readings.readings).values(**row))
        doubt = {name: row[name] for name in ("device", "store", "id", "run", "stored")} | {"doubt": "ahead"}
        conn.execute(insert(readings.doubtful).values(**doubt))


def fill(engine: Engine, at: float) -> None:
    session(engine, at, alert_at=at)
    store = software.PackageStore(engine, None)  # type: ignore[arg-type]
    row = {"at": at, "ended": at, "package": "p", "device": "d", "peer": "p", "status": 200, "start": 0}
    store.note_download(row | {"wanted": 1, "sent": 1})
    store.note_report("p", "d", 900, "Success", at)
    with engine.begin() as conn:
        devices.note(conn, DEVICE, "192.0.2.1", 200, "registered", at)
    reading(engine, int(at), run=at, stored=at)


KEPT = (tables.sessions, tables.alerts, software.downloads, software.reports, devices.registrations)


def test_what_is_older_than_configured_leaves_and_what_is_younger_stays(engine: Engine) -> None:
    for days in (11, 9):
        fill(engine, ago(days))
    gone = dict(prune(engine, Retention(10, 10, 10, 10, 0), NOW))
    assert gone == {table.name: 1 for table in KEPT}
    assert [count(engine, table) for table in KEPT] == [1] * len(KEPT)
    assert count(engine, readings.readings) == 2


def test_zero_keeps_for_ever(engine: Engine) -> None:
    fill(engine, ago(10_000))
    assert list(prune(engine, FOREVER, NOW)) == []
    assert [count(engine, table) for table in KEPT] == [1] * len(KEPT)


def test_readings_leave_only_where_configured_and_by_both_clocks(engine: Engine) -> None:
    reading(engine, 1, run=ago(20), stored=ago(20))
    reading(engine, 2, run=ago(20), stored=ago(1))  # delivered late
    reading(engine, 3, run=0, stored=ago(1))  # a concentrator without a clock
    reading(engine, 4, run=ago(1), stored=ago(1))
    assert list(prune(engine, Retention(), NOW)) == []
    assert dict(prune(engine, Retention(0, 0, 0, 0, 10), NOW)) == {"readings": 1, "doubtful_readings": 1}
    with engine.begin() as conn:
        for table in (readings.readings, readings.doubtful):
            assert list(conn.scalars(select(table.c.id).order_by(table.c.id))) == [2, 3, 4]


def test_a_session_stays_as_long_as_one_of_its_alerts(engine: Engine) -> None:
    kept = session(engine, ago(100), alert_at=ago(100))
    session(engine, ago(100))
    assert dict(prune(engine, Retention(90, 365, 0, 0, 0), NOW)) == {"dm_sessions": 1}
    with engine.begin() as conn:
        assert list(conn.scalars(select(tables.sessions.c.id))) == [kept]


def test_no_transaction_takes_more_rows_than_a_step(engine: Engine) -> None:
    rows = [{"at": ago(20), "device": DEVICE, "peer": "p", "code": 200, "text": "t"}] * (2 * ROWS_PER_STEP + 7)
    with engine.begin() as conn:
        conn.execute(insert(devices.registrations), rows)
    steps = list(prune(engine, Retention(0, 0, 0, 10, 0), NOW))
    assert [number for _, number in steps] == [ROWS_PER_STEP, ROWS_PER_STEP, 7]
    assert count(engine, devices.registrations) == 0


def test_nothing_old_means_no_write_lock(engine: Engine) -> None:
    fill(engine, ago(1))
    with engine.begin():
        assert list(prune(engine, Retention(), NOW)) == []
        assert list(expire_jobs(engine, 14, NOW)) == []


# -- jobs that wait ----------------------------------------------------------------------------------


def waiting(engine: Engine, since: float) -> int:
    with engine.begin() as conn:
        number = queue.enqueue(conn, DEVICE, "firmware", {"url": "https://packages.example/fw"}, now=since)
        queue.next_for(conn, DEVICE, since)
        queue.finish(conn, number, Waiting({"exec_sent": True}), since)
    return number


def shown(engine: Engine, number: int) -> dict[str, Any]:
    with engine.begin() as conn:
        found = queue.show(conn, number)
    assert found is not None
    return found


def test_a_job_whose_device_does_not_report_fails_with_a_reason(engine: Engine) -> None:
    old, young = waiting(engine, ago(15)), waiting(engine, ago(13))
    with engine.begin() as conn:
        queued = queue.enqueue(conn, DEVICE, "get", {"paths": ["./A"]}, now=ago(100))
    assert list(expire_jobs(engine, 14, NOW)) == [1]
    assert shown(engine, old)["state"] == "failed"
    assert shown(engine, old)["result"] == {"error": "the device has not reported for 14 days"}
    assert [shown(engine, number)["state"] for number in (young, queued)] == ["waiting", "queued"]


def test_a_report_that_comes_too_late_is_stored_and_changes_no_job(engine: Engine) -> None:
    number = waiting(engine, ago(15))
    list(expire_jobs(engine, 14, NOW))
    correlator = str(shown(engine, number)["correlator"])
    late = alert(correlator, "<ResultCode>200</ResultCode>")
    with engine.begin() as conn:
        row = accounts.load(conn, DEVICE)
    assert row is not None
    device = Device(DmServer(engine, ServerConfig("headend", "https://headend/dm")), accounts.from_row(row))
    device.alerts = [late]
    device.session()
    with engine.begin() as conn:
        (stored,) = conn.execute(select(tables.alerts)).all()
    assert (stored.correlator, stored.result_code) == (correlator, 200)
    assert shown(engine, number)["state"] == "failed"


def test_retention_does_all_of_it_and_ends_when_told(engine: Engine) -> None:
    number = waiting(engine, ago(15))
    fill(engine, ago(1000))
    keeper = RetentionWorker(engine, Retention(), 14, wall=lambda: NOW)
    keeper.once()
    assert shown(engine, number)["state"] == "failed"
    assert [count(engine, table) for table in KEPT] == [0] * len(KEPT)
    keeper.start()
    keeper.stop()
