"""Image transfer, the meter's side (class 18; BB 4.4.6).

    status                     INITIATE    BLOCK   VERIFY   GOOD   BAD   ACTIVATE   DONE   FAILED
    0 not initiated            1
    1 initiated                1           1       2                     5
    2 verification initiated                                3      4
    3 verification successful  1                   2                     5
    4 verification failed      1                   2
    5 activation initiated                                                          6      7
    6 activation successful    1
    7 activation failed        1                   2

Activating an unverified image verifies it first. Blocks are stored as they arrive, so announcing an image takes no
memory.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import DataAccessResult
from dlms.cosem.obis import Obis, Selection
from dlms.errors import LocalError
from dlms.server.objects import DENIED, DONE, LATER, OTHER_REASON, UNFIT, CosemObject, constant
from dlms.statemachine import Stateful, Transitions
from dlms.xdlms.apdu.common import ActionOutcome, Result

IMAGE_BYTES_MAX = 4 * 1024 * 1024
IDENTIFIER_OCTETS_MAX = 64
BLOCK_OCTETS = 128


class ImageStatus(enum.IntEnum):
    """The attribute `image_transfer_status`."""

    NOT_INITIATED = 0
    INITIATED = 1
    VERIFYING = 2
    VERIFIED = 3
    NOT_VERIFIED = 4
    ACTIVATING = 5
    ACTIVATED = 6
    NOT_ACTIVATED = 7


class ImageEvent(enum.Enum):
    """What changes the status."""

    INITIATE = enum.auto()
    BLOCK = enum.auto()
    VERIFY = enum.auto()
    GOOD = enum.auto()
    BAD = enum.auto()
    ACTIVATE = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


_S, _T = ImageStatus, ImageEvent
IMAGE_TRANSITIONS: Transitions[ImageStatus, ImageEvent] = Transitions(
    {
        (_S.NOT_INITIATED, _T.INITIATE): _S.INITIATED,
        (_S.INITIATED, _T.INITIATE): _S.INITIATED,
        (_S.VERIFIED, _T.INITIATE): _S.INITIATED,
        (_S.NOT_VERIFIED, _T.INITIATE): _S.INITIATED,
        (_S.ACTIVATED, _T.INITIATE): _S.INITIATED,
        (_S.NOT_ACTIVATED, _T.INITIATE): _S.INITIATED,
        (_S.INITIATED, _T.BLOCK): _S.INITIATED,
        (_S.INITIATED, _T.VERIFY): _S.VERIFYING,
        (_S.VERIFIED, _T.VERIFY): _S.VERIFYING,
        (_S.NOT_VERIFIED, _T.VERIFY): _S.VERIFYING,
        (_S.NOT_ACTIVATED, _T.VERIFY): _S.VERIFYING,
        (_S.VERIFYING, _T.GOOD): _S.VERIFIED,
        (_S.VERIFYING, _T.BAD): _S.NOT_VERIFIED,
        (_S.INITIATED, _T.ACTIVATE): _S.ACTIVATING,
        (_S.VERIFIED, _T.ACTIVATE): _S.ACTIVATING,
        (_S.ACTIVATING, _T.DONE): _S.ACTIVATED,
        (_S.ACTIVATING, _T.FAILED): _S.NOT_ACTIVATED,
    }
)


class ImageTransfer(Stateful[ImageStatus, ImageEvent]):
    """Class 18. `verify` checks a complete image; `activated` is called with the image that is activated.

    With `slow_polls`, verification and activation return "temporary failure" and finish after the status has been read
    that many times. The signature in `image_to_activate_info` is the SHA-256 of the image.
    """

    def __init__(
        self,
        *,
        block_octets: int = BLOCK_OCTETS,
        verify: Callable[[bytes], bool] = bool,
        activated: Callable[[bytes], None] | None = None,
        image_max: int = IMAGE_BYTES_MAX,
        slow_polls: int = 0,
        obis: Obis | None = None,
    ) -> None:
        super().__init__(ImageStatus.NOT_INITIATED, IMAGE_TRANSITIONS)
        self.enabled = True
        self.identifier = b""
        self._block_octets = block_octets
        self._verify_image = verify
        self._activated = activated
        self._image_max = image_max
        self._slow_polls = slow_polls
        self._polls_left = 0
        self._size = 0
        self._pieces: dict[int, bytes] = {}
        self.item = CosemObject(
            18,
            obis or Obis.parse("0.0.44.0.0.255"),
            readers={
                2: constant(axdr.u32(block_octets)),
                3: lambda _selection: axdr.bits("".join("01"[at in self._pieces] for at in range(self.blocks))),
                4: lambda _selection: axdr.u32(self._first_missing()),
                5: lambda _selection: axdr.boolean(self.enabled),
                6: self._read_status,
                7: self._to_activate,
            },
            writers={5: self._enable},
            methods={1: self._initiate, 2: self._block, 3: self._verify, 4: self._activate},
        )

    @property
    def blocks(self) -> int:
        """The number of blocks of the announced image."""
        return -(-self._size // self._block_octets)

    @property
    def image(self) -> bytes:
        """The blocks received so far, joined."""
        return b"".join([self._pieces[at] for at in sorted(self._pieces)])

    def forget(self, number: int) -> None:
        """Lose a block that was received, to simulate a fault."""
        self._pieces.pop(number, None)

    def _may(self, step: ImageEvent) -> bool:
        return self.enabled and (self._state, step) in self.transitions

    # ---- attributes

    def _first_missing(self) -> int:
        return next((at for at in range(self.blocks) if at not in self._pieces), self.blocks)

    def _enable(self, value: Data) -> DataAccessResult:
        if not isinstance(value.value, bool):
            return DataAccessResult.TYPE_UNMATCHED
        self.enabled = value.value
        return DataAccessResult.SUCCESS

    def _read_status(self, _selection: Selection | None) -> Result:
        if self._state in (ImageStatus.VERIFYING, ImageStatus.ACTIVATING):
            self._polls_left -= 1
            if self._polls_left < 0:
                self._finish()
        return axdr.enum(self._state)

    def _to_activate(self, _selection: Selection | None) -> Result:
        if self._state is not ImageStatus.VERIFIED:
            return axdr.array([])
        image = self.image
        signature = hashlib.sha256(image).digest()
        return axdr.array([axdr.structure(axdr.u32(len(image)), axdr.octets(self.identifier), axdr.octets(signature))])

    # ---- methods

    def _initiate(self, parameters: Data | None) -> ActionOutcome:
        try:
            identifier, size = parameters.members() if parameters is not None else ()
            name, octets = identifier.octets(), size.integer()
        except (LocalError, ValueError):
            return UNFIT
        if not self._may(ImageEvent.INITIATE) or len(name) > IDENTIFIER_OCTETS_MAX:
            return DENIED
        if not 0 < octets <= self._image_max:
            return DENIED
        self._step(ImageEvent.INITIATE)
        self.identifier, self._size = name, octets
        self._pieces.clear()
        return DONE

    def _block(self, parameters: Data | None) -> ActionOutcome:
        try:
            number, piece = parameters.members() if parameters is not None else ()
            at, data = number.integer(), piece.octets()
        except (LocalError, ValueError):
            return UNFIT
        if not self._may(ImageEvent.BLOCK) or not 0 <= at < self.blocks:
            return DENIED
        if len(data) != min(self._block_octets, self._size - at * self._block_octets):
            return UNFIT
        self._step(ImageEvent.BLOCK)
        self._pieces[at] = data
        return DONE

    def _verify(self, _parameters: Data | None) -> ActionOutcome:
        return self._begin(ImageEvent.VERIFY)

    def _activate(self, _parameters: Data | None) -> ActionOutcome:
        return self._begin(ImageEvent.ACTIVATE)

    def _begin(self, step: ImageEvent) -> ActionOutcome:
        if not self._may(step):
            busy = self._state in (ImageStatus.VERIFYING, ImageStatus.ACTIVATING)
            return LATER if busy else DENIED
        self._step(step)
        self._polls_left = self._slow_polls
        if self._slow_polls:
            return LATER
        self._finish()
        return DONE if self._state in (ImageStatus.VERIFIED, ImageStatus.ACTIVATED) else OTHER_REASON

    def _finish(self) -> None:
        """Finish the verification or activation that was begun."""
        image = self.image
        good = len(self._pieces) == self.blocks and self._verify_image(image)
        if self._state is ImageStatus.VERIFYING:
            self._step(ImageEvent.GOOD if good else ImageEvent.BAD)
            return
        self._step(ImageEvent.DONE if good else ImageEvent.FAILED)
        if good and self._activated is not None:
            self._activated(image)
