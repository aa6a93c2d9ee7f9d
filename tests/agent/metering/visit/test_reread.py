"""What a place in a profile makes of what the store has lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.metering.visit.profile_catchup import REREAD_MARGIN_S, MeterFacts, ProfileReading
from agent.metering.visit.profile_position import ProfilePosition
from dlms.cosem.obis import Obis
from dlms.cosem.time import CosemDateTime

FRESH = "bbbbbbbb"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
CLOCK = CosemDateTime.from_datetime(NOW)


def read_place() -> ProfilePosition:
    return ProfilePosition(
        clock=CLOCK.emit(), digests=[b"12345678"], reread="aaaaaaaa", losses=("store-1", 3), ranges_only=True
    )


def test_a_place_that_hears_of_no_loss_goes_on_under_its_name() -> None:
    position = read_place().heard("store-2", 7, None, FRESH)
    assert (position.known, position.reread, position.losses) == (True, "aaaaaaaa", ("store-2", 7))


def test_a_place_from_before_places_had_names_is_named_by_its_store() -> None:
    position = ProfilePosition(clock=CLOCK.emit(), digests=[b"12345678"]).heard("0123456789abcdef", 0, None, FRESH)
    assert position.reread == "01234567"
    assert ProfilePosition().heard("0123456789abcdef", 0, None, FRESH).reread == FRESH


def test_a_place_that_hears_of_a_loss_begins_anew_from_before_it_under_another_name() -> None:
    lost_since = (NOW - timedelta(days=3)).timestamp()
    position = read_place().heard("store-1", 4, lost_since, FRESH)
    assert (position.known, position.reread, position.since, position.ranges_only) == (False, FRESH, lost_since, True)
    assert ProfilePosition.load(position.dump()) == position
    reading = ProfileReading(Obis.parse("1.0.99.1.0.255"), position)
    reading._facts, reading._now = MeterFacts(CLOCK, NOW, first_s=60.0), CLOCK.local()
    first = reading._first()
    assert first is not None
    assert first.local() == (NOW - timedelta(days=3, seconds=REREAD_MARGIN_S)).replace(tzinfo=None)
