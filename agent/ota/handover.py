"""Files to and from the Update Agent, below `update_dir`: how a firmware package changes hands.

    inbox/package.swu     the package
    inbox/request.json    written last, durably: the moment at which the package is the Update Agent's
    outbox/result.json    the Update Agent's outcome; removed here once the server has acknowledged it
    status.json           what the Update Agent is doing, for display
    download/             packages on their way; nobody else looks there

The two programs run at different times and share nothing else. What the files hold is in `updateagent.handover`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from agent.status import UpdateStatus
from updateagent.disk import Disk
from updateagent.handover import PACKAGE, InstallRequest, InstallResult

LOG = logging.getLogger("agent.update")


class HandOver:
    """All methods raise `OSError` for trouble of the storage."""

    def __init__(self, disk: Disk, update_dir: Path) -> None:
        self._disk = disk
        self._inbox = update_dir / "inbox"
        self._outbox = update_dir / "outbox"
        self._status = update_dir / "status.json"
        self.download_dir = update_dir / "download"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self._inbox, self._outbox, self.download_dir):
            self._disk.mkdir_durable(folder)

    @property
    def package(self) -> Path:
        """Where the Update Agent finds the package."""
        return self._inbox / PACKAGE

    def requested(self) -> str:
        """The id of the request that lies in the inbox; empty when there is none."""
        return _id(self._read(self._inbox / "request.json"))

    def submit(self, package: Path, request: InstallRequest) -> None:
        """Hand `package` over. May be repeated after a power cut at any point: what was done is not done again.

        Raises `FileNotFoundError` when the package is neither where it was nor in the inbox.
        """
        if self.requested() == request.id:
            return
        if self._disk.exists(package):
            # An old request must not meet a new package.
            self._disk.remove_durable(self._inbox / "request.json")
            self._disk.rename_durable(package, self.package)
        elif not self._disk.exists(self.package):
            raise FileNotFoundError(str(package))
        self._disk.write_durable(self._inbox / "request.json", request.emit(), 0o644)

    def result(self) -> InstallResult | None:
        """The outcome that waits to be reported. One that cannot be read is set aside."""
        file = self._outbox / "result.json"
        if not self._disk.exists(file):
            return None
        result = InstallResult.parse(self._read(file))
        if result is None:
            LOG.error(
                "the Update Agent's result cannot be read; set aside", extra={"event": "update.result.unreadable"}
            )
            self._disk.rename_durable(file, self._outbox / "unreadable.json")
        return result

    def forget_result(self, result_id: str) -> None:
        """Remove the result, since the server knows it. Another result than this one is left alone."""
        if _id(self._read(self._outbox / "result.json")) == result_id:
            self._disk.remove_durable(self._outbox / "result.json")

    def status(self) -> UpdateStatus:
        """What the Update Agent last said; the default when it has said nothing readable."""
        return UpdateStatus.parse(self._read(self._status))

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            document = json.loads(self._disk.read_bytes(file))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}


def _id(document: dict[str, Any]) -> str:
    value = document.get("id")
    return value if isinstance(value, str) else ""
