"""Package jobs: from the Exec to the acknowledged alert, across restarts and power cuts."""

from __future__ import annotations

import json
from random import Random

import pytest

from agent.jobs import firmware, software
from agent.jobs.firmware import Job, State
from agent.ota.download import DownloadError, DownloadStopped
from agent.tree import alerts
from tests.agent.dm.server import FakeDmServer, add, delete, execute, get, put
from tests.agent.dm_device import UPDATE, Device, FakeManifest
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival
from updateagent.errors import SIGNATURE, PackageError
from updateagent.handover import NAME_CHARS_MAX, InstallRequest
from updateagent.package.manifest import Kind

URL = "https://packages.example/fw.swu"
BOTH = "./FUMO/Firmware/DownloadAndUpdate"
START = [put(f"{BOTH}/PkgURL", URL), execute(BOTH, "corr-1")]
ALERT = "org.openmobilealliance.dm.firmwareupdate.downloadandupdate"
RESULT = UPDATE / "outbox/result.json"
REQUEST = UPDATE / "inbox/request.json"


def device() -> Device:
    return Device(FakeDmServer()).registered()


def job_of(one: Device) -> Job:
    return firmware.load(one.service.tree.view())


def state_of(one: Device) -> int:
    return job_of(one).state


def leave_result(one: Device, code: int = 200, **changes: object) -> None:
    job = job_of(one)
    result = {"version": 1, "id": job.id, "correlator": job.correlator, "name": "ok", "fumo": code, **changes}
    one.disk.write_durable(RESULT, json.dumps(result).encode())
    one.disk.remove_durable(REQUEST)


# -- firmware --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_job_in_a_state_of_a_later_version_goes_on_and_is_reported(*, handed_over: bool) -> None:
    """After a rollback in mid-job: its server would wait for the result in vain."""
    one = device()
    one.session(START)
    if handed_over:
        one.work()
        assert state_of(one) == State.UPDATING
    with one.tree.transaction() as changing:
        changing.update_record(firmware.RECORD, state=75)
    one.restart()
    assert state_of(one) == (State.UPDATING if handed_over else State.DOWNLOADING)
    one.work()
    leave_result(one)
    one.restart()
    one.work()
    one.session()
    assert one.server.generic == [(ALERT, "./FUMO/Firmware", "<ResultCode>200</ResultCode>", "corr-1")]


def test_the_exec_is_answered_202_and_the_intent_is_durable_before_anything_is_fetched() -> None:
    one = device()
    one.session(START)
    assert one.server.codes == [200, 202]
    assert one.fetcher.urls == []
    one.restart(disk=one.disk.after_power_cut(Survival.LOST, Random(1)))
    assert state_of(one) == State.DOWNLOADING
    one.work()
    assert one.fetcher.urls == [URL]


def test_a_verified_package_is_handed_over_as_files_and_a_reboot_is_asked_for_between_sessions() -> None:
    one = device()
    one.session(START)
    one.work()
    request = json.loads(one.disk.read_bytes(REQUEST))
    assert (request["version"], request["package"], request["kind"]) == (1, "package.swu", "firmware")
    assert (request["id"], request["correlator"]) == (job_of(one).id, "corr-1")
    assert one.disk.read_bytes(UPDATE / "inbox/package.swu") == b"package"
    assert state_of(one) == State.UPDATING
    assert one.reboots == 0
    one.turn()
    assert one.reboots == 1


def test_a_reboot_that_does_not_come_is_asked_for_again() -> None:
    one = device()
    one.session(START)
    one.work()
    one.turn()
    one.clock.advance(700)
    one.work()
    one.turn()
    assert one.reboots == 2


def test_the_result_is_reported_with_the_correlator_until_acknowledged_and_never_again() -> None:
    one = device()
    one.session(START)
    one.work()
    one.restart(boot_id="boot 2")
    leave_result(one)
    one.work()
    one.server.acknowledge = 500
    one.session()
    wanted = (ALERT, "./FUMO/Firmware", "<ResultCode>200</ResultCode>", "corr-1")
    assert one.server.generic == [wanted]
    assert one.disk.exists(RESULT)
    one.server.acknowledge = 200
    one.work()
    one.session()
    assert one.server.generic == [wanted]
    one.work()
    assert not one.disk.exists(RESULT)
    one.session()
    assert one.server.generic == []
    assert state_of(one) == State.SUCCEEDED


def test_the_same_alert_goes_out_again_after_a_restart_when_the_answer_was_lost() -> None:
    one = device()
    one.session(START)
    one.work()
    leave_result(one, 410)
    one.work()
    one.server.lose_next = ["line down"]
    one.session()
    one.restart(boot_id="boot 3")
    one.clock.advance(100)
    one.session()
    assert [entry[2] for entry in one.server.generic] == ["<ResultCode>410</ResultCode>"]
    assert state_of(one) == State.FAILED


def test_a_result_that_survived_its_removal_is_not_reported_twice() -> None:
    one = device()
    one.session(START)
    one.work()
    one.turn()
    leave_result(one)
    one.work()
    kept = one.disk.read_bytes(RESULT)
    one.session()
    one.work()
    one.disk.write_durable(RESULT, kept)
    one.restart()
    one.work()
    assert alerts.pending(one.service.tree.view()) == ()
    assert not one.disk.exists(RESULT)


def test_a_failed_download_is_reported_and_the_next_exec_starts_afresh() -> None:
    one = device()
    one.fetcher.errors = [DownloadError(411, 1402, "no such thing")]
    one.session(START)
    one.work()
    assert state_of(one) == State.DOWNLOAD_FAILED
    one.session()
    assert [entry[2] for entry in one.server.generic] == ["<ResultCode>411</ResultCode>"]
    one.session([execute(BOTH, "corr-2")])
    assert one.server.codes == [202]


def test_a_tampered_package_is_refused_before_anything_is_handed_over_and_reported_404() -> None:
    one = device()
    one.manifest = PackageError(SIGNATURE, "the signature does not fit")
    one.session(START)
    one.work()
    assert not one.disk.exists(REQUEST)
    assert not one.disk.exists(UPDATE / "download/firmware.swu")
    one.session()
    assert [entry[2] for entry in one.server.generic] == ["<ResultCode>404</ResultCode>"]
    assert one.reboots == 0


def test_a_software_package_is_no_firmware() -> None:
    one = device()
    one.manifest = FakeManifest(Kind.SOFTWARE)
    one.session(START)
    one.work()
    one.session()
    assert [entry[2] for entry in one.server.generic] == ["<ResultCode>405</ResultCode>"]


def test_a_download_that_was_stopped_goes_on_after_the_restart() -> None:
    one = device()
    one.session(START)
    one.fetcher.errors = [DownloadStopped()]
    one.work()
    assert state_of(one) == State.DOWNLOADING
    one.restart()
    one.work()
    assert state_of(one) == State.UPDATING


def test_sessions_go_on_during_a_download_and_show_its_progress() -> None:
    one = device()
    one.session(START)

    def session() -> None:
        one.fetcher.during = lambda: None
        one.session([get("./FUMO/Firmware/State", "./FUMO/Firmware/Ext/BytesFetched", "./FUMO/Firmware/Ext/Resumes")])

    one.fetcher.during = session
    one.work()
    assert list(one.server.values.values()) == ["30", "3", "1"]


def test_the_same_exec_again_is_202_and_another_one_is_refused_while_busy() -> None:
    one = device()
    one.session(START)
    one.session([execute(BOTH, "corr-1")], [execute(BOTH, "corr-2")])
    assert one.server.codes == [202, 500]


def test_a_correlator_that_the_update_agent_takes_reaches_it_whole() -> None:
    one, correlator = device(), "c" * 256
    one.session([put(f"{BOTH}/PkgURL", URL), execute(BOTH, correlator)])
    assert one.server.codes == [200, 202]
    one.work()
    assert InstallRequest.parse(one.disk.read_bytes(REQUEST)).correlator == correlator
    one.restart(boot_id="boot 2")
    leave_result(one)
    one.work()
    one.session()
    assert [heard for *_, heard in one.server.generic] == [correlator]


def test_a_correlator_that_the_update_agent_would_refuse_is_refused_at_the_exec() -> None:
    one = device()
    one.session([put(f"{BOTH}/PkgURL", URL), execute(BOTH, "c" * 257)])
    assert (NAME_CHARS_MAX, one.server.codes) == (256, [200, 413])
    assert not job_of(one).active
    one.work()
    assert one.fetcher.urls == []


def test_an_exec_without_a_url_is_412() -> None:
    one = device()
    one.session([execute(BOTH, "c")])
    assert one.server.codes == [412]


def test_download_and_update_can_be_asked_for_one_after_the_other() -> None:
    one = device()
    base = "./FUMO/Firmware/Download"
    one.session([put(f"{base}/PkgURL", URL), execute(base, "d")])
    one.work()
    one.session()
    assert [(entry[0].rpartition(".")[2], entry[2]) for entry in one.server.generic] == [
        ("download", "<ResultCode>200</ResultCode>")
    ]
    assert state_of(one) == State.READY
    one.session([execute("./FUMO/Firmware/Update", "u")])
    one.work()
    assert state_of(one) == State.UPDATING
    one.turn()
    leave_result(one)
    one.work()
    one.session()
    assert [(entry[0].rpartition(".")[2], entry[3]) for entry in one.server.generic] == [("update", "u")]


def test_update_without_a_package_is_refused() -> None:
    one = device()
    one.session([execute("./FUMO/Firmware/Update", "u")])
    assert one.server.codes == [500]


def test_an_update_by_hand_is_reported_too() -> None:
    one = device()
    one.disk.write_durable(RESULT, b'{"version":1,"id":"by-hand","correlator":"","name":"ok","fumo":200}')
    one.work()
    one.session()
    assert [entry[2:] for entry in one.server.generic] == [("<ResultCode>200</ResultCode>", None)]
    one.work()
    assert not one.disk.exists(RESULT)


def test_a_result_that_cannot_be_read_is_set_aside() -> None:
    one = device()
    one.disk.write_durable(RESULT, b"{")
    one.work()
    assert not one.disk.exists(RESULT)
    assert one.disk.exists(UPDATE / "outbox/unreadable.json")


def test_an_update_that_left_no_trace_is_reported_after_a_while() -> None:
    one = device()
    one.session(START)
    one.work()
    one.disk.remove_durable(REQUEST)
    one.restart(boot_id="boot 2")
    one.work()
    one.clock.advance(1000)
    one.work()
    one.session()
    assert [entry[2] for entry in one.server.generic] == ["<ResultCode>409</ResultCode>"]


def test_slots_and_update_state_are_shown() -> None:
    one = device()
    status = {"version": 1, "state": "trial", "booted": "B", "slots": [{"name": "B", "version": "2", "state": "trial"}]}
    status["error"] = "environment (64): no copy is good"
    one.disk.write_durable(UPDATE / "status.json", json.dumps(status).encode())
    one.work()
    shown = one.board.current
    assert (shown.update_state, shown.update_error) == ("trial", "environment (64): no copy is good")
    assert [(slot.name, slot.version, slot.booted, slot.state) for slot in shown.slots] == [("B", "2", True, "trial")]


class _Life:
    """A device, its board and its Update Agent, from the Exec to the end."""

    def __init__(self) -> None:
        self.one = device()
        self.one.session(START)
        self.one.server.new_session()
        self.boots = 1

    def boot(self, disk: FaultyDisk | None = None) -> None:
        """Power on. The Update Agent runs before the agent, and all updates succeed."""
        self.boots += 1
        disk = disk or self.one.disk
        if disk.exists(REQUEST):
            request = json.loads(disk.read_bytes(REQUEST))
            assert disk.read_bytes(UPDATE / "inbox/package.swu") == b"package"
            result = {"id": request["id"], "correlator": request["correlator"], "name": "ok", "fumo": 200}
            disk.write_durable(RESULT, json.dumps(result).encode())
            disk.remove_durable(REQUEST)
        self.one.restart(boot_id=f"boot {self.boots}", disk=disk)
        self.one.service.session_now("boot")

    def run(self) -> None:
        """Until nothing moves any more."""
        self.one.settle(self.boot, 8)


def _operations() -> int:
    life = _Life()
    before = life.one.disk.operations
    life.run()
    return life.one.disk.operations - before


def _live_with_cut(number: int, survival: Survival) -> _Life:
    """A life in which the power goes at the given operation, and comes back."""
    life = _Life()
    disk = life.one.disk
    last = disk.operations + number
    disk.on_operation = lambda operation: 0.5 if operation.number == last else None
    try:
        life.run()
    except PowerCut:
        life.boot(disk.after_power_cut(survival, Random(number)))
    life.run()
    return life


@pytest.mark.parametrize("survival", list(Survival))
def test_an_update_survives_a_power_cut_at_every_operation_and_is_reported_until_acknowledged(
    survival: Survival,
) -> None:
    for number in range(1, _operations() + 1):
        life = _live_with_cut(number, survival)
        one = life.one
        case = (number, survival)
        assert {alert.correlator for alert in one.server.alerts if alert.code == 1226} == {"corr-1"}, case
        assert not one.disk.exists(RESULT), case
        assert alerts.pending(one.service.tree.view()) == (), case
        assert state_of(one) == State.SUCCEEDED, case
        assert one.last_result == "ok", case


# -- software --------------------------------------------------------------------------------------------------

DOWNLOAD = "./SCOMO/Download/x"
COMPLETE = "urn:oma:at:scomo:1.0:OperationComplete"


def wanted(operation: str = "DownloadInstall") -> list[object]:
    return [
        add(DOWNLOAD, None, "node"),
        add(f"{DOWNLOAD}/PkgID", "pkg-lists", "chr"),
        add(f"{DOWNLOAD}/PkgURL", "https://packages.example/lists.swu", "chr"),
        execute(f"{DOWNLOAD}/Operations/{operation}", "s1"),
    ]


def software_device() -> Device:
    one = device()
    one.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    return one


def test_software_is_fetched_installed_listed_and_reported() -> None:
    one = software_device()
    one.session(wanted())
    assert one.server.codes == [200, 200, 200, 202]
    one.work()
    one.session([get("./SCOMO/Inventory/Deployed?list=StructData")])
    result = "<ResultCode>1200</ResultCode><Identifier>lists</Identifier>"
    assert one.server.generic == [(COMPLETE, DOWNLOAD, result, "s1")]
    values = one.server.values
    assert values["./SCOMO/Inventory/Deployed/lists/State"] == "20"
    assert values["./SCOMO/Inventory/Deployed/lists/PkgIDRef"] == "pkg-lists"
    assert values["./SCOMO/Inventory/Deployed/lists/Version"] == "1"


@pytest.mark.parametrize(
    ("failure", "code", "status"),
    [
        ("download", 1403, software.DownloadStatus.DOWNLOAD_FAILED),
        ("signature", 1407, software.DownloadStatus.INSTALL_FAILED),
        ("kind", 1405, software.DownloadStatus.INSTALL_FAILED),
        ("install", 1406, software.DownloadStatus.INSTALL_FAILED),
    ],
)
def test_every_way_to_fail_has_its_result_code(failure: str, code: int, status: int) -> None:
    one = software_device()
    if failure == "download":
        one.fetcher.errors = [DownloadError(406, 1403, "login")]
    elif failure == "signature":
        one.manifest = PackageError(SIGNATURE, "no")
    elif failure == "kind":
        one.manifest = FakeManifest(Kind.FIRMWARE)
    else:
        one.software.fail = 1406
    one.session(wanted())
    one.work()
    one.session([get(f"{DOWNLOAD}/Status")])
    assert [entry[2] for entry in one.server.generic] == [
        f"<ResultCode>{code}</ResultCode><Identifier>{'lists' if failure == 'install' else 'x'}</Identifier>"
    ]
    assert one.server.values == {f"{DOWNLOAD}/Status": str(int(status))}


def test_software_can_be_delivered_first_and_installed_inactive_later() -> None:
    one = software_device()
    one.session(wanted("Download"))
    one.work()
    assert one.software.calls == []
    delivered = "./SCOMO/Inventory/Delivered/x"
    one.session([get(f"{delivered}/State"), execute(f"{delivered}/Operations/InstallInactive", "s2")])
    assert one.server.values == {f"{delivered}/State": "10"}
    one.work()
    deployed = "./SCOMO/Inventory/Deployed/lists"
    one.session([get(f"{delivered}/State", f"{deployed}/State"), execute(f"{deployed}/Operations/Activate", "s3")])
    assert one.server.values == {f"{delivered}/State": "20", f"{deployed}/State": "10"}
    one.work()
    one.session([get(f"{deployed}/State"), execute(f"{deployed}/Operations/Deactivate", "s4")])
    assert one.server.values == {f"{deployed}/State": "20"}
    one.work()
    one.session([execute(f"{deployed}/Operations/Remove", "s5"), execute(f"{delivered}/Operations/Remove", "s6")])
    one.work()
    one.work()
    one.session([get("./SCOMO/Inventory/Deployed", "./SCOMO/Inventory/Delivered")])
    assert one.server.values == {"./SCOMO/Inventory/Deployed": "", "./SCOMO/Inventory/Delivered": ""}
    assert [entry[3] for entry in one.server.generic] == ["s5", "s6"]


def test_software_jobs_wait_their_turn_and_survive_a_restart() -> None:
    one = software_device()
    one.session(wanted())
    one.restart()
    one.work()
    assert one.software.calls
    assert software.jobs(one.service.tree.view()) == ()


def test_a_component_whose_download_node_was_deleted_meanwhile_is_installed_all_the_same() -> None:
    one = software_device()
    one.session(wanted())
    one.session([delete(DOWNLOAD)])
    assert one.server.codes == [200]
    one.work()
    one.session()
    assert [entry[3] for entry in one.server.generic] == ["s1"]


def test_too_many_waiting_jobs_are_refused() -> None:
    one = software_device()
    one.session([*wanted(), *[execute(f"{DOWNLOAD}/Operations/DownloadInstall", f"n{n}") for n in range(20)]])
    assert one.server.codes.count(202) == software.JOBS_MAX
    assert one.server.codes[-1] == 420


def test_the_disk_of_the_power_cut_test_cuts() -> None:
    disk = FaultyDisk()
    disk.on_operation = lambda _: 0.0
    with pytest.raises(PowerCut):
        disk.mkdir_durable(UPDATE)
