"""The one snapshot of the daemon's state. Each owner publishes its frozen part; the whole is replaced, never edited."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

SLOTS_MAX = 8  # of the Update Agent's file that are shown
TEXT_CHARS_MAX = 1024  # of one text in it
ERROR_CHARS_MAX = 200  # of the last error of a sink


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One finished DM session. Times in seconds since the epoch, by the clock as it was then; `up`: monotonic seconds
    of its end. `result` is `ok` or a sentence that says why not."""

    started: float
    ended: float
    trigger: str  # boot | bootstrap | poll | push | alert
    session_id: str
    messages: int
    commands: int
    result: str
    up: float | None = None


@dataclass(frozen=True, slots=True)
class DmStatus:
    """`state`: unregistered (no account yet) | refused (the security server said no) | registered."""

    state: str = "unregistered"
    server_id: str = ""
    server_url: str = ""
    error: str = ""
    last_session: SessionSummary | None = None


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """One registered meter. `state`: expected (added by hand, never heard) | joined | read | silent | failing | left |
    unlisted (not on the whitelist, so not read). Times in seconds since the epoch, 0 never. `key_failures`: how often
    it refused its keys since the start; `security`: how it is associated with; `model`: what it is, `None` while that
    is not known; `named`: `meter_id` is its own name; `away`: it is not in the network now, which it has left once that
    lasts."""

    meter_id: str
    port: str
    address: int
    state: str
    joined: float
    last_success: float = 0.0
    last_attempt: float = 0.0
    last_error: str = ""
    key_failures: int = 0
    security: str = ""
    model: str | None = None
    named: bool = True
    eui48: str = ""
    away: bool = False


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The store of readings that wait for the head-end. `lost`: given up because the store was full, or not readable
    any more, the last one at `lost_at`; `refused`: set aside because the head-end would not take them, the last one at
    `refused_at`."""

    records: int = 0
    oldest: float = 0.0
    forwarded: int = 0
    last_uplink: float = 0.0
    last_error: str = ""
    lost: int = 0
    refused: int = 0
    refused_at: float = 0.0
    lost_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """How the worker of one sink gets on. `per_min`: records that it delivered within the last minute; `last_delivery`:
    epoch seconds; `failures` in a row, and `again_in_s` until the next attempt. Of the head-end's: a backlog goes at
    `backlog_per_min` at most, and not before `backlog_in_s`. Of another one: `held` records are offered again, which
    were refused for `refusal` where that is not empty, and `ahead` behind them it has already."""

    name: str
    per_min: int = 0
    last_delivery: float = 0.0
    last_error: str = ""
    failures: int = 0
    again_in_s: float = 0.0
    backlog_per_min: int = 0
    backlog_in_s: float = 0.0
    held: int = 0
    ahead: int = 0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One firmware slot as the Update Agent left it. `state`: good | trial | bad | empty."""

    name: str
    version: str
    booted: bool
    state: str


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """The Update Agent's `status.json`. `state` is its word: idle, staged, …, trial. `error`: what it cannot do now.
    `last`: how the last update ended, name and sentence."""

    state: str = "idle"
    progress: int = 0
    slots: tuple[SlotStatus, ...] = ()
    to_version: str = ""
    attempts: int = 0
    error: str = ""
    last: str = ""

    @classmethod
    def parse(cls, document: Mapping[str, object]) -> Self:
        """From a file that any version of the Update Agent may have written: what is not as expected is left out."""
        booted, progress = _text(document, "booted"), document.get("progress")
        slots, update, last = (document.get(key) for key in ("slots", "update", "last"))
        update = update if isinstance(update, dict) else {}
        attempts = update.get("attempts")
        return cls(
            state=_text(document, "state") or "idle",
            progress=progress if isinstance(progress, int) else 0,
            slots=tuple(
                _slot(slot, booted) for slot in (slots if isinstance(slots, list) else []) if isinstance(slot, dict)
            )[:SLOTS_MAX],
            to_version=_text(update, "to_version"),
            attempts=attempts if isinstance(attempts, int) else 0,
            error=_text(document, "error"),
            last=f"{_text(last, 'name')}: {_text(last, 'message')}" if isinstance(last, dict) else "",
        )


def _slot(slot: Mapping[str, object], booted: str) -> SlotStatus:
    name = _text(slot, "name")
    return SlotStatus(name, _text(slot, "version"), name == booted, _text(slot, "state"))


def _text(document: Mapping[str, object], key: str) -> str:
    value = document.get(key)
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class DownloadStatus:
    """A firmware package on its way: bytes that are there, and of how many, where that is known."""

    have: int
    total: int | None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A program of a software component. `state`: starting | running | waiting (ended by itself, is started again) |
    ending | stopping | stopped | over (ended, is not started again) | unusable. `since`: epoch seconds. `restarts`: all
    starts but the first; `failed_starts`: ends before it was ready. `memory_kib` is what it had when last looked at, 0
    for not known; `kept_kib` what lies in its folder, as far as that is counted. `warning`: what is
    weaker here than its package asks for."""

    id: str
    version: str = ""
    state: str = "stopped"
    since: float = 0.0
    restarts: int = 0
    failed_starts: int = 0
    pid: int = 0
    memory_kib: int = 0
    detail: str = ""
    warning: str = ""
    kept_kib: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """What the workers last said of themselves, for the tree and the field tool. `started`: since when the agent runs,
    by the clock as it was then, and in monotonic seconds (`up`)."""

    device_id: str = ""
    fw_version: str = ""
    sw_version: str = ""
    started: float = 0.0
    up: float | None = None
    dm: DmStatus = DmStatus()
    meters: tuple[MeterStatus, ...] = ()
    queue: QueueStatus = QueueStatus()
    slots: tuple[SlotStatus, ...] = ()
    update_state: str = "idle"
    update_error: str = ""  # what the Update Agent cannot do, or does not know, now
    firmware_job: str = ""  # downloading | verifying | handed over; empty: none
    download: DownloadStatus | None = None
    services: tuple[ServiceStatus, ...] = ()
    workers: tuple[str, ...] = field(default=())


class StatusBoard:
    """Holds the current `Status`. `publish(dm=…)` replaces one part; readers get a whole that never changes."""

    def __init__(self, first: Status) -> None:
        self._lock = threading.Lock()
        self._current = first

    @property
    def current(self) -> Status:
        return self._current

    def publish(self, **parts: object) -> None:
        with self._lock:
            self._current = replace(self._current, **parts)  # type: ignore[arg-type]
