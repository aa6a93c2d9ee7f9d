"""Every packet of a session lost, late or come twice, one after another: what is read is the same, an ACTION is carried
out at most once, and a loss costs the timeout that was learned."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import pytest

from dlms import axdr
from dlms.client.association import Association, Proposal, RequestRefused
from dlms.client.events import ItemRead, Replied, SessionClosed, SessionEvent, SessionFailed, Value
from dlms.client.session import MeterSession
from dlms.codes import Mechanism
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import LinkError, LocalError
from dlms.link.datalink import LinkUp
from dlms.link.roundtrip import Bounds, NodeRoundTrip, RoundTrips
from dlms.security.settings import Auth, Hls, Lls, MemoryCounters, Security
from dlms.server.objects import CosemObject, constant
from dlms.server.server import MeterServer
from dlms.xdlms.apdu.common import ActionOutcome, Item
from dlms.xdlms.exchange import ActionAnswer, GetAnswer, GetExchange
from dlms.xdlms.exchange_write import ActionExchange
from tests.dlms.client.test_association import ITEM, ready
from tests.dlms.plain_link import PacketLink

ENERGY = AttributeRef.parse("3/1.0.1.8.0.255/2")
TEXTS = [AttributeRef(1, Obis(bytes((0, 0, 96, 1, index, 255))), 2) for index in range(6)]
SWITCH = MethodRef(70, Obis(bytes((0, 0, 96, 3, 10, 255))), 1)
BOUNDS = Bounds(first_s=3.0, shortest_s=1.0, longest_s=20.0)
EK, AK = bytes(range(16)), bytes(range(0xD0, 0xE0))
CLIENT_TITLE, METER_TITLE = b"DCU00001", b"MTR00001"
LATENCY_S = 0.05
REPEATS_MAX = 3

Fate = Callable[[int], list[float]]
"""What becomes of the n-th packet, counted both ways: after how many seconds copies of it arrive."""


class Place:
    """A meter, and the packets between it and one session, in virtual time."""

    def __init__(self, auth: Auth, *, ciphered: bool, fate: Fate, repeats_max: int = REPEATS_MAX) -> None:
        self.switched = 0
        objects = [CosemObject(1, ref.obis, readers={2: constant(axdr.octets(bytes(100)))}) for ref in TEXTS]
        objects.append(CosemObject(3, ENERGY.obis, readers={2: constant(axdr.u32(42)), 3: constant(_scaler())}))
        objects.append(CosemObject(SWITCH.class_id, SWITCH.obis, methods={1: self._switch}))
        server = MeterServer(objects, auth=auth, security=_security(METER_TITLE) if ciphered else None, pdu_size=300)
        self.meter = server.new_association(1)
        self.trips = RoundTrips(BOUNDS)
        self.session = MeterSession(
            PacketLink(LinkUp(1000, may_repeat=True), timeout_s=BOUNDS.longest_s),
            client=1,
            server=1,
            auth=auth,
            security=_security(CLIENT_TITLE) if ciphered else None,
            pdu_size=300,
            round_trip=NodeRoundTrip(self.trips, "meter", repeats_max),
        )
        self.fate = fate
        self.now = 0.0
        self.packets = 0
        self.events: list[SessionEvent] = []
        self._on_way: list[tuple[float, int, bool, bytes]] = []
        self._order = itertools.count()

    def _switch(self, _parameter: object) -> ActionOutcome:
        self.switched += 1
        return ActionOutcome(0)

    def run(self) -> None:
        """Let time pass until nothing happens any more."""
        for _ in range(2000):
            self._move()
            at = [self._on_way[0][0]] if self._on_way else []
            deadline = self.session.next_deadline()
            if deadline is not None:
                at.append(deadline)
            if not at:
                return
            self.now = max(self.now, min(at))
            if self._on_way and self._on_way[0][0] <= self.now:
                _, _, up, packet = heapq.heappop(self._on_way)
                if up:
                    for answer in self.meter.receive_apdu(packet, self.now):
                        self._put(answer, up=False)
                else:
                    self.session.receive(packet, self.now)
            else:
                self.session.on_deadline(self.now)
        raise AssertionError("it does not end")

    def _move(self) -> None:
        while True:
            told: list[SessionEvent] = []
            while (event := self.session.next_event()) is not None:
                told.append(event)
            packets = list(iter(self.session.take_output, b""))
            self.events += told
            for packet in packets:
                self._put(packet, up=True)
            if not told and not packets:
                return

    def _put(self, packet: bytes, *, up: bool) -> None:
        self.packets += 1
        for seconds in self.fate(self.packets):
            heapq.heappush(self._on_way, (self.now + seconds, next(self._order), up, packet))

    def read(self) -> dict[AttributeRef, object]:
        return {
            event.ref: (event.result.data.value, event.result.scaler) if isinstance(event.result, Value) else event
            for event in self.events
            if isinstance(event, ItemRead)
        }


def _scaler() -> axdr.Data:
    return axdr.structure(axdr.i8(-1), axdr.enum(30))


def _security(title: bytes) -> Security:
    return Security(title, EK, AK, counters=MemoryCounters(1))


def _hls() -> Auth:
    return Hls(Mechanism.HLS_GMAC)


KINDS: dict[str, tuple[Auth, bool]] = {
    "password": (Lls(b"secret"), False),
    "ciphered": (Lls(b"secret"), True),
    "proof": (Hls(Mechanism.HLS_SHA256, b"secret", system_title=CLIENT_TITLE), False),
    "keys": (_hls(), True),
}


def on_time(_number: int) -> list[float]:
    return [LATENCY_S]


def visit(kind: str, fate: Fate = on_time) -> Place:
    """Associate, read (scaler, lists, blocks), release."""
    auth, ciphered = KINDS[kind]
    place = Place(auth, ciphered=ciphered, fate=fate)
    place.session.read([*TEXTS, ENERGY], 0.0)
    place.run()
    if isinstance(place.events[-1], SessionFailed):
        return place
    place.session.request(GetExchange((Item(TEXTS[0]),)), place.now)
    place.run()
    place.session.close(place.now)
    place.run()
    return place


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_any_packet_lost_changes_nothing_of_what_is_read_and_costs_its_timeout(kind: str) -> None:
    clean = visit(kind)
    assert isinstance(clean.events[-1], SessionClosed)
    assert clean.read()[ENERGY] == (42, -1)
    for lost in range(1, clean.packets + 1):
        place = visit(kind, lambda number, lost=lost: [] if number == lost else [LATENCY_S])  # type: ignore[misc]
        assert place.read() == clean.read(), lost
        assert [event.outcome for event in place.events if isinstance(event, Replied)], lost
        # Nothing was known when the session began: the first timeouts are longer than what is learned later.
        assert place.now <= clean.now + BOUNDS.first_s + 4 * LATENCY_S, lost
        release = clean.packets - 1
        assert isinstance(place.events[-1], SessionClosed if lost < release else SessionClosed | SessionFailed), lost


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("late_s", [3.5, 3.04, 8.0])
@pytest.mark.slow
def test_any_packet_late_or_come_twice_is_never_taken_for_another(kind: str, late_s: float) -> None:
    clean = visit(kind)
    for strange in range(1, clean.packets + 1):
        for arrivals in ([late_s], [LATENCY_S, late_s]):
            place = visit(kind, lambda n, at=strange, odd=arrivals: odd if n == at else [LATENCY_S])  # type: ignore[misc]
            last = place.events[-1]
            read = place.read()
            if isinstance(last, SessionFailed):  # an association of which nobody knows which one it is: a new visit
                assert isinstance(last.error, LinkError), (strange, arrivals)
            else:
                assert read == clean.read(), (strange, arrivals)
            assert all(clean.read()[ref] == value for ref, value in read.items()), (strange, arrivals)


def test_a_timeout_that_was_learned_is_short() -> None:
    place = Place(Lls(b"secret"), ciphered=False, fate=on_time)
    for _ in range(20):
        place.session.request(GetExchange((Item(ENERGY),)), place.now)
        place.run()
    before = place.now
    lost = place.packets + 1
    place.fate = lambda number: [] if number == lost else [LATENCY_S]
    place.session.request(GetExchange((Item(ENERGY),)), place.now)
    place.run()
    assert place.now - before == pytest.approx(BOUNDS.shortest_s + 2 * LATENCY_S)
    assert not place.session.overdue


def test_an_action_is_never_sent_twice() -> None:
    for lost in (3, 4):  # the request, its answer; the association took two packets
        place = Place(Lls(b"secret"), ciphered=False, fate=lambda n, lost=lost: [] if n == lost else [LATENCY_S])  # type: ignore[misc]
        place.session.request(ActionExchange((SWITCH,), (axdr.i8(0),), 300), 0.0)
        place.run()
        assert place.switched == (0 if lost == 3 else 1)
        assert isinstance(place.events[-1], SessionFailed)
        assert place.now >= BOUNDS.longest_s
    place = Place(Lls(b"secret"), ciphered=False, fate=on_time)
    place.session.request(ActionExchange((SWITCH,), (axdr.i8(0),), 300), 0.0)
    place.run()
    assert place.switched == 1
    assert isinstance(place.events[-1], Replied)
    assert isinstance(place.events[-1].outcome, ActionAnswer)


def test_a_dead_meter_is_asked_so_often_and_then_given_up_within_the_longest_time_an_answer_may_take() -> None:
    place = Place(Lls(b"secret"), ciphered=False, fate=lambda _number: [])
    place.session.read([ENERGY], 0.0)
    place.run()
    assert place.packets == 3
    assert place.now == pytest.approx(3 + 6 + 12)  # each wait is twice the one before, until an answer is due no more
    assert isinstance(place.events[-1], SessionFailed)


def test_a_meter_that_was_quick_and_is_dead_now_is_asked_so_often_and_given_up_as_late_as_a_slow_one() -> None:
    place = Place(Lls(b"secret"), ciphered=False, fate=lambda _number: [])
    for _ in range(20):
        place.trips.measured("meter", LATENCY_S)
    place.session.read([ENERGY], 0.0)
    place.run()
    assert place.packets == 1 + REPEATS_MAX
    assert place.now == pytest.approx(BOUNDS.longest_s)  # after 1, 2 and 4 seconds, and then the rest


def test_a_session_that_may_not_repeat_asks_once_and_waits_the_longest_time() -> None:
    place = Place(Lls(b"secret"), ciphered=False, fate=lambda _number: [], repeats_max=0)
    place.session.read([ENERGY], 0.0)
    place.run()
    assert place.packets == 1
    assert place.now == BOUNDS.longest_s


def test_a_packet_that_is_known_to_be_lost_is_asked_for_at_once() -> None:
    place = Place(Lls(b"secret"), ciphered=False, fate=lambda number: [] if number == 3 else [LATENCY_S])
    place.session.open(0.0)
    place.run()
    place.session.read([ENERGY], place.now)
    place._move()
    assert place.packets == 3
    place.session.packet_lost(place.now)
    assert place.session.overdue
    place.run()
    assert place.read() == {ENERGY: (42, -1)}
    assert place.now == pytest.approx(6 * LATENCY_S)


def test_a_link_that_loses_nothing_is_never_asked_twice() -> None:
    session = MeterSession(
        PacketLink(LinkUp(1000), timeout_s=500.0),
        client=1,
        server=1,
        round_trip=NodeRoundTrip(RoundTrips(BOUNDS), "meter", REPEATS_MAX),
        response_timeout_s=60.0,
    )
    session.open(0.0)
    assert session.take_output()
    assert session.next_deadline() == 60.0
    session.on_deadline(60.0)
    assert session.take_output() == b""
    assert isinstance(session.next_event(), SessionFailed)


# ---- what the association takes for an answer


def test_an_association_says_what_it_may_ask_again() -> None:
    association = Association(Proposal(), may_repeat=True)
    assert not association.may_ask_again
    with pytest.raises(LocalError):
        association.repeat()
    association.associate()
    first = association.take_output()
    association.repeat()
    assert association.take_output() == first
    association = ready(may_repeat=True)
    assert not association.may_ask_again
    association.request(ActionExchange((SWITCH,), (None,), 300))
    assert not association.may_ask_again
    association = ready(may_repeat=False)
    association.request(GetExchange((ITEM,)))
    assert not association.may_ask_again


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_each_asking_of_a_get_has_an_invoke_id_of_its_own_and_any_of_them_may_be_the_one_that_is_answered(
    answered: int,
) -> None:
    association = ready(may_repeat=True)
    association.request(GetExchange((ITEM,)))
    association.repeat()
    association.repeat()
    invokes = [association.take_output()[2] for _ in range(3)]
    assert len(set(invokes)) == 3
    association.receive_apdu(bytes((0xC4, 1, invokes[answered], 0, 0x11, 5)))
    assert getattr(association.next_event(), "answer", None) == GetAnswer((ITEM,), "result", b"\x00\x11\x05")
    assert association.answered_asking == answered
    association.request(GetExchange((ITEM,)))
    for stale in invokes:  # answers to the other askings are none to the next request
        association.receive_apdu(bytes((0xC4, 1, stale, 0, 0x11, 9)))
        assert association.next_event() is None


def test_a_block_that_answers_an_earlier_asking_is_dropped() -> None:
    association = ready(may_repeat=True)
    association.request(GetExchange((ITEM,)))
    first = association.take_output()[2]
    association.repeat()
    association.take_output()
    association.receive_apdu(bytes((0xC4, 2, first, 0, 0, 0, 0, 1, 0, 2, 0x09, 0x03)))
    assert (association.take_output(), association.next_event()) == (b"", None)


def test_an_answer_that_comes_after_its_timeout_teaches_how_long_answers_take() -> None:
    place = Place(Lls(b"secret"), ciphered=False, fate=lambda n: [LATENCY_S] if n < 4 else [5.0])
    place.session.request(GetExchange((Item(ENERGY),)), 0.0)
    place.run()
    assert isinstance(place.events[-1], Replied)
    assert place.trips.timeout_s("meter") > 5.0


def test_the_second_refusal_of_a_repeated_request_is_not_that_of_the_next_request() -> None:
    association = ready(may_repeat=True)
    association.request(GetExchange((ITEM,)))
    association.repeat()
    association.receive_apdu(bytes.fromhex("d80102"))
    assert isinstance(association.next_event(), RequestRefused)
    association.take_output(), association.take_output()
    association.request(GetExchange((ITEM,)))
    association.receive_apdu(bytes.fromhex("d80102"))
    assert association.next_event() is None
    association.receive_apdu(bytes.fromhex("d80102"))
    assert isinstance(association.next_event(), RequestRefused)


def test_a_get_in_blocks_that_is_asked_again_begins_with_its_first_block() -> None:
    association = ready(may_repeat=True)
    association.request(GetExchange((ITEM,)))
    first = association.take_output()[2]
    association.receive_apdu(bytes((0xC4, 2, first, 0, 0, 0, 0, 1, 0, 2, 0x09, 0x03)))
    assert association.take_output()[:2] == b"\xc0\x02"
    association.repeat()
    again = association.take_output()
    assert (again[:2], again[2] != first) == (b"\xc0\x01", True)
    association.receive_apdu(bytes((0xC4, 2, again[2], 0, 0, 0, 0, 1, 0, 2, 0x09, 0x03)))
    association.take_output()
    association.receive_apdu(bytes((0xC4, 2, again[2], 1, 0, 0, 0, 2, 0, 3, 1, 2, 3)))
    answered = association.next_event()
    assert getattr(answered, "answer", None) == GetAnswer((ITEM,), "value", bytes.fromhex("0903010203"))


@pytest.mark.parametrize("lost", [3, 4, 5, 6, 7, 8])
def test_an_answer_to_the_second_asking_for_a_block_ends_the_doubling_of_timeouts(lost: int) -> None:
    """3 and 4 are the request and the first block of an answer, and so on."""
    waits: dict[int, float] = {}

    def fate(number: int) -> list[float]:
        waits[number] = place.trips.timeout_s("meter")
        return [] if number == lost else [LATENCY_S]

    place = Place(Lls(b"secret"), ciphered=False, fate=fate)
    place.session.read(TEXTS, 0.0)
    place.run()
    assert len(place.read()) == len(TEXTS)
    repeat = lost + 1
    assert waits[repeat] == 2 * BOUNDS.shortest_s  # it is asked again
    assert waits[repeat + 2] == BOUNDS.shortest_s  # and what follows its answer is waited for as before
