"""Changes of how the head-end is reached: confirmed by a session, or taken back, whatever happens in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from agent.dm.trial import Reached
from agent.https import HttpsError, Response
from agent.jobs import firmware
from agent.jobs.waiting import damaged_warnings
from agent.mo.connectivity import trial
from agent.mo.connectivity.trial import Values
from agent.tree import alerts
from omadm.syncml.messages import Command
from tests.agent.certificates import authority
from tests.agent.dm.server import ACCOUNT, FakeDmServer, copy, execute, get, put
from tests.agent.dm_device import Device
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival

OLD, NEW = ACCOUNT.url, "https://new.example/dm"
UPLINK = "https://new.example/readings"
TRY, TAKE_BACK = "./ConnMO/Operations/Try", "./ConnMO/Operations/TakeBack"
STATUS = ["./ConnMO/Status/State", "./ConnMO/Status/Reason", "./ConnMO/InUse/ServerURL"]
ADDRESS = "./DMAcc/main/AppAddr/1/Addr"
COMPLETE = trial.ALERT_TYPE


class MovingServer(FakeDmServer):
    """One head-end that can be reached at the addresses in `at`."""

    def __init__(self) -> None:
        super().__init__()
        self.at = {OLD}
        self.heard: list[tuple[str | None, str, str]] = []  # correlator, data, where: of each alert that was accepted

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        if url not in self.at:
            raise HttpsError(f"{url}: nobody there")
        self.account = replace(self.account, url=url)
        before = len(self.alerts)
        answer = super().request(method, url, body=body, headers=headers)
        for alert in self.alerts[before:]:
            if alert.code == 1226:
                self.heard.append((alert.correlator, str(alert.items[0].data), url))
        return answer


@dataclass
class FakeNetwork:
    """The system outside: what it was told last survives a power cut. `fails` says why the hook fails."""

    in_effect: Values = field(default_factory=Values)
    applied: int = 0
    fails: str = ""
    servers: dict[str, tuple[Reached, str]] = field(default_factory=dict)
    cut_after: bool = False  # the power goes once the next values are in effect

    def apply(self, values: Values, *, outdated: bool) -> str:
        hooked = (values.time_servers, values.access)
        if outdated or any(hooked):
            self.applied += 1
            if self.fails:
                return self.fails
            self.in_effect = replace(self.in_effect, time_servers=hooked[0], access=hooked[1])
        self.in_effect = replace(self.in_effect, registration=values.registration, anchors=values.anchors)
        if self.cut_after:
            self.cut_after = False
            raise PowerCut
        return ""

    def reach(self, url: str) -> tuple[Reached, str]:
        return self.servers.get(url, (Reached.YES, ""))


def device(network: FakeNetwork | None = None) -> tuple[Device, MovingServer, FakeNetwork]:
    server, network = MovingServer(), network or FakeNetwork()
    return Device(server, network=network).registered(), server, network


def proposal(*, correlator: str = "corr-1", **values: str) -> list[Command]:
    return [*(put(f"./ConnMO/Proposed/{name}", value) for name, value in values.items()), execute(TRY, correlator)]


def url_of(one: Device) -> str:
    return trial.in_use(one.tree.view()).server


def state_of(one: Device) -> str:
    return trial.load(one.tree.view()).state


def live_on(one: Device, seconds: int, every: int = 30) -> None:
    for _ in range(0, seconds, every):
        one.clock.advance(every)
        one.server.packages = []
        one.turn()


def test_an_address_at_which_the_server_is_becomes_the_one_in_use() -> None:
    one, server, _ = device()
    server.at.add(NEW)
    one.session(proposal(ServerURL=NEW))
    assert server.codes == [200, 202]
    assert server.heard == []
    live_on(one, 60)
    assert (url_of(one), state_of(one)) == (NEW, "confirmed")
    assert server.heard == [("corr-1", "<ResultCode>1200</ResultCode>", NEW)]
    one.session([get(*STATUS)])
    assert list(server.values.values()) == ["confirmed", "", NEW]


def test_the_session_that_brought_the_change_confirms_nothing() -> None:
    one, server, _ = device()
    one.session(proposal(ServerURL=NEW))
    assert one.last_result == "ok"
    assert (state_of(one), server.heard) == ("trial", [])


def test_an_address_where_nobody_is_is_taken_back_at_its_deadline_and_the_old_server_is_told_why() -> None:
    one, server, _ = device()
    one.session([put("./ConnMO/Proposed/Within", "300", "int"), *proposal(ServerURL=NEW)])
    assert server.codes == [200, 200, 202]
    live_on(one, 270)
    assert (url_of(one), state_of(one), server.heard) == (NEW, "trial", [])
    (warning,) = one.service.warnings()
    assert "server is on trial, and is taken back in 60 s" in warning
    live_on(one, 90)
    assert one.service.warnings() == []
    assert (url_of(one), state_of(one)) == (OLD, "reverted")
    assert server.heard == [("corr-1", "<ResultCode>1450</ResultCode>", OLD)]
    one.session([get(*STATUS)])
    assert server.values["./ConnMO/Status/Reason"] == f"no session in 300 s: {NEW}: nobody there"
    live_on(one, 7200, every=600)
    assert len(server.heard) == 1


def test_a_server_that_does_not_prove_itself_confirms_nothing_and_brings_no_new_registration() -> None:
    one, server, _ = device()
    server.at.add(NEW)
    one.session(proposal(ServerURL=NEW))
    server.wrong_macs = 1000
    live_on(one, 840)
    assert (state_of(one), one.registrations) == ("trial", 1)
    server.wrong_macs = 0
    server.at.remove(NEW)
    live_on(one, 120)
    assert (url_of(one), state_of(one), one.registrations) == (OLD, "reverted", 1)
    assert len(server.heard) == 1


def test_the_deadline_of_a_process_that_was_restarted_in_the_same_boot_goes_on() -> None:
    one, _, _ = device()
    one.session(proposal(ServerURL=NEW))
    live_on(one, 600)
    one.restart()
    live_on(one, 300)
    live_on(one, 30)
    assert state_of(one) == "reverted"


def test_a_boot_goes_on_with_what_was_noted_and_time_that_was_not_counts_for_nothing() -> None:
    one, _, _ = device()
    one.session(proposal(ServerURL=NEW))
    live_on(one, 630)
    one.clock.now = 5.0  # another boot: monotonic time begins anew
    one.restart(boot_id="boot 2")
    one.turn()
    left = one.service.trial.left_s()
    assert 270 <= left <= 270 + trial.NOTED_EVERY_S + 30
    live_on(one, int(left) + 60)
    assert state_of(one) == "reverted"


def test_a_board_that_starts_again_and_again_takes_the_change_back() -> None:
    one, server, _ = device()
    one.session(proposal(ServerURL=NEW))
    one.turn()
    for number in range(trial.BOOTS_MAX):
        one.clock.now = 5.0
        one.restart(boot_id=f"boot {number + 2}")
        one.turn()
        assert state_of(one) == "trial", number
    one.clock.now = 5.0
    one.restart(boot_id="one too many")
    live_on(one, 60)
    assert (url_of(one), state_of(one)) == (OLD, "reverted")
    assert server.heard == [("corr-1", "<ResultCode>1450</ResultCode>", OLD)]


def test_civil_time_that_jumps_changes_no_deadline() -> None:
    one, _, _ = device()
    one.session(proposal(ServerURL=NEW))
    live_on(one, 60)
    one.clock.wall_offset += 10 * 365 * 86_400
    live_on(one, 300)
    assert state_of(one) == "trial"
    one.clock.wall_offset = 0.0
    live_on(one, 600)
    assert state_of(one) == "reverted"


@pytest.mark.parametrize(
    ("reached", "state"),
    [
        ((Reached.YES, ""), "confirmed"),
        ((Reached.REFUSED, "TLS: unknown issuer"), "trial"),
        ((Reached.UNREACHABLE, "no route"), "trial"),
    ],
)
def test_a_new_address_for_readings_must_lead_to_a_server_that_is_believed(
    reached: tuple[Reached, str], state: str
) -> None:
    one, _, network = device()
    network.servers[UPLINK] = reached
    one.session(proposal(UplinkURL=UPLINK))
    live_on(one, 120)
    assert (state_of(one), one.service.provisioning.uplink.url) == (state, UPLINK)
    if state == "trial":
        live_on(one, 900)
        assert trial.load(one.tree.view()).reason == f"no session in 900 s: {reached[1]}"
        assert one.service.provisioning.uplink.url == ""


@pytest.mark.parametrize(
    ("reached", "state"),
    [
        ((Reached.YES, ""), "confirmed"),
        ((Reached.UNREACHABLE, "no route"), "confirmed"),  # it was so before
        ((Reached.REFUSED, "TLS: unknown issuer"), "trial"),
    ],
)
def test_new_authorities_must_not_cut_off_the_readings(reached: tuple[Reached, str], state: str) -> None:
    one, _, network = device()
    one.session([put("./AMI/Uplink/URL", UPLINK)])
    network.servers[UPLINK] = reached
    pem = authority((0.0, 4e9)).ca_pem().decode()
    one.session(proposal(Anchors=pem))
    live_on(one, 120)
    assert (state_of(one), network.in_effect.anchors) == (state, pem)
    live_on(one, 900)
    assert network.in_effect.anchors == (pem if state == "confirmed" else "")


def test_what_the_system_does_not_take_is_taken_back_at_once() -> None:
    one, server, network = device()
    network.fails = "modem: no such APN"
    one.session(proposal(ServerURL=NEW, Access="apn=x"))
    one.turn()
    assert (url_of(one), state_of(one)) == (OLD, "reverted")
    assert trial.load(one.tree.view()).reason == "modem: no such APN"
    assert one.service.warnings() == ["modem: no such APN"]  # nor did it take the old values
    network.fails = ""
    live_on(one, 120)
    assert one.service.warnings() == []
    assert network.in_effect == Values()
    assert server.heard == [("corr-1", "<ResultCode>1450</ResultCode>", OLD)]


def test_a_second_change_is_refused_until_the_first_is_over_and_the_same_one_again_is_not() -> None:
    one, server, _ = device()
    one.session(proposal(ServerURL=NEW))
    assert server.codes == [200, 202]
    server.new_session([put("./AMI/Uplink/URL", UPLINK), *proposal(UplinkURL=UPLINK, correlator="corr-2")])
    server.at.add(NEW)
    one.turn()
    assert server.codes == [200, 200, 500]
    assert state_of(one) == "confirmed"
    one.session([execute(TRY, "corr-1")])
    assert server.codes == [202]
    live_on(one, 120)
    assert len(server.heard) == 1


def test_the_uplinks_address_cannot_be_changed_behind_the_trials_back() -> None:
    one, server, network = device()
    network.servers[UPLINK] = (Reached.UNREACHABLE, "no route")
    one.session(proposal(UplinkURL=UPLINK))
    server.new_session([put("./AMI/Uplink/URL", "https://other.example/")])
    one.turn()
    assert server.codes == [500]


def test_a_change_waits_for_firmware_and_firmware_for_a_change() -> None:
    one, server, _ = device()
    with one.tree.transaction() as changing:
        firmware.save(changing, firmware.Job(active=True, state=firmware.State.UPDATING))
    one.session(proposal(ServerURL=NEW))
    assert server.codes == [200, 500]
    with one.tree.transaction() as changing:
        firmware.save(changing, firmware.Job())
    both = "./FUMO/Firmware/DownloadAndUpdate"
    one.session([*proposal(), put(f"{both}/PkgURL", "https://p.example/f"), execute(both, "f")])
    assert server.codes == [202, 200, 500]


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ({}, [412]),
        ({"ServerURL": "http://new.example/"}, [400, 412]),
        ({"RegistrationURL": "ftp://x/"}, [400, 412]),
        ({"Anchors": "no certificate"}, [400, 412]),
        ({"TimeServers": "a\nNTP=b"}, [202, 202]),
        ({"TimeServers": "[Time]"}, [400, 412]),
        ({"Within": "59"}, [400, 412]),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_tried(values: dict[str, str], codes: list[int]) -> None:
    one, server, network = device()
    one.session(proposal(**values))
    if codes[0] == 202:  # white space of any kind separates
        codes = [400, 412]
    assert server.codes == codes
    assert (state_of(one), network.applied) == ("idle", 0)


def test_the_server_can_take_a_change_back_itself() -> None:
    one, server, network = device()
    network.servers[UPLINK] = (Reached.UNREACHABLE, "no route")
    one.session([execute(TAKE_BACK)])
    assert server.codes == [500]
    one.session(proposal(UplinkURL=UPLINK))
    one.session([execute(TAKE_BACK, "other")])
    assert server.codes == [202]
    live_on(one, 60)
    assert (state_of(one), one.service.provisioning.uplink.url) == ("reverted", "")
    assert server.heard == [("corr-1", "<ResultCode>1450</ResultCode>", OLD)]


def test_an_address_that_is_replaced_in_the_account_is_on_trial_as_well() -> None:
    one, server, _ = device()
    one.session([put(ADDRESS, NEW)])
    assert server.codes == [200]
    assert (url_of(one), state_of(one)) == (NEW, "trial")
    live_on(one, 960)
    assert (url_of(one), state_of(one)) == (OLD, "reverted")
    assert server.heard == [(None, "<ResultCode>1450</ResultCode>", OLD)]


def test_an_account_takes_no_address_but_https_and_none_by_a_detour() -> None:
    one, server, _ = device()
    one.session([put("./SCHED/QuietHours", "17:00-21:00"), put(ADDRESS, "http://new.example/dm")])
    assert server.codes == [200, 400]
    one.session([copy("./DMAcc/main/ServerID", ADDRESS)])
    assert server.codes == [400]
    assert (url_of(one), state_of(one)) == (OLD, "idle")


def test_with_its_account_the_trial_ends() -> None:
    one, _, _ = device()
    one.session(proposal(ServerURL=NEW))
    one.turn()
    with one.tree.transaction() as changing:
        changing.drop(("DMAcc", "main"))
    one.turn()
    assert state_of(one) == "reverted"
    assert one.registrations == 2
    assert url_of(one) == OLD


def test_secrets_of_the_access_can_be_read_by_nobody_and_go_with_the_trial() -> None:
    one, server, network = device()
    one.session([*proposal(Access="apn=x password=hunter22"), get("./ConnMO/Proposed/Access")])
    assert server.codes == [200, 202, 405]
    live_on(one, 60)
    assert (state_of(one), network.in_effect.access) == ("confirmed", "apn=x password=hunter22")
    assert trial.load(one.tree.view()).old is None
    one.session(proposal(Access="default", correlator="corr-2"))
    live_on(one, 60)
    assert (state_of(one), network.in_effect.access) == ("confirmed", "")


def test_a_device_that_was_bootstrapped_before_there_was_this_object_may_use_it() -> None:
    one, server, _ = device()
    with one.tree.transaction() as changing:
        changing.drop(trial.ROOT)
    one.session(proposal(ServerURL=NEW))
    assert server.codes == [425, 425]
    one.service._grant_new()  # at each start
    one.session(proposal(ServerURL=NEW))
    assert server.codes == [200, 202]


# -- power cuts ------------------------------------------------------------------------------------------------

OLD_VALUES = Values(server=OLD, uplink="https://old.example/r", access="apn=old")


class Life:
    """A device whose addresses and access are changed; at `NEW` there is a server, or nobody."""

    def __init__(self, *, good: bool) -> None:
        self.server, self.network = MovingServer(), FakeNetwork()
        self.one = Device(self.server, network=self.network).registered()
        self.boots = 1
        self.one.session(
            [put("./AMI/Uplink/URL", OLD_VALUES.uplink)], proposal(Access=OLD_VALUES.access, correlator="corr-0")
        )
        live_on(self.one, 60)
        assert trial.in_use(self.one.tree.view()) == OLD_VALUES
        self.server.heard.clear()
        if good:
            self.server.at.add(NEW)

    def run(self) -> None:
        one, server = self.one, self.server
        if not self.asked:
            server.new_session(proposal(ServerURL=NEW, UplinkURL=UPLINK, Access="apn=new"))
            one.service.session_now("user")
            one.turn()
        live_on(one, 1440, every=60)

    @property
    def asked(self) -> bool:
        return trial.load(self.one.tree.view()).correlator == "corr-1"

    def boot(self, disk: FaultyDisk) -> None:
        self.boots += 1
        self.one.clock.now = 1.0
        self.one.restart(boot_id=f"boot {self.boots}", disk=disk)
        self.one.service.session_now("boot")


def _check(life: Life, *, good: bool, case: object) -> None:
    new = Values(server=NEW, uplink=UPLINK, access="apn=new")
    result, where, wanted = ("1200", NEW, new) if good else ("1450", OLD, OLD_VALUES)
    one = life.one
    assert trial.in_use(one.tree.view()) == wanted, case
    assert state_of(one) == ("confirmed" if good else "reverted"), case
    assert (life.network.in_effect.access, life.network.in_effect.anchors) == (wanted.access, ""), case
    assert set(life.server.heard) == {("corr-1", f"<ResultCode>{result}</ResultCode>", where)}, case
    assert alerts.pending(one.tree.view()) == (), case
    assert not trial.is_outdated(one.tree.view()), case
    assert one.last_result == "ok", case


@pytest.mark.slow
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("survival", [Survival.LOST, Survival.NAMES_ONLY, Survival.HOLED])
def test_a_change_survives_a_power_cut_at_every_operation(survival: Survival, good: bool) -> None:
    whole = Life(good=good)
    first = whole.one.disk.operations
    whole.run()
    _check(whole, good=good, case="no cut")
    assert len(whole.server.heard) == 1
    operations = whole.one.disk.operations - first
    assert operations > 20
    for number in range(1, operations + 1):
        life = Life(good=good)
        disk = life.one.disk
        last = disk.operations + number
        disk.on_operation = lambda operation, last=last: 0.5 if operation.number == last else None
        try:
            life.run()
        except PowerCut:
            life.boot(disk.after_power_cut(survival, Random(number)))
        life.run()
        _check(life, good=good, case=(number, survival))


@pytest.mark.parametrize("good", [True, False])
def test_a_change_survives_a_power_cut_right_after_the_hook(good: bool) -> None:
    for skip in range(2):
        life = Life(good=good)
        life.server.new_session(proposal(ServerURL=NEW, UplinkURL=UPLINK, Access="apn=new"))
        life.one.service.session_now("user")
        life.one.turn()
        if skip:
            live_on(life.one, 60)
        life.network.cut_after = True
        try:
            life.run()
        except PowerCut:
            life.boot(life.one.disk.after_power_cut(Survival.LOST, Random(1)))
        life.run()
        _check(life, good=good, case=skip)


def test_a_tree_of_before_has_no_change() -> None:
    one, _, _ = device()
    assert state_of(one) == "idle"


DAMAGES: dict[str, object] = {
    "state": 7,
    "id": None,
    "reason": [],
    "left_s": "soon",
    "ends": float("inf"),
    "boots": 10**400,
    "within_s": True,
    "new": {"server": 5},
}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_trial_is_taken_back_at_once_and_told(name: str, *, restarted: bool) -> None:
    """It counted as none: the address was neither confirmed nor taken back, whatever became of the device there."""
    one, server, _ = device()
    one.session(proposal(ServerURL=NEW))
    damage(one, **{name: DAMAGES[name]})
    if restarted:
        one.restart()
    live_on(one, 60)
    assert (url_of(one), state_of(one)) == (OLD, "reverted")
    assert server.heard == [("corr-1", "<ResultCode>1450</ResultCode>", OLD)]
    one.session([get(*STATUS)])
    assert list(server.values.values()) == ["reverted", "its record was damaged", OLD]
    assert damaged_warnings(one.tree.view(), one.clock.wall())
    one.session(proposal(ServerURL=NEW, correlator="corr-2"))
    assert (server.codes, state_of(one)) == ([200, 202], "trial")  # the next one goes its way


def test_of_a_damaged_trial_what_is_known_comes_back_and_the_rest_is_named() -> None:
    one, server, network = device()
    one.session(proposal(ServerURL=NEW, TimeServers="a.example", Access="apn=meters pin=1234"))
    damage(one, old={"server": OLD, "time_servers": 5})
    live_on(one, 60)
    assert (url_of(one), trial.in_use(one.tree.view()).time_servers, state_of(one)) == (OLD, "a.example", "idle")
    assert server.heard == [("corr-1", "<ResultCode>1450</ResultCode>", OLD)]
    assert trial.load(one.tree.view()).reason == (
        "its record was damaged; what was there before is not known, and stays changed: access, time_servers"
    )
    assert network.in_effect.time_servers == "a.example"
    assert "1234" not in str(one.tree.view().record(trial.RECORD)["damaged"])


@pytest.mark.parametrize("stored", [[], "x", 5, None, {"state": "confirmed", "ends": "soon"}])
def test_a_damaged_record_without_a_trial_is_counted_and_no_more(stored: object) -> None:
    one, server, _ = device()
    with one.tree.transaction() as changing:
        changing.set_record(trial.RECORD, {"trial": stored, "in_use": stored})
    live_on(one, 60)
    assert (state_of(one) in ("idle", "confirmed"), server.heard) == (True, [])
    assert not trial.is_damaged(one.tree.view())
    one.session(proposal(ServerURL=NEW))
    assert (server.codes, state_of(one)) == ([200, 202], "trial")


def damage(one: Device, **members: object) -> None:
    with one.tree.transaction() as changing:
        record = changing.record(trial.RECORD)
        changing.set_record(trial.RECORD, {**record, "trial": {**record["trial"], **members}})


def test_a_state_of_a_later_version_is_a_trial_which_a_session_confirms() -> None:
    """After a rollback the values would have stayed in use, neither confirmed nor taken back, and nobody told."""
    one, _, _ = device()
    with one.tree.transaction() as changing:
        trial.begin(changing, {"time_servers": "a.example"}, trial_id="t1", within_s=900)
    with one.tree.transaction() as changing:
        record = changing.record(trial.RECORD)
        changing.set_record(trial.RECORD, {**record, "trial": {**record["trial"], "state": "probing"}})
    assert state_of(one) == "trial"
    one.restart()
    for _ in range(20):
        one.turn()
        one.clock.advance(60)
    assert state_of(one) == "confirmed"
    assert [data for _, _, data, _ in one.server.generic] == ["<ResultCode>1200</ResultCode>"]
