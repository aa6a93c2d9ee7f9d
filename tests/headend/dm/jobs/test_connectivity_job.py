"""The job `connectivity`: proposed, tried, and told as the device tells it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from headend.dm.jobs import desired
from headend.dm.jobs.connectivity import LEAVES, TRY
from headend.dm.jobs.params import JobError
from headend.operator import told
from tests.headend.dm.bench import DEVICE, connected, enqueue, job
from tests.headend.dm_device import Device, Tree, alert
from tests.omadm.test_addresses import UNUSABLE

NEW = "https://new.example/dm"


@pytest.fixture
def device(engine: Engine) -> Device:
    nodes: dict[str, Any] = {
        f"./ConnMO{above}": None for above in ("", "/Proposed", "/InUse", "/Operations", "/Status")
    }
    nodes["./ConnMO/InUse/ServerURL"] = NEW
    nodes |= {f"./ConnMO/Proposed/{leaf}": "left behind" for leaf in (*LEAVES.values(), "Within")}
    nodes |= {TRY: "", "./ConnMO/Status/State": "idle", "./ConnMO/Status/Reason": "", "./ConnMO/Status/Changed": ""}
    nodes |= {"./ConnMO/Status/Correlator": ""}
    return connected(engine, nodes)


def tell(device: Device, correlator: str, code: int) -> None:
    data = f"<ResultCode>{code}</ResultCode>"
    device.alerts = [alert(correlator, data, kind="urn:x-dcu:at:connmo:1.0:ChangeComplete", source="./ConnMO")]
    device.session()
    device.alerts = []


def test_a_change_is_proposed_whole_tried_once_and_done_when_the_device_says_so(engine: Engine, device: Device) -> None:
    number = enqueue(
        engine, "connectivity", server=NEW, uplink="https://new.example/r", access="password=x", within_s=300
    )
    device.session()
    assert job(engine, number)["state"] == "waiting"
    assert "access" not in job(engine, number)["params"]
    proposed = {leaf: device.tree.nodes[f"./ConnMO/Proposed/{leaf}"] for leaf in (*LEAVES.values(), "Within")}
    assert proposed == {
        "ServerURL": NEW,
        "RegistrationURL": "",
        "UplinkURL": "https://new.example/r",
        "Anchors": "",
        "TimeServers": "",
        "Access": "password=x",
        "Within": "300",
    }
    ((uri, correlator),) = device.tree.execs
    assert (uri, correlator) == (TRY, job(engine, number)["correlator"])
    device.tree.nodes |= {"./ConnMO/Status/State": "confirmed", "./ConnMO/Status/Changed": "ServerURL"}
    tell(device, correlator or "", 1200)
    found = job(engine, number)
    assert (found["state"], found["result"]) == (
        "done",
        {"result_code": 1200, "state": "confirmed", "changed": "ServerURL"},
    )
    with engine.begin() as conn:
        assert told.connectivity(conn, DEVICE)["in_force"][0]["value"] == NEW
        (again,) = desired.jobs_for(conn, DEVICE, 1.0)
    assert again[1]["nodes"] == [{"path": "./AMI/Uplink/URL", "value": "https://new.example/r", "format": "chr"}]


def test_a_change_that_was_taken_back_is_failed_with_the_devices_reason(engine: Engine, device: Device) -> None:
    number = enqueue(engine, "connectivity", server=NEW)
    device.session()
    device.tree.nodes |= {"./ConnMO/Status/State": "reverted", "./ConnMO/Status/Reason": "no session in 900 s"}
    tell(device, str(device.tree.execs[0][1]), 1450)
    found = job(engine, number)
    assert (found["state"], found["result"]["error"]) == (
        "failed",
        "the device has taken the change back: no session in 900 s",
    )


def test_a_device_without_the_object_fails_the_job(engine: Engine, device: Device) -> None:
    device.tree = Tree()
    number = enqueue(engine, "connectivity", server=NEW)
    device.session()
    assert job(engine, number)["state"] == "failed"
    assert job(engine, number)["result"]["refused"]["./ConnMO/Proposed/ServerURL"] == 404


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"within_s": 900},
        {"server": "http://new.example/"},
        {"server": "default"},
        {"server": NEW, "within_s": 59},
        {"server": NEW, "within_s": True},
        {"time_servers": "a\nb"},
        {"elsewhere": "x"},
        *({name: url} for name in ("server", "registration", "uplink") for url, _ in UNUSABLE.values()),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_when_it_is_queued(
    engine: Engine, device: Device, params: dict[str, Any]
) -> None:
    assert device.account
    with pytest.raises(JobError) as refused:
        enqueue(engine, "connectivity", **params)
    assert any(name in str(refused.value) for name in params) or not params.keys() - {"within_s"}
