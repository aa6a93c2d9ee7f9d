"""The kinds of job against a device's tree, through the real server and its database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from headend import db
from headend.db import create_tables
from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.jobs.types import JOB_TYPES, JobError
from tests.headend.database import back_to_schema_3
from tests.headend.dm.bench import DEVICE, connected, enqueue, job
from tests.headend.dm_device import Device, Tree, alert

FIRMWARE_ALERT = "org.openmobilealliance.dm.firmwareupdate.downloadandupdate"
SOFTWARE_ALERT = "urn:oma:at:scomo:1.0:OperationComplete"


@pytest.fixture
def device(engine: Engine) -> Device:
    return connected(engine)


def stored(engine: Engine) -> dict[str, object]:
    with engine.begin() as conn:
        return {row.uri: row.data if row.data is not None else row.value for row in conn.execute(select(tables.values))}


def firmware_tree(version: str = "1") -> Tree:
    return Tree(
        {
            "./DevDetail": None,
            "./DevDetail/FwV": version,
            "./FUMO": None,
            "./FUMO/Firmware": None,
            "./FUMO/Firmware/State": "10",
            "./FUMO/Firmware/DownloadAndUpdate": None,
            "./FUMO/Firmware/DownloadAndUpdate/PkgURL": "",
            "./FUMO/Firmware/Ext": None,
            "./FUMO/Firmware/Ext/BytesFetched": "1000",
            "./FUMO/Firmware/Ext/Resumes": "2",
        }
    )


# -- get -------------------------------------------------------------------------------------------


def test_get_reads_leaves_and_whole_subtrees(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None, "./A/B": None, "./A/B/C": "1", "./A/D": b"\x00\x01", "./E": "text"})
    number = enqueue(engine, "get", paths=["./A", "./E"])
    device.session()
    assert job(engine, number)["state"] == "done"
    assert job(engine, number)["result"] == {"values": 3}
    assert {"./A/B/C": "1", "./A/D": b"\x00\x01", "./E": "text"}.items() <= stored(engine).items()


def test_get_of_a_missing_path_fails_and_names_it(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./E": "text"})
    number = enqueue(engine, "get", paths=["./E", "./Nothing"])
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["refused"] == {"./Nothing": 404}
    assert stored(engine)["./E"] == "text"


def test_get_forgets_what_is_no_longer_there(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None, "./A/B": "1", "./A/C": None, "./A/C/D": "2", "./AB": "3"})
    enqueue(engine, "get", paths=["./A", "./AB"])
    device.session()
    device.tree.nodes = {"./A": None, "./A/B": "1"}
    enqueue(engine, "get", paths=["./A"])
    device.session()
    assert {uri for uri in stored(engine) if uri.startswith("./A")} == {"./A/B", "./AB"}


def test_get_of_two_hundred_leaves_in_small_messages_reads_all(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None})
    device.tree.nodes |= {f"./A/N{n}": str(n) for n in range(200)}
    device.max_msg_size = 2000
    number = enqueue(engine, "get", paths=["./A"])
    device.session()
    assert job(engine, number)["result"] == {"values": 200}


# -- provision -------------------------------------------------------------------------------------

TASK = [
    {"path": "./SCHED/Task/t1/Name", "value": "all registers"},
    {"path": "./SCHED/Task/t1/Setting/Every", "value": 900},
    {"path": "./SCHED/Task/t1/Enabled", "value": True},
]


@pytest.mark.parametrize("atomic", [False, True])
def test_provision_adds_what_is_missing_and_replaces_what_exists(
    engine: Engine, device: Device, *, atomic: bool
) -> None:
    device.tree = Tree({"./SCHED": None, "./SCHED/Task": None})
    first = enqueue(engine, "provision", nodes=TASK, atomic=atomic)
    second = enqueue(engine, "provision", nodes=TASK, atomic=atomic)
    device.session()
    assert job(engine, first)["result"] == {"replaced": 0, "added": 3, "deleted": 0}
    assert job(engine, second)["result"] == {"replaced": 3, "added": 0, "deleted": 0}
    assert device.tree.nodes["./SCHED/Task/t1/Setting/Every"] == "900"
    assert device.tree.nodes["./SCHED/Task/t1/Enabled"] == "true"


def test_provision_atomically_replaces_the_nodes_that_were_there_when_another_was_missing(
    engine: Engine, device: Device
) -> None:
    device.tree = Tree({"./SCHED": None, "./SCHED/Task": None, "./SCHED/Task/t1": None, "./SCHED/Task/t1/Name": "old"})
    number = enqueue(engine, "provision", nodes=TASK, atomic=True)
    device.session()
    assert job(engine, number)["state"] == "done"
    assert device.tree.nodes["./SCHED/Task/t1/Name"] == "all registers"


def test_provision_atomically_makes_new_nodes_or_none(engine: Engine, device: Device) -> None:
    before: dict[str, str | bytes | None] = {"./SCHED": None, "./SCHED/Task": None, "./SCHED/Old": "1", "./A": "1"}
    device.tree = Tree(dict(before), refuse={"./SCHED/Task/t1/Enabled": 425})
    nodes = [{"path": "./SCHED/Old", "delete": True}, {"path": "./A", "value": "2"}, *TASK]
    number = enqueue(engine, "provision", nodes=nodes, atomic=True)
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["refused"]["./SCHED/Task/t1/Enabled"] == 425
    assert device.tree.nodes == before
    device.tree.refuse = {}
    number = enqueue(engine, "provision", nodes=nodes, atomic=True)
    device.session()
    assert job(engine, number)["result"] == {"replaced": 1, "added": 3, "deleted": 1}
    assert "./SCHED/Old" not in device.tree.nodes


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(
    ("nodes", "there"),
    [
        ([{"path": "./A/B", "delete": True}, {"path": "./A/B", "value": "5"}], {"./A/B": "5"}),
        ([{"path": "./A/C", "value": "1"}, {"path": "./A/C", "value": "5"}], {"./A/B": "1", "./A/C": "5"}),
        ([{"path": "./A/B", "value": "4"}, {"path": "./A/B", "value": "5"}], {"./A/B": "5"}),
        ([{"path": "./A/B", "delete": True}, {"path": "./A/B", "delete": True}], {}),
        ([{"path": "./S/T/a", "delete": True}, {"path": "./S/T/a/N", "value": "2"}], {"./A/B": "1", "./S/T/a/N": "2"}),
    ],
)
def test_provision_of_one_node_twice_ends_with_the_last_value(
    engine: Engine, device: Device, nodes: list[dict[str, Any]], there: dict[str, str], atomic: bool
) -> None:
    device.tree = Tree({"./A": None, "./A/B": "1", "./S": None, "./S/T": None, "./S/T/a": None, "./S/T/a/O": "1"})
    number = enqueue(engine, "provision", nodes=nodes, atomic=atomic)
    device.session()
    assert job(engine, number)["state"] == "done"
    leaves = {uri: value for uri, value in device.tree.nodes.items() if value is not None and uri != "./S/T/a/O"}
    assert leaves == there
    assert ("./S/T/a/O" in device.tree.nodes) is ("./S/T/a" not in {node["path"] for node in nodes})


def test_provision_counts_what_was_replaced(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None, "./A/B": "1", "./A/C": "1"}, refuse={"./A/B": 425})
    nodes = [{"path": "./A/B", "value": "2"}, {"path": "./A/C", "value": "2"}, {"path": "./A/X", "delete": True}]
    number = enqueue(engine, "provision", nodes=nodes)
    device.session()
    result = job(engine, number)["result"]
    assert {name: result[name] for name in ("replaced", "added", "deleted")} == {
        "replaced": 1,
        "added": 0,
        "deleted": 0,
    }


def test_provision_deletes_nodes_and_does_not_mind_if_they_are_gone(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None, "./A/B": "1"})
    nodes = [{"path": "./A/B", "delete": True}, {"path": "./A/C", "delete": True}]
    number = enqueue(engine, "provision", nodes=nodes)
    device.session()
    assert job(engine, number)["state"] == "done"
    assert "./A/B" not in device.tree.nodes


def test_provision_that_a_device_refuses_names_node_and_status(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None, "./A/B": "1", "./A/C": "1"}, refuse={"./A/B": 425})
    nodes = [{"path": "./A/B", "value": "2"}, {"path": "./A/C", "value": "2"}]
    number = enqueue(engine, "provision", nodes=nodes)
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["refused"] == {"./A/B": 425}


def test_provision_sends_a_value_larger_than_a_message_in_chunks(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": None, "./A/B": "", "./A/C": "", "./A/D": ""})
    device.max_msg_size = 1500
    text, binary = "äöü漢" * 1500, bytes(range(256)) * 20
    nodes = [
        {"path": "./A/B", "value": text},
        {"path": "./A/C", "value": binary.hex(), "format": "bin"},
        {"path": "./A/D", "value": "small"},
    ]
    number = enqueue(engine, "provision", nodes=nodes)
    device.session()
    assert job(engine, number)["state"] == "done"
    assert device.tree.nodes["./A/B"] == text.encode()
    assert device.tree.nodes["./A/C"] == binary
    assert device.tree.nodes["./A/D"] == "small"


def test_values_to_set_are_not_shown_and_not_kept_once_they_are_set(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./AMI": None, "./AMI/Token": ""})
    number = enqueue(engine, "provision", nodes=[{"path": "./AMI/Token", "value": "s3cret"}])
    assert "s3cret" not in repr(job(engine, number))
    device.session()
    with engine.begin() as conn:
        assert "s3cret" not in repr(conn.execute(select(tables.jobs)).all())


# -- firmware --------------------------------------------------------------------------------------


def started_update(engine: Engine, device: Device) -> tuple[int, str]:
    device.tree = firmware_tree()
    number = enqueue(engine, "firmware", url="https://headend/pkg/2", version="2")
    device.session()
    assert job(engine, number)["state"] == "waiting"
    ((uri, correlator),) = device.tree.execs
    assert uri == "./FUMO/Firmware/DownloadAndUpdate"
    assert correlator is not None
    assert correlator == job(engine, number)["correlator"]
    assert device.tree.nodes["./FUMO/Firmware/DownloadAndUpdate/PkgURL"] == "https://headend/pkg/2"
    return number, correlator


def report(device: Device, correlator: str, code: int) -> None:
    data = f"<ResultCode>{code}</ResultCode>"
    device.alerts = [alert(correlator, data, kind=FIRMWARE_ALERT, source="./FUMO/Firmware")]
    device.session()
    device.alerts = []


def test_firmware_waits_for_its_alert_and_reads_what_became_of_the_device(engine: Engine, device: Device) -> None:
    number, correlator = started_update(engine, device)
    device.session()
    assert job(engine, number)["state"] == "waiting"
    device.tree.nodes["./DevDetail/FwV"] = "2"
    report(device, correlator, 200)
    assert job(engine, number)["state"] == "done"
    assert job(engine, number)["result"] == {
        "result_code": 200,
        "from_version": "1",
        "fw_version": "2",
        "state": "10",
        "ext": {"BytesFetched": "1000", "Resumes": "2"},
    }


def test_firmware_that_fails_says_with_which_result(engine: Engine, device: Device) -> None:
    number, correlator = started_update(engine, device)
    report(device, correlator, 410)
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["result_code"] == 410
    assert job(engine, number)["result"]["fw_version"] == "1"


def test_firmware_alert_with_another_correlator_changes_nothing(engine: Engine, device: Device) -> None:
    number, _ = started_update(engine, device)
    report(device, "somebody-else", 200)
    assert job(engine, number)["state"] == "waiting"


def test_firmware_that_runs_already_is_left_alone(engine: Engine, device: Device) -> None:
    device.tree = firmware_tree("2")
    number = enqueue(engine, "firmware", url="https://headend/pkg/2", version="2")
    device.session()
    assert job(engine, number)["state"] == "done"
    assert device.tree.execs == []


def test_firmware_refused_by_the_device_fails_with_its_status(engine: Engine, device: Device) -> None:
    device.tree = firmware_tree()
    device.tree.exec_status = 405
    number = enqueue(engine, "firmware", url="https://headend/pkg/2")
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["status"] == 405


@pytest.mark.parametrize(("state", "execs"), [("30", 1), ("10", 2)])
def test_firmware_whose_exec_was_not_answered_is_not_asked_twice_if_it_is_under_way(
    engine: Engine, device: Device, state: str, execs: int
) -> None:
    device.tree = firmware_tree()
    number = enqueue(engine, "firmware", url="https://headend/pkg/2")
    message = device.take(device.server.handle(device.request(device.begin())))
    while not device.tree.execs:  # the session breaks off once the device has executed the Exec
        commands, final = device.reply(message)
        if not device.tree.execs:
            message = device.take(device.server.handle(device.request(commands, final=final)))
    device.account = latest(engine, device)
    device.tree.nodes["./FUMO/Firmware/State"] = state
    device.session()
    assert job(engine, number)["state"] == "waiting"
    assert len(device.tree.execs) == execs
    assert len({correlator for _, correlator in device.tree.execs}) == 1


def latest(engine: Engine, device: Device) -> Any:
    """The account as the server has it: the device that rebooted lost no nonce."""
    with engine.begin() as conn:
        row = accounts.load(conn, device.account.client_name)
    assert row is not None
    return accounts.from_row(row)


def test_an_alert_that_overtakes_the_answer_to_its_exec_is_not_lost(engine: Engine, device: Device) -> None:
    device.tree = firmware_tree()
    number = enqueue(engine, "firmware", url="https://headend/pkg/2")
    message = device.take(device.server.handle(device.request(device.begin())))
    while True:
        commands, final = device.reply(message)
        if device.tree.execs:
            commands.append(alert(device.tree.execs[0][1], "<ResultCode>410</ResultCode>", kind=FIRMWARE_ALERT))
            device.tree.execs.clear()
        if message.final and not any(type(c).__name__ != "Status" for c in message.commands):
            break
        message = device.take(device.server.handle(device.request(commands, final=final)))
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["result_code"] == 410


# -- software --------------------------------------------------------------------------------------


def test_software_is_downloaded_installed_and_read_back(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./SCOMO": None, "./SCOMO/Download": None, "./SCOMO/Inventory": None})
    number = enqueue(engine, "software", id="reading-lists", url="https://headend/pkg/s", version="3")
    device.session()
    ((uri, correlator),) = device.tree.execs
    assert uri == f"./SCOMO/Download/job{number}/Operations/DownloadInstall"
    assert device.tree.nodes[f"./SCOMO/Download/job{number}/PkgURL"] == "https://headend/pkg/s"
    device.tree.nodes |= {
        "./SCOMO/Inventory/Deployed": None,
        "./SCOMO/Inventory/Deployed/reading-lists": None,
        "./SCOMO/Inventory/Deployed/reading-lists/State": "20",
    }
    data = "<ResultCode>1200</ResultCode><Identifier>reading-lists</Identifier>"
    device.alerts = [alert(correlator, data, kind=SOFTWARE_ALERT, source=f"./SCOMO/Download/job{number}")]
    device.session()
    assert job(engine, number)["state"] == "done"
    assert job(engine, number)["result"] == {"result_code": 1200, "deployed": {"reading-lists/State": "20"}}


def test_software_that_the_device_will_not_take_fails(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./SCOMO": None, "./SCOMO/Download": None}, exec_status=500)
    number = enqueue(engine, "software", id="x", url="https://headend/pkg/s")
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["status"] == 500


# -- commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["plain", "sequence"])
def test_commands_are_sent_as_written_and_every_status_comes_back(engine: Engine, device: Device, mode: str) -> None:
    device.tree = Tree({"./A": None, "./A/B": "1", "./A/B?prop=ACL": "Get=*"})
    commands = [
        {"command": "get", "path": "./A/B"},
        {"command": "replace", "path": "./A/B?prop=ACL", "value": "Get=headend"},
        {"command": "add", "path": "./A/C"},
        {"command": "add", "path": "./A/C/D", "value": "00ff", "format": "bin"},
        {"command": "delete", "path": "./A/B"},
        {"command": "exec", "path": "./A/C"},
    ]
    number = enqueue(engine, "commands", commands=commands, mode=mode)
    device.session()
    replies = job(engine, number)["result"]["replies"]
    assert [reply["status"] for reply in replies] == [200, 200, 200, 200, 200, 202]
    assert replies[0]["values"] == {"./A/B": "1"}
    assert device.tree.nodes == {"./A": None, "./A/B?prop=ACL": "Get=headend", "./A/C": None, "./A/C/D": b"\x00\xff"}
    assert device.tree.execs == [("./A/C", job(engine, number)["correlator"])]


def test_commands_in_an_atomic_are_all_undone_when_one_fails(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    commands = [
        {"command": "replace", "path": "./A", "value": "2"},
        {"command": "replace", "path": "./B", "value": "2"},
    ]
    number = enqueue(engine, "commands", commands=commands, mode="atomic")
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert [reply["status"] for reply in job(engine, number)["result"]["replies"]] == [216, 404]
    assert device.tree.nodes == {"./A": "1"}


@pytest.mark.parametrize(
    "command",
    [
        {"command": "put", "path": "./A"},
        {"command": ["get"], "path": "./A"},
        {"command": "replace", "path": "./A"},
        {"command": "copy", "path": "./A"},
        {"command": "add", "path": "./A?prop=ACL"},
        {"command": "get", "path": "./A?drop=table"},
        {"command": "get"},
    ],
)
def test_commands_that_make_no_sense_are_refused_when_they_are_queued(
    engine: Engine, device: Device, command: dict[str, Any]
) -> None:
    assert device.account.client_name == DEVICE
    with pytest.raises(JobError):
        enqueue(engine, "commands", commands=[command])


# -- the queue -------------------------------------------------------------------------------------


def test_a_job_queued_by_the_head_end_of_the_day_before_runs(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1"})
    number = enqueue(engine, "commands", commands=[{"command": "get", "path": "./A"}])
    over = enqueue(engine, "commands", commands=[{"command": "get", "path": "./A"}])
    old = {"commands": [{"verb": "get", "path": "./A"}], "mode": "plain"}
    told = {"replies": [{"verb": "get", "path": "./A", "status": 200}]}
    back_to_schema_3(engine)
    with engine.begin() as conn:
        conn.execute(update(tables.jobs).values(params=old))
        conn.execute(update(tables.jobs).where(tables.jobs.c.id == over).values(state="done", result=told))
        conn.execute(update(db.schema).values(version=2))
    create_tables(engine)
    assert job(engine, over)["result"] == {"replies": [{"command": "get", "path": "./A", "status": 200}]}
    device.session()
    assert job(engine, number)["state"] == "done"


def test_jobs_run_in_the_order_they_were_queued(engine: Engine, device: Device) -> None:
    device.tree = Tree({"./A": "1", "./B": "2"})
    enqueue(engine, "get", paths=["./B"])
    enqueue(engine, "get", paths=["./A"])
    device.session()
    assert [uri for _, uri in device.tree.seen] == ["./B", "./A"]


def test_a_job_under_which_sessions_keep_breaking_is_given_up(engine: Engine, device: Device) -> None:
    number = enqueue(engine, "get", paths=["./A"])
    for _ in range(queue.ATTEMPTS_MAX):
        device.take(device.server.handle(device.request(device.begin())))
        assert job(engine, number)["state"] == "running"
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert "given up" in job(engine, number)["result"]["error"]


def test_a_job_can_be_cancelled_until_it_runs(engine: Engine, device: Device) -> None:
    first, second = enqueue(engine, "get", paths=["./A"]), enqueue(engine, "get", paths=["./B"])
    device.take(device.server.handle(device.request(device.begin())))
    with engine.begin() as conn:
        assert [queue.cancel(conn, number) for number in (first, second, 99)] == [False, True, False]
    assert job(engine, second)["state"] == "failed"
    assert "cancelled" in job(engine, second)["result"]["error"]


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("nothing", {}),
        ("get", {}),
        ("get", {"paths": []}),
        ("get", {"paths": ["/abs"]}),
        ("get", {"paths": ["./a//b"]}),
        ("get", {"paths": ["./a"], "extra": 1}),
        ("provision", {"nodes": ["./a"]}),
        ("provision", {"nodes": [{"path": "./a"}]}),
        ("provision", {"nodes": [{"path": "./a", "value": 1.5}]}),
        ("provision", {"nodes": [{"path": "./a", "value": "x", "format": "dog"}]}),
        ("provision", {"nodes": [{"path": "./a", "value": "xyz", "format": "bin"}]}),
        ("provision", {"nodes": [{"path": "./a", "value": "a\x00"}]}),
        ("provision", {"nodes": [{"path": "./a", "value": "1"}], "atomic": 1}),
        ("commands", {"commands": [{"command": "get", "path": "./a"}], "mode": {}}),
        ("firmware", {"url": "http://plain/pkg"}),
        ("firmware", {"url": "https://h/p", "version": ""}),
        ("software", {"url": "https://h/p"}),
        ("software", {"id": "a/b", "url": "https://h/p"}),
        ("order", {"meters": ["A"]}),
        ("order", {"order": "ping", "meters": []}),
        ("order", {"order": "ping", "meters": ["A\nB"]}),
        ("order", {"order": "ping", "meters": ["A"], "parameters": []}),
        ("order", {"order": "ping", "meters": ["A"], "priority": 10}),
        ("order", {"order": "ping", "meters": ["A"], "deadline_s": 0}),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_when_it_is_queued(
    engine: Engine, device: Device, kind: str, params: dict[str, Any]
) -> None:
    assert device.account.client_name == DEVICE
    with pytest.raises(JobError):
        enqueue(engine, kind, **params)


def test_a_job_for_a_device_without_account_is_refused(engine: Engine) -> None:
    with pytest.raises(accounts.UnknownDevice):
        enqueue(engine, "get", paths=["./A"])


def test_the_registry_holds_every_kind_under_its_name() -> None:
    names = ("get", "provision", "firmware", "software", "order", "tasks", "commands", "connectivity", "device", "log")
    assert {name: kind.name for name, kind in JOB_TYPES.items()} == {name: name for name in names}
