"""A device that has lost its provisioning is provisioned again, with what the operator's jobs have left there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from headend.db import create_tables
from headend.dm import accounts, tables
from headend.dm.jobs import desired, queue
from headend.dm.jobs.steps import Done, Failed
from headend.metering import readings
from headend.sealing import columns
from headend.security.service import install_account
from omadm.readings import TOKEN_NODE
from tests.headend.database import open_database

DEVICE = "urn:dcu:KR-000001"
TASK = {"every": 900, "reading_list": "load"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path / "dm.db")
    create_tables(engine)
    yield engine
    engine.dispose()


def register(connection: Connection) -> None:
    account = accounts.draft(DEVICE, server_id="headend", url="https://headend/dm")
    install_account(connection, DEVICE, account, "", 1.0)


def done(connection: Connection, kind: str, outcome: Done | Failed | None = None, **params: Any) -> None:
    number = queue.enqueue(connection, DEVICE, kind, params, now=1.0)
    queue.finish(connection, number, outcome or Done({}), 2.0)


def waiting(connection: Connection) -> list[tuple[str, Any]]:
    rows = connection.execute(tables.jobs.select().where(tables.jobs.c.state == "queued").order_by(tables.jobs.c.id))
    opened = [columns.unseal(connection, tables.jobs, row) for row in rows.all()]
    return [(row["kind"], row["params"]) for row in opened]


def node(path: str, value: object) -> dict[str, object]:
    return {"path": path, "value": value}


def test_a_device_that_registers_anew_gets_what_was_set_last_and_nothing_that_was_deleted(engine: Engine) -> None:
    with engine.begin() as connection:
        register(connection)
        done(connection, "provision", nodes=[node("./A/B", 1), node("./A/C", "x"), node("./D/E", 2)])
        done(connection, "provision", nodes=[node("./A/B", 7), {"path": "./D", "delete": True}])
        done(connection, "provision", Failed({}), nodes=[node("./F/G", 3)])
        assert waiting(connection) == []
        register(connection)
        ((kind, params),) = waiting(connection)
    assert kind == "provision"
    assert {entry["path"]: entry["value"] for entry in params["nodes"]} == {"./A/B": "7", "./A/C": "x"}


def test_tasks_come_back_before_what_was_set_in_them_later(engine: Engine) -> None:
    with engine.begin() as connection:
        register(connection)
        done(connection, "provision", nodes=[node("./SCHED/Task/load/Setting/Every", 5)])
        done(connection, "tasks", tasks={"load": TASK, "old": TASK}, zone="UTC0")
        done(connection, "tasks", tasks={"old": None})
        done(connection, "provision", nodes=[node("./SCHED/Task/load/Setting/Priority", 3)])
        register(connection)
        found = waiting(connection)
    assert [kind for kind, _ in found] == ["tasks", "provision"]
    assert (list(found[0][1]["tasks"]), found[0][1]["zone"]) == (["load"], "UTC0")
    assert [entry["path"] for entry in found[1][1]["nodes"]] == ["./SCHED/Task/load/Setting/Priority"]


def test_secrets_are_not_kept_the_token_is_issued_anew_and_the_others_are_named(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        register(connection)
        secrets = [node(TOKEN_NODE, "first token"), node("./AMI/Access/a/Password", "hush"), node("./A/B", 1)]
        done(connection, "provision", nodes=secrets)
        kept = connection.execute(desired.desired.select()).all()
        assert "first token" not in str(kept)
        assert "hush" not in str(kept)
        register(connection)
        ((_, params),) = waiting(connection)
    values = {entry["path"]: entry["value"] for entry in params["nodes"]}
    assert set(values) == {"./A/B", TOKEN_NODE}
    assert readings.device_of_token(engine, values[TOKEN_NODE]) == DEVICE
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "dm.desired.secrets"]
    assert "./AMI/Access/a/Password" in record.getMessage()


def test_a_device_that_registers_again_and_again_gets_its_jobs_once(engine: Engine) -> None:
    with engine.begin() as connection:
        register(connection)
        done(connection, "provision", nodes=[node("./A/B", 1), node(TOKEN_NODE, "t")])
        done(connection, "tasks", tasks={"load": TASK})
        for _ in range(5):
            register(connection)
        found = [kind for kind, _ in waiting(connection)]
    assert found.count("tasks") == 1
    assert len(found) <= 3  # the first provision brings a token; the others would be without
