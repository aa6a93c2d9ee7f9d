"""The order keys: transfer the keys that are provisioned for a meter into it (security setup, class 64). Sans-IO.

The keys themselves are provisioned below `./AMI/Access` and never in an order: that has them wrapped under the meter's
master key, which no concentrator needs to know. The request goes out in an association with the old keys; the next one
is opened with the new ones, and only when that has worked are the old ones forgotten (`agent.metering.access`).

Cut off after the request, the order finds out by associating: a meter that takes the new keys has carried it out. The
broadcast key has no part in an association. Whether the meter has it is known from the answer to its transfer alone,
which is repeated where no other key goes with it: it is the same key, however often.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.metering.orders.order import OrderRefusedError, OrderType
from agent.metering.orders.types import parameters as check
from agent.metering.orders.types.parameters import SECURITY_SETUP, Checked
from agent.metering.orders.types.steps import Context, Ended, Keys, Pause, Plan, TypeFunctions, action_ended, calling
from dlms import axdr
from dlms.cosem.obis import MethodRef

SETUP_CODE = "0.0.43.0.0.255"
KEY_TRANSFER = 2  # global_key_transfer in version 0 (BB 4.4.7)
BROADCAST = "broadcast"
KEY_IDS = {"unicast": 0, BROADCAST: 1, "authentication": 2}
WRAP_OCTETS = 8  # what a wrapped key has more (RFC 3394)
_WRAPPED = re.compile(r"(?:[0-9a-fA-F]{48}|[0-9a-fA-F]{80})", re.ASCII)
_SUPERSEDED = "other keys were provisioned since it was sent; whether the meter took these is not known"
_CHANGED = "keys were changed since: what is provisioned is not what was when this was asked for; ask for it anew"
_NOT_KNOWN = "whether keys were changed since this was asked for is not known; ask for it anew"
_ACCEPTED = "accepted; an association with the new keys is to follow"


def check_keys(given: dict[str, object]) -> Checked:
    wanted = {"obis": SETUP_CODE} | given
    check.only(wanted, "obis", "wrapped")
    wrapped = wanted.get("wrapped")
    if not isinstance(wrapped, dict) or not wrapped:
        raise OrderRefusedError(f"wrapped: an object with one or more of {', '.join(KEY_IDS)} is expected")
    check.only(wrapped, *KEY_IDS, path="wrapped")
    for name, key in wrapped.items():
        if not isinstance(key, str) or not _WRAPPED.fullmatch(key):
            raise OrderRefusedError(f"wrapped.{name}: 24 or 40 octets in hexadecimal are expected")
    return wanted, check.needed(SECURITY_SETUP, check.obis(wanted))


def plan_keys(parameters: Mapping[str, object], context: Context) -> Plan:
    wrapped = parameters["wrapped"]
    named: dict[str, str] = dict(wrapped) if isinstance(wrapped, dict) else {}
    keys = context.keys
    if refused := _other_ground(keys, context.sent):  # the meter would have keys that nobody has, and be lost
        return Ended(refused=refused)
    accepted = context.progress.get("what") == _ACCEPTED
    shown = set(named) - {BROADCAST}  # what an association shows
    if keys.new_in_use and context.sent and (shown or accepted):
        return _in_use(named, shown, accepted=accepted)
    if set(named) != set(keys.provisioned):
        # A meter with keys that nobody here knows would be lost.
        others = ", ".join(sorted(keys.provisioned)) or "nothing"
        return Ended(refused=f"of the meter's access {others} is provisioned anew, the order is for {', '.join(named)}")
    for name, key in named.items():  # more is not to be seen from outside, without the master key
        octets = len(bytes.fromhex(key)) - WRAP_OCTETS
        if octets != keys.provisioned[name]:
            return Ended(
                refused=f"wrapped.{name} is a key of {octets} octets, the provisioned one has {keys.provisioned[name]}"
            )
    if keys.new_in_use and shown:
        return Ended(refused="the meter has the new keys already")
    if accepted:
        return Ended({"in_use": "old"}, refused="the meter accepted the new keys, and takes the old ones only")
    method = MethodRef(SECURITY_SETUP, check.obis(parameters), KEY_TRANSFER)
    pairs = [axdr.structure(axdr.enum(KEY_IDS[name]), axdr.octets(bytes.fromhex(key))) for name, key in named.items()]
    reply = yield calling(method, axdr.array(pairs), {"step": 1, "of": 2, "what": f"action {method}"})
    ended = action_ended(reply)
    if ended.refused:
        return Ended({"in_use": "old"}, refused=f"{method}: {ended.refused}")
    if not shown:
        return Ended({"changed": [BROADCAST]}, broadcast_taken=True)
    yield Pause(0.0, {"step": 2, "of": 2, "what": _ACCEPTED})
    return Ended(refused="a pause was not taken")


def _other_ground(keys: Keys, sent: int) -> str:
    """Why what is wrapped in the order may not be what is provisioned by now; empty where it is.

    An order of before editions were kept has none: one that was sent is judged by what was sent then.
    """
    if sent:
        return _SUPERSEDED if keys.superseded or keys.as_ordered is False else ""
    if keys.as_ordered is None:
        return _NOT_KNOWN
    return "" if keys.as_ordered else _CHANGED


def _in_use(named: Mapping[str, str], shown: set[str], *, accepted: bool) -> Ended:
    """The meter has associated with the new keys. Of one for broadcasts that went with them, and whose answer was lost,
    nobody knows."""
    if BROADCAST not in named or accepted:
        return Ended({"changed": sorted(named), "in_use": "new"}, broadcast_taken=BROADCAST in named)
    unknown = {"changed": sorted(shown), "in_use": "new", "unknown": [BROADCAST]}
    return Ended(unknown, alarm="whether the meter took the broadcast key is not known: order it once more")


FUNCTIONS: Mapping[OrderType, TypeFunctions] = {
    OrderType.KEYS: TypeFunctions(check_keys, plan_keys),
}
