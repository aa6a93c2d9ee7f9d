"""Device and head-end list the same gaps after the next list, whatever reports were lost."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from agent.metering.ledger import gap_table
from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ledger.ledger import GOES_ON, Reason
from agent.metering.store.reading_store import Store
from agent.metering.uplink import gap_lists
from agent.metering.uplink.gap_lists import FIRST_S, STATED_EVERY_S, GapLists
from headend.metering import events, gaps, readings
from headend.metering.gap_lists import _listed, _part
from headend.metering.gap_lists import take as list_of
from omadm.readings import Batch, GapKey, GapList, GapReport, emit, gap_digest, joined_gaps, parse
from omadm.schedule import Periodic
from tests.agent.virtual import VirtualClock
from tests.omadm.test_readings import DEVICE, STORE

T0, EVERY, NOW = 1_800_000_000, 900, 1_800_200_000.0
Listed = list[tuple[str, str, int, int | None, str]]


def run(number: int) -> int:
    return T0 + number * EVERY


class Ends:
    """A device's store and ledger, and a head-end. The reports whose numbers are in `lost` never come to be there."""

    def __init__(self, folder: Path, lost: frozenset[int] = frozenset()) -> None:
        self.store = Store(folder / "readings.db", VirtualClock(), records_max=10_000, keep_forwarded_max=0)
        self.keeper = LedgerKeeper(self.store)
        self.keeper.load({})
        self.lost = lost
        self.told = 0
        self.now = 0.0
        self.lists = GapLists(self.store, 0.0)
        self.engine = in_memory()

    def deliver(self) -> None:
        self.keeper.flush(NOW, alive=True)
        while (batch := self.store.batch(1000)) is not None:
            parsed = parse(emit(DEVICE, batch.store, batch.records))
            kept = [gap for number, gap in enumerate(parsed.gaps, self.told) if number not in self.lost]
            self.told += len(parsed.gaps)
            readings.store(self.engine, replace(parsed, gaps=tuple(kept)), NOW)
            self.store.release(batch.store, batch.last, first=batch.first)

    def list_once(self) -> list[str | None]:
        """Send the next list, with its pages. Returns the answers."""
        self.now += max(FIRST_S, STATED_EVERY_S)
        answers = []
        while (listed := self.lists.next(self.now)) is not None:
            body = emit(DEVICE, self.store.file.uuid, (), listed=listed)
            answers.append(readings.store(self.engine, parse(body), NOW))
            self.lists.answered(answers[-1], self.now)
        return answers

    def on_device(self) -> Listed:
        found = self.store.ask(gap_table.open_gaps)
        return [
            (gap.meter, gap.task, gap.first, None if gap.last == GOES_ON else gap.last, gap.reason) for gap in found
        ]

    def at_head_end(self) -> Listed:
        rows = gaps.listing(self.engine, device=DEVICE, state="open")
        return sorted((row["meter"], row["task"], row["first"], row["last"], row["reason"]) for row in rows)


def in_memory() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    tables = (readings.readings, readings.doubtful, readings.meters, gaps.gap_reports, gaps.gaps, events.events)
    with engine.begin() as connection:
        for table in tables:
            table.create(connection)
    return engine


def some_days(keeper: LedgerKeeper) -> None:
    """Gaps that begin, end, change their reason, are closed in part and in whole, of two meters."""
    for meter in ("KFM1", "KFM2"):
        keeper.expect(meter, "t1", Periodic(EVERY), run(0))
    keeper.settle("KFM1", "t1", run(5), Reason.SILENT)
    keeper.settle("KFM1", "t1", run(9), Reason.ABSENT)
    keeper.read("KFM1", "t1", run(9))
    keeper.give_up("KFM1", "t1", "the meter was exchanged")
    keeper.settle("KFM2", "t1", run(6), Reason.PORT)
    keeper.read("KFM2", "t1", run(6))
    keeper.settle("KFM2", "t1", run(20), Reason.SILENT)
    keeper.settle("KFM1", "t1", run(30), Reason.FAILING)


REPORTS = 10


def test_the_scenario_has_so_many_reports(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    some_days(ends.keeper)
    ends.deliver()
    assert ends.told == REPORTS
    assert ends.at_head_end() == ends.on_device() != []
    assert ends.list_once() == ["agreed"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(8))
def test_whatever_reports_are_lost_both_ends_agree_after_the_next_list(tmp_path: Path, part: int) -> None:
    for subset in range(part, 1 << REPORTS, 8 * 7):
        lost = frozenset(number for number in range(REPORTS) if subset >> number & 1)
        folder = tmp_path / str(subset)
        folder.mkdir()
        ends = Ends(folder, lost)
        some_days(ends.keeper)
        ends.deliver()
        answers = ends.list_once()
        assert ends.at_head_end() == ends.on_device(), lost
        assert answers in (["agreed"], ["differs", "taken"])
        assert ends.list_once() == ["agreed"]
        ends.lost = frozenset()
        ends.keeper.read("KFM2", "t1", run(40))  # and they stay so with what is reported after it
        ends.deliver()
        assert ends.at_head_end() == ends.on_device(), lost
        ends.store.close()


@pytest.mark.parametrize(("gaps_max", "pages"), [(3, 2), (1, 6), (100, 1)])
def test_many_gaps_go_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gaps_max: int, pages: int) -> None:
    monkeypatch.setattr(gap_lists, "PAGE_GAPS", gaps_max)
    ends = Ends(tmp_path, lost=frozenset(range(1, 200, 2)))
    for number in range(7):
        ends.keeper.expect(f"M{number}", "t1", Periodic(EVERY), run(0))
        for at in range(2, 2 + 4 * (number % 3), 4):
            ends.keeper.settle(f"M{number}", "t1", run(at), Reason.SILENT)
            ends.keeper.read(f"M{number}", "t1", run(at))
    ends.deliver()
    assert len(ends.on_device()) == 6
    assert ends.list_once() == ["differs", *["taken"] * pages]
    assert ends.at_head_end() == ends.on_device()
    assert ends.list_once() == ["agreed"]


def test_no_list_is_made_while_something_waits_and_none_counts_beside_a_later_report(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    some_days(ends.keeper)
    ends.keeper.flush(NOW, alive=True)
    assert ends.list_once() == []
    ends.deliver()
    ends.now += STATED_EVERY_S
    listed = ends.lists.next(ends.now)
    assert listed is not None
    ends.keeper.read("KFM1", "t1", run(40))
    ends.deliver()  # overtakes the list on its way
    assert readings.store(ends.engine, parse(emit(DEVICE, ends.store.file.uuid, (), listed=listed)), NOW) == "later"
    assert ends.at_head_end() == ends.on_device()


def test_what_an_operator_gave_up_stays_closed_and_is_no_difference(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    some_days(ends.keeper)
    ends.deliver()
    assert gaps.give_up(ends.engine, DEVICE, "KFM2", "no cable any more", NOW) == 1
    given_up = [gap for gap in ends.on_device() if gap not in ends.at_head_end()]
    assert len(given_up) == 1
    assert ends.list_once() == ["agreed"]
    ends.lost = frozenset(range(ends.told, 1000))
    ends.keeper.settle("KFM1", "t1", run(50), Reason.ABSENT)
    ends.deliver()
    assert ends.list_once() == ["differs", "taken"]
    assert [gap for gap in ends.on_device() if gap not in ends.at_head_end()] == given_up
    assert ends.list_once() == ["agreed"]
    ends.lost = frozenset()
    ends.keeper.give_up("KFM2", "", "exchanged")  # the device closes it as well, and says why
    ends.deliver()
    with ends.engine.begin() as connection:
        rows = connection.execute(select(gaps.gaps).where(gaps.gaps.c.meter == "KFM2")).mappings().all()
    assert {(row["state"], row["how"], row["only_here"]) for row in rows} == {("closed", "exchanged", None)}


def test_what_a_lost_ledger_had_listed_stays_open_and_is_marked(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.keeper.expect("KFM1", "t1", Periodic(EVERY), run(0))
    ends.keeper.settle("KFM1", "t1", run(5), Reason.SILENT)
    ends.keeper.read("KFM1", "t1", run(5))
    ends.keeper.settle("KFM1", "t1", run(9), Reason.ABSENT)
    ends.deliver()
    assert ends.list_once() == ["agreed"]
    assert gone(ends.engine) == [(0, 4, False), (6, None, False)]
    ends.store.close()
    (tmp_path / "readings.db").unlink()

    again = Ends(tmp_path)
    again.engine = ends.engine
    again.keeper.flush(NOW, alive=True)
    again.list_once()
    assert again.on_device() == []
    assert gone(ends.engine) == [(0, 4, True), (6, None, True)]  # nobody has said that they were read

    again.keeper.expect("KFM1", "t1", Periodic(EVERY), run(12))
    again.keeper.settle("KFM1", "t1", run(20), Reason.OFF)  # what this ledger knows begins here
    again.deliver()
    assert again.list_once() == ["agreed"]
    assert gone(ends.engine) == [(0, 4, True), (6, 11, True), (12, None, False)]
    assert gaps.give_up(ends.engine, DEVICE, "KFM1", "nobody has it", NOW) == 2
    assert again.list_once() == ["agreed"]
    assert gone(ends.engine) == [(12, None, False)]


def test_one_that_goes_on_of_a_lost_ledger_can_be_given_up(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.keeper.expect("KFM1", "t1", Periodic(EVERY), run(0))
    ends.keeper.settle("KFM1", "t1", run(5), Reason.SILENT)
    ends.deliver()
    assert gaps.give_up(ends.engine, DEVICE, "KFM1", "no cable", NOW) == 0  # the device says when it ends
    ends.store.close()
    (tmp_path / "readings.db").unlink()
    again = Ends(tmp_path)
    again.engine = ends.engine
    again.list_once()
    assert gaps.give_up(ends.engine, DEVICE, "KFM1", "no cable", NOW) == 1
    (row,) = gaps.listing(ends.engine, device=DEVICE)
    assert (row["state"], row["how"], row["last"]) == ("closed", "no cable", NOW // EVERY * EVERY)


def gone(engine: Engine) -> list[tuple[int, int | None, bool]]:
    rows = gaps.listing(engine, device=DEVICE, state="open")
    return sorted(
        (
            (row["first"] - T0) // EVERY,
            None if row["last"] is None else (row["last"] - T0) // EVERY,
            row["store_gone"] is not None,
        )
        for row in rows
    )


# ---- lists against what stands at the head-end, both at random


METERS = ("A", "A1", "A10", "AA", "a", "é", "Z\u0300", "\U0001f600", "\uffff", "~")
FAR = 200_000


def some_gaps(rng: random.Random, every: int) -> list[GapReport]:
    found = []
    for meter in rng.sample(METERS, rng.randint(1, 4)):
        for task in ("t1", "t2"):
            at = rng.randint(1, 5) * every
            for _ in range(rng.randint(0, 6)):
                length, reason = rng.randint(0, 4) * every, rng.choice(["meter-silent", "meter-absent"])
                last = None if rng.random() < 0.15 else at + length
                found.append(GapReport("open", meter, task, None, at, last, every, reason, None, 0.0))
                if last is None:
                    break
                at += length + rng.randint(1, 3) * every
    return sorted(found, key=lambda gap: gap.key)


def put(engine: Engine, rng: random.Random, found: list[GapReport]) -> None:
    """At the head-end these are open, some closed there only, some of an earlier store."""
    for gap in found:
        here = gap.last is not None and rng.random() < 0.25
        values = {name: getattr(gap, name) for name in ("meter", "task", "first", "last", "every", "reason")}
        state = {"state": "closed", "how": "why", "only_here": True} if here else {"state": "open"}
        with engine.begin() as connection:
            connection.execute(
                insert(gaps.gaps).values(
                    device=DEVICE, profile="", opened=0, changed=0, store=rng.choice([STORE, None, "old"]),
                    **values, **state,
                )
            )  # fmt: skip


def pages_of(found: list[GapReport], size: int) -> Iterator[GapList]:
    begin: GapKey | None = None
    for at in range(0, max(1, len(found)), size):
        before = found[at + size].key if at + size < len(found) else None
        yield GapList(1, "", begin, before, tuple(found[at : at + size]))
        begin = before


def slots(found: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, int]]:
    return {
        (row["meter"], row["task"], slot)
        for row in found
        for slot in range(row["first"], (FAR if row["last"] is None else row["last"]) + 1, row["every"])
    }


@pytest.mark.parametrize("seed", range(60))
def test_any_list_is_agreed_after_its_pages_and_what_was_given_up_stays_so(seed: int) -> None:
    rng = random.Random(seed)
    engine = in_memory()
    here_every = rng.choice([900, 900, 1800])
    device = some_gaps(rng, 900)
    put(engine, rng, device if rng.random() < 0.3 else some_gaps(rng, here_every))
    batch = Batch(DEVICE, STORE, (), (), None)
    with engine.begin() as connection:
        before = [dict(row) for row in connection.execute(select(gaps.gaps)).mappings()]
        list_of(connection, batch, GapList(1, gap_digest(device)), NOW)
        for page in pages_of(device, rng.choice([1, 2, 3, 100])):
            assert list_of(connection, batch, page, NOW) == "taken"
        assert list_of(connection, batch, GapList(1, gap_digest(device)), NOW) == "agreed"
        after = [dict(row) for row in connection.execute(select(gaps.gaps)).mappings()]
    assert all(row["last"] is None or row["last"] >= row["first"] for row in after)
    listed = slots([{name: getattr(gap, name) for name in gap.__slots__} for gap in device])
    own = [row for row in after if row["store"] in (STORE, None)]
    opened = slots(row for row in own if row["state"] == "open")
    closed = slots(row for row in own if row["only_here"])
    assert opened | closed == listed
    if here_every == 900:
        assert not opened & slots(row for row in before if row["only_here"] and row["store"] != "old")


def test_a_page_finds_what_it_is_about_by_the_index() -> None:
    engine = in_memory()
    page = GapList(1, "", ("A", "t1", "", 900), ("B", "t1", "", 1800))
    query = _listed(Batch(DEVICE, STORE, (), (), None), *_part(page))
    with engine.begin() as connection:
        text = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
        (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    assert "ix_gaps_listed (device=? AND (meter,task,profile,first)>(?,?,?,?)" in plan[3]


def test_ranges_that_continue_each_other_are_one_range() -> None:
    def gap(first: int, last: int | None, reason: str = "meter-silent", meter: str = "m") -> GapReport:
        return GapReport(
            "open", meter, "t", None, run(first), last if last is None else run(last), EVERY, reason, None, 0
        )

    split = [gap(0, 3), gap(4, 9), gap(10, None), gap(20, 25)]
    assert list(joined_gaps(split)) == [gap(0, None)]
    assert gap_digest(split) == gap_digest([gap(0, None)])
    for other in (gap(0, 9), gap(1, None), gap(0, None, "port-lost"), gap(0, None, meter="n")):
        assert gap_digest([other]) != gap_digest([gap(0, None)])
    beside = [gap(0, 20), gap(3, 5, "port-lost"), gap(6, 8, "port-lost"), gap(15, 30)]  # beside one that overlaps
    assert list(joined_gaps(beside)) == [gap(3, 8, "port-lost"), gap(0, 30)]
    apart = [gap(0, 3), gap(5, 9), gap(10, 11, "port-lost")]
    assert list(joined_gaps(apart)) == apart
