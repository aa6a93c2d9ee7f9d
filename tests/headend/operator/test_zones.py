"""Zones by name."""

from __future__ import annotations

import pytest

from headend.operator.zones import posix_zone
from omadm.local_time import ZoneError

MADRID = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Europe/Madrid", MADRID),
        (MADRID, MADRID),
        ("UTC0", "UTC0"),
        ("Asia/Kolkata", "IST-5:30"),
        ("America/Santiago", "<-04>4<-03>,M9.1.6/24,M4.1.6/24"),
    ],
)
def test_a_zone_by_name_is_its_rule_for_the_time_to_come(name: str, rule: str) -> None:
    assert posix_zone(name) == rule


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../etc/passwd", ""])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ZoneError, match="no POSIX TZ string"):
        posix_zone(name)
