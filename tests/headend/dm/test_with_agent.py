"""The head-end's DM server and the agent's DM client, in one process: both ends of this project against each other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select

from agent.daemon.order_jobs import OrderJobs
from agent.metering.orders.journal import Journal
from agent.metering.orders.order import OrderType, Permission
from agent.metering.orders.order_book import OrderBook, Task
from agent.metering.orders.types.steps import Ended
from agent.mo.diagmon import Excerpt, Pictures
from agent.settings.provisioning import AddedMeter, MeterSelection, ReadingTask
from headend.dm import accounts, tables
from headend.dm.jobs import queue
from headend.dm.server import DmServer, Request
from headend.operator import networks, views
from omadm.bootstrap import emit_profile
from omadm.notification import Notification, emit
from tests.agent.dm.server import DEVICE_ID
from tests.agent.dm_device import UPDATE, Device
from tests.headend.database import empty_database
from tests.headend.dm.line import CONFIG, Line

DATA = "./DiagMon/Log/Data"


class OddLog:
    """A log with what no XML can carry."""

    text = "\x1b[31mred\ufffe"

    def collect(self, since: int, until: int, level: str) -> Excerpt:
        return Excerpt(self.text, 1)


class World:
    def __init__(self, engine: Engine, content_type: str) -> None:
        self.engine = engine
        self.line = Line(DmServer(engine, CONFIG, entropy=random.Random(7).randbytes))
        with engine.begin() as conn:
            self.account = accounts.create(conn, DEVICE_ID, server_id=CONFIG.server_id, url=CONFIG.url)
        self.device = Device(
            self.line,  # type: ignore[arg-type]
            profile=emit_profile(self.account),
            content_type=content_type,
            pictures=Pictures(log=OddLog()),
        )
        self.device.turn()

    def session(self, trigger: str = "user") -> str:
        self.device.clock.advance(3600)
        self.device.service.session_now(trigger)
        self.device.turn()
        return self.device.last_result

    def enqueue(self, kind: str, **params: Any) -> int:
        with self.engine.begin() as conn:
            return queue.enqueue(conn, DEVICE_ID, kind, params)

    def job(self, number: int) -> dict[str, Any]:
        with self.engine.begin() as conn:
            shown = queue.show(conn, number)
        assert shown is not None
        return shown

    def rows(self, table: Any) -> list[Any]:
        with self.engine.begin() as conn:
            return list(conn.execute(select(table)))


@pytest.fixture(params=["application/vnd.syncml.dm+wbxml", "application/vnd.syncml.dm+xml"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    engine = empty_database(tmp_path / "dm.db")
    yield World(engine, request.param)
    engine.dispose()


MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"
TASK = [
    {"path": "./SCHED/Task/t1/Name", "value": "all registers"},
    {"path": "./SCHED/Task/t1/Setting/Every", "value": 60},
    {"path": "./SCHED/Task/t1/Setting/ReadingList", "value": "residential-108"},
    {"path": "./SCHED/Task/t1/Enabled", "value": True},
]


def test_a_bootstrapped_device_holds_a_session_and_is_known(world: World) -> None:
    assert world.session() == "ok"
    values = {row.uri: row.value for row in world.rows(tables.values)}
    assert values["./DevInfo/DevId"] == DEVICE_ID
    assert [row.state for row in world.rows(tables.sessions)] == ["done"]


def test_text_that_no_xml_can_carry_is_read_and_shown_as_it_is(world: World) -> None:
    number = world.enqueue("log")
    asked = [f"{DATA}", "./DiagMon/Log?list=TNDS"]
    listed = world.enqueue("commands", commands=[{"command": "get", "path": path} for path in asked])
    assert world.session() == "ok"
    assert [world.job(one)["state"] for one in (number, listed)] == ["done"] * 2
    assert [reply["values"][DATA] for reply in world.job(listed)["result"]["replies"]] == [OddLog.text] * 2
    shown = next(row for row in world.rows(tables.values) if row.uri == DATA)
    assert (shown.format, shown.type, shown.value, shown.data) == ("chr", "text/plain", OddLog.text, None)


def test_such_a_text_may_take_several_messages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OddLog, "text", "\x1b[31mé\0" * 20_000)
    number = world.enqueue("log")
    listed = world.enqueue("commands", commands=[{"command": "get", "path": "./DiagMon/Log?list=TNDS"}])
    assert world.session() == "ok"
    assert [world.job(one)["state"] for one in (number, listed)] == ["done"] * 2
    (reply,) = world.job(listed)["result"]["replies"]
    assert OddLog.text.startswith(reply["values"][DATA])
    shown = next(row for row in world.rows(tables.values) if row.uri == DATA)
    assert (shown.value, shown.data) == (None, OddLog.text.encode())  # no text, for its NUL


@pytest.mark.parametrize("atomic", [False, True])
def test_provisioning_arrives_and_takes_effect(world: World, *, atomic: bool) -> None:
    number = world.enqueue("provision", nodes=TASK, atomic=atomic)
    assert world.session() == "ok"
    assert world.job(number)["state"] == "done", world.job(number)
    assert world.device.provisioned[-1].tasks == (ReadingTask("t1", 60, "residential-108", name="all registers"),)


BILLING = {"times": "0 0 1 * *", "codes": "3/1.0.1.8.0.VZ/2", "window": "00:00-06:00", "groups": ["block a"]}


@pytest.mark.slow
def test_tasks_are_made_changed_and_deleted_each_as_it_is_wanted(world: World) -> None:
    def run(**params: Any) -> dict[str, Any]:
        number = world.enqueue("tasks", **params)
        assert world.session() == "ok"
        assert world.job(number)["state"] == "done", world.job(number)
        return dict(world.job(number)["result"])

    daily = {"every": 86_400, "offset": 60, "reading_list": "residential-108", "meters": ["m1"]}
    made = run(tasks={"billing": BILLING, "daily": daily}, zone=MADRID, quiet_hours="17:00-21:00")
    assert made == {"changed": ["billing", "daily"], "deleted": [], "as_before": []}
    told = world.device.provisioned[-1]
    assert (told.zone, told.quiet_hours) == (MADRID, "17:00-21:00")
    assert told.tasks == (
        ReadingTask(
            "billing", 0, "", times="0 0 1 * *", zone=MADRID, codes="3/1.0.1.8.0.VZ/2", windows="00:00-06:00",
            selection=MeterSelection(groups=("block a",)),
        ),
        ReadingTask("daily", 86_400, "residential-108", offset_s=60, zone=MADRID,
                    selection=MeterSelection(meters=("m1",))),
    )  # fmt: skip
    changed = run(tasks={"billing": BILLING, "daily": {"times": "0 6 * * *", "codes": "8/0.0.1.0.0.255/2"}})
    assert changed == {"changed": ["daily"], "deleted": [], "as_before": ["billing"]}
    assert world.device.provisioned[-1].tasks[1] == ReadingTask(
        "daily", 0, "", times="0 6 * * *", zone=MADRID, codes="8/0.0.1.0.0.255/2"
    )
    assert run(tasks={"daily": None, "never-was": None})["deleted"] == ["daily"]
    assert [task.task_id for task in world.device.provisioned[-1].tasks] == ["billing"]
    with world.engine.begin() as connection:
        (shown,) = views.tasks(connection, DEVICE_ID, 1.8e9)
    assert (shown["task"], shown["zone"], shown["node"]["Setting/Times"]) == ("billing", MADRID, "0 0 1 * *")
    assert shown["next"] == [f"2027-{month:02d}-01 00:00:00" for month in (2, 3, 4)]


def test_a_task_that_the_device_refuses_stays_as_it_was(world: World) -> None:
    assert world.session() == "ok"
    world.enqueue("tasks", tasks={"t": {"every": 900, "codes": "3/1.0.1.8.0.255/2"}})
    world.session()
    before = world.device.provisioned[-1].tasks
    number = world.enqueue("tasks", tasks={"t": {"every": 60, "codes": "3/1.0.1.8.0.255/2 last 5"}})
    world.session()
    assert world.job(number)["state"] == "failed"
    assert "./SCHED/Task/t/Setting/Codes" in world.job(number)["result"]["refused"]
    assert world.device.provisioned[-1].tasks == before


def test_provisioning_twice_changes_nothing_more(world: World) -> None:
    for _ in range(2):
        number = world.enqueue("provision", nodes=TASK)
        assert world.session() == "ok"
        assert world.job(number)["state"] == "done"
    assert world.job(number)["result"] == {"replaced": 4, "added": 0, "deleted": 0}


def test_the_whole_tree_can_be_read(world: World) -> None:
    number = world.enqueue("get", paths=["./DevInfo", "./DevDetail", "./FUMO", "./SCOMO", "./SCHED", "./AMI"])
    assert world.session() == "ok"
    assert world.job(number)["state"] == "done", world.job(number)
    values = {row.uri: row.value for row in world.rows(tables.values)}
    assert values["./DevDetail/FwV"] == "1"
    assert values["./FUMO/Firmware/State"] == "10"


def test_firmware_goes_from_the_exec_to_its_result(world: World) -> None:
    number = world.enqueue("firmware", url="https://headend/pkg/2", version="2")
    assert world.session() == "ok"
    assert world.job(number)["state"] == "waiting", world.job(number)
    world.device.work()
    world.device.turn()
    assert world.device.reboots == 1
    correlator = world.job(number)["correlator"]
    hand_over_result(world.device, correlator, code=410)
    world.device.restart(boot_id="boot 2")
    world.device.work()
    assert world.session() == "ok"
    result = world.job(number)["result"]
    assert result is not None, world.job(number)
    assert result["result_code"] == 410
    (alert,) = world.rows(tables.alerts)
    assert (alert.correlator, alert.result_code, alert.source) == (correlator, 410, "./FUMO/Firmware")


def hand_over_result(device: Device, correlator: str, *, code: int) -> None:
    """What the Update Agent leaves behind."""
    import json

    request = json.loads(device.disk.read_bytes(UPDATE / "inbox" / "request.json"))
    result = {
        "version": 1,
        "id": request["id"],
        "correlator": correlator,
        "code": 1,
        "name": "health",
        "fumo": code,
        "scomo": 1405,
        "message": "did not come up",
        "from_version": "1",
        "to_version": "2",
        "attempts": 3,
        "failed_check": "meter_port",
        "log": [],
        "finished": 1_770_000_000,
    }
    device.disk.mkdir_durable(UPDATE / "outbox")
    device.disk.write_durable(UPDATE / "outbox" / "result.json", json.dumps(result).encode())
    device.disk.remove_durable(UPDATE / "inbox" / "request.json")


def test_software_goes_from_the_exec_to_its_result(world: World) -> None:
    from tests.agent.dm_device import FakeManifest
    from updateagent.package.manifest import Kind

    world.device.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    number = world.enqueue("software", id="lists", url="https://headend/pkg/s")
    assert world.session() == "ok"
    assert world.job(number)["state"] == "waiting", world.job(number)
    world.device.work()
    assert world.session() == "ok"
    result = world.job(number)["result"]
    assert result is not None, world.job(number)
    assert result["result_code"] == 1200
    assert any(name.endswith("State") and value == "20" for name, value in result["deployed"].items()), result


def test_software_that_does_not_run_fails_with_the_device_s_reason(world: World) -> None:
    from tests.agent.dm_device import FakeManifest
    from updateagent.package.manifest import Kind

    world.device.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    world.device.service_outcome = lambda _id, version: "ended with exit code 3" if version else ""
    number = world.enqueue("software", id="lists", url="https://headend/pkg/s")
    world.session()
    world.device.work()
    assert world.session() == "ok"
    job = world.job(number)
    assert (job["state"], job["result"]["result_code"]) == ("failed", 1409)
    assert job["result"]["device_error"] == "ended with exit code 3"
    assert job["result"]["error"] == "the installation ended with result 1409: ended with exit code 3"


@pytest.mark.parametrize("fate", ["request", "answer"])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.slow
def test_whichever_exchange_is_lost_the_work_is_done_in_the_end(world: World, at: int, fate: str) -> None:
    number = world.enqueue("provision", nodes=TASK)
    world.line.lose = {world.line.exchanges + at: fate}
    for _ in range(4):
        world.session()
    assert world.device.last_result == "ok"
    assert world.job(number)["state"] == "done", world.job(number)
    assert len(world.device.provisioned[-1].tasks) == 1


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_server_that_restarts_in_the_middle_finishes_the_work(world: World, at: int) -> None:
    number = world.enqueue("provision", nodes=TASK)
    handle = world.line.server.handle
    count = 0

    def restarting(request: Request) -> Any:
        nonlocal count, handle
        if count == at:
            handle = DmServer(world.engine, CONFIG).handle
        count += 1
        return handle(request)

    world.line.server.handle = restarting  # type: ignore[method-assign]
    assert world.session() == "ok"
    assert world.job(number)["state"] == "done", world.job(number)


def test_the_server_notifies_the_address_that_the_device_told_last(world: World) -> None:
    for url in ("http://192.0.2.7:8030/push", "http://192.0.2.9:8031/push", ""):
        world.device.push_url = url
        assert world.session() == "ok"
        (account,) = world.rows(tables.accounts)
        assert account.push_url == url


def test_the_agent_believes_our_notification_once(world: World) -> None:
    assert world.session() == "ok"
    with world.engine.begin() as conn:
        account, _, counter = accounts.next_push(conn, DEVICE_ID)
    body = emit(Notification(0xAB, account.server_id), account.server_secret, account.server_nonce, counter=counter)
    assert world.device.service.on_notification(body) == 202
    assert world.device.service.on_notification(body) == 403
    world.device.turn()
    assert world.rows(tables.sessions)[-1].session_id == "AB"
    assert world.rows(tables.sessions)[-1].trigger == 1200


# -- orders to meters -------------------------------------------------------------------------------


def order_book(world: World, *allowed: Permission) -> OrderBook:
    device = world.device
    journal = Journal(device.disk, Path("/state/orders"))
    return OrderBook(journal, device.clock, allowed=allowed, known=lambda: {"KEP1", "KEP2"})


def carry_out(world: World, book: OrderBook, outcome: Callable[[Task], Ended]) -> None:
    """What the daemon does: hand the jobs over, carry them out on the meters, report."""
    jobs = OrderJobs(world.device.tree, book, world.device.service.report_alerts)
    jobs.hand_over()
    for task in book.due({"KEP1", "KEP2"}):
        book.begun(task)
        if task.order.kind is OrderType.SET:
            book.sending(task)
        book.ended(task, outcome(task))
    jobs.tick()


def test_an_order_goes_from_the_exec_to_the_result_of_each_meter(world: World) -> None:
    book = order_book(world)
    number = world.enqueue("order", order="ping", meters=["KEP1", "KEP2"])
    assert world.session() == "ok"
    assert world.job(number)["state"] == "waiting", world.job(number)
    carry_out(world, book, lambda task: Ended({"name": task.meter_id}))
    assert world.session() == "ok"
    job = world.job(number)
    assert job["state"] == "done", job
    assert job["result"]["result_code"] == 1200
    assert [(m["meter"], m["state"], m["value"]) for m in job["result"]["meters"]] == [
        ("KEP1", "done", {"name": "KEP1"}),
        ("KEP2", "done", {"name": "KEP2"}),
    ]
    assert world.device.tree.view().names(world.device.tree.view().existing(("AMI", "Order"))) == []
    (kept,) = book.orders()
    assert kept["asked_by"] == f"DM server, ./AMI/Order/job{number}"


def test_an_order_that_one_meter_refused_fails_with_the_meter_s_words(world: World) -> None:
    book = order_book(world, Permission.CHANGE)
    parameters = {"code": "1/0.0.96.1.0.255/2", "value": ["u16", 5]}
    number = world.enqueue("order", order="set", meters=["KEP1", "KEP2"], parameters=parameters, priority=9)
    world.session()
    carry_out(world, book, lambda task: Ended(refused="read-write-denied" if task.meter_id == "KEP2" else ""))
    world.session()
    job = world.job(number)
    assert (job["state"], job["result"]["result_code"]) == ("failed", 1450)
    assert [(m["state"], m["error"]) for m in job["result"]["meters"]] == [
        ("done", ""),
        ("refused", "read-write-denied"),
    ]


def test_an_order_that_the_device_does_not_allow_says_why(world: World) -> None:
    book = order_book(world, Permission.CHANGE)
    number = world.enqueue("order", order="disconnect", meters=["KEP1"])
    world.session()
    carry_out(world, book, lambda _task: Ended())
    world.session()
    job = world.job(number)
    assert (job["state"], job["result"]["result_code"]) == ("failed", 1400)
    assert "orders.supply is false in dcu.yaml" in job["result"]["error"]
    assert book.orders() == []


@pytest.mark.parametrize("fate", ["request", "answer"])
@pytest.mark.parametrize("at", range(6))
@pytest.mark.slow
def test_whichever_exchange_is_lost_an_order_runs_once(world: World, at: int, fate: str) -> None:
    book = order_book(world, Permission.CHANGE)
    done: list[str] = []

    def outcome(task: Task) -> Ended:
        done.append(task.meter_id)
        return Ended()

    parameters = {"code": "1/0.0.96.1.0.255/2", "value": ["u16", 5]}
    number = world.enqueue("order", order="set", meters=["KEP1"], parameters=parameters)
    world.line.lose = {world.line.exchanges + at: fate}
    for _ in range(5):
        world.session()
        carry_out(world, book, outcome)
    assert world.job(number)["state"] == "done", world.job(number)
    assert done == ["KEP1"]


def test_a_restart_between_job_and_order_runs_it_once(world: World) -> None:
    book = order_book(world)
    number = world.enqueue("order", order="ping", meters=["KEP1"])
    world.session()
    OrderJobs(world.device.tree, book, lambda: None).hand_over()
    book = order_book(world)  # the process starts again: the job is in the tree, the order in the journal
    carry_out(world, book, lambda _task: Ended())
    world.session()
    assert world.job(number)["state"] == "done"
    assert len(book.orders()) == 1


def test_an_order_to_change_keys_waits_until_what_was_provisioned_with_it_is_in_force(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's main thread looks at the tree while the DM thread is between the two; and while the journal fails,
    other keys may be provisioned."""
    book = order_book(world, Permission.CHANGE)
    number = world.enqueue("order", order="keys", meters=["KEP1"], parameters={"wrapped": {"unicast": "00" * 24}})
    world.session()
    jobs = OrderJobs(world.device.tree, book, world.device.service.report_alerts)
    jobs.tick()
    assert book.orders() == []

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "accept", full)
        jobs.hand_over()
    jobs.tick()
    world.session()
    assert (book.orders(), world.job(number)["state"]) == ([], "failed")


# -- meters and networks ----------------------------------------------------------------------------


def test_a_survey_brings_networks_and_meters_however_large(world: World) -> None:
    node = {"eui48": "02dc00000001", "registered": True, "state": "terminal", "level": 1, "path": [], "snr": 5}
    nodes = [node | {"eui48": f"02dc{number:08x}", "meter_id": "KFM" + "0" * 60} for number in range(500)]
    history = [{"seq": 1, "at": 5.0, "kind": "promote", "eui48": "02dc00000001", "sid": 0, "lsid": 3, "detail": ""}]
    world.device.networks.append({"port": "plc0", "at": 5.0, "listed": 4.0, "nodes": nodes, "history": history})
    world.device.meter_details["KFM1"] = {"meter_id": "KFM1", "counters": {"timeout": 3}, "objects": {"count": 7}}
    number = world.enqueue("get", paths=list(networks.SURVEY))
    assert world.session() == "ok"
    assert world.job(number)["state"] == "done", world.job(number)
    with world.engine.connect() as connection:
        (network,) = networks.networks(connection, DEVICE_ID)
        (meter,) = networks.meters(connection)
    assert (network["port"], network["problem"], len(network["nodes"])) == ("plc0", "", 500)
    assert network["history"] == history
    assert (meter["meter_id"], meter["counters"]["timeout"], meter["objects"]) == ("KFM1", 3, 7)


def test_meters_are_listed_added_and_forgotten_from_here(world: World) -> None:
    nodes = [
        {"path": "./AMI/Registry/Whitelist/Enforce", "value": True},
        {"path": "./AMI/Registry/Whitelist/Entry/all/Id", "value": "KFM*"},
        {"path": "./AMI/Registry/Add/m21/Port", "value": "rs485"},
        {"path": "./AMI/Registry/Add/m21/Address", "value": 21},
    ]
    number = world.enqueue("provision", nodes=nodes)
    assert world.session() == "ok"
    assert world.job(number)["state"] == "done", world.job(number)
    told = world.device.provisioned[-1]
    assert (told.whitelist_enforced, told.whitelist, told.added) == (True, ("KFM*",), (AddedMeter("rs485", 21),))
    world.device.meter_details["KFM1"] = {}
    forget = {"command": "exec", "path": "./AMI/Registry/Operations/Forget"}
    numbers = [world.enqueue("commands", commands=[forget | {"value": meter}]) for meter in ("KFM1", "KFM9")]
    assert world.session() == "ok"
    assert [world.job(number)["state"] for number in numbers] == ["done", "failed"]
    assert world.device.forgotten == ["KFM1", "KFM9"]


def test_a_base_node_is_given_an_order_from_here(world: World) -> None:
    world.device.networks.append({"port": "plc0", "at": 5.0, "nodes": [], "history": [], "orders": [{"state": "done"}]})
    order = {"command": "exec", "path": "./AMI/Network/plc0/Operations/Order", "value": '{"kind": "get", "pib": 80}'}
    number = world.enqueue("commands", commands=[order, {"command": "get", "path": "./AMI/Network/plc0/Orders"}])
    assert world.session() == "ok"
    assert world.job(number)["state"] == "done", world.job(number)
    assert world.device.network_orders == [("plc0", {"kind": "get", "pib": 80})]


def test_the_session_after_a_renewal_by_itself_is_held_with_the_account_that_came_with_it(world: World) -> None:
    """In the same turn: the account of before is void, and the server would refuse it."""
    due = [True]

    def register(conn: Connection) -> bytes:
        return emit_profile(accounts.create(conn, DEVICE_ID, server_id=CONFIG.server_id, url=CONFIG.url))

    assert world.session() == "ok"
    with world.engine.begin() as conn:
        world.device.profile = register(conn)
    world.device.renewal_due = lambda: bool(due) and due.pop()
    number = world.enqueue("get", paths=["./DevInfo/Man"])
    before = world.device.registrations
    assert world.session() == "ok"
    assert world.device.registrations == before + 1
    assert world.job(number)["state"] == "done"
