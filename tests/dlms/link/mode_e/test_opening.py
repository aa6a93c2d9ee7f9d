"""The opening of IEC 62056-21 mode E."""

from __future__ import annotations

import itertools
import random

import pytest

from dlms.errors import DecodeError, LinkError, LocalError, PeerError
from dlms.link.mode_e.opening import (
    NOISE_BYTES_MAX,
    RETRIES,
    SWITCH_PAUSE_S,
    Identification,
    ModeEEvent,
    ModeEOpening,
    ModeEState,
    ModeEStep,
    OpeningFailed,
    SpeedAgreed,
    add_even_parity,
)
from tests.dlms.table_walk import take_step

LINE = rb"/ABC5\2METER-1" + b"\r\n"
KNOWN = Identification("ABC", "5", "METER-1", offers_hdlc=True)
REQUEST = add_even_parity(b"/?!\r\n")
CHOICE = add_even_parity(b"\x06252\r\n")


def events(opening: ModeEOpening) -> list[ModeEEvent]:
    found: list[ModeEEvent] = []
    while (event := opening.next_event()) is not None:
        found.append(event)
    return found


def started(**options: object) -> ModeEOpening:
    opening = ModeEOpening(**options)  # type: ignore[arg-type]
    opening.start(0.0)
    opening.take_output()
    return opening


def opening_in(state: ModeEState) -> ModeEOpening:
    opening = ModeEOpening(retries=0)
    if state is not ModeEState.IDLE:
        opening.start(0.0)
    if state is ModeEState.FAILED:
        opening.receive_eof(0.0)
    if state in (ModeEState.CHOSEN, ModeEState.DONE):
        opening.receive(LINE, 0.0)
    if state is ModeEState.DONE:
        opening.on_deadline(100.0)
    assert opening.state is state
    return opening


@pytest.mark.parametrize(("state", "step"), list(itertools.product(ModeEState, ModeEStep)))
def test_every_pair_of_state_and_step_moves_as_the_table_says_or_changes_nothing(
    state: ModeEState, step: ModeEStep
) -> None:
    take_step(opening_in(state), step)


def test_even_parity_is_made_in_the_eighth_bit() -> None:
    assert add_even_parity(b"/?!\r\n").hex() == "af3f218d0a"
    with pytest.raises(LocalError):
        add_even_parity(b"\x80")


def test_the_opening_ends_in_a_speed_and_a_pause() -> None:
    opening = ModeEOpening()
    opening.start(0.0)
    assert opening.take_output() == REQUEST
    opening.receive(add_even_parity(LINE), 1.0)
    assert opening.take_output() == CHOICE
    assert events(opening) == []
    opening.receive(CHOICE, 1.5)
    assert events(opening) == [SpeedAgreed(9600, SWITCH_PAUSE_S, KNOWN)]
    assert opening.next_deadline() is None


def test_a_meter_that_leaves_out_its_acknowledgement_is_taken_at_its_word() -> None:
    opening = started()
    opening.receive(LINE, 1.0)
    deadline = opening.next_deadline()
    assert deadline is not None
    opening.on_deadline(deadline)
    assert events(opening) == [SpeedAgreed(9600, SWITCH_PAUSE_S, KNOWN)]


@pytest.mark.parametrize(("limit", "baudrate", "digit"), [(19200, 9600, b"5"), (2400, 2400, b"3"), (100, 300, b"0")])
def test_the_speed_chosen_is_the_fastest_that_both_can_do(limit: int, baudrate: int, digit: bytes) -> None:
    opening = started(baudrate_max=limit)
    opening.receive(LINE, 0.0)
    assert opening.take_output() == add_even_parity(b"\x062" + digit + b"2\r\n")
    opening.on_deadline(100.0)
    (event,) = events(opening)
    assert isinstance(event, SpeedAgreed)
    assert event.baudrate == baudrate


def test_an_address_is_asked_for_by_name() -> None:
    opening = ModeEOpening(address="00012345")
    opening.start(0.0)
    assert opening.take_output() == add_even_parity(b"/?00012345!\r\n")
    for address in ("a b", "x" * 33, "é"):
        with pytest.raises(LocalError):
            ModeEOpening(address=address)


def test_the_echo_of_an_optical_head_and_noise_before_the_answer_are_passed_over() -> None:
    opening = started()
    opening.receive(REQUEST + b"\x00\xff\x7f" + LINE, 0.0)
    assert opening.state is ModeEState.CHOSEN
    assert opening.echo_octets == len(REQUEST)


def test_a_silent_meter_is_asked_again_and_given_up() -> None:
    opening = ModeEOpening()
    opening.start(0.0)
    now = 0.0
    for _ in range(RETRIES + 1):
        assert opening.take_output() == REQUEST
        deadline = opening.next_deadline()
        assert deadline is not None
        now = deadline
        opening.on_deadline(now)
    (event,) = events(opening)
    assert isinstance(event, OpeningFailed)
    assert isinstance(event.error, LinkError)
    assert now < 15.0


def test_a_damaged_identification_is_asked_for_again() -> None:
    opening = started()
    opening.receive(b"/A\r\n", 0.0)
    opening.on_deadline(100.0)
    assert opening.take_output() == REQUEST
    opening.receive(LINE, 101.0)
    assert opening.state is ModeEState.CHOSEN


@pytest.mark.parametrize("line", [b"/ABCxMETER\r\n", b"/ABC9METER\r\n"])
def test_a_meter_without_a_speed_of_mode_e_is_refused(line: bytes) -> None:
    opening = started()
    opening.receive(line, 0.0)
    (event,) = events(opening)
    assert isinstance(event, OpeningFailed)
    assert isinstance(event.error, PeerError)


def test_a_meter_without_the_mark_of_hdlc_is_refused_only_where_that_is_wanted() -> None:
    for require, state in ((False, ModeEState.CHOSEN), (True, ModeEState.FAILED)):
        opening = started(require_mark=require)
        opening.receive(b"/ABC5METER\r\n", 0.0)
        assert opening.state is state


def test_endless_noise_ends_the_opening() -> None:
    opening = started()
    opening.receive(b"\x55" * (NOISE_BYTES_MAX + 100), 0.0)
    (event,) = events(opening)
    assert isinstance(event, OpeningFailed)


def test_the_end_of_the_port_ends_the_opening() -> None:
    opening = started()
    opening.receive_eof(0.0)
    opening.receive_eof(0.0)
    (event,) = events(opening)
    assert isinstance(event, OpeningFailed)


@pytest.mark.parametrize("line", ["", "/AB5", "ABC5x", "/A1C5x", "/ABC5" + "x" * 60])
def test_a_line_that_is_no_identification_is_an_error(line: str) -> None:
    with pytest.raises(DecodeError):
        Identification.parse(line)


def test_random_bytes_never_raise_and_splits_do_not_matter() -> None:
    pick = random.Random(5)
    for _ in range(500):
        data = bytes(pick.choice((0x2F, 0x0A, 0x41, 0x35, pick.randrange(256))) for _ in range(60)) + LINE
        whole, pieces = started(), started()
        whole.receive(data, 0.0)
        for octet in data:
            pieces.receive(bytes((octet,)), 0.0)
        assert whole.state is pieces.state
        assert whole.take_output() == pieces.take_output()
