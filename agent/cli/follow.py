"""`dcuctl update status`: what an update is doing, once or until its end.

While the Update Agent writes a slot the agent does not run yet; then the Update Agent's own `status.json` is read. So
an update can be watched from the download to its confirmation, across restarts of the agent.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from agent.cli import show
from agent.cli.client import NotRunningError, ask

DEFAULT_STATUS = Path("/var/lib/dcu/update/status.json")
STATUS_VARIABLE = "DCU_UPDATE_STATUS"
STATUS_BYTES_MAX = 64 << 10
FOLLOW_S = 0.5
LOST_MAX = 240  # looks in a row without an answer, two minutes: longer than any restart of the agent
BAR_CHARS = 24
CLEAR_LINE = "\r\x1b[K"


def status_path(given: Path | None) -> Path:
    """Return the path from the option, else from `$DCU_UPDATE_STATUS`, else the default."""
    return given or Path(os.environ.get(STATUS_VARIABLE) or DEFAULT_STATUS)


def look(socket: Path, file: Path) -> Mapping[str, Any]:
    """Return what the agent says, or what the file says while the agent does not run.

    Raises `NotRunningError`, `RefusedError`.
    """
    try:
        found: Mapping[str, Any] = ask(socket, "update")
    except NotRunningError as error:
        found = _read(file, error)
    return found


def _read(file: Path, not_running: NotRunningError) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            document = json.loads(stream.read(STATUS_BYTES_MAX))
    except FileNotFoundError:
        raise not_running from None
    except (OSError, ValueError, RecursionError) as error:
        raise NotRunningError(f"{not_running}; {file}: {error}") from error
    # Loaded for this alone: it would take a tenth of the time of every other command.
    from dataclasses import asdict

    from agent.status import UpdateStatus

    status = UpdateStatus.parse(document if isinstance(document, dict) else {})
    return {**asdict(status), "job": "", "download": None, "result": None, "agent": str(not_running)}


class Following:
    """Shows what `look` finds. `live` draws one line of a terminal again and again; otherwise there is one line per
    change."""

    def __init__(self, look: Callable[[], Mapping[str, Any]], *, live: bool, as_json: bool) -> None:
        self._look = look
        self._live = live
        self._as_json = as_json
        self._shown = ""

    def run(self, *, follow: bool) -> None:
        """Show the update once, or to its end with `follow`. Raises `NotRunningError`, `RefusedError`."""
        found = self._look()
        while follow and not show.update_at_rest(found):
            self._step(found)
            time.sleep(FOLLOW_S)
            found = self._again()
        if self._live and self._shown:
            click.echo(CLEAR_LINE, nl=False, color=True)
        if self._as_json:
            click.echo(json.dumps(found, indent=None if follow else 2, sort_keys=True))
        else:
            click.echo(show.update(found))

    def _again(self) -> Mapping[str, Any]:
        """Look again. The agent may be away for a while, when it is restarted or the board reboots."""
        for _ in range(LOST_MAX):
            try:
                return self._look()
            except NotRunningError:
                time.sleep(FOLLOW_S)
        return self._look()

    def _step(self, found: Mapping[str, Any]) -> None:
        line = json.dumps(found, sort_keys=True) if self._as_json else show.update_line(found)
        if self._live:
            percent = show.update_percent(found)
            bar = f"  {_bar(percent)}" if percent is not None else ""
            line = f"{line}{bar}"[: shutil.get_terminal_size().columns - 1]
        if line == self._shown:
            return
        self._shown = line
        click.echo(f"{CLEAR_LINE}{line}" if self._live else line, nl=not self._live, color=self._live)
        sys.stdout.flush()


def _bar(percent: int) -> str:
    filled = BAR_CHARS * min(max(percent, 0), 100) // 100
    return f"[{'#' * filled}{'.' * (BAR_CHARS - filled)}]"
