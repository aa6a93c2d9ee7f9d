"""Device and head-end list the same gaps after the next list, whatever reports were lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.pool import StaticPool

from agent.metering.ledger import gap_table
from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ledger.ledger import GOES_ON, Reason
from agent.metering.store.reading_store import Store
from agent.metering.uplink import gap_lists
from agent.metering.uplink.gap_lists import FIRST_S, STATED_EVERY_S, GapLists
from headend.metering import events, gaps, readings
from omadm.readings import GapReport, emit, gap_digest, joined_gaps, parse
from omadm.schedule import Periodic
from tests.agent.virtual import VirtualClock
from tests.omadm.test_readings import DEVICE

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


def test_many_gaps_go_in_pages_of_whole_meters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_lists, "PAGE_GAPS", 3)
    ends = Ends(tmp_path, lost=frozenset(range(1, 200, 2)))
    for number in range(7):
        ends.keeper.expect(f"M{number}", "t1", Periodic(EVERY), run(0))
        for at in range(2, 2 + 4 * (number % 3), 4):
            ends.keeper.settle(f"M{number}", "t1", run(at), Reason.SILENT)
            ends.keeper.read(f"M{number}", "t1", run(at))
    ends.deliver()
    assert ends.list_once() == ["differs", "taken", "taken"]
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


def test_a_store_that_lost_its_ledger_closes_nothing_of_the_one_before(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    some_days(ends.keeper)
    ends.deliver()
    before = ends.at_head_end()
    ends.store.close()
    (tmp_path / "readings.db").unlink()
    again = Ends(tmp_path)
    again.engine = ends.engine
    again.keeper.flush(NOW, alive=True)
    assert again.on_device() == []
    again.list_once()
    assert again.at_head_end() == before


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
    apart = [gap(0, 3), gap(5, 9), gap(10, 11, "port-lost")]
    assert list(joined_gaps(apart)) == apart
