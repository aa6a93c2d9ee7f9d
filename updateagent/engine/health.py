"""The health of the running system: what the agent publishes, the results of commands, and the deadline.

The agent replaces `<run_dir>/health.json` as its checks change:

    {"version": 1, "boot": "<boot id>", "checks": {"meter_port": {"ok": true, "at": 1770000000.0, "detail": ""}}}

Only a file of *this* boot counts. The folder should be in memory, but where it is not, a board must not be confirmed by
yesterday's health. `Watch` makes the decision, without clock or files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

HEALTH_BYTES_MAX = 64 << 10
DETAIL_CHARS_MAX = 200
DEADLINE_DEFAULT_S = 600.0


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """A health check that is a command: good when it exits 0 within `timeout_s`."""

    name: str
    command: tuple[str, ...]
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """`checks` must all be good for a trial to be confirmed; `boot_checks` for an ordinary boot to be marked good."""

    deadline_s: float = DEADLINE_DEFAULT_S
    poll_s: float = 1.0
    checks: tuple[str, ...] = ("agent_up", "dm_session", "meter_port", "storage")
    boot_checks: tuple[str, ...] = ("agent_up",)
    commands: tuple[CommandCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one check, as last published."""

    ok: bool
    detail: str = ""


def parse_health(raw: bytes, boot_id: str) -> dict[str, Check]:
    """The checks in the health file of this boot; empty for a file of another boot, or a malformed one."""
    if len(raw) > HEALTH_BYTES_MAX:
        return {}
    try:
        document = json.loads(raw)
        if document["version"] != 1 or not boot_id or document["boot"].strip() != boot_id:
            return {}
        return {
            str(name): Check(check["ok"] is True, str(check.get("detail", ""))[:DETAIL_CHARS_MAX])
            for name, check in document["checks"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


class Verdict(Enum):
    """What the checks together say of a system on trial."""

    WAIT = "wait"
    GOOD = "good"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Missing:
    """The first check that is not good, and what it says."""

    name: str
    detail: str


class Watch:
    """All of `names` must be good at the same time before `deadline` (monotonic seconds)."""

    def __init__(self, names: Sequence[str], deadline: float) -> None:
        self._names = tuple(names)
        self._deadline = deadline
        self.missing: Missing | None = None

    def is_over(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return now >= self._deadline

    def observe(self, checks: Mapping[str, Check], now: float) -> Verdict:
        """The verdict at `now`; `missing` then says what was not good."""
        self.missing = None
        for name in self._names:
            check = checks.get(name)
            if check is None:
                self.missing = Missing(name, "no word of it")
            elif not check.ok:
                self.missing = Missing(name, check.detail or "not good")
            if self.missing is not None:
                return Verdict.FAILED if self.is_over(now) else Verdict.WAIT
        return Verdict.GOOD
