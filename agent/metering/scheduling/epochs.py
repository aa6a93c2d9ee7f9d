"""Under which clock was read what, kept for the next life of the process.

A process that is killed while a trusted clock lies would leave its readings trusted for ever, and one that is killed
after it believed a liar would not know what had been right before. So epochs are stored (`Slots.epochs`), before
anything is read in a trusted one, and with each correction the runs that were read in them, among what is learned of
meters. Runs count for the same store, and for the same boot, within which monotonic time goes on.

What is read after that in the epoch that lasts is not written down again: it follows from the marks of the store and
from what the ledger does not list.

The epochs themselves, and what was said of the trust of readings, lie beside the store as well (epoch_file.py). So when
the store is lost, the next one goes on to say which readings of the lost one were taken under a clock that was wrong;
and it says once more what was said, since the reports may be lost with it. It does so too when the head-end wants
readings once more, because it may have lost those reports.

With the boot monotonic time is lost. Where trusted clocks of that boot contradicted each other, nobody can say any more
which of them was right, unless the last one was believed for a week: then what was read under it is doubted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agent.metering.ledger.keeper import ALIVE_EVERY_S
from agent.metering.ledger.ledger import Ahead, Early, Gap, Ledger, Verdict
from agent.metering.scheduling import epoch_file
from agent.metering.scheduling.epoch_file import EpochFile, KeptEpochs
from agent.metering.scheduling.slots import CORRECTION_S, Epoch, Key, Slots
from agent.metering.store.blocks import pack
from agent.metering.store.reading_store import Store
from omadm.readings import ID_MAX, RUN_MAX
from omadm.schedule import Range, Schedule, without
from updateagent.disk import RealDisk

NAME = "#clock"  # in place of a meter

SAID_MAX = 64  # judgements that are kept to be told again
PROVEN_S = 7 * 86_400.0  # evidence that stood against a clock would have come in this time, or trust would have ended


class EpochBook:
    """Not thread-safe. `boot` tells this boot from others; without one nothing is kept. `generation` is the place of
    the present store in the order of the device's stores."""

    def __init__(self, store: Store, boot: str) -> None:
        self._store = store
        self._boot = boot
        (file,) = store.file.names()
        self._file = EpochFile(file.with_name(file.name + epoch_file.SUFFIX), RealDisk())
        self._said: list[Verdict] = []
        self._of = ""  # the store that the ledger is in
        self._asked = 0  # how many orders to send again had come when all was said last
        self._again = False  # something was said in a store that is gone
        self._unlisted = False  # and the ledger does not know of it yet
        self.generation = 1

    def load(self, ledger: Ledger, listed: Mapping[Key, list[Gap]], joined: Mapping[str, float]) -> Slots:
        """Return what earlier lives have read, and give the `ledger` what they kept in mind. `listed`: the open gaps;
        `joined`: when meters did. Raises `StoreError`."""
        progress = self._store.dated_progress()
        epochs, runs = self._kept(ledger)
        own = [epoch for epoch in epochs if epoch.store == self._of]
        oldest = own[0].first if own else None
        earlier = {key: run for key, (at, run) in progress.items() if oldest is None or at < oldest}
        slots = Slots(earlier, epochs)
        for key in {*progress, *runs}:
            at, run = progress.get(key, (0, 0))
            if key in earlier and key not in runs:
                continue
            schedule, of_key = ledger.schedule(*key), dict(runs.get(key, {}))
            if own and own[-1] is epochs[-1] and at >= own[-1].first:
                since = max(own[-1].since, joined.get(key[0], 0.0))
                of_key[own[-1].number] = _since(since, run, schedule, listed.get(key, []))
            slots.inherit(key, schedule, of_key, run)
        slots.changed = self._again
        return slots

    # --- what was said ---

    def follow(self, store: str) -> None:
        """This is the present store. Where it took the place of another one, what was said there is to be said again:
        whether the head-end got it is not known."""
        if store != self._of:
            self._of, self._again = store, True
            self.generation += 1

    def to_say_again(self, asked: int) -> list[Verdict]:
        """What the head-end has to be told once more, in this order, after `asked` orders to send readings again."""
        again = self._again or asked > self._asked
        self._unlisted |= self._again and bool(self._said)
        self._again, self._asked = False, asked
        return list(self._said) if again else []

    @property
    def to_list_again(self) -> list[Verdict]:
        """What was said in a store that is gone, until `listed_again`: what the ledger made of it may be lost too."""
        return list(self._said) if self._unlisted else []

    def listed_again(self) -> None:
        """The ledger has what it needs. Known to a later life with the next `write`."""
        self._unlisted = False

    def note(self, verdicts: Iterable[Verdict]) -> None:
        """These are said now: keep them, of all meters of a task in one, in place of what they take back."""
        spans: dict[tuple[str, str, int, int, bool], Verdict] = {}
        for one in verdicts:
            key = (one.store, one.task, one.lowest, one.highest, one.trusted)
            held = spans.get(key, one)
            first, last = min(held.first, one.first), max(held.last, one.last)
            spans[key] = replace(one, meter="", first=first, last=last)
        for one in spans.values():
            self._said = [held for held in self._said if not _covers(one, held)] + [one]
        del self._said[:-SAID_MAX]

    # --- what is kept ---

    def save(self, slots: Slots) -> None:
        """Keep beside the store what is known now. Before `write`: what both say, the store says better."""
        if self._boot:
            self._file.write(self._now(slots))

    def write(self, db: sqlite3.Connection, slots: Slots, ledger: Ledger) -> None:
        """Within a transaction: keep what is known now."""
        if not self._boot:
            return
        kept = {epoch.number for epoch in slots.epochs if epoch.trusted}
        runs: dict[str, dict[str, dict[str, list[list[int]]]]] = {}
        for (meter, task), number, ranges in slots.runs():
            if number in kept:
                runs.setdefault(meter, {}).setdefault(task, {})[str(number)] = [list(one) for one in ranges]
        body = {
            **self._now(slots).members(),
            "asked": self._asked,
            "unlisted": self._unlisted,
            "runs": runs,
            "ahead": [
                [*key, ahead.epoch, ahead.start, ahead.settled, _rows(ahead.gaps)] for key, ahead in ledger.ahead()
            ],
            "early": [[*key, early.epoch, early.settled, _rows(early.gaps)] for key, early in ledger.early()],
        }
        db.execute(
            "INSERT INTO knowledge VALUES (?, ?) ON CONFLICT (meter) DO UPDATE SET body=excluded.body",
            (NAME, pack(body)),
        )

    def _now(self, slots: Slots) -> KeptEpochs:
        trusted = tuple(epoch for epoch in slots.epochs if epoch.trusted)
        return KeptEpochs(self._boot, self._of, self.generation, trusted, tuple(self._said))

    def _kept(self, ledger: Ledger) -> tuple[list[Epoch], dict[Key, dict[int, list[Range]]]]:
        """Epochs, and the runs that were read in them as far as this store knows them."""
        self._of = self._store.file.uuid
        if not self._boot:
            return [], {}
        members = self._store.knowledge(NAME) or {}
        in_store = KeptEpochs.of(members)
        if in_store is not None and in_store.store != self._of:  # salvaged from the store before this one
            members = {}
        kept = in_store if members else self._file.read() or in_store
        if kept is None:
            return [], {}
        self._again = not members
        self.generation = kept.generation + (kept.store != self._of)
        self._said = list(kept.said)
        asked = members.get("asked")
        self._asked = asked if isinstance(asked, int) else 0
        self._unlisted = members.get("unlisted") is True
        if kept.boot == self._boot:
            _remind(ledger, members)
            return list(kept.epochs), _runs_of(members)
        epochs = self._unproven(kept.epochs)
        if not epochs:
            return [], {}
        _remind_early(ledger, members, is_of_boot=False)  # whether the meter was there then nobody knows either
        return epochs, _runs_of(members)

    def _unproven(self, epochs: Sequence[Epoch]) -> list[Epoch]:
        """Those of a boot that is over of which nobody can say any more whether they were right, and nobody has said so
        yet."""
        trusted = [epoch for epoch in epochs if epoch.trusted]
        offsets = [epoch.offset for epoch in trusted if epoch.offset is not None]
        alive, _ = self._store.last_alive()
        if not offsets or max(offsets) - min(offsets) <= CORRECTION_S or alive - trusted[-1].since > PROVEN_S:
            trusted = [epoch for epoch in trusted if epoch.offset is None]
        found = [epoch for epoch in trusted if not epoch.doubted]
        next_id = self._store.next_id()
        for epoch in found:
            epoch.offset = None
            if epoch.last is None:
                epoch.last = next_id - 1 if epoch.store == self._of else ID_MAX
                epoch.until = alive + ALIVE_EVERY_S if alive >= epoch.since else float(RUN_MAX)
        return found


def _covers(one: Verdict, other: Verdict) -> bool:
    """Whether one verdict says something of all that another one was about."""
    return (
        one.store == other.store
        and one.task in ("", other.task)
        and one.lowest <= other.lowest <= other.highest <= one.highest
        and one.first <= other.first <= other.last <= one.last
    )


def _runs_of(members: Mapping[str, object]) -> dict[Key, dict[int, list[Range]]]:
    runs = members.get("runs")
    return {
        (meter, task): {int(number): [(first, last) for first, last in ranges] for number, ranges in of.items()}
        for meter, tasks in (runs if isinstance(runs, dict) else {}).items()
        for task, of in tasks.items()
    }


def _remind(ledger: Ledger, members: Mapping[str, object]) -> None:
    """Give the ledger what an earlier life kept in mind."""
    ahead = members.get("ahead")
    for meter, task, epoch, start, settled, gaps in ahead if isinstance(ahead, list) else []:
        held = tuple(Gap(meter, task, "", *gap) for gap in gaps)
        ledger.remember((meter, task), Ahead(epoch, start, settled, held))
    _remind_early(ledger, members, is_of_boot=True)


def _remind_early(ledger: Ledger, members: Mapping[str, object], *, is_of_boot: bool) -> None:
    early = members.get("early")
    for meter, task, epoch, settled, gaps in early if isinstance(early, list) else []:
        held = tuple(Gap(meter, task, "", *gap) for gap in gaps)
        ledger.remember((meter, task), Early(epoch if is_of_boot else None, settled, held))


def _rows(gaps: Iterable[Gap]) -> list[list[int | str]]:
    return [[gap.first, gap.last, gap.every, gap.reason, gap.times] for gap in gaps]


def _since(since: float, run: int, schedule: Schedule | None, listed: list[Gap]) -> list[Range]:
    """The runs that were read in an epoch, up to `run`, by a meter of which it is known that it was there from `since`
    on: those that are not missing."""
    if schedule is None:
        return [(run, run)]
    first = schedule.newest(since)
    missing = [(gap.first, gap.last or run) for gap in listed if not gap.profile and gap.first <= run]
    return without([(first, run)], missing, schedule) if first <= run else []
