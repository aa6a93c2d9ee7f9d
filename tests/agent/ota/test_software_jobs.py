"""Software components over years: jobs without end, what is wrong with a package, what somebody does by hand."""

from __future__ import annotations

import pytest

from agent.jobs import software
from agent.jobs.software import ENDED_KEPT, DeployedSoftware
from tests.agent.dm.server import FakeDmServer, add, execute, get
from tests.agent.dm_device import Device, FakeManifest
from updateagent.package.manifest import Kind

FAILED = "<ResultCode>{}</ResultCode><Identifier>lists</Identifier>"


@pytest.fixture
def one() -> Device:
    made = Device(FakeDmServer()).registered()
    made.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    return made


def job(number: int, *more: object, operation: str = "DownloadInstall") -> list[object]:
    """As the head-end makes one: a node of its own per job, which it never removes."""
    node = f"./SCOMO/Download/job{number}"
    url = add(f"{node}/PkgURL", "https://packages.example/lists.swu", "chr")
    return [add(node, None, "node"), url, *more, execute(f"{node}/Operations/{operation}", f"c{number}")]


def nodes(one: Device) -> list[str]:
    looking = one.service.tree.view()
    return looking.names(looking.existing(software.DOWNLOAD))


@pytest.mark.slow
def test_200_jobs_in_a_row_are_all_done_and_the_last_ones_can_be_looked_at(one: Device) -> None:
    for number in range(200):
        one.session(job(number))
        assert one.server.codes[-1] == 202, number
        if number % 7 == 3:
            one.restart()
        one.work()
        one.session()
        assert one.server.generic[-1][3] == f"c{number}", number
        assert "1200" in str(one.server.generic[-1][2]), number
        assert len(nodes(one)) <= ENDED_KEPT
    assert nodes(one) == sorted(f"job{number}" for number in range(200 - ENDED_KEPT, 200))


def test_a_device_that_is_full_of_ended_jobs_gets_well_with_the_update(one: Device) -> None:
    """As an earlier version has left it: as many nodes as there can be, whose jobs are over."""
    with one.service.tree.transaction() as changing:
        for number in range(64):
            changing.put((*software.DOWNLOAD, f"old{number}", "PkgURL"), "https://packages.example/x.swu")
            software.set_status(changing, f"old{number}", software.DownloadStatus.IDLE)
    one.session(job(1))
    assert 420 in one.server.codes
    one.restart()
    one.work()
    assert len(nodes(one)) == ENDED_KEPT
    one.session(job(1))
    one.work()
    one.session()
    assert one.server.generic[-1][2] == FAILED.format(1200)
    assert "job1" in nodes(one)
    assert len(nodes(one)) == ENDED_KEPT


def test_a_node_that_its_server_has_not_used_yet_and_one_whose_result_is_not_known_stay(one: Device) -> None:
    one.session([add("./SCOMO/Download/plan", None, "node")])
    for number in range(ENDED_KEPT + 3):
        one.session(job(number))
        one.work()
        if number == 0:
            one.server.acknowledge = 500
            one.session()
            one.server.acknowledge = 200
    one.session()
    assert "plan" in nodes(one)


def test_a_package_with_a_broken_list_is_not_activated_and_says_why(one: Device) -> None:
    one.software.components["lists"] = DeployedSoftware("lists", "0", active=True)
    one.software_problem = lambda _id, _version: "1/x.csv:2: attr: wanted 1 to 127, got ''"
    one.session(job(1))
    one.work()
    one.session()
    assert one.server.generic[-1][2] == FAILED.format(1409)
    assert not [call for call in one.software.calls if call.startswith("activate")]


def test_what_is_activated_is_what_the_node_shows(one: Device) -> None:
    one.session(job(1, operation="DownloadInstallInactive"))
    one.work()
    one.session([execute("./SCOMO/Inventory/Deployed/lists/Operations/Activate", "a1")])
    one.work()
    assert one.software.calls[-1] == "activate lists 1"
    one.software_problem = lambda _id, version: f"{version} is broken"
    one.session([execute("./SCOMO/Inventory/Deployed/lists/Operations/Activate", "a2")])
    one.work()
    one.session()
    assert one.server.generic[-1][2] == FAILED.format(1409)


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        ("id=lists;version=1", 1200),
        ("id=lists", 1200),
        ("colour=red", 1200),
        ("id=other;version=1", 1405),
        ("id=lists;version=2", 1405),
    ],
)
def test_a_package_other_than_the_jobs_is_not_installed(one: Device, asked: str, result: int) -> None:
    one.session(job(1, add("./SCOMO/Download/job1/InstallParams", asked, "chr")))
    one.work()
    one.session()
    assert one.server.generic[-1][2] == FAILED.format(result)
    assert bool(one.software.calls) == (result == 1200)


def test_what_somebody_changes_by_hand_is_seen(one: Device) -> None:
    one.session(job(1))
    one.work()
    changes = len(one.software_changes)
    one.work()
    assert len(one.software_changes) == changes
    one.software.components["lists"] = DeployedSoftware("lists", "7", active=True)
    one.work()
    assert len(one.software_changes) == changes + 1
    one.session([get("./SCOMO/Inventory/Deployed/lists/Version")])
    assert list(one.server.values.values()) == ["7"]
    one.work()
    assert len(one.software_changes) == changes + 1
