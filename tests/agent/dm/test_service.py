"""The DM client against a server that authenticates, asks and remembers."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from agent.dm.service import LOOK_EVERY_S, TIME_EVERY_S, RoundTrip
from agent.dm.session_events import OutgoingMessage
from agent.jobs import orders
from agent.mo import dmacc
from agent.settings.provisioning import ReadingTask
from agent.status import MeterStatus, SessionSummary
from omadm.auth import AUTH_MAC
from omadm.bootstrap import emit_profile
from omadm.ssmp.errors import SsmpError, SsmpRefused, SsmpUsageError
from omadm.syncml.codec import DM_WBXML, DM_XML
from omadm.syncml.messages import Alert, Command, Replace, Status, TndsNode
from tests.agent.dm.server import (
    ACCOUNT,
    PROFILE,
    SERVER_ID,
    FakeDmServer,
    add,
    delete,
    execute,
    get,
    leaf,
    put,
    task,
)
from tests.agent.dm_device import STATE, Device
from tests.omadm.test_bootstrap import NO_URLS
from tests.omadm.test_client_provisioning import CLIENT, document


def test_a_device_without_an_account_registers_and_then_holds_a_session() -> None:
    device = Device(FakeDmServer())
    assert device.board.current.dm.state == "unregistered"
    device.turn()
    assert device.registrations == 1
    assert device.board.current.dm.state == "registered"
    device.turn()
    assert device.last_result == "ok"
    assert device.board.current.dm.server_id == SERVER_ID
    assert device.health[-1] == ("dm_session", True, "ok")


@pytest.mark.parametrize("content_type", [DM_WBXML, DM_XML])
def test_package_1_carries_the_alert_and_one_item_a_devinfo_leaf(content_type: str) -> None:
    device = Device(FakeDmServer(content_type=content_type), content_type=content_type)
    device.turn()
    device.turn()
    first = device.server.received[0]
    assert [c.code for c in first.of(Alert)] == [1201]
    sent = {item.source: item.data for command in first.of(Replace) for item in command.items}
    assert sent == {
        "./DevInfo/DevId": "urn:dcu:TEST-1",
        "./DevInfo/Man": "Maker",
        "./DevInfo/Mod": "DCU-1",
        "./DevInfo/DmV": "1.2",
        "./DevInfo/Lang": "en",
        "./DevInfo/Ext/PushURL": "",
    }
    assert first.hdr.meta is not None
    assert first.hdr.meta.max_msg_size is not None
    assert first.final


def test_the_client_sends_nothing_more_when_the_server_asked_for_nothing() -> None:
    device = Device(FakeDmServer()).registered()
    before = device.server.exchanges
    device.session()
    assert device.server.exchanges == before + 1


def test_every_client_message_answers_the_servers_header_with_the_next_nonce() -> None:
    device = Device(FakeDmServer()).registered()
    device.session([get("./DevInfo/Man")], [get("./DevInfo/Mod")])
    for message in device.server.received[1:]:
        header = next(message.of(Status))
        assert (header.cmd_ref, header.cmd, header.code) == ("0", "SyncHdr", 200)
        assert header.chal is not None
        assert header.chal.type == AUTH_MAC
        assert header.chal.next_nonce


def test_provisioned_tasks_take_effect_with_the_message_that_completed_them() -> None:
    device = Device(FakeDmServer()).registered()
    device.session(task(), [put("./AMI/Uplink/URL", "https://head.example/r"), put("./AMI/Uplink/Token", "tok")])
    assert device.server.codes == [200] * 6
    last = device.provisioned[-1]
    assert last.tasks == (ReadingTask("t1", 60, "residential-108", name="billing"),)
    assert (last.uplink.url, last.uplink.token) == ("https://head.example/r", "tok")


def test_an_order_is_handed_over_when_the_keys_of_its_message_are_in_force_and_those_of_the_next_are_not() -> None:
    device = Device(FakeDmServer()).registered()
    found: list[tuple[bytes, list[str]]] = []

    def look() -> None:
        waiting = [job.name for job in orders.jobs(device.service.tree.view())]
        found.append((device.provisioned[-1].access.encryption_key, waiting))

    device.on_commands = look
    order: list[Command] = [add("./AMI/Order/k", fmt="node"), add("./AMI/Order/k/Kind", "keys", "chr")]
    order.append(add("./AMI/Order/k/Meters", "KEP1", "chr"))
    order.append(execute("./AMI/Order/k/Operations/Run"))
    first, second = "11" * 16, "22" * 16
    device.session([*order, put("./AMI/Access/EncKey", first)], [put("./AMI/Access/EncKey", second)])
    assert [one for one in found if one[1]] == [(bytes.fromhex(first), ["k"]), (bytes.fromhex(second), ["k"])]


def test_what_was_provisioned_is_there_after_a_restart() -> None:
    device = Device(FakeDmServer()).registered()
    device.session(task())
    before = device.provisioned[-1]
    device.restart()
    assert device.service.provisioning == before
    assert device.registrations == 1


def test_meters_and_task_status_are_read_live() -> None:
    device = Device(FakeDmServer()).registered()
    device.meters.append(MeterStatus("KFM/1", "plc0", 17, "read", 1.0, last_success=99.5))
    device.session(
        [*task(), get("./AMI/Meter", "./AMI/Meter/KFM%2F1/Address", "./SCHED/Task/t1/Status/LastResult")],
    )
    assert device.server.values == {
        "./AMI/Meter": "KFM%2F1",
        "./AMI/Meter/KFM%2F1/Address": "17",
        "./SCHED/Task/t1/Status/LastResult": "of t1",
    }


def test_nonces_survive_a_restart_so_no_challenge_is_needed() -> None:
    device = Device(FakeDmServer()).registered()
    device.session(task())
    device.restart()
    device.session()
    assert len(device.server.received) == 1
    assert device.last_result == "ok"


def test_a_server_that_lost_the_nonce_challenges_once_and_package_1_comes_again() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.client_nonce = b"another"
    device.session([get("./DevInfo/Man")])
    first, second, third = device.server.received
    assert [type(c).__name__ for c in second.commands] == ["Status", "Alert", "Replace"]
    assert second.hdr.meta == first.hdr.meta
    assert second.hdr.meta is not None
    assert first.hdr.session_id == second.hdr.session_id
    assert device.last_result == "ok"
    assert len(list(third.of(Status))) == 2


def test_a_device_that_lost_the_servers_nonce_challenges_and_executes_nothing_before() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.server_nonce = b"another"
    device.session([put("./AMI/Uplink/URL", "https://a.example/")])
    challenge = device.server.received[1]
    assert [(s.cmd, s.code) for s in challenge.of(Status)] == [("SyncHdr", 401), ("Replace", 401)]
    assert device.server.codes == [200]
    assert device.last_result == "ok"


def test_a_server_with_the_wrong_secret_is_refused_after_one_challenge() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.wrong_macs = 2
    device.session([put("./AMI/Uplink/URL", "https://a.example/")])
    assert "did not prove itself" in device.last_result
    assert device.service.provisioning.uplink.url == ""
    assert device.health[-1][:2] == ("dm_session", False)


def test_a_nonce_from_an_unproven_server_is_not_kept() -> None:
    device = Device(FakeDmServer()).registered()
    good = device.server.client_nonce
    device.server.wrong_macs = 2
    device.session([])
    device.server.client_nonce = good
    device.clock.advance(100)
    device.session()
    assert device.last_result == "ok"


def test_both_sides_may_have_lost_their_nonces_at_once() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.client_nonce, device.server.server_nonce = b"x", b"y"
    device.session([get("./DevInfo/Man")])
    assert device.last_result == "ok"
    assert device.server.values == {"./DevInfo/Man": "Maker"}


def test_a_lost_answer_is_repaired_by_the_next_session() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.lose_next = ["line down"]
    device.session(task())
    assert device.last_result == "line down"
    device.clock.advance(100)
    device.session(task("t2"))
    assert device.last_result == "ok"
    assert [one.task_id for one in device.service.provisioning.tasks] == ["t2"]


def test_sessions_that_fail_are_tried_again_after_growing_waits() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.fail_next = ["down"] * 6
    device.service.session_now("alert")
    begun: list[float] = []
    for _ in range(3000):
        before = device.server.exchanges
        device.turn()
        if device.server.exchanges > before:
            begun.append(device.clock.now)
        device.clock.advance(1)
    waits = [after - before for before, after in itertools.pairwise(begun)]
    assert len(begun) == 7
    assert all(later > earlier for earlier, later in itertools.pairwise(waits))


def test_the_push_url_of_the_moment_is_told_in_every_session_and_can_be_read() -> None:
    device = Device(FakeDmServer()).registered()
    device.push_url = "http://192.0.2.7:8030/push"
    device.session([get("./DevInfo/Ext/PushURL", "./DevInfo/Ext")])
    sent = {item.source: item.data for command in device.server.received[0].of(Replace) for item in command.items}
    assert sent["./DevInfo/Ext/PushURL"] == device.push_url
    assert device.server.values == {"./DevInfo/Ext/PushURL": device.push_url, "./DevInfo/Ext": "PushURL"}


def test_a_push_url_that_changed_brings_a_session_within_90_seconds_and_only_one() -> None:
    device = Device(FakeDmServer()).registered()
    device.turn()
    device.push_url = "http://192.0.2.8:8030/push"
    device.server.new_session()
    sessions: dict[SessionSummary, int] = {}
    for seconds in range(int(LOOK_EVERY_S), 600, int(LOOK_EVERY_S)):
        device.clock.advance(LOOK_EVERY_S)
        device.turn()
        last = device.board.current.dm.last_session
        if last is not None and last.trigger == "address":
            sessions.setdefault(last, seconds)
    (took,) = sessions.values()
    assert took <= 90
    assert len(device.server.received) == 1


def test_the_poll_brings_a_session_without_any_other_reason() -> None:
    device = Device(FakeDmServer()).registered()
    device.clock.advance(3599)
    device.turn()
    assert not device.server.received
    device.clock.advance(2)
    device.turn()
    assert device.board.current.dm.last_session is not None
    assert device.board.current.dm.last_session.trigger == "poll"


def test_a_registration_that_cannot_be_sent_is_said_and_ends_nothing() -> None:
    device = Device(FakeDmServer(), profile=SsmpUsageError("fw is longer than 256 bytes"))
    device.turn()
    assert device.board.current.dm.error == "registration failed: fw is longer than 256 bytes"


def test_a_refused_registration_is_said_and_tried_again_slowly() -> None:
    device = Device(FakeDmServer(), profile=SsmpRefused(401, "unknown device or wrong key"))
    device.turn()
    assert device.board.current.dm.state == "refused"
    assert "unknown device or wrong key" in device.board.current.dm.error
    for _ in range(1700):
        device.clock.advance(1)
        device.turn()
    assert device.registrations == 1
    device.clock.advance(3600)
    device.turn()
    assert device.registrations == 2


def test_a_security_server_out_of_reach_is_tried_again_soon() -> None:
    device = Device(FakeDmServer(), profile=SsmpError("no route"))
    device.turn()
    assert device.board.current.dm.state == "unregistered"
    device.clock.advance(6)
    device.turn()
    assert device.registrations == 2


def test_a_bootstrap_document_that_is_none_changes_nothing() -> None:
    device = Device(FakeDmServer(), profile=b"not a profile")
    device.turn()
    assert device.board.current.dm.state == "unregistered"
    assert "registration failed" in device.board.current.dm.error


def test_a_server_that_never_believes_leads_to_a_new_registration() -> None:
    device = Device(FakeDmServer()).registered()
    for _ in range(5):
        device.server.wrong_macs = 2
        device.session()
        device.clock.advance(4000)
    device.turn()
    assert device.registrations == 2
    assert device.board.current.dm.state == "registered"


def test_commands_of_a_session_are_counted_in_the_summary() -> None:
    device = Device(FakeDmServer()).registered()
    device.session([add("./SCHED/Task/t1", None, "node"), get("./SCHED/Task")])
    last = device.board.current.dm.last_session
    assert last is not None
    assert (last.commands, last.messages, last.trigger) == (2, 2, "user")


@pytest.mark.parametrize("trigger", ["user", "bootstrap"])
def test_an_urgent_session_that_failed_waits_like_any_other(trigger: str) -> None:
    device = Device(FakeDmServer()).registered()
    device.server.fail_next = ["down"] * 50
    device.service.session_now(trigger)
    for _ in range(100):
        device.turn()
    assert len(device.server.fail_next) == 49


def test_when_a_nonce_cannot_be_stored_the_session_is_given_up_and_the_server_told() -> None:
    device = Device(FakeDmServer()).registered()
    whole = device.disk.write_durable

    def failing(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.name.startswith("link"):
            raise OSError(5, "input/output error")
        whole(path, data, mode)

    device.disk.write_durable = failing  # type: ignore[method-assign]
    device.session([put("./AMI/Uplink/URL", "https://a.example/")])
    assert "storage failed" in device.last_result
    assert [alert.code for alert in device.server.alerts] == [1201, 1223]
    assert device.server.received[-1].final
    assert device.service.provisioning.uplink.url == ""


def test_an_account_for_another_kind_of_authentication_is_not_taken() -> None:
    device = Device(FakeDmServer(), profile=emit_profile(replace(ACCOUNT, auth_type="BASIC")))
    device.turn()
    assert "wants BASIC" in device.board.current.dm.error


def test_a_bootstrap_may_bring_provisioning_but_no_business_of_the_device() -> None:
    task = TndsNode("t9", path="./SCHED/Task", format="node", children=(leaf("Name", "x"),))
    device = Device(FakeDmServer(), profile=emit_profile(ACCOUNT, [task])).registered()
    device.session([get("./SCHED/Task")])
    assert device.server.values == {"./SCHED/Task": "t9"}
    intruder = TndsNode("PkgName", path="./FUMO/Firmware", format="chr", value="x")
    other = Device(FakeDmServer(), profile=emit_profile(ACCOUNT, [intruder]))
    other.turn()
    assert other.board.current.dm.state == "unregistered"


def test_a_server_may_move_its_account_to_another_address() -> None:
    device = Device(FakeDmServer()).registered()
    device.session([put("./DMAcc/main/AppAddr/1/Addr", "https://new.example/dm")])
    assert device.server.codes == [200]
    device.server.account = replace(ACCOUNT, url="https://new.example/dm")
    device.session()
    assert device.last_result == "ok"


def test_a_deleted_account_leads_to_a_new_registration() -> None:
    device = Device(FakeDmServer()).registered()
    device.session([delete("./DMAcc/main")])
    assert device.server.codes == [200]
    shown = device.board.current.dm
    assert (shown.state, shown.server_url, shown.error) == ("unregistered", "", "its server has deleted the account")
    device.turn()
    assert device.registrations == 2
    assert device.board.current.dm.state == "registered"


@pytest.mark.slow
def test_a_device_whose_account_was_deleted_registers_at_once() -> None:
    device = Device(FakeDmServer([[delete("./DMAcc/main")]]))
    again = threading.Event()
    device.on_health = lambda: again.set() if device.registrations == 2 else None
    thread = threading.Thread(target=device.service.run, args=(device.stop, device.beat))
    thread.start()
    try:
        assert again.wait(10)  # and not when the worker looks anyway
    finally:
        device.stop.set()
        device.service.wake()
        thread.join(10)


@pytest.mark.slow
def test_the_workers_run_until_they_are_stopped() -> None:
    device = Device(FakeDmServer([task()]))
    reached, beaten = threading.Event(), threading.Event()
    device.on_health = reached.set
    threads = [
        threading.Thread(target=worker.run, args=(device.stop, beaten.set))
        for worker in (device.service, device.packages)
    ]
    for thread in threads:
        thread.start()
    assert reached.wait(10)
    assert beaten.wait(10)
    device.stop.set()
    device.service.wake()
    device.packages.wake()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert device.last_result == "ok"
    assert [device.service.name, device.packages.name] == ["dm", "dm-packages"]


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_bootstrap_document_is_applied_whole_or_not_at_all(seed: int) -> None:
    random = Random(seed)
    for _ in range(20):
        damaged = bytearray(PROFILE)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        device = Device(FakeDmServer(), profile=bytes(damaged))
        before = device.service.tree.state
        device.turn()
        if device.board.current.dm.state == "registered":
            assert dmacc.account(device.service.tree.view()) is not None
        else:
            assert device.service.tree.state is before


@pytest.mark.parametrize("url", NO_URLS)
def test_a_bootstrap_whose_address_is_no_url_is_refused_with_the_reason(url: str) -> None:
    written = url.replace("\t", "&#9;")
    address = f'<characteristic type="APPADDR"><parm name="ADDR" value="{written}"/></characteristic>'
    device = Device(FakeDmServer(), profile=document(address, CLIENT))
    device.turn()
    assert device.board.current.dm.state == "unregistered"
    assert repr(url) in device.board.current.dm.error


@pytest.mark.parametrize("url", NO_URLS)
def test_an_account_that_a_tree_of_before_has_at_no_url_counts_as_none(url: str) -> None:
    device = Device(FakeDmServer()).registered()
    address = ("DMAcc", "main", "AppAddr", "1", "Addr")
    device.session([put("./" + "/".join(address), url)])
    assert device.server.codes == [400]
    assert dmacc.account(device.service.tree.view()) is not None
    with device.service.tree.transaction() as changing:
        changing.put(address, url)
    assert dmacc.account(device.service.tree.view()) is None
    before = device.registrations
    device.turn()
    assert device.registrations == before + 1
    assert dmacc.account(device.service.tree.view()) is not None


@pytest.mark.parametrize("server_id", ["a=b", "a*", "a+b&c"])
def test_a_server_identifier_that_an_acl_cannot_hold_is_no_account(server_id: str) -> None:
    account = replace(ACCOUNT, server_id=server_id, server_name=server_id)
    device = Device(FakeDmServer(), profile=emit_profile(account))
    device.turn()
    assert (device.board.current.dm.state == "registered") == (server_id == "a+b&c")


def test_a_standard_server_with_md5_is_served_when_configured_and_only_then() -> None:
    server = FakeDmServer([[get("./DevInfo/Man")]])
    server.algorithm = "MD5"
    device = Device(server, algorithms=("MD5",))
    device.turn()
    device.turn()
    assert device.last_result == "ok"
    strict = Device(FakeDmServer())
    strict.server.algorithm = "MD5"
    strict.turn()
    strict.turn()
    assert strict.last_result != "ok"


# -- the time ------------------------------------------------------------------------------------------------------


def test_the_time_in_a_message_with_its_mac_is_handed_on() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.emi = ("of-another-make=1", "dcu-time=1800000000.250")
    device.session([get("./DevInfo/Man")])
    now = device.clock.monotonic()
    assert device.told == [(1_800_000_000.25, now, now)] * 2


def test_no_time_of_a_server_that_does_not_prove_itself_is_taken() -> None:
    device = Device(FakeDmServer()).registered()
    device.server.emi = ("dcu-time=1800000000.250",)
    device.server.wrong_macs = 2
    device.session()
    assert device.told == []


def test_an_answer_that_was_made_for_a_message_of_before_is_as_old_as_that_message() -> None:
    """A notified device comes again with the same octets, and gets the answer that it has lost."""
    trip, output = RoundTrip(), OutgoingMessage("https://dm.example/dm", DM_WBXML, b"message", "mac")
    trip.begins(output, 100.0)
    trip.begins(output, 160.0)
    trip.ends(161.0, None)
    assert (trip.sent, trip.received) == (100.0, 161.0)
    for other in (replace(output, body=b"other"), replace(output, mac="other"), replace(output, mac=None)):
        trip.begins(other, 200.0)
        assert trip.sent == 200.0
        trip.begins(output, 300.0)


def test_a_certificate_that_was_refused_for_its_time_has_the_security_server_asked_and_everything_tried_again() -> None:
    asked: list[float] = []
    server = FakeDmServer()
    device = Device(server)
    device.ask_time = lambda: asked.append(device.clock.monotonic())
    device.restart()
    device.profile, device.doubts = SsmpError("TLS: the server's certificate expired"), True
    device.turn()
    assert (len(asked), device.registrations) == (1, 1), "the wait after the refusal is over at once"
    for _ in range(10):
        device.doubts = True
        device.turn()
    assert len(asked) == 1, "no more often than every quarter of an hour"
    device.clock.advance(TIME_EVERY_S)
    device.turn()
    assert len(asked) == 2


def test_a_security_server_that_tells_no_time_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def ask() -> None:
        raise SsmpError("gone")

    device = Device(FakeDmServer(), ask_time=ask)
    device.doubts = True
    device.turn()
    assert "dm.time.unknown" in [getattr(record, "event", "") for record in caplog.records]
    assert device.registrations == 1


@pytest.mark.parametrize("starts", [1, 3])
def test_a_device_whose_last_change_is_lost_registers_anew_so_that_it_is_provisioned_again(starts: int) -> None:
    """One flipped bit in the newest generation: the tasks of the last job were gone, and nobody was told."""
    device = Device(FakeDmServer()).registered()
    device.session(task("t1"))
    device.session(task("t2"))
    folder = STATE / "dm"
    files = {name: device.disk.read_bytes(folder / name) for name in ("tree.0", "tree.1")}
    newest = max(files, key=lambda name: int(files[name].split(b" ")[3]))
    damaged = bytearray(files[newest])
    damaged[-20] ^= 1
    device.disk.write_durable(folder / newest, bytes(damaged))
    held = len(device.held)
    for _ in range(starts):  # a start before the line is there makes no difference
        device.restart()
        with device.tree.transaction() as changing:
            changing.put(("SCHED", "Zone"), "UTC0")
    assert device.tree.behind
    device.turn()
    assert device.held[held:] == [b""], "who holds no account is provisioned again"
    device.turn()
    assert (device.last_result, device.tree.behind) == ("ok", False)
    device.restart()
    assert not device.tree.behind
