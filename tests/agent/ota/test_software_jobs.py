"""Software components over years: jobs without end, what is wrong with a package, what somebody does by hand."""

from __future__ import annotations

import pytest

from agent.jobs import orders, software
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


# --- what does not run is taken back ---


@pytest.fixture
def two(one: Device) -> Device:
    """Version 1 is active, and the package brings version 2."""
    one.software.components["lists"] = DeployedSoftware("lists", "1", active=True)
    one.manifest = FakeManifest(Kind.SOFTWARE, "lists", "2")
    one.software.version = "2"
    return one


def result(one: Device) -> str:
    one.session()
    return str(one.server.generic[-1][2])


def test_a_version_that_does_not_run_is_taken_back_and_the_result_says_so(two: Device) -> None:
    asked: list[tuple[str, str]] = []

    def outcome(software_id: str, version: str) -> str:
        asked.append((software_id, version))
        return "ended by signal 11" if version == "2" else ""

    two.service_outcome = outcome
    two.session(job(1))
    two.work()
    assert result(two) == FAILED.format(1450)
    assert two.software.calls[-2:] == ["activate lists 2", "activate lists 1"]
    assert asked == [("lists", "2"), ("lists", "1")]
    assert two.software.components["lists"] == DeployedSoftware("lists", "1", active=True)
    assert two.software_changes  # lists that were read meanwhile are forgotten


def test_a_version_that_was_taken_back_is_not_the_one_that_activate_means(two: Device) -> None:
    two.service_outcome = lambda _id, version: "ended by signal 11" if version == "2" else ""
    two.session(job(1))
    two.work()
    assert result(two) == FAILED.format(1450)
    assert two.software.but == {"lists": "2"}  # when the inventory was made
    two.restart()
    assert software.taken_back(two.service.tree.view()) == {"lists": "2"}
    two.service_outcome = lambda _id, _version: ""  # the same version again, and it runs now
    two.session(job(2))
    two.work()
    assert result(two) == FAILED.format(1200)
    assert software.taken_back(two.service.tree.view()) == {}


def error(one: Device, uri: str) -> str:
    """What a server reads there."""
    looking = one.service.tree.view()
    return looking.text(tuple(uri.split("/")[1:]))


def test_why_a_job_failed_is_told_until_the_next_one_of_its_node(two: Device) -> None:
    node = "./SCOMO/Download/job1/Ext/LastError"
    two.service_outcome = lambda _id, version: "ended by\nsignal 11" if version == "2" else ""
    two.session(job(1))
    two.work()
    assert result(two) == FAILED.format(1450)
    assert error(two, node) == "ended by signal 11"
    two.service_outcome = lambda _id, _version: ""
    two.session([execute("./SCOMO/Download/job1/Operations/DownloadInstall", "again")])
    two.work()
    assert result(two) == FAILED.format(1200)
    assert error(two, node) == ""


def test_the_first_version_that_does_not_run_leaves_none_active(one: Device) -> None:
    one.service_outcome = lambda _id, version: "ended with exit code 1" if version else ""
    one.session(job(1))
    one.work()
    assert result(one) == FAILED.format(1409)
    assert one.software.calls[-1] == "deactivate lists"
    assert not one.software.components["lists"].active


@pytest.mark.parametrize("refused", [True, False], ids=["below the floor", "broken too"])
def test_where_there_is_no_way_back_the_result_is_another(two: Device, refused: bool) -> None:
    two.service_outcome = lambda _id, version: "ended" if version else ""
    two.software.refuses = {"1"} if refused else set()
    two.session(job(1))
    two.work()
    assert result(two) == FAILED.format(1409)
    assert two.software.components["lists"].active != refused


def test_an_activation_that_the_end_of_the_agent_cuts_is_taken_up_again(two: Device) -> None:
    two.service_outcome = lambda _id, _version: None
    two.session(job(1))
    two.work()
    two.session()
    assert two.server.generic == []
    two.restart()
    two.service_outcome = lambda _id, version: "ended" if version == "2" else ""
    two.work()
    assert result(two) == FAILED.format(1450)
    assert two.software.components["lists"].version == "1"


def test_a_version_that_ends_the_agent_each_time_is_taken_back(two: Device) -> None:
    two.service_outcome = lambda _id, version: None if version == "2" else ""
    two.session(job(1))
    for _ in range(3):
        two.work()
        assert software.jobs(two.service.tree.view())
        two.restart()
    two.work()
    assert result(two) == FAILED.format(1450)
    assert two.software.calls.count("activate lists 2") == 3


def test_what_was_active_before_the_job_already_is_left(one: Device) -> None:
    one.software.components["lists"] = DeployedSoftware("lists", "1", active=True)
    one.service_outcome = lambda _id, _version: "ended"
    one.session(job(1))
    one.work()
    assert result(one) == FAILED.format(1409)
    assert one.software.components["lists"].active


def test_the_newest_version_is_looked_at_before_it_is_activated(one: Device) -> None:
    one.session(job(1))
    one.work()
    one.software.latest = "3"
    seen: list[str] = []
    one.software_problem = lambda _id, version: seen.append(version) or "3/x.csv:1: broken"  # type: ignore[func-returns-value]
    one.session([execute("./SCOMO/Inventory/Deployed/lists/Operations/Activate", "a1")])
    one.work()
    assert seen == ["3"]
    assert result(one) == FAILED.format(1409)
    assert one.software.calls[-1] == "activate lists 1"


@pytest.mark.parametrize("operation", ["Deactivate", "Remove"])
def test_nothing_of_it_runs_any_more_when_the_end_is_reported(one: Device, operation: str) -> None:
    one.session(job(1))
    one.work()
    waited: list[str] = []

    def outcome(_id: str, version: str) -> str:
        waited.append(f"{version or 'nothing'}, {one.software.components['lists'].active}")
        return ""

    one.service_outcome = outcome
    one.session([execute(f"./SCOMO/Inventory/Deployed/lists/Operations/{operation}", "d1")])
    one.work()
    assert waited == ["nothing, False"]
    assert result(one) == FAILED.format(1200)


@pytest.mark.parametrize("change", [{"kind": "Library"}, {"operation": "DownloadVerify"}])
def test_a_job_that_only_a_later_version_knows_fails_and_the_next_one_runs(one: Device, change: dict[str, str]) -> None:
    """After a rollback: it was carried out as an install, or raised at every turn and held up all behind it."""
    one.session(job(1))
    with one.tree.transaction() as changing:
        record = changing.record(software.RECORD)
        record["jobs"][0].update(change)
        changing.set_record(software.RECORD, record)
    one.session(job(2))
    for _ in range(6):
        one.work()
        one.turn()
        one.clock.advance(60)
    assert [str(data).partition("</ResultCode>")[0] for _, _, data, _ in one.server.generic] == [
        "<ResultCode>1400",
        "<ResultCode>1200",
    ]


def test_words_of_a_later_version_in_the_record_hold_nothing_up(one: Device) -> None:
    one.session(job(1))
    with one.tree.transaction() as changing:
        record = changing.record(software.RECORD)
        record["status"] = {"job1": "paused"}
        record["jobs"].insert(0, {**record["jobs"][0], "id": 5})
        changing.set_record(software.RECORD, record)
    one.work()
    assert software.jobs(one.tree.view()) == ()


def test_an_order_that_cannot_be_read_costs_no_session(one: Device) -> None:
    whole = {
        "id": "i", "name": "o1", "correlator": "c", "asked_by": "s", "kind": "ping", "meters": ["m"],
        "parameters": "{}", "priority": 5, "deadline_s": 60,
    }  # fmt: skip
    for wrong in ({"meters": None}, {"priority": "x"}, {"deadline_s": None}, {}):
        with one.tree.transaction() as changing:
            changing.update_record(orders.RECORD, jobs=[None, {**whole, **wrong}])
        assert len(orders.jobs(one.tree.view())) == (not wrong)
        one.session([get("./AMI/Order")])
