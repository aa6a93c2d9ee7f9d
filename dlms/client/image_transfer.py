"""Firmware transfer to a meter (BB 4.4.6): initiate, send blocks, repeat missing ones, verify, check, activate.

When the line fails it is opened again, and only the blocks that the meter still lacks are sent. `resume` continues a
transfer that another program began.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Sequence

from dlms import axdr
from dlms.client.reading import Failed, TemporaryFailure
from dlms.client.services import MeterServices
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import LinkError, PeerError

IMAGE = Obis.parse("0.0.44.0.0.255")
_CLASS = 18
_BLOCK_SIZE, _BLOCKS_STATUS, _FIRST_MISSING, _ENABLED, _STATUS, _TO_ACTIVATE = range(2, 8)
_INITIATE, _BLOCK, _VERIFY, _ACTIVATE = range(1, 5)
_NOTHING = axdr.i8(0)
INITIATED, VERIFICATION_SUCCESSFUL, VERIFICATION_FAILED, ACTIVATION_SUCCESSFUL, ACTIVATION_FAILED = 1, 3, 4, 6, 7
IMAGE_BLOCK_OCTETS_MAX = 64 * 1024
ROUNDS_MAX = 5  # passes over the blocks that the meter still lacks
FRUITLESS_MAX = 3  # failures of the line in a row without a block in between
POLLS_MAX = 120

Progress = Callable[[int, int], None]


class MeterImage:
    """The image transfer object of one meter.

    While a meter verifies or activates, its status is polled every `poll_interval_s`; `sleep` waits that many seconds.
    """

    def __init__(
        self,
        meter: MeterServices,
        *,
        obis: Obis = IMAGE,
        sleep: Callable[[float], None] = time.sleep,
        poll_interval_s: float = 5.0,
    ) -> None:
        self._meter = meter
        self._obis = obis
        self._sleep = sleep
        self._poll_interval_s = poll_interval_s

    @property
    def status(self) -> int:
        """image_transfer_status: 0 none, 1 initiated, 3 verified, 4 not verified, 6 activated, 7 not activated."""
        return self._meter.get(self._ref(_STATUS)).integer()

    def transfer(
        self,
        image: bytes,
        identifier: bytes,
        *,
        activate: bool = False,
        resume: bool = False,
        signature: bytes | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Send `image` to the meter and have it verified, and with `activate` activated.

        Before activation, the size, the identifier and (if given) the `signature` are compared with what the meter
        reports it is about to activate. `resume` continues an unfinished or unactivated transfer of the same image, if
        the meter still has it. `progress` is called with the number of blocks sent and the total.

        Raises `PeerError` when the meter refuses or the image does not verify, `LinkError` when the line fails for
        good.
        """
        meter = self._meter
        if meter.get(self._ref(_ENABLED)).value is not True:
            raise PeerError("the meter does not take images now")
        size = meter.get(self._ref(_BLOCK_SIZE)).integer()
        if not 0 < size <= IMAGE_BLOCK_OCTETS_MAX:
            raise PeerError(f"an image block size of {size} octets")
        pieces = [image[at : at + size] for at in range(0, len(image), size)]
        wanted = len(image), identifier, signature
        status = self.status if resume else 0
        if status != VERIFICATION_SUCCESSFUL or self._difference(*wanted) != "":
            if status == INITIATED and self._fits(len(pieces)):
                self._bring(pieces, None, progress)
            else:
                self._call(_INITIATE, axdr.structure(axdr.octets(identifier), axdr.u32(len(image))))
                self._bring(pieces, range(len(pieces)), progress)
            self._verify()
            difference = self._difference(*wanted)
            if difference or (difference is None and signature is not None):
                raise PeerError(difference or "the meter does not tell the signature of the image")
        if activate:
            self.activate()

    def activate(self) -> None:
        """Switch to the verified image. Raises `PeerError` when the activation fails.

        A meter may end the session when it activates: the line then fails, and `status` gives the result afterwards.
        """
        self._done(_ACTIVATE, ACTIVATION_SUCCESSFUL, ACTIVATION_FAILED, "the image was not activated")

    # ------------------------------------------------------------------------------------------------------- blocks

    def _bring(self, pieces: list[bytes], lacking: Sequence[int] | None, progress: Progress | None) -> None:
        """Send the blocks in `lacking` (None: ask the meter), then those that the meter still lacks."""
        sent = fruitless = rounds = 0
        while True:
            before = sent
            try:
                missing = self._missing(len(pieces)) if lacking is None else lacking
                lacking = None
                if not missing:
                    return
                if rounds >= ROUNDS_MAX:
                    raise PeerError("the meter still lacks blocks of the image")
                for number in missing:
                    self._call(_BLOCK, axdr.structure(axdr.u32(number), axdr.octets(pieces[number])))
                    sent += 1
                    if progress is not None:
                        progress(number + 1, len(pieces))
                rounds += 1
            except LinkError:
                fruitless = fruitless + 1 if sent == before else 0
                if fruitless >= FRUITLESS_MAX:
                    raise
                self._meter.pause()

    def _missing(self, blocks: int) -> list[int]:
        if self._meter.get(self._ref(_FIRST_MISSING)).integer() >= blocks:
            return []
        status = self._meter.get(self._ref(_BLOCKS_STATUS)).value
        if not isinstance(status, str):
            raise PeerError("the status of the blocks is no bit-string")
        return [number for number in range(blocks) if status[number : number + 1] != "1"]

    def _fits(self, blocks: int) -> bool:
        """Whether the unfinished transfer in the meter can be one of `blocks` blocks."""
        (status,) = self._meter.read_many([self._ref(_BLOCKS_STATUS)])
        bits = None if isinstance(status, Failed) else status.raw.value
        return isinstance(bits, str) and len(bits) == blocks

    # -------------------------------------------------------------------------------------------- verify, activate

    def _verify(self) -> None:
        self._done(_VERIFY, VERIFICATION_SUCCESSFUL, VERIFICATION_FAILED, "the image was not verified")

    def _done(self, method: int, good: int, bad: int, what: str) -> None:
        """Call `method`, and poll the status of a meter that needs time until it is `good` or `bad`.

        Raises `PeerError` with `what` when it becomes `bad`, or neither in time.
        """
        try:
            self._call(method, _NOTHING)
        except TemporaryFailure:
            pass
        else:
            return
        for _ in range(POLLS_MAX):
            status = self.status
            if status == good:
                return
            if status == bad:
                break
            self._sleep(self._poll_interval_s)
        raise PeerError(what)

    def _difference(self, size: int, identifier: bytes, signature: bytes | None) -> str | None:
        """How the image that the meter would activate differs from ours: "" if it does not, None if unknown."""
        (told,) = self._meter.read_many([self._ref(_TO_ACTIVATE)])
        images = [] if isinstance(told, Failed) or not isinstance(told.value, list) else told.value
        named = [image for image in images if isinstance(image, dict)]
        ours = next((image for image in named if image["image_to_activate_identification"] == identifier), None)
        if ours is None:
            return "the meter would activate another image" if named else None
        if ours["image_to_activate_size"] != size:
            return f"the meter has an image of {ours['image_to_activate_size']!r} octets, not {size}"
        theirs = ours["image_to_activate_signature"]
        if signature is None or (isinstance(theirs, bytes) and hmac.compare_digest(theirs, signature)):
            return ""
        return "the image in the meter has another signature"

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(_CLASS, self._obis, attribute)

    def _call(self, method: int, parameters: axdr.Data) -> None:
        self._meter.action(MethodRef(_CLASS, self._obis, method), parameters)
