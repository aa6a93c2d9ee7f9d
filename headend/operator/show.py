"""Tables for a terminal: as wide as their contents, times in local time, without control characters."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

CELL_CHARS_MAX = 60
TIMES = frozenset(
    {
        "at", "created", "ended", "kept_since", "last_heard", "last_run", "last_seen", "made", "received", "registered",
        "run", "since", "started", "until", "updated", "uploaded",
    }
)  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The named columns of `rows`, numbers right-aligned; a sentence when there are no rows. `a.b` is `b` of `a`."""
    if not rows:
        return "nothing to show"
    cells = [[_cell(name, _value(row, name)) for name in columns] for row in rows]
    right = [all(isinstance(_value(row, name), int | None) and name not in TIMES for row in rows) for name in columns]
    heads = [name.replace("_", " ").replace(".", " ") for name in columns]
    widths = [max(len(line[index]) for line in [heads, *cells]) for index in range(len(columns))]
    lines = [
        "  ".join(text.rjust(width) if to_right else text.ljust(width)
                  for text, width, to_right in zip(line, widths, right, strict=True)).rstrip()
        for line in [heads, *cells]
    ]  # fmt: skip
    return "\n".join(lines)


def _value(row: Mapping[str, Any], name: str) -> Any:
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.rsplit(".", maxsplit=1)[-1] in TIMES and isinstance(value, int | float) and not isinstance(value, bool):
        return moment(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return text if len(text) <= CELL_CHARS_MAX else f"{text[: CELL_CHARS_MAX - 1]}…"


def moment(seconds: float) -> str:
    """A time in local time."""
    try:
        return dt.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
