"""The steps of a firmware transfer to a meter (BB 4.4.6): initiate, send blocks, repeat missing ones, verify, activate.
Sans-IO.

Each function is a generator: it yields what to ask of the image transfer object (class 18) and is sent what came. It
may be dropped between any two steps, and another one with `resume` goes on with what the meter lacks.

Errors: `PeerError` when the meter refuses or the image does not verify.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from dlms import axdr
from dlms.axdr import Data
from dlms.cosem.obis import Obis
from dlms.errors import LocalError, PeerError
from dlms.xdlms.apdu.common import NO_PARAMETER

IMAGE_TRANSFER = 18
IMAGE = Obis.parse("0.0.44.0.0.255")
BLOCK_SIZE, BLOCKS_STATUS, FIRST_MISSING, ENABLED, STATUS, TO_ACTIVATE = range(2, 8)
INITIATE, BLOCK, VERIFY, ACTIVATE = range(1, 5)
INITIATED, VERIFYING, VERIFIED, NOT_VERIFIED, ACTIVATING, ACTIVATED, NOT_ACTIVATED = range(1, 8)
IMAGE_BLOCK_OCTETS_MAX = 64 * 1024
POLLS_MAX = 120  # of a meter that needs time, in one generator
ROUNDS_MAX = 5  # passes over the blocks that the meter still lacks


@dataclass(frozen=True, slots=True)
class Look:
    """Read attributes of the object. What came: a value, or the meter's reason, for each."""

    attributes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """Call a method. What came: "" for success, or the meter's reason. `have` of `of` blocks are there before it."""

    method: int
    parameters: Data
    have: int = 0
    of: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """The meter needs time: go on in some seconds, in this generator or in a new one that resumes."""


@dataclass(frozen=True, slots=True)
class Image:
    """`octets(offset, length)` gives a part. With `signature` the meter must report the same one."""

    size: int
    identifier: bytes
    octets: Callable[[int, int], bytes]
    signature: bytes | None = None


Step = Look | Call | Wait
Came = tuple[Data | str, ...] | str | None
Steps = Generator[Step, Came, None]
TEMPORARY = "temporary-failure"


def transfer(image: Image, *, resume: bool, verifying: bool = False) -> Steps:
    """Bring the image into the meter and have it verified. With `resume` an unfinished transfer goes on, and nothing is
    done where the meter has verified this image already. `verifying`: this image was there, and the meter was asked to
    verify it: what its status says of that is of this image, also where it does not tell which one it would
    activate."""
    status, block = yield from _begin()
    for _ in range(POLLS_MAX):
        if not resume or status != VERIFYING:
            break
        yield Wait()
        status = _number((yield from _look(STATUS))[0], "status")
    if resume and status == NOT_VERIFIED and verifying:
        raise PeerError("the image was not verified")
    if resume and status == VERIFIED:
        difference = _difference(image, (yield from _look(TO_ACTIVATE))[0])
        if difference == "" or (difference is None and verifying and image.signature is None):
            return
    blocks = -(-image.size // block)
    lacking: Iterable[int] | None = None
    if resume and status == INITIATED:
        lacking = _lacking((yield from _look(BLOCKS_STATUS))[0], blocks)
    if lacking is None:
        yield from _call(INITIATE, axdr.structure(axdr.octets(image.identifier), axdr.u32(image.size)))
        lacking = range(blocks)
    yield from _bring(image, block, blocks, list(lacking))
    yield from _done(VERIFY, VERIFIED, NOT_VERIFIED, "the image was not verified")
    difference = _difference(image, (yield from _look(TO_ACTIVATE))[0])
    if difference or (difference is None and image.signature is not None):
        raise PeerError(difference or "the meter does not tell the signature of the image")


def activate() -> Steps:
    """Switch to the verified image. A meter may end the session when it does: its status tells afterwards."""
    yield from _done(ACTIVATE, ACTIVATED, NOT_ACTIVATED, "the image was not activated")


def _begin() -> Generator[Step, Came, tuple[int, int]]:
    """Status and block size of a meter that takes images."""
    enabled, block, status = yield from _look(ENABLED, BLOCK_SIZE, STATUS)
    if not isinstance(enabled, Data) or enabled.value is not True:
        raise PeerError("the meter does not take images now")
    size = _number(block, "block size")
    if not 0 < size <= IMAGE_BLOCK_OCTETS_MAX:
        raise PeerError(f"an image block size of {size} octets")
    return _number(status, "status"), size


def _bring(image: Image, block: int, blocks: int, lacking: list[int]) -> Steps:
    for _ in range(ROUNDS_MAX):
        for at, number in enumerate(lacking):
            offset = number * block
            piece = image.octets(offset, min(block, image.size - offset))
            parameters = axdr.structure(axdr.u32(number), axdr.octets(piece))
            yield from _call(BLOCK, parameters, blocks - len(lacking) + at, blocks)
        (first,) = yield from _look(FIRST_MISSING)
        if _number(first, "first missing block") >= blocks:
            return
        lacking = _lacking((yield from _look(BLOCKS_STATUS))[0], blocks) or []
        if not lacking:
            raise PeerError("the status of the blocks is not that of this image")
    raise PeerError("the meter still lacks blocks of the image")


def _lacking(status: Data | str, blocks: int) -> list[int] | None:
    """The blocks that the meter lacks; None when what it has is not an image of so many blocks."""
    bits = status.value if isinstance(status, Data) else None
    if not isinstance(bits, str) or len(bits) != blocks:
        return None
    return [number for number in range(blocks) if bits[number] != "1"]


def _done(method: int, good: int, bad: int, what: str) -> Steps:
    """Call `method`, and wait for a meter that needs time until its status is `good` or `bad`."""
    came = yield Call(method, NO_PARAMETER)
    for _ in range(POLLS_MAX if came == TEMPORARY else 0):
        status = _number((yield from _look(STATUS))[0], "status")
        if status == good:
            return
        if status == bad:
            break
        yield Wait()
    if came == TEMPORARY:
        raise PeerError(what)
    if came:
        raise PeerError(f"{what}: {came}")


def _difference(image: Image, told: Data | str) -> str | None:
    """How the image that the meter would activate differs from ours: "" if it does not, None if unknown."""
    try:
        entries = told.members() if isinstance(told, Data) else ()
        named = [
            (size.integer(), name.octets(), signature.value) for size, name, signature in map(Data.members, entries)
        ]
    except (LocalError, ValueError):
        return None
    ours = next((entry for entry in named if entry[1] == image.identifier), None)
    if ours is None:
        return "the meter would activate another image" if named else None
    if ours[0] != image.size:
        return f"the meter has an image of {ours[0]} octets, not {image.size}"
    theirs = ours[2]
    if image.signature is None or (isinstance(theirs, bytes) and hmac.compare_digest(theirs, image.signature)):
        return ""
    return "the image in the meter has another signature"


def _look(*attributes: int) -> Generator[Step, Came, tuple[Data | str, ...]]:
    came = yield Look(attributes)
    return came if isinstance(came, tuple) else ()


def _call(method: int, parameters: Data, have: int = 0, of: int = 0) -> Steps:
    came = yield Call(method, parameters, have, of)
    if came:
        raise PeerError(f"{IMAGE_TRANSFER}/method {method}: {came}")


def _number(told: Data | str, what: str) -> int:
    if isinstance(told, Data) and isinstance(told.value, int):
        return told.value
    raise PeerError(f"the {what} of the image transfer cannot be read: {told if isinstance(told, str) else told.tag}")
