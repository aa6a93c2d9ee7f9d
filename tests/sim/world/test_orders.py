"""Worlds with orders, by their seeds: at most once on each meter, and the result tells the truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.metering.orders.journal import Journal
from agent.metering.orders.order import MeterResult, Order, State
from agent.metering.orders.order_book import OrderBook
from tests.sim.world.orders import judge

SEEDS = 24
SEEDS_PER_TEST = 4
SEEDS_TO_FIND = 20

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_orders_are_carried_out_at_most_once_and_their_results_are_true(first: int) -> None:
    wrong = {seed: found for seed in range(first, first + SEEDS_PER_TEST) if (found := judge(seed)[1])}
    assert not wrong


def sent_in_memory(patch: pytest.MonkeyPatch) -> None:
    """That a request may have left is not durable."""
    note = Journal.note

    def forgetful(self: Journal, order: Order, index: int, result: MeterResult) -> None:
        if result.state is not State.SENT:
            note(self, order, index, result)

    patch.setattr(Journal, "note", forgetful)


def sent_again(patch: pytest.MonkeyPatch) -> None:
    """What was sent, and not answered, is asked for anew."""
    lost = OrderBook.lost

    def eager(self: OrderBook, task: object, why: str, *, final: bool = False) -> None:
        record = self._records[task.order.id]  # type: ignore[attr-defined]
        index = task.index  # type: ignore[attr-defined]
        if record.results[index].state is State.SENT:
            record.results[index] = MeterResult(at=record.results[index].at)
        else:
            lost(self, task, why, final=final)  # type: ignore[arg-type]

    patch.setattr(OrderBook, "lost", eager)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", [sent_in_memory, sent_again])
def test_a_planted_fault_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(judge(seed)[1] for seed in range(1, SEEDS_TO_FIND))
