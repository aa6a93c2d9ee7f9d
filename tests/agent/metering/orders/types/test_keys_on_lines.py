"""The order keys over simulated lines: the meter changes its keys, and is never lost by it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.metering.orders.journal import _emit
from agent.metering.orders.order_book import Request
from agent.settings.provisioning import AccessRule, Provisioning
from dlms.security.keys import wrap
from dlms.security.settings import MemoryCounters, Security
from dlms.server.security_setup import SecuritySetup
from dlms.xdlms.apdu.common import ActionOutcome
from tests.agent.metering.access.test_access_over_lines import EK, KINDS, NEW_EK, TASK, PlcRig, events
from tests.agent.metering.orders.test_orders_on_lines import ended
from tests.sim.meters import SimMeter

MASTER = bytes(range(0xA0, 0xB0))
THIRD_EK = bytes(range(0x20, 0x30))
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


def run_until_sent(rig: PlcRig, meter: KeyMeter, *, carried_out: bool) -> None:
    """To where the request of the order `o1` has left: the meter has carried it out and its answer is lost with the
    line, or it has not got it yet."""
    carry_out = meter.transfer

    def cut_off(parameters: Any) -> ActionOutcome:
        rig.lines[-1].broken = True
        meter.transfer = carry_out
        return carry_out(parameters)

    def sent() -> bool:
        found: Any = rig.orders.describe("o1")
        return bool(meter.transfers) if carried_out else found["meters"][0]["state"] == "sent"

    meter.transfer = cut_off
    rig.run(60, sent)
    meter.transfer = carry_out


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
    run_until_sent(rig, meter, carried_out=carried_out)
    assert meter.transfers == int(carried_out)
    rig.restart()
    rig.collector.configure(NEW)
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], result["value"]["in_use"]) == ("done", "new")
    assert (meter.transfers, meter.in_force().ek) == (1, NEW_EK)


def provisioned(**access: Any) -> Provisioning:
    return Provisioning((TASK,), access_rules=(GMAC.rule(5, **access),))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("after", [{"encryption_key": THIRD_EK}, {}, {"authentication_key": THIRD_EK}])
def test_keys_that_are_provisioned_while_a_transfer_is_in_doubt_lock_nobody_out(
    rig: PlcRig, meter: KeyMeter, after: dict[str, bytes], *, carried_out: bool, restarts: bool
) -> None:
    """The answer to the transfer of one key is lost, and the head-end provisions the next one, or the old one again."""
    rig.collector.configure(NEW)
    rig.orders.submit(Request("o1", "keys", [meter.meter.id], "t", {"wrapped": WRAPPED}, deadline_s=300))
    run_until_sent(rig, meter, carried_out=carried_out)
    rig.restart()
    rig.collector.configure(provisioned(**after))
    if restarts:
        rig.restart()
        rig.collector.configure(provisioned(**after))
    rig.run(3 * 3600)
    (result,) = ended(rig, "o1", 1)
    assert result["state"] in ("refused", "unknown")
    assert meter.transfers == int(carried_out), "what is wrapped in the order is not what is provisioned now"
    held = meter.in_force().ek
    assert held == (NEW_EK if carried_out else EK)
    assert rig.statuses() == {meter.meter.id: "read"}
    assert len(rig.count()) >= 10


@pytest.mark.parametrize("late", [False, True])
def test_a_broadcast_key_is_transferred_alone_also_after_visits_with_the_same_other_keys(
    rig: PlcRig, meter: KeyMeter, *, late: bool
) -> None:
    rig.collector.configure(provisioned(broadcast_key=EK))
    rig.run(1000)
    rig.collector.configure(provisioned(broadcast_key=NEW_EK))
    if late:
        rig.run(2000)
    result = ask(rig, meter, 1, broadcast=wrap(MASTER, NEW_EK).hex())
    assert (result["state"], result["value"], meter.transfers) == ("done", {"changed": ["broadcast"]}, 1)
    again = ask(rig, meter, 2, broadcast=wrap(MASTER, NEW_EK).hex())
    assert again["error"] == "of the meter's access nothing is provisioned anew, the order is for broadcast"


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("with_unicast", [True, False])
def test_a_broadcast_key_whose_transfer_was_cut_is_transferred_again_or_not_known(
    rig: PlcRig, meter: KeyMeter, *, with_unicast: bool, carried_out: bool
) -> None:
    access = {"broadcast_key": THIRD_EK} | ({"encryption_key": NEW_EK} if with_unicast else {})
    rig.collector.configure(provisioned(**access))
    wrapped = {"broadcast": wrap(MASTER, THIRD_EK).hex()} | (WRAPPED if with_unicast else {})
    rig.orders.submit(Request("o1", "keys", [meter.meter.id], "t", {"wrapped": wrapped}, deadline_s=3000))
    run_until_sent(rig, meter, carried_out=carried_out)
    rig.restart()
    rig.collector.configure(provisioned(**access))
    (result,) = ended(rig, "o1", 3000)
    if with_unicast and carried_out:
        assert result["value"] == {"changed": ["unicast"], "in_use": "new", "unknown": ["broadcast"]}
        assert result["error"] == "whether the meter took the broadcast key is not known: order it once more"
    else:
        assert (result["state"], result["value"]["changed"]) == ("done", sorted(wrapped))
        assert meter.transfers == 1 + carried_out, "the same key, however often"


# --- keys that are changed while the order waits ---

CHANGED = "keys were changed since: what is provisioned is not what was when this was asked for; ask for it anew"
GROUP = AccessRule(
    "group/all", pattern="DCU*", given=(("client", 1), *GMAC.ours.items())
)  # and nothing of the meter's own


def group(**access: Any) -> Provisioning:
    return Provisioning((TASK,), access_rules=(replace(GROUP, given=(*GROUP.given, *access.items())),))


def wait(rig: PlcRig, meter: KeyMeter, now: Provisioning, after: Provisioning, **wrapped: str) -> None:
    """Have `now` provisioned and the order `o1` asked for, and before it has begun, `after`."""
    rig.collector.configure(now)
    parameters = {"wrapped": wrapped or WRAPPED}
    rig.orders.submit(Request("o1", "keys", [meter.meter.id], "t", parameters, deadline_s=3000))
    rig.collector.configure(after)


def restarted(rig: PlcRig, provisioning: Provisioning) -> None:
    rig.restart()
    rig.collector.configure(provisioning)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("now", "after"),
    [
        (NEW, provisioned(encryption_key=THIRD_EK)),
        (NEW, provisioned(authentication_key=THIRD_EK)),
        (group(encryption_key=NEW_EK), group(encryption_key=THIRD_EK)),
        (group(encryption_key=NEW_EK), provisioned(encryption_key=THIRD_EK)),
    ],
    ids=["own", "another key", "group", "own instead of the group's"],
)
def test_an_order_is_not_sent_once_other_keys_are_provisioned(
    rig: PlcRig, meter: KeyMeter, now: Provisioning, after: Provisioning, *, restarts: bool
) -> None:
    wait(rig, meter, now, after)
    if restarts:
        restarted(rig, after)
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], result["error"]) == ("refused", CHANGED)
    assert (meter.transfers, meter.in_force().ek) == (0, EK)
    rig.run(3600)
    assert rig.statuses() == {meter.meter.id: "read"}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("now", "between"), [(NEW, OLD), (NEW, NEW), (group(encryption_key=NEW_EK), provisioned(encryption_key=NEW_EK))]
)
def test_an_order_goes_out_under_the_keys_that_it_was_made_upon_however_they_came_to_be_provisioned(
    rig: PlcRig, meter: KeyMeter, now: Provisioning, between: Provisioning, *, restarts: bool
) -> None:
    wait(rig, meter, now, between)
    if restarts:
        restarted(rig, between)
    rig.collector.configure(now)
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], meter.transfers, meter.in_force().ek) == ("done", 1, NEW_EK)


def test_a_broadcast_key_is_not_sent_once_another_one_is_provisioned(rig: PlcRig, meter: KeyMeter) -> None:
    rig.collector.configure(provisioned(broadcast_key=EK))
    rig.run(1000)
    now, after = provisioned(broadcast_key=NEW_EK), provisioned(broadcast_key=THIRD_EK)
    wait(rig, meter, now, after, broadcast=wrap(MASTER, NEW_EK).hex())
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], result["error"], meter.transfers) == ("refused", CHANGED, 0)
    assert ask(rig, meter, 2, broadcast=wrap(MASTER, THIRD_EK).hex())["state"] == "done"


def test_keys_that_are_provisioned_while_the_visit_opens_its_association_keep_the_order_back(
    rig: PlcRig, meter: KeyMeter
) -> None:
    rig.collector.configure(NEW)
    rig.orders.submit(Request("o1", "keys", [meter.meter.id], "t", {"wrapped": WRAPPED}, deadline_s=3000))
    rig.run(60, lambda: rig.orders.describe("o1")["meters"][0]["state"] == "asking")  # type: ignore[index]
    rig.collector.configure(provisioned(encryption_key=THIRD_EK))
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], result["error"]) == ("refused", CHANGED)
    assert (meter.transfers, meter.in_force().ek) == (0, EK)


def test_a_broadcast_key_that_is_provisioned_before_the_answer_came_is_not_taken_for_the_one_that_was_sent(
    rig: PlcRig, meter: KeyMeter
) -> None:
    rig.collector.configure(provisioned(broadcast_key=EK))
    rig.run(1000)
    rig.collector.configure(provisioned(broadcast_key=NEW_EK))
    rig.orders.submit(
        Request("o1", "keys", [meter.meter.id], "t", {"wrapped": {"broadcast": wrap(MASTER, NEW_EK).hex()}})
    )
    rig.run(60, lambda: meter.transfers == 1)
    rig.collector.configure(provisioned(broadcast_key=THIRD_EK))
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], result["value"]) == ("done", {"changed": ["broadcast"]})
    assert ask(rig, meter, 2, broadcast=wrap(MASTER, THIRD_EK).hex())["state"] == "done"


def without_editions(rig: PlcRig) -> None:
    """The record of `o1` as a program of before editions writes it."""
    path = rig.tmp_path / "orders" / "o1.json"
    body = json.loads(path.read_bytes())["body"]
    assert len(body.pop("editions")) == 1
    path.write_bytes(_emit(body))


@pytest.mark.parametrize("after", [NEW, provisioned(encryption_key=THIRD_EK)])
def test_an_order_of_a_program_that_kept_no_edition_is_not_sent(
    rig: PlcRig, meter: KeyMeter, after: Provisioning
) -> None:
    wait(rig, meter, NEW, after)
    without_editions(rig)
    restarted(rig, after)
    (result,) = ended(rig, "o1", 3000)
    assert result["state"] == "refused"
    assert result["error"] == "whether keys were changed since this was asked for is not known; ask for it anew"
    assert (meter.transfers, meter.in_force().ek) == (0, EK)


@pytest.mark.parametrize("carried_out", [True, False])
def test_an_order_that_such_a_program_had_sent_goes_on(rig: PlcRig, meter: KeyMeter, *, carried_out: bool) -> None:
    rig.collector.configure(NEW)
    rig.orders.submit(Request("o1", "keys", [meter.meter.id], "t", {"wrapped": WRAPPED}, deadline_s=3000))
    run_until_sent(rig, meter, carried_out=carried_out)
    without_editions(rig)
    restarted(rig, NEW)
    (result,) = ended(rig, "o1", 3000)
    assert (result["state"], meter.in_force().ek) == ("done", NEW_EK)


def test_what_an_order_remembers_of_keys_says_nothing_of_them(rig: PlcRig, meter: KeyMeter) -> None:
    rig.collector.configure(NEW)
    kept = []
    for number in (1, 2):
        rig.orders.submit(Request(f"o{number}", "keys", [meter.meter.id], "t", {"wrapped": WRAPPED}))
        kept.append((rig.tmp_path / "orders" / f"o{number}.json").read_text())
        assert NEW_EK.hex() not in kept[-1]
    first, second = (json.loads(text)["body"]["editions"] for text in kept)
    assert first != second, "two orders do not tell that they are for the same keys"
    assert "edition" not in json.dumps(rig.orders.describe("o1"))
