"""Firmware transfer to a meter (BB 4.4.6), blocking: the steps of `dlms.client.image_steps` on a meter's services.

When the line fails it is opened again, and only the blocks that the meter still lacks are sent. `resume` continues a
transfer that another program began.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms.axdr import Data
from dlms.client import image_steps
from dlms.client.image_steps import (
    BLOCK,
    IMAGE,
    IMAGE_TRANSFER,
    STATUS,
    TEMPORARY,
    Call,
    Came,
    Image,
    Look,
    Steps,
    Wait,
)
from dlms.client.reading import Failed, TemporaryFailure
from dlms.client.services import MeterServices
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.errors import LinkError

FRUITLESS_MAX = 3  # failures of the line in a row without a block in between

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
        self._sending = False  # the meter has taken the announcement of the image
        self._sent = 0  # blocks, in all

    @property
    def status(self) -> int:
        """image_transfer_status: 0 none, 1 initiated, 3 verified, 4 not verified, 6 activated, 7 not activated."""
        return self._meter.get(self._ref(STATUS)).integer()

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
        the meter still has it. `progress` is called with the number of blocks that the meter has and the total.

        Raises `PeerError` when the meter refuses or the image does not verify, `LinkError` when the line fails for
        good.
        """
        wanted = Image(len(image), identifier, lambda at, length: image[at : at + length], signature)
        fruitless, self._sending = 0, False
        while True:
            before = self._sent
            try:
                self._take(image_steps.transfer(wanted, resume=resume), progress)
                break
            except LinkError:
                fruitless = fruitless + 1 if self._sent == before else 1
                if not self._sending or fruitless >= FRUITLESS_MAX:
                    raise
                resume = True
                self._meter.pause()
        if activate:
            self.activate()

    def activate(self) -> None:
        """Switch to the verified image. Raises `PeerError` when the activation fails.

        A meter may end the session when it activates: the line then fails, and `status` gives the result afterwards.
        """
        self._take(image_steps.activate(), None)

    # ------------------------------------------------------------------------------------------------------- inside

    def _take(self, steps: Steps, progress: Progress | None) -> None:
        """Take all steps. Raises `LinkError`, `PeerError`."""
        came: Came = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration:
                return
            match step:
                case Look(attributes=attributes):
                    came = self._look(attributes)
                case Call():
                    self._sending |= step.method == BLOCK
                    came = self._call(step)
                    if step.method == BLOCK and not came:
                        self._sent += 1
                        if progress is not None:
                            progress(step.have + 1, step.of)
                case Wait():
                    self._sleep(self._poll_interval_s)
                    came = None

    def _look(self, attributes: tuple[int, ...]) -> tuple[Data | str, ...]:
        found: list[Data | str] = []
        for told in self._meter.read_many([self._ref(number) for number in attributes]):
            if isinstance(told, Failed) and isinstance(told.cause, LinkError):
                raise told.cause
            found.append(told.error if isinstance(told, Failed) else told.raw)
        return tuple(found)

    def _call(self, step: Call) -> str:
        """Returns "" or `TEMPORARY`. Raises `ItemFailed` for every other refusal."""
        try:
            self._meter.action(MethodRef(IMAGE_TRANSFER, self._obis, step.method), step.parameters)
        except TemporaryFailure:
            return TEMPORARY
        return ""

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(IMAGE_TRANSFER, self._obis, attribute)
