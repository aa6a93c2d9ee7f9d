"""HTTP byte ranges (RFC 9110, 13.1 and 14): one range, or the whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Slice:
    """What to send: `size` bytes from `start`; `status` is 200 for the whole, 206 for a part."""

    status: int
    start: int
    size: int


def choose(headers: Mapping[str, str], total: int, etag: str) -> Slice | None:
    """What a GET with these headers (lower-case names) gets of `total` bytes; None when the range lies outside (416).

    A `Range` that is not understood, has several ranges, or has an `If-Range` that does not match, is ignored, as the
    RFC requires.
    """
    whole = Slice(200, 0, total)
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or headers.get("if-range", etag) != etag:
        return whole
    first, last = match.groups()
    if not first:
        return _suffix(last, total) if last else whole
    start = int(first)
    end = min(int(last), total - 1) if last else total - 1
    if last and int(last) < start:
        return whole  # an invalid range is ignored
    if start >= total:
        return None
    return Slice(206, start, end - start + 1)


def _suffix(digits: str, total: int) -> Slice | None:
    size = min(int(digits), total)
    return Slice(206, total - size, size) if size else None


def unchanged(headers: Mapping[str, str], etag: str) -> bool:
    """Whether `If-None-Match` names this entity (304)."""
    names = {name.strip().removeprefix("W/") for name in headers.get("if-none-match", "").split(",")}
    return etag in names or "*" in names
