"""What the head-end provisions, as one immutable value.

The management tree is where these settings live; the tree's owner (the DM thread) makes a new `Provisioning` after
each commit that changed one of them and hands it to the components, which compare it with the one they hold. Nothing
here is read from a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ReadingTask:
    """One task of the SCHED management object: read `reading_list` from every meter, every `every_s` seconds.

    Runs are aligned to the epoch: at every wall time `t` with `(t - offset_s) % every_s == 0`.
    `reading_list` names a CSV of OBIS codes (`residential-108`), from the image or from an active software package.
    """

    task_id: str
    every_s: int
    reading_list: str
    name: str = ""
    enabled: bool = True
    offset_s: int = 0
    priority: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.every_s <= 31 * 86_400:
            raise ValueError(f"task {self.task_id}: every_s is 1 to 2678400 seconds, not {self.every_s}")
        if not 0 <= self.offset_s < self.every_s:
            raise ValueError(f"task {self.task_id}: offset_s is 0 to every_s - 1, not {self.offset_s}")


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What became of a task. Times are seconds since the epoch; 0 is "never". `state`: idle, running, disabled."""

    state: str = "idle"
    last_run: int = 0
    next_run: int = 0
    last_result: str = ""


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """Where readings go. An empty `url` means: store, do not forward."""

    url: str = ""
    token: str = field(default="", repr=False)
    batch_records_max: int = 500


@dataclass(frozen=True, slots=True)
class MeterAccess:
    """How meters are associated with. `auth` is `none` or `low`; `secret` is the LLS password."""

    client: int = 16
    auth: str = "none"
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Provisioning:
    """Everything provisioned, whole."""

    tasks: tuple[ReadingTask, ...] = ()
    uplink: UplinkSettings = UplinkSettings()
    access: MeterAccess = MeterAccess()
