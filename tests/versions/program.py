"""The code of the release that a script of this folder runs: where a module of it is, under every name that it had.

Nothing of the tests is imported, and nothing of this tree but what `only` puts on the path.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NOW = 1_764_000_000.0  # 2025-11-24
DEVICE = "urn:dcu:KR-000042"


def named(name: str, *modules: str) -> Any:
    """The object `name` of the first of `modules` that this release has."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise SystemExit(f"no {name} in {', '.join(modules)}")


def has(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    return True


def only(source: Path) -> None:
    """Import this project's packages from `source` and from nowhere else, whatever is installed."""
    sys.path.insert(0, str(source))
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]


def real_disk() -> Any:
    return named("RealDisk", "updateagent.disk")()


def clock() -> Any:
    return SimpleNamespace(wall=lambda: NOW, monotonic=lambda: 1000.0, is_trusted=lambda: True, trusted=lambda: True)
