"""What the Update Agent asks before it confirms a trial: `health.json` in the run directory.

The file is replaced whole and never synced: it speaks of this boot only (`boot` says which), and lives in memory.
Format: docs/configuration.md, section "health.json".
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.clock import Clock

LOG = logging.getLogger("agent.health")

REFRESH_S = 5.0  # a reader takes an `agent_up` older than a few of these for a dead agent
DETAIL_CHARS_MAX = 200
CHECKS = (
    "agent_up", "dm_session", "key_store", "meter_port", "meters", "push", "reading_lists", "storage", "unlocked",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One criterion. `at`: when it was last determined, seconds since the epoch."""

    ok: bool = False
    at: float = 0.0
    detail: str = "not checked yet"


class Health:
    """Collects the checks from their owners and publishes them. Thread-safe. `boot` is the id of this boot."""

    def __init__(self, run_dir: Path, boot_id_file: Path, clock: Clock) -> None:
        self._file = run_dir / "health.json"
        self._clock = clock
        self.boot = _read_boot_id(boot_id_file)
        self._lock = threading.Lock()
        self._checks = {name: Check() for name in CHECKS}
        self._written_at: float | None = None
        self._failed = False

    @property
    def checks(self) -> dict[str, Check]:
        with self._lock:
            return dict(self._checks)

    def set(self, name: str, ok: bool, detail: str = "") -> None:
        """The owner of `name` says how it stands. A change is published at once."""
        with self._lock:
            before = self._checks[name]
            self._checks[name] = Check(ok, self._clock.wall(), detail[:DETAIL_CHARS_MAX])
            if before.ok == ok and before.detail == self._checks[name].detail:
                return
            self._publish()
        if before.ok != ok:
            LOG.info(
                "%s is %s%s",
                name,
                "ok" if ok else "not ok",
                f": {detail}" if detail else "",
                extra={"event": f"health.{name}"},
            )

    def tick(self) -> None:
        """Called by the main thread: it lives, so the agent is up; refresh the file when it is due."""
        self.set("agent_up", ok=True)
        now = self._clock.monotonic()
        with self._lock:
            if self._written_at is None or now - self._written_at >= REFRESH_S:
                self._publish()

    def _publish(self) -> None:
        document = {
            "version": 1,
            "boot": self.boot,
            "checks": {name: asdict(check) for name, check in self._checks.items()},
        }
        self._written_at = self._clock.monotonic()
        temporary = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
            os.replace(temporary, self._file)  # noqa: PTH105 - the atomic rename, by its name
        except OSError as error:
            if not self._failed:
                LOG.warning("%s cannot be written: %s", self._file, error, extra={"event": "health.write.failed"})
            self._failed = True
        else:
            self._failed = False


def _read_boot_id(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()[:64]
    except OSError as error:
        LOG.warning("no boot id: %s", error, extra={"event": "health.boot_id"})
        return ""
