"""How long a run takes on a half-duplex line, in virtual seconds: exact figures, whatever the machine."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.metering.ports.portreader import answer_bounds
from dlms.link.roundtrip import Bounds
from plc.prime.messages import Command
from plc.prime.usi import UsiFrame
from tests.sim.line import BAUDRATE, OCTET_BITS, Lost, Site, share_lost

LEARNED_MAX_S = 2.0  # what one lost frame may cost at 50 ms of latency


def site(folder: Path, meters: int, *, dead: int = 0) -> Site:
    """All nodes joined and the first run over: scalers are known, and which meters are silent."""
    made = Site(folder, meters, dead=dead)
    made.join()
    made.timed_run()
    return made


def nth(command: Command | None, number: int) -> Lost:
    """The n-th frame is lost, counted from 0, of all or of those with this command."""
    seen = -1

    def lost(frame: UsiFrame, _from_host: bool) -> bool:
        nonlocal seen
        seen += command is None or frame.command == command
        return seen == number and (command is None or frame.command == command)

    return lost


@pytest.mark.parametrize("meters", [8, 16])
@pytest.mark.slow
def test_the_line_is_busy_nearly_all_the_time(tmp_path: Path, meters: int) -> None:
    run = site(tmp_path, meters).timed_run()
    assert run.complete
    assert run.busy >= 0.95


@pytest.mark.slow
def test_half_of_the_confirms_lost_cost_next_to_nothing(tmp_path: Path) -> None:
    here = site(tmp_path, 16)
    clean = here.timed_run()
    for share in (0.1, 0.5, 1.0):
        pick = random.Random(5)
        run = here.timed_run(
            lost=lambda frame, _host, share=share, pick=pick: (  # type: ignore[misc]
                frame.command == Command.DATA_CFM and pick.random() < share
            )
        )
        assert run.complete
        assert run.seconds < 1.1 * clean.seconds


@pytest.mark.parametrize("command", [Command.DATA_REQ, Command.DATA_CFM, Command.DATA_IND])
@pytest.mark.parametrize("number", [0, 5, 17, 30])
@pytest.mark.slow
def test_a_frame_that_is_swallowed_costs_its_learned_timeout_at_most(
    tmp_path: Path, command: Command, number: int
) -> None:
    here = site(tmp_path, 8)
    clean = here.timed_run()
    run = here.timed_run(lost=nth(command, number))
    assert run.complete
    assert run.seconds <= clean.seconds + LEARNED_MAX_S


@pytest.mark.slow
def test_whichever_frame_of_a_run_is_swallowed_it_costs_its_learned_timeout_at_most(tmp_path: Path) -> None:
    here = site(tmp_path, 8)
    clean = here.timed_run()
    for number in range(clean.frames):
        run = here.timed_run(lost=nth(None, number))
        assert run.complete, number
        assert run.seconds <= clean.seconds + LEARNED_MAX_S, number


@pytest.mark.slow
def test_five_frames_swallowed_among_fifty_meters_cost_less_than_one_timeout_each(tmp_path: Path) -> None:
    here = site(tmp_path, 50)
    clean = here.timed_run()
    assert clean.seconds < 10.0
    for swallowed in (1, 3, 5):
        left = swallowed

        def lost(frame: UsiFrame, _from_host: bool) -> bool:
            nonlocal left
            taken = frame.command == Command.DATA_REQ and left > 0 and here.clock.wall() % 900 >= 2.0
            left -= taken
            return taken

        run = here.timed_run(lost=lost)
        assert run.complete
        assert run.seconds <= clean.seconds + LEARNED_MAX_S


@pytest.mark.slow
def test_dead_meters_cost_the_others_nothing_after_the_first_run(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alive = site(tmp_path / "a", 40).timed_run()
    here = site(tmp_path / "b", 50, dead=10)
    for _ in range(3):
        run = here.timed_run()
        assert run.complete
        assert (run.seconds - alive.seconds) / 10 <= 0.1


@pytest.mark.slow
def test_two_hundred_meters_on_a_clean_line(tmp_path: Path) -> None:
    here = Site(tmp_path, 200)
    here.join()
    first = here.timed_run()
    second = here.timed_run()
    assert first.complete
    assert second.complete
    assert second.seconds <= 38.0
    # With the scalers of 70 attributes a meter there are half as many octets again; no more time than they take.
    assert first.seconds <= 1.01 * first.octets * OCTET_BITS / BAUDRATE


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_hundred_meters_with_frames_lost_and_meters_dead(tmp_path: Path, seed: int) -> None:
    here = site(tmp_path, 200, dead=10)
    run = here.timed_run(lost=share_lost(0.03, seed))
    assert run.complete
    assert run.seconds <= 60.0


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.slow
def test_a_base_node_that_restarts_in_the_middle_of_a_run_is_read_as_soon_as_its_nodes_are_back(
    tmp_path: Path, announced: bool
) -> None:
    here = site(tmp_path, 16)
    clean = here.timed_run()
    restarted = False

    def lost(_frame: UsiFrame, _from_host: bool) -> bool:
        nonlocal restarted
        if not restarted and here.clock.wall() % 900 >= 1.0:
            restarted = True
            here.network.restart(here.clock.now, rejoin_after_s=20.0, announced=announced)
        return False

    run = here.timed_run(lost=lost)
    assert run.complete
    assert run.seconds <= 1.0 + 20.0 + 16 * 0.1 + clean.seconds + LEARNED_MAX_S


def test_before_anything_is_learned_the_answers_of_all_visits_have_the_time_that_the_line_takes_for_them() -> None:
    octets = 8 * 1024
    assert answer_bounds(20.0, octets * OCTET_BITS / BAUDRATE) == Bounds(3.0, 1.0, 20.0)
    assert answer_bounds(20.0, octets * OCTET_BITS / 9600).first_s > octets * OCTET_BITS / 9600
    assert answer_bounds(5.0, octets * OCTET_BITS / 9600) == Bounds(5.0, 1.0, 5.0)
    assert answer_bounds(0.5) == Bounds(0.5, 0.5, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("baudrate", "latency_s"), [(9600, 0.05), (38_400, 0.5), (115_200, 2.0)])
def test_what_is_learned_fits_slow_lines_as_well(tmp_path: Path, baudrate: int, latency_s: float) -> None:
    here = Site(tmp_path, 20, baudrate=baudrate, latency_s=latency_s)
    here.join()
    here.timed_run()
    clean = here.timed_run()
    lossy = [here.timed_run(lost=share_lost(0.03, seed)) for seed in range(1, 6)]
    assert all(run.complete for run in (clean, *lossy))
    assert clean.octets < 1.02 * 20 * 2140  # next to nothing is asked twice because it came late
    # With eight answers on the line at once one takes 13 s at 9600 baud, and that is what a lost one costs.
    middle = sorted(run.seconds for run in lossy)[2]  # one run may lose two frames of its last meter
    assert middle < clean.seconds + (120.0 if baudrate == 9600 else 20.0)
