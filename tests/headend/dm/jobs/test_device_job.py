"""The job `device`: lock, unlock, reboot, factory reset."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from headend.dm.jobs import queue
from headend.dm.jobs.device import OPERATIONS
from headend.dm.jobs.params import JobError
from tests.headend.dm.bench import DEVICE, connected, enqueue, job
from tests.headend.dm_device import Device, alert

COMPLETE = "urn:x-dcu:at:lawmo:1.0:OperationComplete"


@pytest.fixture
def device(engine: Engine) -> Device:
    nodes: dict[str, Any] = {f"./LAWMO{above}": None for above in ("", "/Operations", "/Status")}
    nodes |= {f"./LAWMO/Operations/{name}": "" for name in OPERATIONS.values()}
    nodes |= {"./LAWMO/State": "unlocked", "./LAWMO/Status/Correlator": "", "./LAWMO/Status/Error": ""}
    return connected(engine, nodes)


@pytest.mark.parametrize(("operation", "state"), [("lock", "failed"), ("unlock", "done")])
def test_a_lock_is_done_when_the_device_says_so(engine: Engine, device: Device, operation: str, state: str) -> None:
    number = enqueue(engine, "device", operation=operation)
    device.session()
    assert job(engine, number)["state"] == state
    assert device.tree.execs[0][0] == f"./LAWMO/Operations/{OPERATIONS[operation]}"


@pytest.mark.parametrize("operation", ["reboot", "factory-reset"])
@pytest.mark.parametrize(("code", "state"), [(1200, "done"), (1450, "failed")])
def test_a_reboot_or_reset_is_over_when_the_device_tells(
    engine: Engine, device: Device, operation: str, code: int, state: str
) -> None:
    number = enqueue(engine, "device", operation=operation)
    device.session()
    assert job(engine, number)["state"] == "waiting"
    device.tree.nodes["./LAWMO/Status/Error"] = "it did not"
    correlator = str(device.tree.execs[0][1])
    device.alerts = [alert(correlator, f"<ResultCode>{code}</ResultCode>", kind=COMPLETE, source="./LAWMO")]
    device.session()
    found = job(engine, number)
    assert (found["state"], found["result"].get("error")) == (state, None if code == 1200 else "it did not")


@pytest.mark.parametrize("operation", ["reboot", "factory-reset"])
@pytest.mark.parametrize("known", [True, False])
def test_an_order_whose_status_was_lost_is_looked_up_and_a_reset_never_sent_twice(
    engine: Engine, device: Device, operation: str, known: bool
) -> None:
    number = enqueue(engine, "device", operation=operation)
    with engine.begin() as conn:
        begun = queue.next_for(conn, DEVICE, 1.0)
        assert begun is not None
        queue.checkpoint(conn, begun, {"exec_sent": True}, 1.0)  # and then the session broke off
        queue.requeue_running(conn, DEVICE, 1.0)
    if known:
        device.tree.nodes["./LAWMO/Status/Correlator"] = job(engine, number)["correlator"]
    device.session()
    state = "waiting" if known or operation == "reboot" else "failed"
    assert (job(engine, number)["state"], len(device.tree.execs)) == (state, int(not known and operation == "reboot"))


def test_another_operation_is_refused_when_it_is_queued(engine: Engine, device: Device) -> None:
    assert device.account
    with pytest.raises(JobError):
        enqueue(engine, "device", operation="explode")
