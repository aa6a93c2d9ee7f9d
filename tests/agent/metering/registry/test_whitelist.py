"""Who is admitted, and who is asked for a name to find that out."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.metering.registry.entry import Meter
from agent.metering.registry.registry import Registry
from agent.metering.registry.whitelist import Whitelist
from tests.agent.virtual import VirtualClock
from updateagent.disk import RealDisk

EUI = "02dc00000001"
NAMED = Meter(f"plc0/{EUI}", "plc0", 5, EUI, "KFM0001", named=True, joined=1.0)
UNNAMED = Meter(f"plc0/{EUI}", "plc0", 5, EUI, EUI, named=False, joined=1.0)
ON_BUS = Meter("rs485/17", "rs485", 17, "", "rs485-17", named=False, joined=1.0)


@pytest.mark.parametrize(
    ("entry", "meter", "admitted"),
    [
        ("KFM0001", NAMED, True),
        ("KFM*", NAMED, True),
        ("KFM000?", NAMED, True),
        ("KFM0002", NAMED, False),
        ("kfm0001", NAMED, False),
        (EUI, NAMED, True),
        ("02:DC:00:00:00:01", UNNAMED, True),
        ("02-dc-00-00-00-02", UNNAMED, False),
        ("02dc*", UNNAMED, True),
        ("plc0/5", UNNAMED, True),
        ("plc0/*", UNNAMED, True),
        ("rs485/17", ON_BUS, True),
        ("rs485/1?", ON_BUS, True),
        ("rs485-17", ON_BUS, False),  # a name that we gave it ourselves
        ("", ON_BUS, False),
    ],
)
def test_who_is_on_the_list(entry: str, meter: Meter, admitted: bool) -> None:
    assert Whitelist([entry], enforced=True).admits(meter) is admitted
    assert Whitelist([entry]).admits(meter), "a list that is not enforced keeps nobody out"


def test_a_meter_that_was_added_by_hand_is_admitted() -> None:
    assert Whitelist(enforced=True, always=["rs485/17"]).admits(ON_BUS)
    assert not Whitelist(enforced=True).admits(ON_BUS)


def test_a_name_is_asked_for_only_where_one_could_be_on_the_list() -> None:
    assert Whitelist(["KFM0001"], enforced=True).asks_name(UNNAMED)
    assert not Whitelist(["KFM0002"], enforced=True).asks_name(NAMED)
    assert not Whitelist([EUI, "plc0/5"], enforced=True).asks_name(ON_BUS)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.registry = Registry(RealDisk(), folder / "meters.json", self.clock, leave_after_s=60.0)

    def states(self) -> dict[str, str]:
        return {meter.meter_id: meter.state for meter in self.registry.meters()}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_who_is_not_listed_is_not_visited_and_not_missed_and_is_shown(rig: Rig) -> None:
    rig.registry.join("rs485", 17)
    rig.registry.join("rs485", 18)
    rig.registry.admit(Whitelist(["rs485/17"], enforced=True))
    assert [meter.address for meter in rig.registry.present("rs485")] == [17]
    assert [meter.address for meter in rig.registry.due()] == [17]
    assert rig.states() == {"rs485-17": "joined", "rs485-18": "unlisted"}
    assert [meter.address for meter in rig.registry.heard("rs485")] == [17, 18]
    rig.registry.admit(Whitelist())
    assert len(rig.registry.present("rs485")) == 2


def test_a_meter_that_may_be_listed_by_name_is_asked_once_until_it_joins_again(rig: Rig) -> None:
    rig.registry.admit(Whitelist(["KFM0001"], enforced=True))
    meter = rig.registry.join("plc0", 5, bytes.fromhex(EUI))
    assert rig.registry.present("plc0") == [meter]
    assert rig.registry.name_only(meter)
    rig.registry.attempted(meter.key)  # it would not say
    assert rig.registry.present("plc0") == []
    rig.registry.join("plc0", 5, bytes.fromhex(EUI))
    assert rig.registry.present("plc0") == [meter]
    named = rig.registry.name(meter.key, "KFM0001")
    assert named is not None
    assert not rig.registry.name_only(named)
    assert rig.registry.present("plc0") == [named]
    rig.registry.name(meter.key, "KFM0009")
    assert rig.registry.present("plc0") == []


def test_an_expected_meter_is_missed_until_it_is_heard(rig: Rig) -> None:
    rig.registry.expect("plc0", 0, EUI)
    rig.clock.advance(100)
    rig.registry.tick()
    assert rig.states() == {EUI: "expected"}
    assert [meter.state for meter in rig.registry.due()] == ["left"]
    assert rig.registry.present("plc0") == []
    rig.registry.join("plc0", 5, bytes.fromhex(EUI))
    assert rig.states() == {EUI: "joined"}
    assert rig.registry.meters()[0].joined == rig.clock.wall()
