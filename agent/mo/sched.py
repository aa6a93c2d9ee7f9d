"""SCHED: reading tasks, `urn:x-dcu:mo:sched:1.0`, an object of this project's own (docs/management-objects.md).

./SCHED/Task/<id>/Name            chr
                 /Enabled         bool, true when absent
                 /Setting/Every        int, seconds
                         /Offset       int, seconds, 0 when absent
                         /ReadingList  chr
                         /Priority     int, 0 when absent
                 /Status/State, LastRun, NextRun, LastResult     live
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.settings.provisioning import ReadingTask, TaskStatus
from agent.tree.schema import Format, NodeSpec, Path, group, int_range, interior, live, setting
from agent.tree.tree import Transaction

LOG = logging.getLogger("agent.dm")

URN = "urn:x-dcu:mo:sched:1.0"
TASKS: Path = ("SCHED", "Task")
EVERY_S_MAX = 31 * 86_400
PRIORITY_MAX = 9


class Sched:
    """The reading tasks: which list is read and how often, and how the last run ended."""

    root: Path = ("SCHED",)

    def __init__(self, task_status: Callable[[str], TaskStatus]) -> None:
        self._status = task_status

    def spec(self) -> NodeSpec:
        task = group(
            setting("Name", Format.CHR, value_chars_max=128, description="for people"),
            setting("Enabled", Format.BOOL, description="true when absent"),
            group(
                setting(
                    "Every", Format.INT, check=int_range(1, EVERY_S_MAX), description="seconds, 1 to 2678400; required"
                ),
                setting(
                    "Offset",
                    Format.INT,
                    check=int_range(0, EVERY_S_MAX),
                    description="seconds, less than Every; 0 when absent",
                ),
                setting(
                    "ReadingList",
                    Format.CHR,
                    check=_list_name,
                    value_chars_max=64,
                    description="name of a reading list; required",
                ),
                setting("Priority", Format.INT, check=int_range(0, PRIORITY_MAX), description="0 to 9; 0 when absent"),
                name="Setting",
            ),
            interior(
                "Status",
                live("State", Format.CHR, lambda path: self._status(path[2]).state),
                live(
                    "LastRun",
                    Format.INT,
                    lambda path: str(self._status(path[2]).last_run),
                    "seconds since 1970, 0: never",
                ),
                live(
                    "NextRun",
                    Format.INT,
                    lambda path: str(self._status(path[2]).next_run),
                    "seconds since 1970, 0: never",
                ),
                live("LastResult", Format.CHR, lambda path: self._status(path[2]).last_result),
            ),
        )
        return interior("SCHED", interior("Task", task), type=URN)


def _list_name(text: str) -> None:
    """A reading list is a file: its name must not reach outside of its folder."""
    if not text or text.startswith(".") or not all(char.isalnum() or char in "-_." for char in text):
        raise ValueError("letters, digits, '-', '_' and '.' expected")


def tasks(looking: Transaction) -> tuple[ReadingTask, ...]:
    """The complete tasks, by id. An incomplete one (a server may still be adding its nodes) is left out."""
    found: list[ReadingTask] = []
    for task_id in looking.names(looking.existing(TASKS)):
        base = (*TASKS, task_id)
        every, reading_list = looking.text((*base, "Setting", "Every")), looking.text((*base, "Setting", "ReadingList"))
        if not every or not reading_list:
            continue
        try:
            task = ReadingTask(
                task_id=task_id,
                every_s=int(every),
                reading_list=reading_list,
                name=looking.text((*base, "Name")),
                enabled=looking.text((*base, "Enabled"), "true") != "false",
                offset_s=int(looking.text((*base, "Setting", "Offset")) or 0),
                priority=int(looking.text((*base, "Setting", "Priority")) or 0),
            )
        except ValueError as error:
            LOG.warning("task %s is not used: %s", task_id, error, extra={"event": "dm.task.unusable"})
        else:
            found.append(task)
    return tuple(found)
