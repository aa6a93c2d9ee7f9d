"""The code of each release, unpacked, and ends of one that talk (talk.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIXTURES = HERE / "fixtures"
RELEASES = tuple(sorted(folder.name for folder in FIXTURES.iterdir()))
TODAY = "today"


def unpacked(folder: Path) -> dict[str, Path]:
    """The folder with the code of each version: of the releases below `folder`, and this tree."""
    for release in RELEASES:
        with tarfile.open(FIXTURES / release / "program.tar.xz") as packed:
            packed.extractall(folder / release, filter="data")
    return {TODAY: ROOT, **{release: folder / release for release in RELEASES}}


def environment() -> dict[str, str]:
    """Without a path to this tree: a release has to find its own modules only."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class End:
    """A process of talk.py."""

    def __init__(self, source: Path, role: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = folder / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, HERE / "talk.py", source, role, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)

    def ask(self, **content: Any) -> Any:
        """The next line that comes after this one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(content) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._errors.read_text(encoding="utf-8")[-4000:]
        return json.loads(line)
