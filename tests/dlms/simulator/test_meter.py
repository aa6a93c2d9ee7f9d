"""The simulated meter as time passes, and the line in front of it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from dlms import axdr
from dlms.axdr import Data
from dlms.cli.simulate import BUILT_IN_LIST
from dlms.client.association import Association, Established, Notified, Proposal
from dlms.codes import SERVER_CONFORMANCE
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.errors import LocalError
from dlms.simulator.line_faults import LineFaults, SlowLine
from dlms.simulator.meter import NOTIFICATIONS_MAX, Event, SimulatedConnection, SimulatedMeter
from dlms.simulator.objects import DISCONNECT_SCRIPTS, EVENT_REF, LIMITER, POWER, STANDARD_LOG
from dlms.simulator.reading_list import rows_from_csv
from dlms.xdlms.apdu.common import NO_PARAMETER, Item
from dlms.xdlms.apdu.notify import DataNotification, EventNotification
from dlms.xdlms.exchange_write import ActionExchange
from tests.dlms.client.test_meter import PROFILE
from tests.dlms.client.test_session import ROWS

DAILY = Obis.parse("1.0.99.2.0.255")
ENERGY = AttributeRef.parse("3/1.0.1.8.0.255/2")


class Now:
    """Civil time that the test moves."""

    def __init__(self) -> None:
        self.time = datetime(2026, 6, 1, 12, 7, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def passes(self, **how: int) -> None:
        self.time += timedelta(**how)


def made(*, dynamic: bool = True) -> tuple[SimulatedMeter, Now]:
    now = Now()
    return SimulatedMeter(7, ROWS, now=now, dynamic=dynamic), now


def clock_of(row: tuple[Data, ...]) -> datetime | None:
    return CosemDateTime.parse(row[0].octets()).to_datetime()


def number(meter: SimulatedMeter, ref: AttributeRef) -> int:
    result = meter.get(ref)
    assert isinstance(result, Data)
    return result.integer()


def output(meter: SimulatedMeter) -> bool:
    """Of the contactor."""
    return meter.contactor.connected


def test_the_load_profile_grows_with_the_clock_and_holds_what_the_registers_held() -> None:
    meter, now = made()
    rows = meter.profiles[PROFILE].rows
    before, daily = len(rows), len(meter.profiles[DAILY].rows)
    meter.tick()
    assert len(rows) == before
    for _ in range(8):
        now.passes(minutes=15)
        meter.advance(100)
        meter.tick()
        assert rows[-1][1].integer() == number(meter, ENERGY)
    assert len(rows) == before + 8
    assert clock_of(rows[-1]) == datetime(2026, 6, 1, 14, 0, tzinfo=UTC)
    assert [row[1].integer() - rows[-9][1].integer() for row in rows[-8:]] == [100 * at for at in range(1, 9)]
    now.passes(days=1)
    meter.tick()
    times = [clock_of(row) for row in rows]
    assert times == [times[0] + timedelta(minutes=15 * at) for at in range(before + 8 + 96)]  # type: ignore[operator]
    assert len(meter.profiles[DAILY].rows) == daily + 1


def test_a_client_that_reads_finds_the_rows_without_anybody_ticking() -> None:
    meter, now = made()
    before = len(meter.profiles[PROFILE].rows)
    now.passes(hours=1)
    meter.connect().receive_apdu(1, b"\xc0", 0.0)
    assert len(meter.profiles[PROFILE].rows) == before + 4


def test_a_meter_that_does_not_live_keeps_its_rows() -> None:
    meter, now = made(dynamic=False)
    before, logged = len(meter.profiles[PROFILE].rows), len(meter.profiles[STANDARD_LOG].rows)
    meter.contactor.item.act(1, NO_PARAMETER)
    now.passes(days=3)
    meter.connect().receive_apdu(1, b"\xc0", 0.0)
    assert len(meter.profiles[PROFILE].rows) == before
    assert len(meter.profiles[STANDARD_LOG].rows) == logged


@pytest.mark.slow
def test_years_that_passed_fill_the_profile_and_no_more() -> None:
    meter, now = made()
    now.passes(days=4000)
    meter.tick()
    rows = meter.profiles[PROFILE].rows
    assert len(rows) == 4000
    assert clock_of(rows[-1]) == datetime(2037, 5, 14, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("shift", [timedelta(hours=5), timedelta(hours=-5)])
def test_a_clock_that_was_set_is_logged_and_the_profile_goes_on_from_there(shift: timedelta) -> None:
    meter, now = made()
    profile, log = meter.profiles[PROFILE].rows, meter.profiles[STANDARD_LOG].rows
    before = len(profile)
    to = now.time + shift
    assert meter.clock.item.set(2, axdr.octets(CosemDateTime.from_datetime(to).emit())) == 0
    assert [(clock_of(row), row[1].value) for row in log[-2:]] == [(now.time, 4), (to, 5)]
    meter.tick()
    assert len(profile) == before
    now.passes(minutes=15)
    meter.tick()
    assert len(profile) == before + 1
    assert clock_of(profile[-1]) == to + timedelta(minutes=8)


def test_events_are_logged_and_the_last_one_is_an_object() -> None:
    meter, _now = made()
    assert meter.contactor.item.act(1, NO_PARAMETER).code == 0
    meter.log(Event.COVER_REMOVED)
    assert [row[1].value for row in meter.profiles[STANDARD_LOG].rows[-2:]] == [62, 40]
    small = SimulatedMeter(1, rows_from_csv(BUILT_IN_LIST), now=Now())
    small.log(Event.POWER_UP)
    assert small.get(EVENT_REF) == axdr.u8(2)


def test_a_script_a_schedule_and_the_limiter_reach_the_contactor() -> None:
    meter, now = made()
    assert meter.server.act(MethodRef(9, DISCONNECT_SCRIPTS, 1), axdr.u16(1)).code == 0
    assert output(meter) is False
    assert meter.server.act(MethodRef(9, DISCONNECT_SCRIPTS, 1), axdr.u16(2)).code == 0
    at = axdr.array([axdr.structure(axdr.octets(bytes.fromhex("0d0000ff")), axdr.octets(bytes.fromhex("ffffffffff")))])
    schedule = AttributeRef(22, Obis.parse("0.0.15.0.1.255"), 4)
    assert meter.server.set(Item(schedule), at) == 0
    now.passes(minutes=52)
    meter.tick()
    assert output(meter) is True
    now.passes(minutes=1)
    meter.tick()
    assert output(meter) is False
    meter.contactor.item.act(2, NO_PARAMETER)
    threshold = number(meter, AttributeRef(71, LIMITER, 3))
    references = [axdr.structure(axdr.octets(DISCONNECT_SCRIPTS.code), axdr.u16(at)) for at in (1, 2)]
    assert meter.server.set(Item(AttributeRef(71, LIMITER, 11)), axdr.structure(*references)) == 0
    for power, connected in ((threshold, True), (threshold + 1, False), (threshold + 1, False)):
        meter.put(POWER, axdr.u32(power))
        now.passes(seconds=1)
        meter.tick()
        assert output(meter) is connected
    with pytest.raises(LocalError):
        meter.put(AttributeRef.parse("3/1.0.99.99.0.255/2"), axdr.u8(1))


def client_of(connection: SimulatedConnection, sap: int, conformance: int) -> Association:
    client = Association(Proposal(conformance=SERVER_CONFORMANCE & conformance))
    client.associate()
    talk(connection, sap, client)
    assert isinstance(client.next_event(), Established)
    return client


def talk(connection: SimulatedConnection, sap: int, client: Association) -> None:
    while apdu := client.take_output():
        for answer in connection.receive_apdu(sap, apdu, 0.0):
            client.receive_apdu(answer)


def test_news_go_to_the_clients_of_every_connection_that_want_them() -> None:
    meter, _now = made()
    connections = [meter.connect(), meter.connect()]
    eager = [client_of(connection, 1, 0xFFFFFF) for connection in connections]
    client_of(connections[0], 2, 0x1C1D)  # agrees to no notifications
    eager[0].request(ActionExchange((MethodRef(40, Obis.parse("0.0.25.9.0.255"), 1),), (NO_PARAMETER,), 1024))
    talk(connections[0], 1, eager[0])
    eager[0].next_event()
    meter.log(Event.COVER_REMOVED)
    for connection, client in zip(connections, eager, strict=True):
        told = connection.take_notifications()
        assert [sap for sap, _apdu in told] == [1, 1]
        for _sap, apdu in told:
            client.receive_apdu(apdu)
        push, event = client.next_event(), client.next_event()
        assert isinstance(push, Notified)
        assert isinstance(push.notification, DataNotification)
        assert push.notification.body.members()[1] == meter.get(ENERGY)
        assert isinstance(event, Notified)
        assert isinstance(event.notification, EventNotification)
        assert event.notification.value == axdr.u8(40)
        assert connection.take_notifications() == []


def test_news_that_nobody_fetches_do_not_pile_up() -> None:
    meter, _now = made()
    connection = meter.connect()
    for _ in range(3 * NOTIFICATIONS_MAX):
        meter.log(Event.POWER_UP)
    assert len(connection.waiting) == NOTIFICATIONS_MAX
    del connection
    assert not list(meter._connections)


def test_news_too_long_for_a_client_are_dropped_and_others_come() -> None:
    meter, _now = made()
    connection = meter.connect()
    client = Association(Proposal(conformance=SERVER_CONFORMANCE, pdu_size=64))
    client.associate()
    talk(connection, 1, client)
    meter._send(DataNotification(1, None, axdr.octets(bytes(100))))
    meter._send(DataNotification(2, None, axdr.octets(bytes(10))))
    assert len(connection.take_notifications()) == 1


# -------------------------------------------------------------------------------------------------------- the line


def test_bursts_arrive_in_their_time_and_late_ones_behind_others() -> None:
    line = SlowLine(latency_s=0.1, late=0.5, late_s=1.0, rng=random.Random(4))
    assert line.next_deadline() is None
    for at in range(40):
        line.put(bytes((at,)), float(at) / 100)
    line.put(b"", 0.0)
    assert line.next_deadline() is not None
    assert line.take(0.05) == []
    arrived: list[int] = []
    while (due := line.next_deadline()) is not None:
        for burst in line.take(due):
            arrived.append(burst[0])
            assert due == pytest.approx(burst[0] / 100 + 0.1) or due == pytest.approx(burst[0] / 100 + 1.1)
    assert sorted(arrived) == list(range(40))
    assert arrived != sorted(arrived)
    for _ in range(3000):
        line.put(b"x", 0.0)
    assert len(line.take(10.0)) == 1024


def test_bursts_come_twice_as_often_as_asked() -> None:
    faults = LineFaults(duplicate=0.3, rng=random.Random(1))
    results = [faults.apply(b"ab") for _ in range(500)]
    assert 100 < results.count(b"abab") < 200
    assert set(results) == {b"ab", b"abab"}
