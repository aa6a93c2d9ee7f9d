"""What is kept of epochs beside the store: what was said, and what another store says again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ledger.ledger import Early, Gap, Ledger, Reason, Verdict
from agent.metering.scheduling import epoch_file
from agent.metering.scheduling.epoch_file import SUFFIX
from agent.metering.scheduling.epochs import SAID_MAX, EpochBook
from agent.metering.scheduling.slots import Epoch, Slots
from omadm.schedule import Periodic
from tests.agent.metering.store.stores import spoil, store

GONE = "a" * 32


def said(lowest: int, highest: int, *, trusted: bool = False, meter: str = "m1", first: int = 900) -> Verdict:
    return Verdict(meter, "t1", first, first + 900, lowest, highest, trusted=trusted, store=GONE)


def test_what_was_said_in_a_store_that_is_gone_is_said_again_by_the_next_one_once(tmp_path: Path) -> None:
    opened = store(tmp_path)
    book = EpochBook(opened, "boot")
    book.load(Ledger(), {}, {})
    assert book.to_say_again(0) == []
    book.note([said(1, 9), said(1, 9, meter="m2", first=1800)])
    epoch = Epoch(0, 5.0, 900.0, opened.file.uuid, 1, trusted=True)
    book.save(Slots({}, [epoch]))
    before = opened.file.uuid
    spoil(opened, "UPDATE meta SET value='x' WHERE key='format'")
    opened = store(tmp_path)
    book = EpochBook(opened, "boot")
    slots = book.load(Ledger(), {}, {})
    assert opened.file.uuid != before
    assert ([one.store for one in slots.epochs], book.generation, slots.changed) == ([before], 2, True)
    assert book.to_say_again(0) == [Verdict("", "t1", 900, 2700, 1, 9, trusted=False, store=GONE)]
    assert (book.to_say_again(0), len(book.to_say_again(1)), book.to_say_again(1)) == ([], 1, [])


def test_what_was_said_in_a_store_that_is_gone_is_to_be_listed_until_that_is_done_also_by_a_later_life(
    tmp_path: Path,
) -> None:
    opened = store(tmp_path)
    book = EpochBook(opened, "boot")
    book.load(Ledger(), {}, {})
    book.note([said(1, 9)])
    assert (len(book.to_say_again(1)), book.to_list_again) == (1, []), "the head-end wants it: the ledger is there"
    book.save(Slots({}, [Epoch(0, 5.0, 900.0, opened.file.uuid, 1, trusted=True)]))
    spoil(opened, "UPDATE meta SET value='x' WHERE key='format'")
    opened = store(tmp_path)
    for done in (False, False, True, True):
        book, keeper = EpochBook(opened, "boot"), LedgerKeeper(opened)
        slots = book.load(keeper.ledger, {}, {})
        book.to_say_again(0)
        assert len(book.to_list_again) == 1 or done
        if done:
            book.listed_again()
        keeper.flush(1000.0, alive=False, beside=partial(book.write, slots=slots, ledger=Ledger()))
    assert book.to_list_again == []
    book = EpochBook(opened, "boot")
    book.load(Ledger(), {}, {})
    assert book.to_list_again == []


def test_what_is_taken_back_is_kept_no_more_and_the_rest_is_bounded(tmp_path: Path) -> None:
    book = EpochBook(store(tmp_path), "boot")
    book.note([said(1, 9), said(20, 29)])
    book.note([said(1, 9, trusted=True)])
    assert [(one.lowest, one.trusted) for one in book.to_say_again(1)] == [(20, False), (1, True)]
    book.note(said(number, number) for number in range(100, 200))
    assert [one.lowest for one in book.to_say_again(2)] == list(range(200 - SAID_MAX, 200))


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    opened = store(tmp_path)
    (file,) = opened.file.names()
    opened.stats()
    file.with_name(file.name + SUFFIX).write_bytes(b"{")
    assert EpochBook(opened, "boot").load(Ledger(), {}, {}).epochs == []
    with pytest.raises(ValueError):
        epoch_file.parse(b'{"version": 1, "crc32": 0, "kept": {}}')


@pytest.mark.parametrize(
    ("boot", "other", "epochs"),
    [("b1", 1e6, [0]), ("b2", 1e6, [None]), ("b2", 1.0, [])],
    ids=["the same boot", "a power cut in doubt", "a power cut, and no clock was in doubt"],
)
def test_what_was_listed_before_a_meter_joined_by_another_clock_is_kept_while_nobody_knows_who_was_right(
    tmp_path: Path, boot: str, other: float, epochs: list[int | None]
) -> None:
    opened = store(tmp_path)
    keeper, book = LedgerKeeper(opened), EpochBook(opened, "b1")
    book.load(keeper.ledger, {}, {})
    keeper.ledger.expect("m1", "t1", Periodic(900), 90_000)
    gap = Gap("m1", "t1", "", 900, 1800, 900, Reason.CLOCK)
    keeper.ledger.remember(("m1", "t1"), Early(0, 1800, (gap,)))
    of = [Epoch(at, off, 900.0, opened.file.uuid, 1, trusted=True) for at, off in enumerate((0.0, other))]
    keeper.flush(2000.0, alive=True, beside=lambda db: book.write(db, Slots({}, of), keeper.ledger))
    later = Ledger()
    later.expect("m1", "t1", Periodic(900), 90_000)
    EpochBook(opened, boot).load(later, {}, {})
    assert list(later.early()) == [(("m1", "t1"), Early(epoch, 1800, (gap,))) for epoch in epochs]
