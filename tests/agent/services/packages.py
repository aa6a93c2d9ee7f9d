"""Active components on a real disk, without packages: folders as the Update Agent leaves them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WAIT_S = 30.0


class Installed:
    """The folder of installed software."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "active").mkdir(parents=True)

    def put(self, software_id: str, version: str, component: object, files: Mapping[str, str]) -> Path:
        """Install a version; its files are programs."""
        home = self.folder / software_id / version
        for name, content in {**files, "component.json": json.dumps(component)}.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o755)
        return home

    def service(self, software_id: str, version: str, script: str, more: Mapping[str, str] = {}, **said: Any) -> Path:
        """Install a service whose program is a shell script."""
        spec = {"program": "run", "ready": {"after_s": 0}, **said}
        files = {"run": f"#!/bin/sh\n{script}\n", **more}
        return self.put(software_id, version, {"format": 1, "kind": "service", "service": spec}, files)

    def activate(self, software_id: str, version: str | None) -> None:
        link = self.folder / "active" / software_id
        link.unlink(missing_ok=True)
        if version is not None:
            link.symlink_to(f"../{software_id}/{version}")


class RealClock:
    """The machine's."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def trusted(self) -> bool:
        return True


def until(holds: Callable[[], object], step: Callable[[], object] = lambda: None) -> None:
    """Step until something holds; fails after `WAIT_S`, which a busy machine never needs."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        step()
        time.sleep(0.02)
