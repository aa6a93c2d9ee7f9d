"""SCHED: reading tasks, `urn:x-dcu:mo:sched:1.0`, an object of this project's own (docs/management-objects.md).

./SCHED/Zone, QuietHours             chr
./SCHED/Task/<id>/Name               chr
                 /Enabled            bool, true when absent
                 /Setting/Every, Offset        int, seconds; or
                         /Times                chr, five fields as of cron, in local time of ./SCHED/Zone
                         /ReadingList          chr; or
                         /Codes                chr
                         /Priority, Spread, Deadline, Retries   int
                         /Window               chr
                 /Select/Meters, Groups, Models, Ids, Ports     chr
                 /Status/State, LastRun, NextRun, NextLocal, LastResult, Meters, Waiting     live

A task runs once its times and what it reads are there, and nothing of it contradicts the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agent.settings.provisioning import MeterSelection, ReadingTask, TaskStatus
from agent.settings.reading_codes import parse_codes
from agent.tree.schema import Format, NodeSpec, Path, group, interior, live, number, permanent, setting
from agent.tree.tree import Transaction
from omadm.local_time import TEXT_CHARS_MAX as ZONE_CHARS_MAX
from omadm.local_time import UTC, DayTimes, Zone
from omadm.schedule import DAY_S, FIELDS_CHARS_MAX, Calendar

LOG = logging.getLogger("agent.dm")

URN = "urn:x-dcu:mo:sched:1.0"
TASKS: Path = ("SCHED", "Task")
EVERY_S_MAX = 31 * 86_400
PRIORITY_MAX = 9
RETRIES_MAX = 20
WINDOW_CHARS_MAX = 120
SELECT_CHARS_MAX = 8192  # some 500 ids; more meters than that are a group
WAITING_CHARS_MAX = 1024


class Sched:
    """The reading tasks: which list is read and how often, and how the last run ended."""

    root: Path = ("SCHED",)

    def __init__(self, task_status: Callable[[str], TaskStatus]) -> None:
        self._status = task_status

    def spec(self) -> NodeSpec:
        task = group(
            setting("Name", Format.CHR, value_chars_max=128, description="for people"),
            setting("Enabled", Format.BOOL, description="true when absent"),
            _settings(),
            _selection(),
            self._status_spec(),
        )
        return interior(
            "SCHED",
            permanent(
                "Zone",
                Format.CHR,
                default=UTC.text,
                check=_zone,
                value_chars_max=ZONE_CHARS_MAX,
                description="local time of all tasks, as a POSIX TZ string: `CET-1CEST,M3.5.0,M10.5.0/3`",
            ),
            permanent(
                "QuietHours",
                Format.CHR,
                check=_day_times,
                value_chars_max=WINDOW_CHARS_MAX,
                description="times of day at which nothing scheduled goes over the lines, as `17:00-21:00`",
            ),
            interior("Task", task),
            type=URN,
        )

    def _status_spec(self) -> NodeSpec:
        """`Status` of a task: how its last run went, and when the next one is."""

        def shown(name: str, format_: Format, value: Callable[[TaskStatus], object], description: str = "") -> NodeSpec:
            return live(name, format_, lambda path: str(value(self._status(path[2]))), description)

        return interior(
            "Status",
            shown("State", Format.CHR, lambda status: status.state),
            shown("LastRun", Format.INT, lambda status: status.last_run, "seconds since 1970, 0: never"),
            shown("NextRun", Format.INT, lambda status: status.next_run, "seconds since 1970, 0: never"),
            shown("NextLocal", Format.CHR, lambda status: status.local, "the same in local time"),
            shown("LastResult", Format.CHR, lambda status: status.last_result),
            shown("Meters", Format.INT, lambda status: status.meters, "how many are selected"),
            shown(
                "Waiting",
                Format.CHR,
                _waiting,
                "meters of which it is not known yet whether they are selected, and why",
            ),
        )


def _settings() -> NodeSpec:
    """`Setting` of a task: when it runs, what it reads, and how hard it tries."""
    return group(
        number("Every", 1, EVERY_S_MAX, "seconds, 1 to 2678400; this or `Times` is required"),
        number("Offset", 0, EVERY_S_MAX, "seconds, less than Every; 0 when absent"),
        setting(
            "Times",
            Format.CHR,
            check=_calendar,
            value_chars_max=FIELDS_CHARS_MAX,
            description="local times of runs as of cron: minute, hour, day of month (`L`: the last), month, "
            "day of week",
        ),
        setting(
            "ReadingList",
            Format.CHR,
            check=_list_name,
            value_chars_max=64,
            description="name of a reading list; this or `Codes` is required",
        ),
        setting(
            "Codes",
            Format.CHR,
            check=_codes,
            description="what to read, `class/OBIS/attribute`, separated by commas",
        ),
        number("Priority", 0, PRIORITY_MAX, "0 to 9; 0 when absent"),
        setting(
            "Window",
            Format.CHR,
            check=_day_times,
            value_chars_max=WINDOW_CHARS_MAX,
            description="times of day at which meters may be visited, as `01:00-05:00,22:30-00:30`; any when absent",
        ),
        number(
            "Spread", 0, DAY_S, "seconds within which the device begins a run, at a moment of its own; 0 when absent"
        ),
        number(
            "Deadline", 1, EVERY_S_MAX, "seconds after a run at which it is given up; `metering.catch_up_s` when absent"
        ),
        number("Retries", 0, RETRIES_MAX, "further visits of a meter for one run; `metering.retries_max` when absent"),
        name="Setting",
    )


def _selection() -> NodeSpec:
    """`Select` of a task: which meters it reads; all without any leaf."""
    return group(
        _patterns("Meters", "ids, EUI-48s or places (`port/address`) of meters"),
        _patterns("Groups", "groups of ./AMI/Access; with `Meters`, a meter of either is read"),
        _patterns("Models", "models, as patterns with `*` and `?`"),
        setting("Ids", Format.CHR, value_chars_max=64, description="pattern of meter ids, with `*` and `?`"),
        _patterns("Ports", "names of ports"),
        name="Select",
    )


def _patterns(name: str, description: str) -> NodeSpec:
    return setting(
        name, Format.CHR, value_chars_max=SELECT_CHARS_MAX, description=f"{description}; separated by commas"
    )


def _waiting(status: TaskStatus) -> str:
    return "; ".join(f"{meter}: {why}" for meter, why in status.waiting)[:WAITING_CHARS_MAX]


def _zone(text: str) -> None:
    Zone(text)


def _calendar(text: str) -> None:
    Calendar(text)


def _day_times(text: str) -> None:
    DayTimes(text)


def _codes(text: str) -> None:
    parse_codes(text)


def _list_name(text: str) -> None:
    """A reading list is a file: its name must not reach outside of its folder."""
    if not text or text.startswith(".") or not all(char.isalnum() or char in "-_." for char in text):
        raise ValueError("letters, digits, '-', '_' and '.' expected")


def zone(looking: Transaction) -> str:
    """Local time of all tasks."""
    return looking.text(("SCHED", "Zone")) or UTC.text


def quiet_hours(looking: Transaction) -> str:
    return looking.text(("SCHED", "QuietHours"))


def tasks(looking: Transaction) -> tuple[ReadingTask, ...]:
    """The complete tasks, by id. An incomplete one (a server may still be adding its nodes) is left out."""
    found: list[ReadingTask] = []
    for task_id in looking.names(looking.existing(TASKS)):
        node = _Node(looking, (*TASKS, task_id))
        times, read = (
            node.setting("Times") or node.setting("Every"),
            node.setting("Codes") or node.setting("ReadingList"),
        )
        if not times or not read:
            continue
        try:
            task = ReadingTask(
                task_id=task_id,
                every_s=node.number("Every") or 0,
                reading_list=node.setting("ReadingList"),
                name=looking.text((*node.base, "Name")),
                enabled=looking.text((*node.base, "Enabled"), "true") != "false",
                offset_s=node.number("Offset") or 0,
                priority=node.number("Priority") or 0,
                times=node.setting("Times"),
                zone=zone(looking),
                codes=node.setting("Codes"),
                selection=MeterSelection(
                    meters=node.select("Meters"),
                    groups=node.select("Groups"),
                    models=node.select("Models"),
                    pattern=looking.text((*node.base, "Select", "Ids")),
                    ports=node.select("Ports"),
                ),
                windows=node.setting("Window"),
                spread_s=node.number("Spread") or 0,
                deadline_s=node.number("Deadline"),
                retries_max=node.number("Retries"),
            )
        except ValueError as error:
            LOG.warning("task %s is not used: %s", task_id, error, extra={"event": "dm.task.unusable"})
        else:
            found.append(task)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Node:
    """The node of one task."""

    looking: Transaction
    base: Path

    def setting(self, name: str) -> str:
        return self.looking.text((*self.base, "Setting", name))

    def number(self, name: str) -> int | None:
        text = self.setting(name)
        return int(text) if text else None

    def select(self, name: str) -> tuple[str, ...]:
        text = self.looking.text((*self.base, "Select", name))
        return tuple(part.strip() for part in text.split(",") if part.strip())
