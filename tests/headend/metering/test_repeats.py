"""What a concentrator reads again comes under other ids, and is shown once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from headend.metering import readings
from omadm.readings import parse
from tests.omadm.test_readings import STORE, a_batch, a_record

PROFILE = "1.0.99.1.0.255"
OTHER = "f" * 32
STAMP = "07ea0a190702300000800080"  # without a deviation: one of two instants


def post(database: Engine, *entries: dict[str, Any], store: str = STORE) -> None:
    readings.store(database, parse(a_batch(*entries, store=store)), 1_770_000_100.0)


def cell(number: int, raw: int, time: str | None = "2026-11-22T10:00:00Z", **more: Any) -> dict[str, Any]:
    return a_record(number, raw=raw, meter_time=time, profile=PROFILE, **more)


def stamp(number: int, **more: Any) -> dict[str, Any]:
    clock = {"cls": 8, "obis": "0.0.1.0.0.255", "tag": "dt", "scaler": None, "unit": None}
    return a_record(number, **clock, raw=STAMP, meter_time=None, profile=PROFILE, **more)


def shown(database: Engine) -> list[tuple[str, object]]:
    return [(str(row["store"])[0], row["id"]) for row in readings.list_readings(database)]


def test_a_row_that_is_read_again_is_shown_once(database: Engine) -> None:
    later = "2026-11-22T10:15:00Z"
    post(database, cell(1, 5, reread="aa"), cell(2, 6, later, reread="aa"))
    post(database, cell(1, 5, reread="bb", run=5), cell(2, 6, later, reread="bb"), cell(3, 7, later, reread="bb"),
         store=OTHER)  # fmt: skip
    assert shown(database) == [("0", 1), ("0", 2), ("f", 3)]
    assert len(readings.list_readings(database, repeated=True)) == 5
    assert readings.list_meters(database)[0]["readings"] == 3


def test_a_reading_that_goes_on_in_another_store_repeats_nothing(database: Engine) -> None:
    """The meter's clock was set back: a row of this time and value was there before, and this is another one."""
    post(database, cell(1, 5))
    post(database, cell(1, 5, reread=STORE[:8]), store=OTHER)
    assert shown(database) == [("0", 1), ("f", 1)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_rows_that_are_alike_are_counted(database: Engine, size: int) -> None:
    """Two rows of the hour that came twice, without consumption; whatever the batches are cut to."""

    def rows(name: str, count: int) -> list[dict[str, Any]]:
        return [
            one
            for number in range(1, 2 * count, 2)
            for one in (stamp(number, reread=name), cell(number + 1, 5, None, reread=name))
        ]

    for entries, store in ((rows("aa", 2), STORE), (rows("bb", 3), OTHER)):
        for at in range(0, len(entries), size):
            post(database, *entries[at : at + size], store=store)
    assert shown(database) == [("0", 1), ("0", 2), ("0", 3), ("0", 4), ("f", 5), ("f", 6)]


def test_a_cell_of_no_time_is_never_taken_for_another(database: Engine) -> None:
    post(database, cell(1, 5, None, reread="aa"))
    post(database, cell(1, 5, None, reread="bb"), store=OTHER)
    assert len(shown(database)) == 2


def test_a_batch_that_is_sent_again_is_no_repetition(database: Engine) -> None:
    for _ in range(3):
        post(database, cell(1, 5), cell(2, 5))
    assert shown(database) == [("0", 1), ("0", 2)]


def test_of_a_slot_that_was_read_twice_the_first_trusted_reading_counts(database: Engine) -> None:
    post(database, a_record(1, run=900, trusted=False), a_record(2, run=900), a_record(3, run=900))
    assert shown(database) == [("0", 1), ("0", 2)]


def test_when_the_first_is_doubted_the_next_one_counts_until_the_first_is_confirmed(database: Engine) -> None:
    first = a_record(1, run=900)
    post(database, first, a_record(5, run=900), a_record(6, run=900))
    doubt = {"gap": "doubted", "meter": first["meter"], "task": first["task"], "profile": None, "first": 900,
             "last": 900, "every": 900, "reason": "clock-unknown", "how": None, "noted": 5.0}  # fmt: skip
    post(database, {"id": 3, **doubt})
    assert shown(database) == [("0", 1), ("0", 5)]
    trusted = {row["id"]: row["trusted"] for row in readings.list_readings(database)}
    assert trusted == {1: False, 5: True}
    post(database, {"id": 7, **doubt}, {"id": 9, **doubt, "gap": "confirmed"})
    assert [row["trusted"] for row in readings.list_readings(database)] == [True]
    assert shown(database) == [("0", 1)], "the confirmation is about the doubt before it"
