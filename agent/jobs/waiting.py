"""The jobs that wait, as a list in a record of the tree: one way for every kind of job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

from agent.tree.tree import Transaction


class WaitingJob(Protocol):
    """A dataclass of values that JSON has."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...


def set_waiting(changing: Transaction, record: str, wanted: Sequence[WaitingJob]) -> None:
    """Make these the jobs of the record, in order. Of those that were there already, what a later version of the
    program added is kept."""
    entries = [entry for entry in changing.record(record).get("jobs", []) if isinstance(entry, dict)]
    before = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
    changing.update_record(record, jobs=[{**before.get(job.id, {}), **asdict(job)} for job in wanted])
