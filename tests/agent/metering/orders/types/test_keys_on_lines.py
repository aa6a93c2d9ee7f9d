"""The order keys over simulated lines: the meter changes its keys, and is never lost by it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.metering.orders.order_book import Request
from agent.settings.provisioning import Provisioning
from dlms.security.keys import wrap
from dlms.security.settings import MemoryCounters, Security
from dlms.server.security_setup import SecuritySetup
from dlms.xdlms.apdu.common import ActionOutcome
from tests.agent.metering.access.test_access_over_lines import EK, KINDS, NEW_EK, TASK, PlcRig, events
from tests.agent.metering.orders.test_orders_on_lines import ended
from tests.sim.meters import SimMeter

MASTER = bytes(range(0xA0, 0xB0))
WRAPPED = {"unicast": wrap(MASTER, NEW_EK).hex()}
GMAC = KINDS["gmac"]
OLD = Provisioning((TASK,), access_rules=(GMAC.rule(5),))
NEW = Provisioning((TASK,), access_rules=(GMAC.rule(5, encryption_key=NEW_EK),))


class KeyMeter:
    """A meter with a security setup. `transfers` counts the keys that it took."""

    def __init__(self) -> None:
        self.meter: SimMeter = GMAC.meter(5)
        self.transfers = 0
        held = self.in_force()
        counters = MemoryCounters(0)
        mastered = replace(held, options=replace(held.options, master_key=MASTER), counters=counters)
        self.meter.server.change_security(held, mastered)
        self.setup = SecuritySetup(self.meter.server, mastered, new_counters=lambda: MemoryCounters(0))
        self.transfer: Callable[[Any], ActionOutcome] = self.setup.item.methods[2]
        self.setup.item.methods[2] = self._count
        self.meter.server.add(self.setup.item)

    def in_force(self) -> Security:
        held = self.meter.server.security_of(1)
        assert held is not None
        return held

    def _count(self, parameters: Any) -> ActionOutcome:
        self.transfers += 1
        return self.transfer(parameters)


@pytest.fixture
def meter() -> KeyMeter:
    return KeyMeter()


@pytest.fixture
def rig(meter: KeyMeter, tmp_path: Path) -> PlcRig:
    made = PlcRig(tmp_path, [meter.meter])
    made.collector.configure(OLD)
    made.run(60)
    assert len(made.count()) == 1
    return made


def ask(rig: PlcRig, meter: KeyMeter, number: int = 1, **wrapped: str) -> Any:
    parameters = {"wrapped": wrapped or WRAPPED}
    rig.orders.submit(Request(f"o{number}", "keys", [meter.meter.id], "t", parameters, deadline_s=3000))
    (result,) = ended(rig, f"o{number}", 3000)
    return result


def test_keys_are_changed_under_the_old_ones_and_proven_by_an_association_with_the_new(
    rig: PlcRig, meter: KeyMeter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig.collector.configure(NEW)
    result = ask(rig, meter)
    assert (result["state"], result["value"]) == ("done", {"changed": ["unicast"], "in_use": "new"})
    assert (meter.transfers, meter.in_force().ek) == (1, NEW_EK)
    found = events(caplog)
    assert found["meter.key.changed", "INFO"] == 1
    assert not [event for event in found if event[0] in ("meter.key", "meter.key.pending")], "no wrong key was tried"


def test_keys_that_are_not_provisioned_are_not_transferred(rig: PlcRig, meter: KeyMeter) -> None:
    result = ask(rig, meter)
    assert result["state"] == "refused"
    assert result["error"] == "of the meter's access nothing is provisioned anew, the order is for unicast"
    rig.collector.configure(NEW)
    result = ask(rig, meter, 2, **WRAPPED, authentication="00" * 24)
    assert result["state"] == "refused"
    assert (meter.transfers, meter.in_force().ek) == (0, EK)


def test_a_wrapped_key_of_another_length_is_not_sent(rig: PlcRig, meter: KeyMeter) -> None:
    rig.collector.configure(NEW)
    result = ask(rig, meter, 1, unicast=wrap(MASTER, NEW_EK + NEW_EK).hex())
    assert result["state"] == "refused"
    assert result["error"] == "wrapped.unicast is a key of 32 octets, the provisioned one has 16"
    assert (meter.transfers, meter.in_force().ek) == (0, EK)
    assert ask(rig, meter, 2)["state"] == "done"


def test_a_transfer_that_the_meter_refuses_leaves_the_old_keys(rig: PlcRig, meter: KeyMeter) -> None:
    rig.collector.configure(NEW)
    result = ask(rig, meter, 1, unicast="00" * 24)
    assert (result["state"], result["error"]) == ("refused", "64/0.0.43.0.0.255/2: other-reason")
    assert (meter.transfers, meter.in_force().ek) == (1, EK)
    assert ask(rig, meter, 2)["state"] == "done"


def test_a_meter_that_accepts_and_goes_on_with_the_old_keys_is_said_so(rig: PlcRig, meter: KeyMeter) -> None:
    rig.collector.configure(NEW)
    meter.transfer = lambda _parameters: ActionOutcome(0)
    result = ask(rig, meter)
    assert (result["state"], result["error"]) == (
        "refused",
        "the meter accepted the new keys, and takes the old ones only",
    )
    assert meter.transfers == 1


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_cut_after_the_request_is_found_out_by_associating(
    rig: PlcRig, meter: KeyMeter, *, carried_out: bool
) -> None:
    rig.collector.configure(NEW)
    rig.orders.submit(Request("o1", "keys", [meter.meter.id], "t", {"wrapped": WRAPPED}, deadline_s=3000))

    def sent() -> bool:
        found: Any = rig.orders.describe("o1")
        return bool(meter.transfers) if carried_out else found["meters"][0]["state"] == "sent"

    rig.run(60, sent)
    assert meter.transfers == int(carried_out)
    rig.restart()
    rig.collector.configure(NEW)
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], result["value"]["in_use"]) == ("done", "new")
    assert (meter.transfers, meter.in_force().ek) == (1, NEW_EK)
