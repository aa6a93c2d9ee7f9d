"""The device's DM client against the head-end's DM server: both real, only the wire between them is a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from agent.https import Response
from agent.mo.ami import drop_secrets, provisioning_from_tree
from agent.status import MeterStatus
from headend.dm import accounts, tables
from headend.dm.jobs import queue as jobs
from headend.dm.jobs import steps
from headend.dm.server import DmServer, Request, ServerConfig
from omadm.bootstrap import Account, emit_profile
from omadm.notification import Notification, emit
from omadm.syncml.codec import DM_WBXML, DM_XML
from tests.agent.dm.server import DEVICE_ID, FakeDmServer
from tests.agent.dm_device import UPDATE, Device, FakeManifest
from tests.headend.database import empty_database
from updateagent.package.manifest import Kind

CONFIG = ServerConfig("headend", "https://headend/dm")


class HeadEnd(FakeDmServer):
    """Takes the place of the test server, with the real one inside."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.inner = DmServer(engine, CONFIG)

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert url == CONFIG.url
        assert headers is not None
        answer = self.inner.handle(Request(body or b"", headers["Content-Type"], headers.get("x-syncml-hmac")))
        found = {"content-type": answer.content_type}
        if answer.mac is not None:
            found["x-syncml-hmac"] = answer.mac
        self.exchanges += 1
        return Response(answer.status, found, answer.body)

    def enqueue(self, kind: str, params: Mapping[str, Any]) -> int:
        with self.engine.begin() as conn:
            return jobs.enqueue(conn, DEVICE_ID, kind, params)

    def job(self, job_id: int) -> dict[str, Any]:
        with self.engine.begin() as conn:
            found = jobs.show(conn, job_id)
        assert found is not None
        return found

    def account_columns(self, **values: object) -> None:
        with self.engine.begin() as conn:
            conn.execute(update(tables.accounts).values(**values))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[HeadEnd]:
    engine = empty_database(tmp_path / "dm.db")
    yield HeadEnd(engine)
    engine.dispose()


@pytest.fixture
def account(head: HeadEnd) -> Account:
    with head.engine.begin() as conn:
        return accounts.create(conn, DEVICE_ID, server_id=CONFIG.server_id, url=CONFIG.url)


@pytest.fixture(params=[DM_WBXML, DM_XML])
def device(request: pytest.FixtureRequest, head: HeadEnd, account: Account) -> Device:
    device = Device(head, profile=emit_profile(account), content_type=request.param)
    device.turn()
    device.turn()
    assert device.last_result == "ok"
    return device


def hold(device: Device) -> None:
    device.service.session_now()
    device.turn()


NODES = [
    {"path": "./SCHED/Task/t1/Setting/Every", "value": 60},
    {"path": "./SCHED/Task/t1/Setting/ReadingList", "value": "residential-108"},
    {"path": "./SCHED/Task/t1/Enabled", "value": True},
    {"path": "./AMI/Uplink/URL", "value": "https://headend/readings"},
    {"path": "./AMI/Uplink/Token", "value": "token"},
]


@pytest.mark.parametrize("atomic", [False, True])
def test_a_schedule_is_provisioned_and_read_back(head: HeadEnd, device: Device, atomic: bool) -> None:
    wanted = head.enqueue("provision", {"nodes": NODES, "atomic": atomic})
    asked = head.enqueue("get", {"paths": ["./SCHED", "./DevDetail", "./AMI/Uplink/URL"]})
    hold(device)
    assert device.last_result == "ok"
    assert head.job(wanted)["state"] == "done", head.job(wanted)
    assert head.job(asked)["state"] == "done", head.job(asked)
    last = device.provisioned[-1]
    assert [(task.task_id, task.every_s, task.enabled) for task in last.tasks] == [("t1", 60, True)]
    assert last.uplink.token == "token"
    with head.engine.begin() as conn:
        values = {row.uri: row.value for row in conn.execute(select(tables.values))}
    assert values["./SCHED/Task/t1/Setting/Every"] == "60"
    assert values["./SCHED/Task/t1/Status/LastResult"] == "of t1"
    assert values["./DevDetail/FwV"] == "1"


def test_a_node_is_deleted_and_another_value_replaced(head: HeadEnd, device: Device) -> None:
    head.enqueue("provision", {"nodes": NODES})
    hold(device)
    second = head.enqueue(
        "provision",
        {"nodes": [{"path": "./SCHED/Task/t1", "delete": True}, {"path": "./AMI/Uplink/BatchMax", "value": 7}]},
    )
    hold(device)
    assert head.job(second)["state"] == "done"
    assert device.provisioned[-1].tasks == ()
    assert device.provisioned[-1].uplink.batch_records_max == 7


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.slow
def test_keys_of_many_meters_are_provisioned_and_changed_and_the_tree_gives_them_away(
    head: HeadEnd, device: Device, atomic: bool
) -> None:
    def keys(octet: str) -> dict[str, object]:
        names = [f"./AMI/Access/Meter/KFM{number:013}" for number in range(50)]
        nodes = [{"path": f"{name}/{leaf}", "value": octet * 16} for name in names for leaf in ("EncKey", "AuthKey")]
        return {"nodes": nodes, "atomic": atomic}

    for octet in ("1a", "2b"):
        job = head.enqueue("provision", keys(octet))
        hold(device)
        assert head.job(job)["state"] == "done", head.job(job)
        found = device.provisioned[-1]
        assert found.secrets() == (bytes.fromhex(octet) * 16,) * 100
        with device.tree.transaction() as changing:
            drop_secrets(changing, found)
    kept = provisioning_from_tree(device.tree.view())
    assert kept.secrets() == ()
    assert len(kept.access_rules) == 50


def finish_update(device: Device, code: int) -> None:
    """What the Update Agent leaves behind."""
    request = json.loads(device.disk.read_bytes(UPDATE / "inbox/request.json"))
    result = {"version": 1, "id": request["id"], "correlator": request["correlator"], "name": "x", "fumo": code}
    device.disk.remove_durable(UPDATE / "inbox/request.json")
    device.disk.write_durable(UPDATE / "outbox/result.json", json.dumps(result).encode())


@pytest.mark.parametrize(("code", "state"), [(200, "done"), (410, "failed")])
@pytest.mark.slow
def test_a_firmware_job_ends_with_the_result_of_the_update_agent(
    head: HeadEnd, device: Device, code: int, state: str
) -> None:
    job = head.enqueue("firmware", {"url": "https://packages/fw2.swu", "version": "2"})
    hold(device)
    assert head.job(job)["state"] == "waiting"
    device.work()
    device.turn()
    assert device.reboots == 1
    device.restart(boot_id="boot 2")
    finish_update(device, code)
    device.work()
    hold(device)
    assert head.job(job)["state"] == state
    assert head.job(job)["result"]["result_code"] == code
    device.work()
    assert not device.disk.exists(UPDATE / "outbox/result.json")


def test_a_software_job_ends_with_the_component_in_the_inventory(head: HeadEnd, device: Device) -> None:
    device.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    job = head.enqueue("software", {"id": "lists", "url": "https://packages/lists.swu", "version": "1"})
    hold(device)
    assert head.job(job)["state"] == "waiting"
    device.work()
    hold(device)
    found = head.job(job)
    assert found["state"] == "done"
    assert found["result"]["deployed"]["lists/State"] == "20"


def test_lost_nonces_on_either_side_are_repaired_within_one_session(head: HeadEnd, device: Device) -> None:
    for lost in ({"client_nonce": b"a"}, {"server_nonce": b"b"}, {"client_nonce": b"c", "server_nonce": b"d"}):
        head.account_columns(**lost)
        job = head.enqueue("get", {"paths": ["./DevInfo/Man"]})
        hold(device)
        assert device.last_result == "ok"
        assert head.job(job)["state"] == "done", lost


@pytest.mark.slow
def test_large_values_travel_in_chunks_both_ways(head: HeadEnd, device: Device) -> None:
    device.server.max_msg_size = None
    text = "é<&" * 300
    job = head.enqueue("provision", {"nodes": [{"path": "./SCOMO/Download/x/InstallParams", "value": text}]})
    hold(device)
    assert head.job(job)["state"] == "done", head.job(job)
    many = head.enqueue("get", {"paths": ["./SCOMO", "./SCHED", "./AMI", "./FUMO", "./DevDetail", "./DevInfo"]})
    hold(device)
    assert head.job(many)["state"] == "done"
    with head.engine.begin() as conn:
        values = {row.uri: row.value for row in conn.execute(select(tables.values))}
    assert values["./SCOMO/Download/x/InstallParams"] == text


def test_a_notification_of_the_server_starts_the_session_it_announces(head: HeadEnd, device: Device) -> None:
    with head.engine.begin() as conn:
        account, _, counter = accounts.next_push(conn, DEVICE_ID)
    body = emit(Notification(0x1234, "headend"), account.server_secret, account.server_nonce, counter=counter)
    assert device.service.on_notification(body) == 202
    device.turn()
    assert device.board.current.dm.last_session is not None
    assert (device.board.current.dm.last_session.trigger, device.board.current.dm.last_session.session_id) == (
        "push",
        "1234",
    )
    assert device.service.on_notification(body) == 403


def test_a_new_registration_replaces_the_account_whole(head: HeadEnd, device: Device) -> None:
    with head.engine.begin() as conn:
        again = accounts.create(conn, DEVICE_ID, server_id=CONFIG.server_id, url=CONFIG.url)
    device.profile = emit_profile(again)
    for _ in range(5):
        hold(device)
    assert "credentials" in device.last_result
    device.turn()
    device.clock.advance(4000)
    device.turn()
    device.turn()
    assert device.last_result == "ok"


@pytest.mark.slow
def test_the_whole_tree_is_read_by_one_job(head: HeadEnd, device: Device) -> None:
    device.meters = [MeterStatus(f"KEP{n:05d}", "plc0", n, "read", 1.0) for n in range(200)]
    job = head.enqueue("get", {"paths": ["."]})
    hold(device)
    found = head.job(job)
    assert (found["state"], device.last_result) == ("done", "ok"), found
    with head.engine.begin() as conn:
        uris = set(conn.scalars(select(tables.values.c.uri)))
        (messages,) = conn.execute(
            select(tables.sessions.c.messages).order_by(tables.sessions.c.id.desc()).limit(1)
        ).one()
    assert found["result"]["values"] == len(uris) > 1000
    assert {uri.split("/")[1] for uri in uris} == {
        "AMI",
        "ConnMO",
        "DMAcc",
        "DevDetail",
        "DevInfo",
        "DiagMon",
        "FUMO",
        "LAWMO",
        "SCHED",
    }
    assert 5 < messages < 60
    assert found["result"]["unreadable"]["./Inbox"] == 405
    assert "./AMI/Uplink/Token" in found["result"]["unreadable"]
    assert all(f"./AMI/Meter/{meter.meter_id}/State" in uris for meter in device.meters)


def test_a_tree_that_is_too_large_for_one_job_is_a_failure_that_says_so(
    head: HeadEnd, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "NODES_MAX", 40)
    job = head.enqueue("get", {"paths": ["."]})
    hold(device)
    found = head.job(job)
    assert (found["state"], found["result"]["refused"]) == ("failed", {".": 413})
