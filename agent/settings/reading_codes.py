"""What is to be read of a meter, one attribute at a time, as a task or a reading list says it. Sans-IO.

`class/OBIS/attribute`, and for the buffer of a profile at will which rows, and which columns of them:

    3/1.0.1.8.0.255/2
    3/1.0.1.8.0.VZ/2                                    the value of the last billing reset; VZ-1 that of the one before
    7/1.0.98.1.0.255/2 last 12                          at most the newest twelve rows
    7/1.0.99.1.0.255/2 from 2026-11-01 to 2026-11-15    rows of these days by the meter's clock, and times at will
    7/1.0.99.1.0.255/2 columns 1.0.1.8.0.255            this column of each row, beside its time
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from dlms.cosem.obis import AttributeRef, Obis
from dlms.cosem.profile import BUFFER, PROFILE_CLASS
from dlms.errors import DlmsError

ITEMS_MAX = 2000  # a meter has some hundred objects
BILLING_BACK_MAX = 24  # F values 101 to 125 say the same of meters that do not count their resets
_BILLING = re.compile(r"(.*\.)VZ(?:-(\d{1,2}))?(/\d{1,3})?", re.ASCII)
_PRESENT = "255"


class ReadingCodeError(ValueError):
    """The text says no attribute, or not which rows of it."""


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Which rows of a profile: at most the `last` ones there are (0: all that are new), those stamped from `first` to
    `end` by the meter's clock, both included; and which `columns` of them beside the clock, all when empty."""

    last: int = 0
    first: datetime | None = None
    end: datetime | None = None
    columns: tuple[Obis, ...] = ()


ALL_ROWS = RowSelection()


@dataclass(frozen=True, slots=True)
class ReadingItem:
    """One attribute to read. `date_time`: twelve octets of it are a date-time. `billing`: not the present value of
    `ref` but that of a billing reset, 0 for the last one, 1 for the one before."""

    ref: AttributeRef
    name: str = ""
    date_time: bool = False
    billing: int | None = None
    rows: RowSelection = ALL_ROWS


def parse_codes(text: str) -> tuple[ReadingItem, ...]:
    """Parse attributes separated by commas. Raises `ReadingCodeError`."""
    found: dict[tuple[AttributeRef, int | None], ReadingItem] = {}
    for part in text.split(","):
        item = parse_code(part)
        if (item.ref, item.billing) in found:
            raise ReadingCodeError(f"{part.strip()} is listed twice")
        found[item.ref, item.billing] = item
        if len(found) > ITEMS_MAX:
            raise ReadingCodeError(f"more than {ITEMS_MAX} attributes")
    return tuple(found.values())


def parse_code(text: str) -> ReadingItem:
    """Parse one attribute. Raises `ReadingCodeError`."""
    code, *words = text.split() or [""]
    code, billing = billing_of(code)
    try:
        ref = AttributeRef.parse(code)
    except DlmsError as error:
        raise ReadingCodeError(f"{text.strip()!r}: {error}") from error
    return ReadingItem(ref, billing=billing, rows=rows_of(ref, words))


def billing_of(code: str) -> tuple[str, int | None]:
    """Return a code, or a logical name, with the F value of the present, and how many resets back it asks for."""
    match = _BILLING.fullmatch(code)
    if match is None:
        return code, None
    back = int(match[2] or 0)
    if back > BILLING_BACK_MAX:
        raise ReadingCodeError(f"{code}: VZ-{BILLING_BACK_MAX} is the last one")
    return f"{match[1]}{_PRESENT}{match[3] or ''}", back


def rows_of(ref: AttributeRef, words: list[str]) -> RowSelection:
    """Parse the words that select rows. Raises `ReadingCodeError`."""
    if not words:
        return ALL_ROWS
    if (ref.class_id, ref.attribute) != (PROFILE_CLASS, BUFFER):
        raise ReadingCodeError(f"{ref}: only the buffer of a profile (7/…/2) has rows")
    last, first, end, columns = 0, None, None, list[Obis]()
    rest = list(words)
    while rest:
        word, *rest = rest
        if word == "last" and rest and re.fullmatch(r"[1-9]\d{0,4}", rest[0], re.ASCII):
            last, rest = int(rest[0]), rest[1:]
        elif word == "from" and rest:
            first, rest = _time(rest[0]), rest[1:]
        elif word == "to" and rest:
            end, rest = _time(rest[0]), rest[1:]
        elif word == "columns" and rest:
            try:
                columns, rest = [Obis.parse(name) for name in rest], []
            except DlmsError as error:
                raise ReadingCodeError(f"{ref}: columns: {error}") from error
        else:
            raise ReadingCodeError(f"{ref}: `last N`, `from TIME`, `to TIME` or `columns OBIS …` expected at {word!r}")
    if first is not None and end is not None and end < first:
        raise ReadingCodeError(f"{ref}: rows to {end} and from {first} are none")
    return RowSelection(last, first, end, tuple(columns))


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ReadingCodeError(f"{text!r}: a day or a time as 2026-11-01T12:00 expected") from None
    if found.tzinfo is not None:
        raise ReadingCodeError(f"{text!r}: local time of the meter expected, without an offset")
    return found
