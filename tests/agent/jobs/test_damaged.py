"""Damaged records of jobs: each ends with a final alert, under its correlator where that can be read, and is counted;
none holds what waits behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.device_orders import MARKER_FILE, WATCH_EVERY_S, DeviceOrders
from agent.daemon.order_jobs import OrderJobs
from agent.jobs import device, firmware, orders, software
from agent.jobs.waiting import DAMAGED_CHARS_MAX, DAMAGED_KEPT, DAMAGED_SHOWN_S, FATE_UNKNOWN, damaged_warnings
from agent.metering.orders.journal import Journal
from agent.metering.orders.order_book import OrderBook
from agent.tree import alerts
from tests.agent.dm.server import FakeDmServer, add, execute, get, put
from tests.agent.dm_device import STATE, UPDATE, Device, FakeManifest
from updateagent.package.manifest import Kind

NODE = "./SCOMO/Download/a"
GOOD: dict[str, Any] = {
    "id": "i1", "operation": "DownloadInstall", "kind": "Download", "name": "a", "url": "https://packages.example/l.swu",
    "correlator": "c1", "software_id": "",
}  # fmt: skip
ORDER: dict[str, Any] = {
    "id": "o1", "name": "a", "correlator": "c1", "asked_by": "DM server", "kind": "ping", "meters": ["KEP1"],
    "parameters": "", "priority": 5, "deadline_s": 300,
}  # fmt: skip


@pytest.fixture
def one() -> Device:
    made = Device(FakeDmServer()).registered()
    made.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    made.session([add(NODE, None, "node"), add(f"{NODE}/PkgURL", "https://packages.example/l.swu", "chr")])
    made.session([add("./AMI/Order/a", None, "node"), add("./AMI/Order/b", None, "node")])
    return made


def put_record(one: Device, name: str, **members: object) -> None:
    with one.tree.transaction() as changing:
        changing.update_record(name, **members)
    one.restart()  # from the disk


def told(one: Device) -> list[tuple[str, str]]:
    """The correlators and data of the alerts that wait."""
    return [(alert.correlator, alert.data) for alert in alerts.pending(one.tree.view())]


def warnings(one: Device) -> list[str]:
    return damaged_warnings(one.tree.view(), one.clock.wall())


def _result(code: int, name: str) -> str:
    return f"<ResultCode>{code}</ResultCode><Identifier>{name}</Identifier>"


BAD_JOBS: dict[str, tuple[object, str, str]] = {
    "no url": ({name: value for name, value in GOOD.items() if name != "url"}, "c1", "a"),
    "a number for a text": ({**GOOD, "operation": 7}, "c1", "a"),
    "no kind": ({**GOOD, "kind": None}, "c1", "a"),
    "nothing but a correlator": ({"correlator": "c1"}, "c1", "unknown"),
    "a correlator that is none": ({**GOOD, "correlator": 5}, "", "a"),
    "a correlator without end": ({**GOOD, "url": 1, "correlator": "c" * 5000}, "", "a"),
    "a text": ("what is this", "", "unknown"),
    "nothing": (None, "", "unknown"),
    "a list": ([GOOD], "", "unknown"),
    "another id": ({**GOOD, "id": ["i1"]}, "c1", "a"),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_software_job_that_cannot_be_read_ends_with_its_alert_and_holds_no_other(one: Device, name: str) -> None:
    entry, correlator, identifier = BAD_JOBS[name]
    behind = {**GOOD, "id": "i2", "correlator": "c2"}
    put_record(one, software.RECORD, jobs=[entry, behind])
    one.work()
    assert told(one) == [(correlator, _result(1400, identifier)), ("c2", _result(1200, "lists"))]
    assert software.jobs(one.tree.view()) == ()
    assert warnings(one) == ["records of software jobs that were damaged, and ended as failed: 1"]
    one.session()
    one.work()
    assert told(one) == []


@pytest.mark.parametrize("jobs", [{"id": "i1"}, "x", 5, None, [[[]]]])
def test_a_list_of_jobs_that_is_none_does_not_end_the_worker(one: Device, jobs: object) -> None:
    put_record(one, software.RECORD, jobs=jobs, status="x", ended=5)
    one.work()
    assert told(one) == [("", _result(1400, "unknown"))]
    one.session([execute(f"{NODE}/Operations/DownloadInstall", "c3")])
    one.work()
    assert told(one) == [("c3", _result(1200, "lists"))]


def test_a_job_that_comes_does_not_take_a_damaged_one_out_of_the_list(one: Device) -> None:
    put_record(one, software.RECORD, jobs=[{**GOOD, "url": 1}])
    one.session([execute(f"{NODE}/Operations/DownloadInstall", "c2")])
    assert software.is_damaged(one.tree.view())
    one.work()
    assert [correlator for correlator, _ in told(one)] == ["c1", "c2"]


def test_an_exec_that_is_asked_again_counts_and_not_the_damaged_record_of_the_first(one: Device) -> None:
    put_record(one, software.RECORD, jobs=[{**GOOD, "url": 1}])
    one.session([execute(f"{NODE}/Operations/DownloadInstall", "c1")])
    one.work()
    assert told(one) == [("c1", _result(1200, "lists"))]


def test_the_status_of_the_node_says_that_it_has_failed_and_no_activation_stays_on_trial(one: Device) -> None:
    put_record(one, software.RECORD, jobs=[{**GOOD, "url": 1}], status={"a": 30})
    with one.tree.transaction() as changing:
        software.set_trial(changing, software.Trial("i1", "lists", "1", "0", 1))
    one.work()
    assert software.trial(one.tree.view()) is None
    one.session([get(f"{NODE}/Status")])
    assert one.server.values == {f"{NODE}/Status": "20"}


def test_damaged_records_are_kept_within_bounds_and_shown_for_a_week(one: Device) -> None:
    put_record(one, software.RECORD, jobs=[{"name": str(n), "x": "x" * 5000} for n in range(20)])
    one.work()
    said = one.tree.view().record(software.RECORD)["damaged"]
    assert (said["count"], len(said["kept"])) == (20, DAMAGED_KEPT)
    assert max(map(len, said["kept"])) == DAMAGED_CHARS_MAX
    assert warnings(one)
    one.clock.advance(DAMAGED_SHOWN_S + 1)
    assert warnings(one) == []


FIRMWARE: dict[str, Any] = {
    "id": "f1", "state": 30, "active": True, "operation": "downloadandupdate", "correlator": "c1",
    "url": "https://packages.example/2.swu", "reported": "f0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "correlator"),
    [
        ({"state": "x"}, "c1"),
        ({"resumes": None}, "c1"),
        ({"full_bytes": [1], "correlator": 5}, ""),
        ({"state": {}}, "c1"),
    ],
)
def test_a_firmware_job_that_cannot_be_read_ends_with_its_alert(
    one: Device, changes: dict[str, object], correlator: str
) -> None:
    put_record(one, firmware.RECORD, **{**FIRMWARE, **changes})
    one.session([put("./FUMO/Firmware/DownloadAndUpdate/PkgURL", "https://packages.example/3.swu")])
    one.session([execute("./FUMO/Firmware/DownloadAndUpdate", "c2")])
    assert one.server.codes == [500]
    one.work()
    assert told(one) == [(correlator, "<ResultCode>400</ResultCode>")]
    job = firmware.load(one.tree.view())
    assert (job.state, job.active, job.reported, job.error) == (80, False, "f0", FATE_UNKNOWN)
    assert warnings(one) == ["records of firmware jobs that were damaged, and ended as failed: 1"]
    one.work()
    one.session([execute("./FUMO/Firmware/DownloadAndUpdate", "c2")])
    assert (one.server.codes, told(one)) == ([202], [])


def test_a_firmware_job_that_was_over_before_its_record_was_damaged_is_not_told_again(one: Device) -> None:
    put_record(one, firmware.RECORD, **{**FIRMWARE, "active": False, "resumes": None})
    one.work()
    assert told(one) == []
    assert not firmware.is_damaged(one.tree.view())


def test_a_firmware_job_that_the_update_agent_has_is_told_by_its_result(one: Device) -> None:
    request = b'{"version": 1, "id": "f1", "correlator": "c1"}'
    one.disk.mkdir_durable(UPDATE / "inbox")
    one.disk.write_durable(UPDATE / "inbox" / "request.json", request)
    put_record(one, firmware.RECORD, **{**FIRMWARE, "state": "x"})
    one.work()
    assert told(one) == []
    assert firmware.is_damaged(one.tree.view())


def order_jobs(one: Device) -> Callable[[], object]:
    book = OrderBook(Journal(one.disk, Path("/state/orders")), one.clock, allowed=(), known=lambda: {"KEP1"})
    return OrderJobs(one.tree, book, one.service.report_alerts).tick


@pytest.mark.parametrize(
    ("entry", "correlator"),
    [({**ORDER, "priority": "high"}, "c1"), ({**ORDER, "meters": None}, "c1"), ({"correlator": 9}, ""), (7, "")],
)
def test_an_order_that_cannot_be_read_ends_with_its_alert_and_holds_no_other(
    one: Device, entry: object, correlator: str
) -> None:
    put_record(one, orders.RECORD, jobs=[entry, {**ORDER, "id": "o2", "name": "b", "correlator": "c2"}])
    tick = order_jobs(one)
    tick()
    assert told(one) == [(correlator, "<ResultCode>1450</ResultCode>")]
    assert [job.id for job in orders.jobs(one.tree.view())] == ["o2"]
    assert orders.result_of(one.tree.view(), "a") == (f'{{"error":"{FATE_UNKNOWN}","id":"o1"}}' if correlator else "")
    tick()
    assert len(told(one)) == 1
    assert warnings(one) == ["records of orders to meters that were damaged, and ended as failed: 1"]


def device_orders(one: Device) -> DeviceOrders:
    return DeviceOrders(
        one.tree, one.disk, one.clock, STATE, one.boot_id,
        reboot=one.service.reboot, report=one.service.report_alerts, waiting=lambda: 0,
    )  # fmt: skip


BEGUN = {
    "id": "d1", "operation": "Reboot", "correlator": "c1", "boot": "boot 0", "attempts": 1, "result": 0, "error": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("order", "correlator"),
    [
        ({**BEGUN, "boot": None}, "c1"),  # it was told as done: another boot than none
        ({**BEGUN, "result": "x"}, "c1"),
        ({**BEGUN, "id": 5}, "c1"),
        ({**BEGUN, "operation": 5}, "c1"),
        ({**BEGUN, "correlator": None}, ""),
        ({"correlator": "c1"}, "c1"),
        ([BEGUN], ""),
        ("Reboot", ""),
    ],
)
def test_a_device_order_that_cannot_be_read_ends_as_failed_and_nothing_reboots(
    one: Device, order: object, correlator: str
) -> None:
    put_record(one, device.RECORD, order=order, locked=True)
    worker = device_orders(one)
    assert worker.tick() == WATCH_EVERY_S
    assert told(one) == [(correlator, "<ResultCode>1450</ResultCode>")]
    one.clock.advance(WATCH_EVERY_S)
    assert worker.tick() is None
    assert (len(told(one)), one.reboots) == (1, 0)
    assert device.is_locked(one.tree.view())
    assert warnings(one) == ["records of orders to the device that were damaged, and ended as failed: 1"]
    one.session([get("./LAWMO/Status/State"), get("./LAWMO/Status/Error")])
    assert one.server.values == {"./LAWMO/Status/State": "failed", "./LAWMO/Status/Error": FATE_UNKNOWN}


def test_a_device_order_that_was_over_before_its_record_was_damaged_is_not_told_again(one: Device) -> None:
    put_record(one, device.RECORD, order={**BEGUN, "result": 1200, "boot": None})
    worker = device_orders(one)
    worker.tick()
    assert worker.tick() is None
    assert told(one) == []
    assert device.load(one.tree.view()).result == 1200


def test_an_exec_does_not_take_the_place_of_a_damaged_order_without_its_end(one: Device) -> None:
    put_record(one, device.RECORD, order={**BEGUN, "boot": None})
    one.server.acknowledge = 500
    one.session([execute("./LAWMO/Operations/Reboot", "c2")])
    assert one.server.codes == [202]
    assert told(one) == [("c1", "<ResultCode>1450</ResultCode>")]
    assert device.load(one.tree.view()).correlator == "c2"


def test_a_factory_reset_that_has_begun_is_told_by_its_marker_alone(one: Device) -> None:
    put_record(one, device.RECORD, order={**BEGUN, "operation": 5})
    one.disk.write_durable(STATE / MARKER_FILE, b"{}")
    device_orders(one).tick()
    assert told(one) == []


def test_alerts_that_are_none_keep_no_other_from_the_server(one: Device) -> None:
    whole = {"id": "x", "type": "t", "source": "./X", "data": "d", "correlator": "c9"}
    put_record(one, alerts.RECORD, list=[None, "x", whole])
    assert told(one) == [("c9", "d")]
    one.session()
    assert told(one) == []
