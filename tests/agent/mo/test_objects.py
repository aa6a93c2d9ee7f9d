"""Management objects apart from sessions: accounts, provisioning, names."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from random import Random

import pytest

from agent.jobs import firmware
from agent.mo import dmacc
from agent.mo.ami import drop_secrets, provisioning_from_tree
from agent.settings.provisioning import (
    AccessRule,
    MeterAccess,
    MeterSelection,
    Provisioning,
    ReadingTask,
    UplinkSettings,
)
from agent.status import MeterStatus
from agent.tree import alerts
from agent.tree.schema import Format, NodeSpec
from agent.tree.tree import Transaction
from agent.tree.uri import node_name
from omadm.bootstrap import account_from_tnds, parse_profile
from omadm.codes import Code, Refusal
from tests.agent.dm.server import ACCOUNT, PROFILE, SERVER_ID, FakeDmServer, add, get
from tests.agent.dm.server import put as replace_node
from tests.agent.dm_device import Device


def fresh() -> Transaction:
    return Device(FakeDmServer()).service.tree.view()


def put(changing: Transaction, **values: str) -> None:
    for path, value in values.items():
        changing.put(tuple(path.split("__")), value)


def test_a_tree_without_anything_provisions_nothing() -> None:
    assert provisioning_from_tree(fresh()) == Provisioning()


def test_everything_provisioned_is_one_value() -> None:
    changing = fresh()
    put(
        changing,
        AMI__Uplink__URL="https://h/r",
        AMI__Uplink__Token="t",
        AMI__Uplink__BatchMax="9",
        AMI__Access__Client="3",
        AMI__Access__Auth="low",
        AMI__Access__Secret="pässword",
        SCHED__Task__b__Setting__Every="60",
        SCHED__Task__b__Setting__ReadingList="list",
        SCHED__Task__b__Setting__Offset="59",
        SCHED__Task__b__Setting__Priority="2",
        SCHED__Task__b__Enabled="false",
        SCHED__Task__a__Setting__Every="1",
        SCHED__Task__a__Setting__ReadingList="list",
    )
    found = provisioning_from_tree(changing)
    assert found.uplink == UplinkSettings("https://h/r", "t", 9)
    assert found.access == MeterAccess(3, "low", "pässword".encode())
    assert [(t.task_id, t.every_s, t.offset_s, t.priority, t.enabled) for t in found.tasks] == [
        ("a", 1, 0, 0, True),
        ("b", 60, 59, 2, False),
    ]


def test_an_incomplete_or_contradicting_task_is_left_out_and_the_others_are_not() -> None:
    changing = fresh()
    put(
        changing,
        SCHED__Task__a__Setting__Every="60",
        SCHED__Task__b__Setting__ReadingList="list",
        SCHED__Task__c__Name="only a name",
        SCHED__Task__d__Setting__Every="60",
        SCHED__Task__d__Setting__ReadingList="list",
        SCHED__Task__d__Setting__Offset="60",
        SCHED__Task__e__Setting__Every="60",
        SCHED__Task__e__Setting__ReadingList="list",
    )
    assert [task.task_id for task in provisioning_from_tree(changing).tasks] == ["e"]


MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"


def test_a_task_has_all_that_a_server_may_say_of_it() -> None:
    changing = fresh()
    put(
        changing,
        SCHED__Zone=MADRID,
        SCHED__QuietHours="17:00-21:00",
        SCHED__Task__t__Setting__Times="0 0 L * *",
        SCHED__Task__t__Setting__Codes="3/1.0.1.8.0.VZ/2, 7/1.0.98.1.0.255/2 last 3",
        SCHED__Task__t__Setting__Window="01:00-05:00",
        SCHED__Task__t__Setting__Spread="600",
        SCHED__Task__t__Setting__Deadline="86400",
        SCHED__Task__t__Setting__Retries="9",
        SCHED__Task__t__Select__Meters="KFM1, KFM2,",
        SCHED__Task__t__Select__Groups="block a",
        SCHED__Task__t__Select__Models="KFM E3*,ISK*",
        SCHED__Task__t__Select__Ids="K*",
        SCHED__Task__t__Select__Ports="plc0",
    )
    found = provisioning_from_tree(changing)
    assert (found.zone, found.quiet_hours) == (MADRID, "17:00-21:00")
    (task,) = found.tasks
    assert task == ReadingTask(
        "t", 0, "", times="0 0 L * *", zone=MADRID, codes="3/1.0.1.8.0.VZ/2, 7/1.0.98.1.0.255/2 last 3",
        selection=MeterSelection(("KFM1", "KFM2"), ("block a",), ("KFM E3*", "ISK*"), "K*", ("plc0",)),
        windows="01:00-05:00", spread_s=600, deadline_s=86_400, retries_max=9,
    )  # fmt: skip
    assert (task.schedule.times, len(task.items)) == (f"0 0 L * * {MADRID}", 2)


@pytest.mark.parametrize(
    "more",
    [
        {"Times": "0 0 * * *"},  # and a period
        {"Codes": ""},
        {"Spread": "600", "Deadline": "600"},
    ],
)
def test_a_task_that_contradicts_itself_never_runs(more: dict[str, str]) -> None:
    changing = fresh()
    settings = {"Every": "60", "Codes": "3/1.0.1.8.0.255/2"}
    put(changing, **{f"SCHED__Task__t__Setting__{name}": value for name, value in (settings | more).items() if value})
    assert provisioning_from_tree(changing).tasks == ()


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("SCHED/Zone", "Europe/Madrid"),
        ("SCHED/Zone", ""),
        ("SCHED/QuietHours", "17-21"),
        ("SCHED/Task/t/Setting/Times", "0 0 30 2 *"),
        ("SCHED/Task/t/Setting/Times", "every day"),
        ("SCHED/Task/t/Setting/Codes", "1.8.0"),
        ("SCHED/Task/t/Setting/Codes", "3/1.0.1.8.0.255/2 last 3"),
        ("SCHED/Task/t/Setting/Codes", ""),
        ("SCHED/Task/t/Setting/Window", "5"),
        ("SCHED/Task/t/Setting/Spread", "86401"),
        ("SCHED/Task/t/Setting/Deadline", "0"),
        ("SCHED/Task/t/Setting/Retries", "21"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is(node: str, value: str) -> None:
    with pytest.raises(Refusal) as found:
        fresh().put(tuple(node.split("/")), value)
    assert found.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("name", ["../secret", ".hidden", "a/b", "", "a b", "a\n"])
def test_a_reading_list_cannot_name_a_file_elsewhere(name: str) -> None:
    with pytest.raises(Refusal) as found:
        fresh().put(("SCHED", "Task", "t", "Setting", "ReadingList"), name)
    assert found.value.code is Code.BAD_REQUEST


def test_a_bootstrapped_account_reads_back_as_it_was_sent() -> None:
    changing = fresh()
    assert dmacc.account(changing) is None
    assert dmacc.install(changing, parse_profile(PROFILE)) == ACCOUNT
    assert dmacc.account(changing) == ACCOUNT == account_from_tnds(parse_profile(PROFILE))


def test_a_new_account_takes_the_place_of_the_old_one() -> None:
    changing = fresh()
    dmacc.install(changing, parse_profile(PROFILE))
    changing.put(("DMAcc", "old", "ServerID"), "old")
    dmacc.install(changing, parse_profile(PROFILE))
    assert changing.names(changing.existing(("DMAcc",))) == ["main"]


@pytest.mark.parametrize("missing", ["AAuthLevel", "AAuthName"])
def test_half_an_account_is_none(missing: str) -> None:
    changing = fresh()
    dmacc.install(changing, parse_profile(PROFILE))
    changing.drop(("DMAcc", "main", "AppAuth", "client", missing))
    assert dmacc.account(changing) is None


def test_the_bootstrapped_server_has_rights_on_what_it_manages_and_nobody_else_has() -> None:
    device = Device(FakeDmServer()).registered()
    for server, allowed in ((SERVER_ID, True), ("stranger", False)):
        looking = device.service.tree.view(server)
        for root in ("SCHED", "AMI", "FUMO", "SCOMO"):
            existing = looking.existing((root,))
            assert all(
                existing.acl.allows(command, server) == allowed for command in ("Add", "Replace", "Delete", "Exec")
            )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("KFM1000000000001", "KFM1000000000001"),
        ("a/b?c*", "a%2Fb%3Fc%2A"),
        ("..", "%2E%2E"),
        ("é", "%C3%A9"),
        ("100%", "100%25"),
        ("x" * 100, "x" * 64),
    ],
)
def test_identifiers_become_node_names(text: str, name: str) -> None:
    assert node_name(text) == name


def test_a_meter_that_left_meanwhile_reads_as_left() -> None:
    device = Device(FakeDmServer()).registered()
    device.meters.append(MeterStatus("m", "p", 1, "read", 0.0))
    looking = device.service.tree.view()
    existing = looking.existing(("AMI", "Meter", "m", "State"))
    device.meters.clear()
    assert looking.value(existing) == "left"
    assert looking.find(("AMI", "Meter", "m")) is None


def test_every_described_node_has_a_name_that_an_address_can_hold() -> None:
    def check(spec: NodeSpec) -> None:
        assert "/" not in spec.name
        assert spec.interior or spec.format is not Format.NODE
        names = [child.name for child in spec.children]
        assert len(names) == len(set(names))
        for child in spec.children:
            check(child)

    check(Device(FakeDmServer()).service.tree.schema)


def test_a_firmware_job_that_cannot_be_read_is_a_fresh_one() -> None:
    random = Random(3)
    changing = fresh()
    for _ in range(300):
        values: list[object] = [1, "x", None, [], 10, True]
        record = {name: random.choice(values) for name in firmware.Job.__slots__}
        changing.set_record("fumo", json.loads(json.dumps(record)))
        assert firmware.load(changing).state in set(firmware.State)


def test_the_oldest_alerts_give_way_when_a_server_never_answers() -> None:
    changing = fresh()
    for number in range(40):
        alerts.put(changing, alerts.GenericAlert(f"a{number}", "t", "./X", "d"))
    alerts.put(changing, alerts.GenericAlert("a39", "t", "./X", "again"))
    found = alerts.pending(changing)
    assert [alert.id for alert in found] == [f"a{number}" for number in range(8, 40)]
    assert found[-1].data == "again"
    assert alerts.take(changing, "a0") is None


def test_an_alert_without_correlator_carries_none() -> None:
    device = Device(FakeDmServer()).registered()
    with device.service.tree.transaction() as changing:
        alerts.put(changing, alerts.GenericAlert("a", "urn:x", "./SCHED", "text"))
    device.session([get("./DevInfo/Man")])
    assert device.server.generic == [("urn:x", "./SCHED", "text", None)]


def test_access_of_groups_and_meters_is_provisioned_and_its_keys_leave_the_tree_when_they_are_kept_elsewhere() -> None:
    ek, ak = "00" * 16, "11" * 16
    changing = fresh()
    put(
        changing,
        AMI__Access__Auth="low",
        AMI__Access__Secret="password",
        AMI__Access__SystemTitle="4443550000000001",
        AMI__Access__Group__new__Pattern="DCU*",
        AMI__Access__Group__new__Port="plc0",
        AMI__Access__Group__new__Auth="gmac",
        AMI__Access__Group__new__Policy="both",
        AMI__Access__Group__new__Suite="1",
        AMI__Access__Meter__DCU1__EncKey=ek,
        AMI__Access__Meter__DCU1__AuthKey=ak,
        AMI__Access__Meter__other__Id="plc0/17",
        AMI__Access__Meter__other__Client="2",
    )
    found = provisioning_from_tree(changing)
    assert found.access == MeterAccess(16, "low", b"password")
    assert found.system_title == bytes.fromhex("4443550000000001")
    group, one, other = found.access_rules
    assert group == AccessRule(
        "group/new", pattern="DCU*", port="plc0", given=(("auth", "gmac"), ("suite", 1), ("policy", "both"))
    )
    assert (one.name, one.meter, dict(one.given)) == (
        "meter/DCU1",
        "DCU1",
        {"authentication_key": bytes.fromhex(ak), "encryption_key": bytes(16)},
    )
    assert (other.meter, other.given) == ("plc0/17", (("client", 2),))
    assert set(found.secrets()) == {b"password", bytes(16), bytes.fromhex(ak)}

    drop_secrets(changing, replace(found, system_title=b""))  # written meanwhile: nothing is dropped
    assert provisioning_from_tree(changing) == found
    drop_secrets(changing, found)
    rest = provisioning_from_tree(changing)
    assert rest.secrets() == ()
    assert rest.access == MeterAccess(16, "low")
    assert [rule.name for rule in rest.access_rules] == ["group/new", "meter/DCU1", "meter/other"]


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("Auth", "high"),
        ("Policy", "none"),
        ("Suite", "3"),
        ("Client", "0"),
        ("EncKey", "00" * 15),
        ("AuthKey", "zz"),
        ("BroadcastKey", "0"),
        ("PeerKey", "00" * 63),
    ],
)
def test_access_that_cannot_be_is_refused_when_it_is_written(leaf: str, value: str) -> None:
    for path in (("AMI", "Access", leaf), ("AMI", "Access", "Meter", "m", leaf)):
        with pytest.raises(Refusal) as found:
            fresh().put(path, value)
        assert found.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("leaf", ["Uplink/Token", "Access/Secret", "Access/EncKey", "Access/Meter/m/AuthKey"])
def test_an_empty_secret_is_refused_and_the_one_before_stays(leaf: str) -> None:
    """The leaf is empty as soon as the secret is kept: an empty one would change nothing, and be said to be done."""
    device = Device(FakeDmServer()).registered()
    device.session([add("./AMI/Access/Meter/m/AuthKey", "77" * 16), replace_node("./AMI/Uplink/Token", "t")])
    device.session([replace_node(f"./AMI/{leaf}", "")])
    assert device.server.codes == [400]
    found = provisioning_from_tree(device.service.tree.view())
    assert (found.uplink.token, found.secrets()) == ("t", (b"\x77" * 16,))


def test_secrets_of_meters_are_written_and_never_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    device = Device(FakeDmServer()).registered()
    key = "./AMI/Access/Meter/m/EncKey"
    device.session([add(key, "77" * 16), replace_node("./AMI/Access/Secret", "hush-hush")])
    assert device.server.codes == [200, 200]
    assert provisioning_from_tree(device.service.tree.view()).secrets() == (b"hush-hush", b"\x77" * 16)
    device.session([get(key, "./AMI/Access/Secret"), get("./AMI?list=TNDS", "./AMI?list=StructData")])
    assert set(device.server.codes[:2]) == {405}
    for text in ("hush-hush", "7777"):
        assert text not in repr(device.server.replies)
        assert text not in caplog.text
