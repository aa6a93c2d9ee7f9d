"""General block transfer: any APDU in numbered blocks, with windows, and lost blocks sent again (GB 9.3.5.4, 9.4.6.13).

```
E0 control block-number(2) block-number-ack(2) length data      control: 80 last block, 40 streaming, 3F window
```

A sender streams as many blocks as the other side's window allows; the last of them has the streaming bit off, which
gives the turn to the receiver. The receiver answers with a block of its own, empty if it has no data, and acknowledges
the last block that came in order. Whatever follows that number is sent again. After the last block of an APDU nothing
needs to be acknowledged, unless a block before it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlms.codes import Apdu
from dlms.cursor import Cursor, length_octets
from dlms.errors import LocalError, PeerError

LAST, STREAMING, WINDOW_MASK = 0x80, 0x40, 0x3F
WINDOW_DEFAULT = 1
NUMBER_MAX = 0xFFFF
HEAD_OCTETS = 9  # tag, control, two numbers, a length of up to three octets
ASSEMBLED_BYTES_MAX = 4 * 1024 * 1024  # the limit of `dlms.xdlms.exchange`, too
REPEATS_MAX = 8  # repetitions in a row without a block getting through


@dataclass(frozen=True, slots=True)
class GeneralBlock:
    """One general-block-transfer APDU."""

    last: bool
    streaming: bool
    window: int
    number: int
    acknowledged: int
    data: bytes = b""

    def __post_init__(self) -> None:
        if not 0 <= self.window <= WINDOW_MASK:
            raise LocalError(f"a window of {self.window} blocks: 0 to {WINDOW_MASK}")
        if not 0 <= self.number <= NUMBER_MAX or not 0 <= self.acknowledged <= NUMBER_MAX:
            raise LocalError("a block number does not fit two octets")

    def emit(self) -> bytes:
        control = LAST * self.last | STREAMING * self.streaming | self.window
        numbers = self.number.to_bytes(2, "big") + self.acknowledged.to_bytes(2, "big")
        head = bytes((Apdu.GENERAL_BLOCK_TRANSFER, control)) + numbers
        return head + length_octets(len(self.data)) + self.data

    @classmethod
    def parse(cls, apdu: bytes) -> GeneralBlock:
        """Parse the encoded form. Raises `DecodeError`."""
        cursor = Cursor(apdu, "general-block-transfer")
        tag = cursor.u8()
        if tag != Apdu.GENERAL_BLOCK_TRANSFER:
            raise cursor.error(f"0x{tag:02x} is not general-block-transfer", back=1)
        control = cursor.u8()
        number, acknowledged = cursor.u16(), cursor.u16()
        data = cursor.octets()
        cursor.check_end()
        return cls(bool(control & LAST), bool(control & STREAMING), control & WINDOW_MASK, number, acknowledged, data)


class BlockTransfer:
    """Both directions of one association, one APDU at a time. `pdu_size` (octets): the longest APDU the peer takes."""

    def __init__(self, pdu_size: int, window: int = WINDOW_DEFAULT) -> None:
        self._pdu_size = pdu_size
        self._window = window
        self._peer_window = WINDOW_DEFAULT
        self._pieces: list[bytes] = []  # what is being sent
        self._sent_from = 1  # number of the first piece that is not acknowledged
        self._number = 0  # of our last block
        self._first_number = 1  # of the first piece
        self._received = bytearray()
        self._expected = 1
        self._repeats = 0

    @property
    def receiving(self) -> bool:
        """Whether an APDU has arrived in part."""
        return self._expected > 1

    def send(self, apdu: bytes) -> list[bytes]:
        """Start sending `apdu`; return its first blocks. Raises `LocalError` when it is too long even for blocks."""
        size = max(1, self._pdu_size - HEAD_OCTETS)
        self._pieces = [apdu[at : at + size] for at in range(0, len(apdu), size)]
        if self._number + len(self._pieces) > NUMBER_MAX:
            self._number = 0
        if len(self._pieces) > NUMBER_MAX:
            raise LocalError(f"an APDU of {len(apdu)} octets does not fit {NUMBER_MAX} blocks")
        self._first_number = self._sent_from = self._number + 1
        self._number += len(self._pieces)
        self._repeats = 0
        return self._burst()

    def _burst(self) -> list[bytes]:
        first = self._sent_from - self._first_number
        end = min(len(self._pieces), first + max(1, self._peer_window))
        return [
            GeneralBlock(
                last=at == len(self._pieces) - 1,
                streaming=at < end - 1,
                window=self._window,
                number=self._first_number + at,
                acknowledged=self._expected - 1,
                data=self._pieces[at],
            ).emit()
            for at in range(first, end)
        ]

    def receive(self, apdu: bytes) -> tuple[list[bytes], bytes | None]:
        """Take one block; return what to send in answer, and the APDU when this block completed one.

        Raises `DecodeError`, and `PeerError` when the other side asks for the same blocks without end.
        """
        block = GeneralBlock.parse(apdu)
        self._peer_window = block.window or WINDOW_DEFAULT
        if self._pieces and not block.data:
            return self._acknowledged(block.acknowledged), None
        self._pieces = []  # data is an answer: it implies that all our blocks have arrived
        if block.number == self._expected:
            if len(self._received) + len(block.data) > ASSEMBLED_BYTES_MAX:
                raise PeerError(f"an APDU of more than {ASSEMBLED_BYTES_MAX} octets in blocks")
            self._received += block.data
            self._expected += 1
            if block.last:
                complete = bytes(self._received)
                self._received.clear()
                self._expected = 1
                return [], complete
        return ([] if block.streaming else [self._ack()]), None

    def _acknowledged(self, number: int) -> list[bytes]:
        end = self._first_number + len(self._pieces)
        if not self._sent_from - 1 <= number < end:
            raise PeerError(f"block {number} acknowledged where {self._sent_from} to {end - 1} were sent")
        self._repeats = self._repeats + 1 if number == self._sent_from - 1 else 0
        if self._repeats > REPEATS_MAX:
            raise PeerError("the same blocks are asked for again and again")
        self._sent_from = number + 1
        if self._sent_from == end:
            self._pieces = []
            return []
        return self._burst()

    def _ack(self) -> bytes:
        self._number = self._number % NUMBER_MAX + 1
        return GeneralBlock(
            last=True, streaming=False, window=self._window, number=self._number, acknowledged=self._expected - 1
        ).emit()

    def reset(self) -> None:
        """Forget both directions, for a new service."""
        self._pieces = []
        self._received.clear()
        self._expected = 1
        self._number = 0
