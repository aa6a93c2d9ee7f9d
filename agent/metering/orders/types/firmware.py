"""The order firmware: an image into a meter by image transfer (class 18; BB 4.4.6). Sans-IO.

The image is on the concentrator before any meter is asked (`agent.metering.orders.images`). It is sent in slices of
bounded line time, each a visit of its own, so that everything else goes on; each slice begins with what the meter says
that it lacks, and so does the first one after a cut. Then the meter verifies it, and activates it at once or at the
time that was set. Whether an activation that was sent has happened is found out by the status of the meter and the
firmware that it names: it is not sent again where either says so.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from datetime import datetime

from agent.metering.orders.order import OrderRefusedError, OrderType, Permission
from agent.metering.orders.types import parameters as check
from agent.metering.orders.types.parameters import Checked
from agent.metering.orders.types.steps import (
    Ask,
    Context,
    Ended,
    Pause,
    Plan,
    Read,
    Reply,
    TypeFunctions,
    action_ended,
    calling,
    shown_value,
)
from dlms.client.events import Value
from dlms.client.image_steps import (
    ACTIVATED,
    ACTIVATING,
    BLOCK,
    IMAGE,
    IMAGE_TRANSFER,
    INITIATE,
    NOT_ACTIVATED,
    STATUS,
    VERIFIED,
    VERIFY,
    Call,
    Came,
    Image,
    Look,
    Steps,
    Wait,
    activate,
    transfer,
)
from dlms.cosem.obis import FIRMWARE_ID, AttributeRef, MethodRef, Obis
from dlms.errors import PeerError

IMAGE_BYTES_MAX = 8 << 20
SLICE_S = 10.0  # of line time
REST_S = 5.0  # between two slices, in which the meter is read if it owes something
POLL_S = 10.0  # while a meter verifies or activates
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_URL = re.compile(r"https://[!-~]{1,1000}", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,256}", re.ASCII)
_ACTIVATION, _IS_VERIFIED, _VERIFYING, _BLOCKS = "activation", "verified", "verifying", "blocks"


def check_firmware(given: dict[str, object]) -> Checked:
    wanted: dict[str, object] = {"obis": str(IMAGE), "activate": "now", "firmware_id": str(FIRMWARE_ID)} | given
    check.only(wanted, "obis", "activate", "firmware_id", "url", "sha256", "size", "identifier", "signature")
    for name, pattern, what in (("url", _URL, "an https URL"), ("sha256", _DIGEST, "64 lower-case hexadecimal digits")):
        if not pattern.fullmatch(check.text(wanted, name)):
            raise OrderRefusedError(f"{name}: {what} is expected")
    check.number(wanted.get("size"), "size", 1, IMAGE_BYTES_MAX)
    check.name(wanted.get("identifier"), "identifier")
    check.attribute(wanted["firmware_id"], "firmware_id")
    if "signature" in wanted and not _HEX.fullmatch(check.text(wanted, "signature")):
        raise OrderRefusedError("signature: hexadecimal octets are expected")
    check.obis(wanted)
    _activation(wanted["activate"])
    return wanted, Permission.FIRMWARE


def _activation(when: object) -> float | None:
    """When to activate, in seconds since the epoch: 0 for at once, `None` for never."""
    if when in ("now", "never"):
        return 0.0 if when == "now" else None
    try:
        moment = datetime.fromisoformat(when) if isinstance(when, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise OrderRefusedError("activate: now, never or a time with its zone, as 2027-01-01T02:00:00+01:00")
    return moment.timestamp()


def latest(parameters: Mapping[str, object]) -> float:
    """The time before which the order cannot come to its end, in seconds since the epoch."""
    return _activation(parameters["activate"]) or 0.0


def plan_firmware(parameters: Mapping[str, object], context: Context) -> Plan:
    if context.image is None:
        return Ended(refused="the image is not on the concentrator")
    obis = check.obis(parameters)
    progress = dict(context.progress)
    named = check.attribute(parameters["firmware_id"], "firmware_id")
    if "firmware_before" not in progress:
        progress["firmware_before"] = yield from _firmware(named)
    try:
        if progress.get("stage") != _ACTIVATION:
            progress = yield from _slices(
                transfer(
                    _image(parameters, context),
                    resume=context.sent > 0,
                    verifying=progress.get("stage") in (_VERIFYING, _IS_VERIFIED),
                ),
                obis,
                context,
                progress,
            )
            when = _activation(parameters["activate"])
            if when is None:
                return Ended(progress | {"stage": _IS_VERIFIED, "activated": False})
            if when > context.wall or (when > 0 and not context.trusted):
                yield Pause(0.0, progress | {"stage": _IS_VERIFIED}, until=when)
            yield from _slices(activate(), obis, context, progress | {"stage": _ACTIVATION})
        else:
            yield from _find_out(obis, named, context, progress)
    except PeerError as error:
        return Ended(progress, refused=str(error))
    after = yield from _firmware(named)
    value = progress | {"stage": _ACTIVATION, "activated": True, "firmware_after": after}
    same = after == progress["firmware_before"]
    return Ended(value, alarm="activated, and the meter names the same firmware as before" if same else "")


def _image(parameters: Mapping[str, object], context: Context) -> Image:
    size, signature = parameters["size"], parameters.get("signature")
    return Image(
        size if isinstance(size, int) else 0,
        check.name(parameters["identifier"], "identifier"),
        context.image or (lambda _offset, _length: b""),
        bytes.fromhex(signature) if isinstance(signature, str) else None,
    )


def _find_out(
    obis: Obis, named: AttributeRef, context: Context, progress: dict[str, object]
) -> Generator[Ask, Reply, None]:
    """An activation was sent, and no answer came: see what became of it. Raises `PeerError`."""
    (status,) = (yield Read((AttributeRef(IMAGE_TRANSFER, obis, STATUS),))).results
    number = status.data.value if isinstance(status, Value) else None
    if number == ACTIVATED:
        return
    if number == NOT_ACTIVATED:
        raise PeerError("the image was not activated")
    changed = (yield from _firmware(named)) != progress["firmware_before"]
    if number == VERIFIED and not changed:
        yield from _slices(activate(), obis, context, progress)
        return
    if number != ACTIVATING and changed:
        return  # a meter that forgot its transfer when it restarted with the new firmware
    yield Pause(POLL_S, progress)


def _slices(
    steps: Steps, obis: Obis, context: Context, progress: dict[str, object]
) -> Generator[Ask, Reply, dict[str, object]]:
    """Take steps until they are at their end, or pause. Returns the progress. Raises `PeerError`."""
    came: Came = None
    while True:
        try:
            step = steps.send(came)
        except StopIteration:
            return progress
        match step:
            case Look(attributes=attributes):
                reply = yield Read(tuple(AttributeRef(IMAGE_TRANSFER, obis, number) for number in attributes))
                came = tuple(result.data if isinstance(result, Value) else result.code for result in reply.results)
                continue
            case Wait():
                yield Pause(POLL_S, progress)
                return progress
            case Call(method=method, parameters=parameters, have=have, of=of):
                if method == INITIATE:
                    progress = progress | {"stage": _BLOCKS}
                if method == VERIFY:  # the meter has all of them
                    progress = progress | {"stage": _VERIFYING}
                    progress |= {"blocks": progress["of"]} if "of" in progress else {}
                if method == BLOCK:
                    progress = progress | {"stage": _BLOCKS, "blocks": have, "of": of}
                call = calling(MethodRef(IMAGE_TRANSFER, obis, method), parameters, progress, noted=method != BLOCK)
                reply = yield call
                came = action_ended(reply).refused
        if reply.at - context.began >= SLICE_S and method == BLOCK and not came:
            yield Pause(REST_S, progress | {"blocks": have + 1})


def _firmware(named: AttributeRef) -> Generator[Ask, Reply, object]:
    """What the meter says of the firmware that it runs: a typed value, or the reason that there is none."""
    return shown_value((yield Read((named,))).results[0])


FUNCTIONS: Mapping[OrderType, TypeFunctions] = {
    OrderType.FIRMWARE: TypeFunctions(check_firmware, plan_firmware, latest),
}
