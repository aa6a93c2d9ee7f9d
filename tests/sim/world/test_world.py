"""Worlds by their seeds: collection tells the truth in all of them, and a daemon with a fault is found out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ports import portreader
from agent.metering.ports.portreader import PortReader
from agent.metering.scheduling.slots import Slots
from headend.metering import repeats
from tests.sim.world.__main__ import judge
from tests.sim.world.plan import KINDS
from tests.sim.world.world import KillableStore

SEEDS = 200  # 10,000 in `make torture`
SEEDS_PER_TEST = 10

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_every_interval_is_in_the_head_end_once_and_right_or_listed(first: int) -> None:
    seeds = range(first, first + SEEDS_PER_TEST)
    wrong = {seed: found for seed in seeds if (found := judge(seed)[1])}
    assert not wrong, wrong


def no_places(patch: pytest.MonkeyPatch) -> None:
    """How far profiles were read is not kept."""
    patch.setattr(portreader, "places", lambda *_: {})


def no_marks(patch: pytest.MonkeyPatch) -> None:
    """What a meter was read for is not durable."""
    append = KillableStore.append
    patch.setattr(
        KillableStore,
        "append",
        lambda self, readings, _marks=(), *rest, **more: append(self, readings, (), *rest, **more),
    )


def no_ledger(patch: pytest.MonkeyPatch) -> None:
    """What passed unread is told to nobody."""
    patch.setattr(LedgerKeeper, "flush", lambda *_, **__: None)


def stored_again(patch: pytest.MonkeyPatch) -> None:
    """A visit that was cut stores its registers again: seed 73 found this one."""
    patch.setattr(PortReader, "_tasks_stored", lambda *_: set())


def repetitions_shown(patch: pytest.MonkeyPatch) -> None:
    """The head-end takes what is read again for something new."""
    patch.setattr(repeats, "_digest", lambda _parts: None)


def never_confirmed(patch: pytest.MonkeyPatch) -> None:
    """What a liar made doubtful stays so, and nobody lists it."""
    patch.setattr(Slots, "confirmed", lambda *_: [])


LIAR = ("clock-back", "clock-ahead", "store-page", "kill", "kill-in-append")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plant", "kinds", "seed"),
    [(repetitions_shown, ("store-page", "kill"), 2), (never_confirmed, LIAR, 1018)],
)
def test_a_fault_planted_behind_damage_or_a_liar_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], kinds: tuple[str, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not judge(seed, kinds)[1]
    plant(monkeypatch)
    assert judge(seed, kinds)[1]


# Without what makes rows come again by itself, where the head-end must know repetitions. Here it is kept from knowing
# them, so that what is read twice is seen to come twice.
PLAIN = tuple(kind for kind in KINDS if kind not in {"store-page", "clock-back", "clock-ahead"})


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("plant", "seed"), [(no_places, 0), (no_marks, 1), (no_ledger, 1), (stored_again, 73)])
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    repetitions_shown(monkeypatch)
    assert not judge(seed, PLAIN)[1]
    plant(monkeypatch)
    assert judge(seed, PLAIN)[1]
