"""Which meters a task reads, and what is said of a meter of which that is not known yet."""

from __future__ import annotations

import pytest

from agent.metering.scheduling.selection import MODEL_UNKNOWN, NAME_UNKNOWN, Fit, groups_of, shown, verdict
from agent.settings.provisioning import AccessRule, MeterSelection
from agent.status import MeterStatus

GROUPS = groups_of(
    [
        AccessRule("group/block-a", pattern="KFM1*"),
        AccessRule("group/bus", port="rs485"),
        AccessRule("group/nobody"),
        AccessRule("meter/KFM1001", meter="KFM1001"),
    ]
)


def meter(name: str = "KFM1001", *, port: str = "plc0", named: bool = True, model: str | None = None) -> MeterStatus:
    return MeterStatus(name, port, 17, "read", 0.0, named=named, model=model, eui48="40404022000b")


NAMELESS = meter("40404022000b", named=False)


@pytest.mark.parametrize(
    ("selection", "one", "fit", "why"),
    [
        (MeterSelection(), NAMELESS, Fit.IN, ""),
        (MeterSelection(meters=("KFM1001", "KFM2")), meter(), Fit.IN, ""),
        (MeterSelection(meters=("KFM2",)), meter(), Fit.OUT, "it is not in the list of meters"),
        (MeterSelection(meters=("KFM2",)), NAMELESS, Fit.WAITS, NAME_UNKNOWN),
        (MeterSelection(meters=("40404022000b",)), NAMELESS, Fit.IN, ""),
        (MeterSelection(meters=("plc0/17",)), meter(), Fit.IN, ""),
        (MeterSelection(groups=("block-a",)), meter(), Fit.IN, ""),
        (MeterSelection(groups=("block-a",)), meter("KFM2"), Fit.OUT, "it is not in group block-a"),
        (MeterSelection(groups=("block-a",)), NAMELESS, Fit.WAITS, NAME_UNKNOWN),
        (MeterSelection(groups=("bus",)), NAMELESS, Fit.OUT, "it is not in group bus"),
        (MeterSelection(groups=("bus",)), meter("x", port="rs485", named=False), Fit.IN, ""),
        (MeterSelection(groups=("bus", "block-a")), meter(), Fit.IN, ""),
        (MeterSelection(groups=("later",)), meter(), Fit.WAITS, "there is no group later"),
        (MeterSelection(groups=("nobody",)), meter(), Fit.WAITS, "there is no group nobody"),
        (MeterSelection(meters=("KFM1001",), groups=("later",)), meter(), Fit.IN, ""),
        (MeterSelection(models=("KFM E3*",)), meter(model="KFM E350"), Fit.IN, ""),
        (MeterSelection(models=("KFM E3*",)), meter(model="KFM S34"), Fit.OUT, "its model is KFM S34"),
        (MeterSelection(models=("KFM E3*",)), meter(), Fit.WAITS, MODEL_UNKNOWN),
        (MeterSelection(models=("KFM E3*",), ports=("rs485",)), meter(), Fit.OUT, "it is on port plc0"),
        (MeterSelection(pattern="KFM1*", models=("*",)), meter("KFM2"), Fit.OUT, "its id does not fit KFM1*"),
        (MeterSelection(pattern="KFM1*"), NAMELESS, Fit.WAITS, NAME_UNKNOWN),
        (MeterSelection(pattern="KFM[12]00?", ports=("plc0",)), meter(), Fit.IN, ""),
    ],
)
def test_a_meter_is_in_out_or_waits_and_it_is_said_why(
    selection: MeterSelection, one: MeterStatus, fit: Fit, why: str
) -> None:
    found = verdict(selection, one, GROUPS)
    assert (found.fit, found.why) == (fit, why)


def test_a_selection_is_shown_as_it_was_provisioned() -> None:
    assert shown(MeterSelection()) == "all"
    some = MeterSelection(("m1", "m2"), ("g",), ("KFM*",), "K*", ("plc0",))
    assert shown(some) == "meters m1, m2; groups g; models KFM*; ids K*; ports plc0"
