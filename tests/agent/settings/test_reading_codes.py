"""Attributes to read, with rows, columns and billing resets: what is understood, and what is refused."""

from __future__ import annotations

from datetime import datetime

import pytest

from agent.settings.reading_codes import ALL_ROWS, ReadingCodeError, ReadingItem, RowSelection, parse_code, parse_codes
from dlms.cosem.obis import AttributeRef, Obis

LOAD = "7/1.0.99.1.0.255/2"


def test_attributes_are_read_in_their_order() -> None:
    found = parse_codes("8/0.0.1.0.0.255/2, 3/1.0.1.8.0.255/2,3/1.0.1.8.0.VZ/2,  3/1.0.1.8.0.VZ-12/2")
    energy = AttributeRef.parse("3/1.0.1.8.0.255/2")
    assert found == (
        ReadingItem(AttributeRef.parse("8/0.0.1.0.0.255/2")),
        ReadingItem(energy),
        ReadingItem(energy, billing=0),
        ReadingItem(energy, billing=12),
    )


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("", ALL_ROWS),
        ("last 12", RowSelection(last=12)),
        ("from 2026-11-01", RowSelection(first=datetime(2026, 11, 1))),  # noqa: DTZ001 - a meter's local time
        (
            "from 2026-11-01T12:30 to 2026-11-15 columns 1.0.1.8.0.255 1.0.2.8.0.255",
            RowSelection(
                0,
                datetime(2026, 11, 1, 12, 30),  # noqa: DTZ001
                datetime(2026, 11, 15),  # noqa: DTZ001
                (Obis.parse("1.0.1.8.0.255"), Obis.parse("1.0.2.8.0.255")),
            ),
        ),
    ],
)
def test_rows_of_a_profile_are_selected(words: str, rows: RowSelection) -> None:
    assert parse_code(f"{LOAD} {words}").rows == rows


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "''"),
        ("1.8.0", "1.8.0"),
        ("3/1.0.1.8.0.255/2,", "''"),
        ("3/1.0.1.8.0.255/2,3/1.0.1.8.0.255/2", "listed twice"),
        ("3/1.0.1.8.0.VZ/2,3/1.0.1.8.0.VZ-0/2", "listed twice"),
        ("3/1.0.1.8.0.VZ-25/2", "VZ-24 is the last"),
        ("3/1.0.1.8.0.255/2 last 3", "only the buffer of a profile"),
        (f"{LOAD} last", "expected at 'last'"),
        (f"{LOAD} last 0", "expected at 'last'"),
        (f"{LOAD} newest 3", "expected at 'newest'"),
        (f"{LOAD} from yesterday", "'yesterday'"),
        (f"{LOAD} from 2026-11-01T00:00Z", "without an offset"),
        (f"{LOAD} from 2026-11-02 to 2026-11-01", "are none"),
        (f"{LOAD} columns", "expected at 'columns'"),
        (f"{LOAD} columns 1.0.1", "columns: "),
        (",".join(f"3/1.0.{n // 250}.{n % 250}.0.255/2" for n in range(2001)), "more than 2000"),
    ],
)
def test_what_says_nothing_to_read_is_refused_with_its_place(text: str, why: str) -> None:
    with pytest.raises(ReadingCodeError, match=why):
        parse_codes(text)
