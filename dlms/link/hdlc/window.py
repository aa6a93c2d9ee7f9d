"""The two halves that both HDLC stations share: what is sent and not acknowledged, and what is received in order.

Numbers run modulo 8 (N(S), N(R), V(S), V(R) of ISO/IEC 13239), so at most seven frames may be unacknowledged.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dlms.errors import LinkError, LocalError

MODULUS = 8
APDU_BYTES_MAX = 65536  # longest APDU sent or put together: PDU sizes are 16-bit numbers
QUEUED_BYTES_MAX = 4 * APDU_BYTES_MAX

LLC_COMMAND = bytes.fromhex("e6e600")  # client to server
LLC_RESPONSE = bytes.fromhex("e6e700")  # server to client
LLC_BYTES = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """The information field of one I frame; `more` is the segmentation bit."""

    info: bytes
    more: bool


class SendWindow:
    """APDUs cut into segments, sent in bursts of at most `window`, kept until acknowledged, sent again on `rewind`."""

    def __init__(self, info_max: int, window: int) -> None:
        self._info_max = info_max
        self._window = window
        self._segments: deque[Segment] = deque()  # unacknowledged first, then unsent
        self._queued_bytes = 0
        self._base = 0  # number of the first segment
        self._sent = 0  # of the segments, how many went out since the last rewind
        self._sent_max = 0  # how many ever went out: that many may be acknowledged

    def queue(self, llc: bytes, apdu: bytes) -> None:
        """Add one APDU with its LLC header. Raises `LocalError` over the limits."""
        if len(apdu) > APDU_BYTES_MAX or self._queued_bytes + len(apdu) > QUEUED_BYTES_MAX:
            raise LocalError(f"APDU of {len(apdu)} bytes: too long, or too many are waiting")
        data = llc + apdu
        for start in range(0, len(data), self._info_max):
            end = start + self._info_max
            self._segments.append(Segment(data[start:end], end < len(data)))
        self._queued_bytes += len(data)

    @property
    def unacknowledged(self) -> bool:
        """Whether something was sent that the peer did not acknowledge."""
        return self._sent_max > 0

    @property
    def sendable(self) -> bool:
        """Whether `burst` would give something."""
        return self._sent < min(len(self._segments), self._window)

    @property
    def send_number(self) -> int:
        """V(S): the number of the next frame."""
        return (self._base + self._sent) % MODULUS

    def burst(self) -> list[tuple[int, Segment]]:
        """What may go out now, with its numbers; counted as sent."""
        end = min(len(self._segments), self._window)
        frames = [((self._base + index) % MODULUS, self._segments[index]) for index in range(self._sent, end)]
        self._sent = end
        self._sent_max = max(self._sent_max, end)
        return frames

    def acknowledge(self, receive_number: int) -> int | None:
        """The peer has everything before `receive_number`: how many segments that frees, `None` when it cannot be."""
        count = (receive_number - self._base) % MODULUS
        if count > self._sent_max:
            return None
        for _ in range(count):
            self._queued_bytes -= len(self._segments.popleft().info)
        self._base = receive_number
        self._sent = max(0, self._sent - count)
        self._sent_max -= count
        return count

    def rewind(self) -> None:
        """Send everything unacknowledged again in the next bursts."""
        self._sent = 0


class Reassembly:
    """Takes I frames in order, drops repeated and out-of-order ones, and gives whole APDUs."""

    def __init__(self) -> None:
        self.receive_number = 0  # V(R)
        self._parts: list[bytes] = []
        self._bytes = 0

    @property
    def inside(self) -> bool:
        """Whether an APDU has begun and not ended."""
        return bool(self._parts)

    def accept(self, send_number: int, info: bytes, more: bool) -> tuple[bool, bytes | None]:
        """One I frame: whether it was the next one, and the APDU with its LLC header if this ended it.

        Raises `LinkError` when the APDU grows over the limit.
        """
        if send_number != self.receive_number:
            return False, None
        self.receive_number = (self.receive_number + 1) % MODULUS
        self._bytes += len(info) or 1  # what brings nothing has an end too
        if self._bytes > APDU_BYTES_MAX + LLC_BYTES:
            raise LinkError(f"an APDU of more than {APDU_BYTES_MAX} bytes arrives")
        if info or not self._parts:  # empty segments without end are not kept
            self._parts.append(info)
        if more:
            return True, None
        whole = b"".join(self._parts)
        self._parts.clear()
        self._bytes = 0
        return True, whole
