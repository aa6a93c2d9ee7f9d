"""Confirms of what came with protection: protected as it was, under counters that are never used twice, or none."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.metering.access.accessbook import PUBLIC, AccessBook, Opening
from agent.metering.access.credentials import Credentials
from agent.metering.access.keystore import BLOCK, KeyStore
from agent.metering.access.session import AccessSession
from agent.metering.events.desk import AGAIN_MAX, AGAIN_S, EventDesk
from agent.metering.events.intake import REPEATED_S
from agent.metering.registry.entry import Meter
from agent.metering.store.reading_store import StoreDefectError, StoreError
from agent.settings.provisioning import AccessRule, Provisioning
from dlms.client.events import ItemRead
from dlms.client.knowledge import MeterKnowledge
from dlms.codes import LN_CLIENT_CONFORMANCE, Apdu, Conformance
from dlms.cosem.obis import AttributeRef
from dlms.errors import DlmsError, PeerError
from dlms.link.datalink import ApduReceived
from dlms.link.wrapper import WrapperFrame, WrapperLink, WrapperServerLink
from dlms.security.ciphering import Ciphering
from dlms.security.keys import public_octets
from dlms.security.settings import MemoryCounters, NoAuth, Policy, Security
from dlms.server.rights import USUAL_RIGHTS
from dlms.xdlms.apdu.common import LONG_CONFIRMED
from dlms.xdlms.apdu.notify import DataNotification
from omadm.readings import EventReport, Reading
from tests.agent.metering.access.test_access_over_lines import KINDS, TASK
from tests.agent.metering.access.test_access_over_lines import OURS as OWN_TITLE
from tests.agent.metering.access.test_access_over_lines import BusRig as KeyedBus
from tests.agent.metering.access.test_access_over_lines import PlcRig as KeyedPlc
from tests.agent.metering.events.test_calls import Office
from tests.agent.metering.events.test_pushes_on_lines import (
    AK,
    EK,
    PUSH_CLIENT,
    TITLE,
    cover_opened,
    happened,
    joined,
    meter_side,
    secured,
)
from tests.agent.metering.test_collector import EVERY_S, ROWS, BusRig, PlcRig, provisioning
from tests.sim.meters import SimMeter
from tests.sim.plc_network import FIRST_ADDRESS
from updateagent.disk import RealDisk

pytestmark = pytest.mark.process
OURS, METERS = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
DER = OURS.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
ASKS = LONG_CONFIRMED | 7
PLAIN = bytes.fromhex("104000000700")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.server.close()
    made.store.close()


def provision(office: Office, **more: int | str | bytes) -> None:
    given: dict[str, int | str | bytes] = {
        "authentication_key": AK, "encryption_key": EK, "policy": "both", "auth": "gmac", "client": 1,
    }  # fmt: skip
    rule = AccessRule("k", port="lan", given=tuple((given | more).items()))
    office.access.configure(Provisioning(access_rules=(rule,)))


def meter(office: Office, policy: Policy, *, named: bool = False, suite: int = 0, sign: bool = False) -> Ciphering:
    """What protects the pushes of the meter, and opens the confirms: it makes transactions, as a client does."""
    ours = office.access.system_title()
    security = Security(
        TITLE, EK, AK, suite, policy, MemoryCounters(5), general=not named and not sign, peer_title=ours
    )
    if named or sign:
        security = replace(security, general_ciphering=named and policy is not Policy.NONE)
    if sign:
        security = replace(security, signing_key=METERS, peer_signing_key=OURS.public_key())
    made = Ciphering(security)
    if named or sign:
        made.use_named()
    return made


# --- forms ---


@pytest.mark.parametrize("policy", [Policy.AUTHENTICATE, Policy.ENCRYPT, Policy.BOTH], ids=lambda policy: policy.name)
@pytest.mark.parametrize("named", [False, True], ids=["general-glo", "general-ciphering"])
def test_a_confirm_has_the_form_and_the_protection_of_its_push(office: Office, policy: Policy, named: bool) -> None:
    provision(office, policy="encrypted" if policy is Policy.ENCRYPT else "authenticated")
    side = meter(office, policy, named=named)
    pushed = side.protect(cover_opened(ASKS))
    confirm = office.desk.called("x", pushed, office.registry.at("lan", 4))
    assert confirm[0] == pushed[0] == (Apdu.GENERAL_CIPHERING if named else Apdu.GENERAL_GLO)
    assert side.unprotect(confirm) == PLAIN
    assert (PLAIN in confirm) == (policy is Policy.AUTHENTICATE)
    with pytest.raises(PeerError):
        side.unprotect(confirm[:-1] + bytes((confirm[-1] ^ 1,)))
    assert [event["invoke"] for event in office.events()] == [ASKS]


@pytest.mark.parametrize("policy", [Policy.NONE, Policy.BOTH], ids=["signed", "signed and ciphered"])
def test_a_signed_push_gets_a_signed_confirm_of_the_same_transaction(office: Office, policy: Policy) -> None:
    provision(office, suite=1, policy="authenticated", signing_key=DER, meter_key=public_octets(METERS.public_key()))
    side = meter(office, policy, named=True, suite=1, sign=True)
    pushed = side.protect(cover_opened(ASKS))
    confirm = office.desk.called("x", pushed, office.registry.at("lan", 4))
    assert confirm[0] == pushed[0] == (Apdu.GENERAL_SIGNING if policy is Policy.NONE else Apdu.GENERAL_CIPHERING)
    assert side.unprotect(confirm) == PLAIN
    assert [event["security"] for event in office.events()] == ["both" if policy else "authenticated"]


def test_a_forged_signature_is_neither_taken_nor_confirmed(office: Office) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    provision(office, suite=1, policy="authenticated", signing_key=DER, meter_key=public_octets(stranger.public_key()))
    pushed = meter(office, Policy.NONE, named=True, suite=1, sign=True).protect(cover_opened(ASKS))
    assert office.desk.called("x", pushed, office.registry.at("lan", 4)) == b""
    assert [event["security"] for event in office.events()] == ["unopened"]


def test_what_does_not_ask_or_cannot_be_opened_gets_no_confirm(office: Office) -> None:
    provision(office)
    known = office.registry.at("lan", 4)
    assert office.desk.called("x", meter_side(1).protect(cover_opened(7)), known) == b""
    assert office.desk.called("x", meter_side(2, ek=bytes(16)).protect(cover_opened(ASKS)), known) == b""
    assert office.desk.called("x", meter_side(3).protect(cover_opened(ASKS)), known)


# --- counters ---


def test_no_counter_of_ours_is_used_twice_whatever_is_lost(office: Office, tmp_path: Path) -> None:
    provision(office)
    side, known = meter(office, Policy.BOTH), office.registry.at("lan", 4)
    opening = meter(office, Policy.BOTH)
    used = []
    for number in range(3 * BLOCK // 256):
        confirm = office.desk.called("x", side.protect(cover_opened(LONG_CONFIRMED | number)), known)
        if confirm:  # not more than the meter may send
            used.append(int.from_bytes(confirm[12:16], "big"))
            assert opening.unprotect(confirm)[:1] == b"\x10"
        office.clock.advance(60.0)
        if number % 4 == 3:  # killed: what was not durable is gone
            office.access = AccessBook(KeyStore(RealDisk(), tmp_path / "keys"), office.clock, random.Random(1).random)
            office.desk = EventDesk(office.store, office.registry, office.access, office.clock)
            provision(office)
    assert len(used) > 8
    assert used == sorted(set(used))


def test_where_the_counter_is_used_up_none_goes_and_that_is_said(
    office: Office, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.metering.access import keystore

    provision(office)
    monkeypatch.setattr(keystore, "COUNTER_MAX", -1)
    with caplog.at_level(logging.WARNING):
        assert office.desk.called("x", meter_side(1).protect(cover_opened(ASKS)), office.registry.at("lan", 4)) == b""
    assert "event.unconfirmed" in {getattr(record, "event", "") for record in caplog.records}
    assert [event["invoke"] for event in office.events()] == [ASKS]


# --- again ---


def test_a_meter_whose_confirm_was_lost_is_answered_again_and_not_for_ever(office: Office) -> None:
    provision(office)
    side, known = meter(office, Policy.BOTH), office.registry.at("lan", 4)
    pushed = side.protect(cover_opened(ASKS))
    confirms = [office.desk.called("x", pushed, known) for _ in range(AGAIN_MAX + 5)]
    assert [bool(confirm) for confirm in confirms] == [True] * (AGAIN_MAX + 1) + [False] * 4
    assert [side.unprotect(confirm) for confirm in confirms if confirm] == [PLAIN] * (AGAIN_MAX + 1)
    assert len(office.events()) == 1
    assert office.desk.counts().replayed == 4


def test_after_a_while_the_same_octets_are_a_replay(office: Office) -> None:
    assert AGAIN_S < REPEATED_S
    provision(office)
    pushed, known = meter(office, Policy.BOTH).protect(cover_opened(ASKS)), office.registry.at("lan", 4)
    assert office.desk.called("x", pushed, known)
    office.clock.advance(AGAIN_S)
    assert office.desk.called("x", pushed, known) == b""
    office.clock.advance(REPEATED_S)
    assert office.desk.called("x", pushed, known) == b""
    assert len(office.events()) == 1


def test_what_the_store_did_not_take_is_confirmed_once_it_has(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    provision(office)
    pushed, known = meter(office, Policy.BOTH).protect(cover_opened(ASKS)), office.registry.at("lan", 4)

    def full(*_: object, **__: object) -> tuple[int, int]:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(office.store, "append", full)
        assert office.desk.called("x", pushed, known) == b""
    assert office.desk.called("x", pushed, known)
    assert [event["invoke"] for event in office.events()] == [ASKS]


def test_an_event_that_the_store_never_takes_costs_itself_alone_and_is_not_confirmed(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known, append = office.registry.at("lan", 4), office.store.append

    def picky(readings: list[Reading], *, urgent: Sequence[EventReport] = ()) -> tuple[int, int]:
        if any(report.invoke == ASKS for report in urgent):
            raise StoreDefectError("a rule of the tables")
        return append(readings, urgent=urgent)

    monkeypatch.setattr(office.store, "append", picky)
    confirms = [
        office.desk.called("x", cover_opened(invoke), known) for invoke in (LONG_CONFIRMED, ASKS, LONG_CONFIRMED | 9)
    ]
    assert [bool(confirm) for confirm in confirms] == [True, False, True]
    assert [event["invoke"] for event in office.events()] == [LONG_CONFIRMED, LONG_CONFIRMED | 9]
    assert [record.levelname for record in caplog.records if getattr(record, "event", "") == "event.lost"] == ["ERROR"]


# --- on lines ---


def test_protected_confirms_behind_a_base_node_go_to_whoever_asked(tmp_path: Path) -> None:
    rig = joined(PlcRig(tmp_path, 1))
    rig.collector.configure(secured())
    side = meter_side(5)
    for number in range(3):
        rig.network.push(FIRST_ADDRESS, side.protect(cover_opened(LONG_CONFIRMED | number)), rig.clock.now)
    rig.run(5)
    assert {(to, client) for to, client, _, _ in rig.network.confirms} == {(FIRST_ADDRESS, PUSH_CLIENT)}
    confirms = [confirm for _, _, _, confirm in rig.network.confirms]
    opening = Ciphering(Security(TITLE, EK, AK, counters=MemoryCounters(0), general=True), is_server=True)
    assert [opening.unprotect(confirm)[:5].hex() for confirm in confirms] == ["1040000000", "1040000001", "1040000002"]
    assert len({confirm[12:16] for confirm in confirms}) == 3


def test_a_confirm_that_waits_for_the_end_of_a_visit_is_sealed_when_it_goes(tmp_path: Path) -> None:
    """The requests of the visit have lower counters: the meter, which takes none that is old, takes both."""
    meter = KINDS["gmac"].meter(1)
    rig = KeyedPlc(tmp_path, [meter])
    rig.collector.configure(Provisioning((TASK,), access_rules=(KINDS["gmac"].rule(1),), system_title=OWN_TITLE))
    counters = meter.server.security_of(1).counters  # type: ignore[union-attr]
    rig.run(60, until=lambda: counters.seen() is not None)
    early = counters.seen()
    rig.network.push(FIRST_ADDRESS, meter_side(100).protect(cover_opened(ASKS)), rig.clock.now)
    rig.run(60)
    ((_, _, _, confirm),) = rig.network.confirms
    late = counters.seen()
    assert isinstance(early, int)
    assert isinstance(late, int)
    assert early < late < int.from_bytes(confirm[12:16], "big")
    assert rig.collector.task_status("t1").last_result == "1 of 1 read"


@pytest.mark.parametrize("count", [1, 2])
def test_what_comes_in_i_frames_of_a_conversation_is_confirmed_in_it(tmp_path: Path, count: int) -> None:
    rig = BusRig(tmp_path)
    rig.collector.configure(provisioning())
    station = rig.network.stations[0]
    rig.run(1)
    station.pushed = [cover_opened(LONG_CONFIRMED | number) for number in range(count)]
    rig.run(60)
    assert [apdu.hex() for apdu in station.confirms] == [f"104000{number:04x}00" for number in range(count)]
    assert rig.network.confirms == [], "not beside the conversation"
    assert [event["invoke"] for event in happened(rig)] == [LONG_CONFIRMED | number for number in range(count)]
    assert rig.statuses() == dict.fromkeys([each.id for each in rig.meters], "read")


@pytest.mark.parametrize("asks", [0, LONG_CONFIRMED], ids=["asks for nothing", "asks for a confirm"])
def test_a_push_that_hides_what_it_is_costs_no_answer(tmp_path: Path, asks: int) -> None:
    """In general-glo the link takes it for the answer, and has to go on waiting all the same."""
    rig = KeyedBus(tmp_path, [KINDS["gmac"].meter(1)])
    rule = KINDS["gmac"].rule(1)
    rig.collector.configure(Provisioning((TASK,), access_rules=(rule,), system_title=OWN_TITLE))
    station = rig.network.stations[0]
    side = meter_side(100)
    rig.run(60, until=lambda: rig.collector.task_status("t1").last_result == "1 of 1 read")
    rig.clock.advance(EVERY_S)
    station.pushed = [side.protect(cover_opened(asks | number)) for number in range(3)]
    rig.run(60)
    assert [event["invoke"] for event in happened(rig)] == [asks | number for number in range(3)]
    assert [apdu[0] for apdu in station.confirms] == [Apdu.GENERAL_GLO] * (3 if asks else 0)
    opening = Ciphering(Security(TITLE, EK, AK, counters=MemoryCounters(0), general=True), is_server=True)
    assert [opening.unprotect(apdu)[:1] for apdu in station.confirms] == [b"\x10"] * len(station.confirms)
    assert set(rig.statuses().values()) == {"read"}
    assert rig.collector.task_status("t1").last_result == "1 of 1 read"


# --- with a key of the association ---


class Told:
    """Takes what a session deciphered, and has it confirmed."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Policy]] = []

    def in_session(self, meter: Meter, apdu: bytes, *, ciphered: bool) -> bytes | None:
        return None

    def deciphered(self, meter: Meter, apdu: bytes, policy: Policy, protect: Callable[[bytes], bytes]) -> bytes:
        self.taken.append((apdu, policy))
        return protect(PLAIN)

    def opened(self, opening: Opening) -> None:
        pass

    def told_counter(self, opening: Opening, told: int) -> None:
        del opening, told

    def note_title(self, meter: Meter, title: bytes) -> None:
        pass

    def failed(self, opening: Opening, error: DlmsError, *, was_open: bool) -> None:
        raise AssertionError(error)


def test_what_came_under_a_dedicated_key_is_confirmed_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the meter takes both the confirm and the request behind it."""
    policy, told = Policy.AUTHENTICATE, Told()
    pushing = LN_CLIENT_CONFORMANCE | Conformance.DATA_NOTIFICATION
    monkeypatch.setattr("dlms.client.session.LN_CLIENT_CONFORMANCE", pushing)
    theirs = Security(TITLE, EK, AK, 0, policy, MemoryCounters(0), dedicated=True, general=True)
    sim = SimMeter(1, ROWS, 3, None, auth=NoAuth(), security={1: theirs}, rights=USUAL_RIGHTS)
    sim.server.conformance = pushing
    ours = Security(OWN_TITLE, EK, AK, 0, policy, MemoryCounters(0), dedicated=True, general=True)
    opening = Opening(Meter("m", "lan", 4, "", "m", named=True, joined=0.0), PUBLIC, Credentials(1, NoAuth(), ours, ""))
    session = AccessSession(
        WrapperLink(1, 1), opening, told, server=1, pdu_size=1024, known=MeterKnowledge(), response_timeout_s=5.0,
        pushes=told,
    )  # fmt: skip
    server, sent, read = WrapperServerLink(1), list[bytes](), list[object]()
    server.connect(0.0)
    session.read([AttributeRef.parse("1/0.0.42.0.0.255/2")], 0.0)
    for step in range(20):
        while output := session.take_output():
            server.receive(output, 0.0)
        while isinstance(event := server.next_event(), ApduReceived):
            sent.append(event.apdu)
            for answer in sim.receive_apdu(1, event.apdu, 0.0):
                server.send(answer, 0.0)
        while output := server.take_output():
            session.receive(output, 0.0)
        if step == 5:
            message = DataNotification.parse(cover_opened(ASKS))
            (apdu,) = sim.notify(message).values()
            assert apdu[0] == Apdu.GENERAL_DED
            session.receive(WrapperFrame(1, 1, apdu).emit(), 0.0)
            session.read([AttributeRef.parse("1/0.0.96.1.0.255/2")], 0.0)
        while (happening := session.next_event()) is not None:
            read += [happening] if isinstance(happening, ItemRead) else []
    assert told.taken == [(cover_opened(ASKS), policy)]
    assert [apdu[0] for apdu in sent if PLAIN in apdu] == [Apdu.GENERAL_DED]
    assert len(read) == 2
