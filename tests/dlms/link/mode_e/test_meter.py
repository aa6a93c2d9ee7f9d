"""The meter's side of the mode E opening, and sessions that begin with it, over a terminal that knows its speed."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dlms import LinkError, LocalError, Meter, ModeE
from dlms.cli.listeners import Server, open_listener
from dlms.cli.simulate import BUILT_IN_LIST, mode_e_opening
from dlms.link.hdlc.bus import HdlcServerBus
from dlms.link.mode_e.meter import CHOICE_TIMEOUT_S, CONNECT_TIMEOUT_S, MeterState, MeterStep, ModeEMeter
from dlms.link.mode_e.opening import Identification, ModeEOpening, SpeedAgreed, add_even_parity
from dlms.simulator.line_faults import LineFaults, SlowLine
from dlms.simulator.meter import SimulatedMeter
from dlms.simulator.reading_list import rows_from_csv
from tests.dlms.table_walk import take_step
from tests.sim.terminal_server import terminal_server

KNOWN = Identification("ABC", "5", "METER-1", offers_hdlc=True)
REQUEST = add_even_parity(b"/?!\r\n")


def meter_in(state: MeterState) -> ModeEMeter:
    meter = ModeEMeter(KNOWN, "17")
    if state is not MeterState.LISTENING:
        meter.receive(REQUEST, 0.0)
    if state is MeterState.AGREED:
        meter.receive(b"\x06252\r\n", 0.0)
    assert meter.state is state
    return meter


@pytest.mark.parametrize(("state", "step"), list(itertools.product(MeterState, MeterStep)))
def test_every_pair_of_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: MeterState, step: MeterStep
) -> None:
    take_step(meter_in(state), step)


@pytest.mark.parametrize("address", ["", "17"])
@pytest.mark.parametrize(("limit", "baudrate"), [(19200, 9600), (9600, 9600), (2400, 2400), (300, 300)])
def test_reader_and_meter_agree_to_the_fastest_speed_that_both_can_do(address: str, limit: int, baudrate: int) -> None:
    reader, meter = ModeEOpening(address=address, baudrate_max=limit), ModeEMeter(KNOWN, "17")
    reader.start(0.0)
    while (event := reader.next_event()) is None:
        meter.receive(reader.take_output(), 1.0)
        reader.receive(meter.take_output(), 1.0)
    assert isinstance(event, SpeedAgreed)
    assert event.identification == KNOWN
    assert event.baudrate == meter.baudrate == baudrate
    assert meter.is_hdlc


@pytest.mark.parametrize("line", [b"/?18!\r\n", b"?!\r\n", b"/?17\r\n", b"\x06252\r\n", b"\r\n"])
def test_what_is_no_request_for_this_meter_is_not_answered(line: bytes) -> None:
    meter = ModeEMeter(KNOWN, "17")
    meter.receive(line, 0.0)
    assert meter.take_output() == b""
    assert meter.state is MeterState.LISTENING


@pytest.mark.parametrize("choice", [b"\x06050\r\n", b"\x06262\r\n", b"\x062x2\r\n", b"\x06\r\n", b"252\r\n", b"\n"])
def test_a_choice_that_mode_e_does_not_have_is_not_answered_and_the_meter_listens_again(choice: bytes) -> None:
    meter = meter_in(MeterState.OFFERED)
    meter.take_output()
    meter.receive(choice, 0.0)
    assert meter.take_output() == b""
    assert meter.state is MeterState.LISTENING
    assert meter.baudrate == 300


@pytest.mark.parametrize(
    ("state", "wait_s"), [(MeterState.OFFERED, CHOICE_TIMEOUT_S), (MeterState.AGREED, CONNECT_TIMEOUT_S)]
)
def test_a_reader_that_goes_away_leaves_the_meter_listening(state: MeterState, wait_s: float) -> None:
    meter = meter_in(state)
    deadline = meter.next_deadline()
    assert deadline is not None
    assert deadline >= wait_s
    meter.on_deadline(deadline)
    assert meter.state is MeterState.LISTENING
    assert meter.next_deadline() is None


def test_a_connection_that_stands_is_not_given_up() -> None:
    meter = meter_in(MeterState.AGREED)
    meter.connected()
    assert meter.next_deadline() is None


@pytest.mark.parametrize(("speed", "text", "address"), [("9", "X", ""), ("5", "é", ""), ("5", "X", "é")])
def test_what_mode_e_cannot_say_cannot_be_offered(speed: str, text: str, address: str) -> None:
    with pytest.raises(LocalError):
        ModeEMeter(Identification("ABC", speed, text, offers_hdlc=True), address)


def test_random_octets_never_raise_and_splits_do_not_matter() -> None:
    pick = random.Random(7)
    for _ in range(500):
        octets = (0x2F, 0x3F, 0x21, 0x0A, 0x06, 0x32, 0x35, pick.randrange(256))
        data = bytes(pick.choice(octets) for _ in range(60)) + b"\n" + REQUEST
        whole, pieces = ModeEMeter(KNOWN), ModeEMeter(KNOWN)
        whole.receive(data, 0.0)
        for octet in data:
            pieces.receive(bytes((octet,)), 0.0)
        assert whole.state is pieces.state is not MeterState.LISTENING
        assert whole.take_output() == pieces.take_output()


# ---- with a client


class Place:
    """`dlms simulate --mode-e` on a pseudo-terminal, in a thread."""

    def __init__(self, link: Path) -> None:
        self.path = str(link)
        self.meter = SimulatedMeter(7, rows_from_csv(BUILT_IN_LIST), now=lambda: datetime(2026, 6, 1, tzinfo=UTC))
        self.opening = mode_e_opening(self.meter)
        server = Server(HdlcServerBus(1), self.meter, LineFaults(), SlowLine(), mode_e=self.opening)
        self._place = open_listener(f"pty:{link}", lambda: server)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._place.serve_once(0.02)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)
        self._place.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "meter")
    yield made
    made.close()


@pytest.mark.process
@pytest.mark.parametrize("mode_e", [True, ModeE(address="7", require_mark=True)])
def test_a_session_begins_with_the_mode_e_opening_and_goes_on_at_the_speed_agreed_to(
    mode_e: ModeE | bool, place: Place
) -> None:
    with Meter(place.path, mode_e=mode_e, baudrate=9600) as client:
        assert place.opening.baudrate == 9600
        assert client.read("1.0.1.8.0.255").value is not None
    assert place.opening.baudrate == 300


@pytest.mark.process
def test_a_meter_is_greeted_again_after_an_orderly_end_and_met_at_its_speed_after_a_lost_one(
    place: Place,
) -> None:
    client = Meter(place.path, mode_e=ModeE(answer_timeout_s=0.3, retries=0), baudrate=4800)
    for _ in range(2):
        client.open()
        client.close()
    client.open()
    client._drop()  # as after a lost line: no DISC
    assert place.opening.baudrate == 4800
    assert client.read("1.0.1.8.0.255").value is not None
    client.close()
    assert place.opening.baudrate == 300


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_behind_a_terminal_server_the_speed_is_changed_there(place: Place) -> None:
    with terminal_server(place.path) as server, Meter(server.url, mode_e=True, baudrate=19200) as client:
        assert server.plug.baudrate == place.opening.baudrate == 19200
        assert client.read("1.0.1.8.0.255").value is not None


@pytest.mark.process
def test_a_meter_that_does_not_answer_the_mode_e_opening_is_a_link_error(tmp_path: Path) -> None:
    meter = SimulatedMeter(7, rows_from_csv(BUILT_IN_LIST), now=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    silent = Server(HdlcServerBus(1), meter, LineFaults(silent=True), SlowLine(), mode_e=mode_e_opening(meter))
    place = open_listener(f"pty:{tmp_path / 'meter'}", lambda: silent)
    with pytest.raises(LinkError, match="opening"):
        Meter(place.name, mode_e=ModeE(answer_timeout_s=0.05, retries=1)).open()
    place.close()


@pytest.mark.parametrize("url", ["socket://127.0.0.1:1", "udp://127.0.0.1:1"])
def test_where_there_is_no_speed_mode_e_is_a_local_error(url: str) -> None:
    with pytest.raises(LocalError, match="speed"):
        Meter(url, mode_e=True).open()


def test_mode_e_is_for_hdlc_over_a_port_of_its_own() -> None:
    with pytest.raises(LocalError):
        Meter("/dev/ttyS0", link="wrapper", mode_e=True)
