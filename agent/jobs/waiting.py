"""The jobs that wait, as a list in a record of the tree: one way for every kind of job.

An entry that cannot be read (of a fault of ours, or a later version's) is nobody's job, but somebody waits for its end.
It stays in the list until `end_damaged` takes it out, with a final alert under its correlator, as far as that can be
read; it is then kept as text, and counted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, TypeVar

from agent.tree import alerts
from agent.tree.tree import Transaction

FATE_UNKNOWN = "its record was damaged: it is not known what became of it"
DAMAGED_KEPT = 8  # of each record, the newest
DAMAGED_CHARS_MAX = 1024  # of each; the tree is written as a whole
DAMAGED_TEXT_CHARS_MAX = 1024  # of a text in one; a correlator has less
DAMAGED_OF = {  # for a person
    "fumo": "firmware jobs",
    "scomo": "software jobs",
    "orders": "orders to meters",
    "lawmo": "orders to the device",
    "connectivity": "changes of connectivity",
}
DAMAGED_SHOWN_S = 7 * 86_400.0  # what nobody cared for in a week is history


class WaitingJob(Protocol):
    """A dataclass of values that JSON has."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...


J = TypeVar("J", bound=WaitingJob)
Read = Callable[[Mapping[str, Any]], J | None]
"""Makes a job of an entry; `None` where it cannot be read."""


def _entries(looking: Transaction, record: str) -> list[object]:
    found = looking.record(record).get("jobs", [])
    return found if isinstance(found, list) else [found]


def members(looking: Transaction, record: str, name: str) -> dict[str, Any]:
    """A member of a record that is an object; empty where it is none."""
    found = looking.record(record).get(name, {})
    return dict(found) if isinstance(found, Mapping) else {}


def _split(looking: Transaction, record: str, read: Read[J]) -> tuple[list[J], list[object]]:
    jobs: list[J] = []
    damaged: list[object] = []
    for entry in _entries(looking, record):
        job = read(entry) if isinstance(entry, Mapping) else None
        if job is None:
            damaged.append(entry)
        else:
            jobs.append(job)
    return jobs, damaged


def waiting(looking: Transaction, record: str, read: Read[J]) -> tuple[J, ...]:
    """The jobs of the record, in order, without the entries that cannot be read."""
    return tuple(_split(looking, record, read)[0])


def set_waiting(changing: Transaction, record: str, wanted: Sequence[J], read: Read[J]) -> None:
    """Make these the jobs of the record, in order. Of those that were there already, what a later version of the
    program added is kept; so are entries that cannot be read."""
    entries = [entry for entry in _entries(changing, record) if isinstance(entry, Mapping)]
    before = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
    damaged = _split(changing, record, read)[1]
    changing.update_record(record, jobs=[*({**before.get(job.id, {}), **asdict(job)} for job in wanted), *damaged])


def text(entry: Mapping[str, Any], name: str) -> str:
    """A text in a damaged entry; empty where there is none."""
    found = entry.get(name)
    return found if isinstance(found, str) and len(found) <= DAMAGED_TEXT_CHARS_MAX else ""


def is_damaged(looking: Transaction, record: str, read: Read[J]) -> bool:
    """Whether an entry waits for its end that cannot be read."""
    return bool(_split(looking, record, read)[1])


def end_damaged(
    changing: Transaction, record: str, read: Read[J], alert: Callable[[Mapping[str, Any], str], alerts.GenericAlert]
) -> None:
    """End the entries that cannot be read. `alert(entry, id)` is the final alert of one, under that id; none goes out
    where a job with the same correlator waits, whose result counts."""
    jobs, damaged = _split(changing, record, read)
    changing.update_record(record, jobs=[entry for entry in _entries(changing, record) if entry not in damaged])
    under_way = {getattr(job, "correlator", "") for job in jobs} - {""}
    for found in damaged:
        keep_damaged(changing, record, found)
        entry = found if isinstance(found, Mapping) else {}
        if text(entry, "correlator") not in under_way:
            alerts.put(changing, alert(entry, f"damaged-{record}-{zlib.crc32(json.dumps(found).encode()):08x}"))


def keep_damaged(changing: Transaction, record: str, found: object) -> None:
    """Keep what cannot be read for a person to look at, and count it."""
    said = members(changing, record, "damaged")
    before, count = said.get("kept"), said.get("count")
    kept = [*(before if isinstance(before, list) else []), json.dumps(found)[:DAMAGED_CHARS_MAX]][-DAMAGED_KEPT:]
    number = (count if isinstance(count, int) else 0) + 1
    changing.update_record(record, damaged={"count": number, "at": changing.wall, "kept": kept})


def damaged_warnings(looking: Transaction, wall: float) -> list[str]:
    """A sentence for the status on each of the records of which entries were damaged within a week. `wall`: seconds
    since 1970."""
    found = []
    for record, what in DAMAGED_OF.items():
        said = members(looking, record, "damaged")
        count, at = said.get("count"), said.get("at")
        if isinstance(count, int) and isinstance(at, int) and abs(wall - at) < DAMAGED_SHOWN_S:
            found.append(f"records of {what} that were damaged, and ended as failed: {count}")
    return found
