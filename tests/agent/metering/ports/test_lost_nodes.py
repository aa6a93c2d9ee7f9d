"""Nodes that leave, come back or fall silent in the middle of a run, and what that costs the others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from plc.events import DataFailed, FailReason
from plc.prime.messages import Command, parse_payload
from plc.prime.usi import UsiFrame
from tests.sim.line import Site

LEARNED_MAX_S = 2.0  # what one lost frame may cost at 50 ms of latency


def read_once(folder: Path, meters: int) -> Site:
    site = Site(folder, meters)
    site.join()
    site.timed_run()
    return site


@pytest.mark.slow
def test_a_node_that_leaves_in_its_visit_ends_it_at_once_and_is_read_when_it_is_back(tmp_path: Path) -> None:
    site = read_once(tmp_path, 4)
    meter = site.meters[2].id
    left = False

    def lost(frame: UsiFrame, _from_host: bool) -> bool:
        nonlocal left
        if not left and frame.command == Command.DATA_IND:
            left = True
            site.network.command({"cmd": "leave", "meter": meter}, site.clock.now)
        return False

    site.timed_run(limit_s=1.0, lost=lost)
    assert site.reader._visits == {}  # neither its own visit nor another one is still waiting
    site.network.command({"cmd": "join", "meter": meter}, site.clock.now)
    before = site.stored()
    site.advance(2.0)
    assert site.stored() == before + site.codes


def test_a_visit_of_a_silent_meter_gives_its_place_to_the_others(tmp_path: Path) -> None:
    site = Site(tmp_path, 5, dead=2, parallel_max=1)
    site.join()
    site.timed_run()
    run = site.timed_run()
    assert run.complete
    assert run.seconds < 5.0  # one place in flight, two silent meters: each would hold it for 20 s


def test_a_silent_meter_that_speaks_again_is_read_in_its_next_visit(tmp_path: Path) -> None:
    site = Site(tmp_path, 3, dead=1)
    site.join()
    site.timed_run()
    site.network.faults.set({})
    site.alive = 3
    run = site.timed_run()
    assert run.complete
    assert run.seconds < 2.0


@pytest.mark.parametrize("command", [Command.DATA_REQ, Command.DATA_CFM, Command.DATA_IND])
def test_one_frame_that_is_lost_is_not_taken_for_the_silence_of_a_meter_that_is_back(
    tmp_path: Path, command: Command
) -> None:
    site = Site(tmp_path, 3, dead=1)
    site.join()
    for _ in range(3):
        site.timed_run()  # its timeouts have doubled
    back = address_of_the_mute(site)
    site.alive = 3
    swallowed = 0

    def lost(frame: UsiFrame, _from_host: bool) -> bool:
        nonlocal swallowed
        site.network.faults.set({})  # it is back with the first frame of the run
        payload = parse_payload(frame.command, frame.data) if frame.command == command else None
        taken = swallowed == 0 and back in (getattr(payload, "dst", 0), getattr(payload, "src", 0))
        swallowed += taken
        return taken

    run = site.timed_run(lost=lost)
    assert swallowed == 1
    assert run.values >= run.wanted  # beside them what it had missed
    assert run.seconds < 1.0 + LEARNED_MAX_S


def address_of_the_mute(site: Site) -> int:
    """The address of the meter that answers nothing."""
    (meter,) = site.network.faults.mute
    return int(str(site.network.describe(site.network.meters[meter])["address"]))


@pytest.mark.parametrize("number", range(8))
def test_a_frame_of_the_lists_that_is_swallowed_costs_two_seconds_at_most(tmp_path: Path, number: int) -> None:
    site = Site(tmp_path, 40)
    site.network.on_deadline(site.clock.now + 1.0)  # all have joined before the port is opened
    site.network.take_bursts()  # and nobody was there to hear it
    seen = -1

    def lost(frame: UsiFrame, _from_host: bool) -> bool:
        nonlocal seen
        seen += frame.command is None
        return seen == number and frame.command is None

    site.line.lost = lost
    start = site.clock.now
    site.join()
    core = site.reader._state.bridge.core  # type: ignore[union-attr]
    site.advance(10.0, lambda: len(core.topology.entries) == 40)
    assert site.clock.now <= start + LEARNED_MAX_S + 1.0
    assert {entry.eui48 for entry in core.topology.entries if entry.registered} == set(core.nodes.values())


@pytest.mark.slow
def test_the_topology_is_known_once_the_nodes_are_listed(tmp_path: Path) -> None:
    site = Site(tmp_path, 40)
    site.network.on_deadline(site.clock.now + 1.0)  # all have joined before the port is opened
    site.join()
    site.advance(2.0)
    core = site.reader._state.bridge.core  # type: ignore[union-attr]
    assert {entry.eui48 for entry in core.topology.entries if entry.registered} == set(core.nodes.values())
    assert len(core.nodes) == 40


def test_a_restart_of_the_base_node_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = read_once(tmp_path, 3)
    with caplog.at_level(logging.INFO, "agent.metering.port"):
        site.network.restart(site.clock.now, rejoin_after_s=10.0)
        site.advance(60.0)
    said = [record for record in caplog.records if getattr(record, "event", "") == "port.restarted"]
    assert len(said) == 1
    assert len(site.registry.present("plc0")) == 3


@pytest.mark.parametrize("reason", list(FailReason))
def test_a_packet_that_may_not_have_arrived_is_asked_for_again_and_what_cannot_arrive_ends_the_visit(
    tmp_path: Path, reason: FailReason
) -> None:
    site = read_once(tmp_path, 1)
    site.clock.now += 900.0 - site.clock.wall() % 900
    while not site.reader._visits:
        site.reader.step()
    (visit,) = site.reader._visits.values()
    visit.channel.deliver(DataFailed(2, 1, 16, 1, reason))  # type: ignore[attr-defined]
    visit.step(site.clock.now, site.clock.wall())
    asked_again = reason in (FailReason.NODE_TIMEOUT, FailReason.BASE_NODE_RESTARTED)
    ends = reason not in (FailReason.NO_CONFIRM, FailReason.BUSY) and not asked_again
    assert (visit.outcome is not None) is ends
    assert visit.waits_idly is asked_again
