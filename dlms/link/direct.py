"""Links whose transport is connected already (the wrapper, the LLC of a PLC bridge): what they share.

The transport below connects, repeats and orders; one thing is added here: an answer that does not come in time ends the
link with a `LinkError`. Nothing is sent twice, because over packets nobody could tell a repeated ACTION from a new one.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import ClassVar

from dlms.errors import DlmsError, LinkError, LocalError
from dlms.link.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp, is_unsolicited
from dlms.statemachine import Machine, Transitions


class DirectState(enum.Enum):
    """IDLE until `connect`, UP while APDUs flow, CLOSED for good."""

    IDLE = enum.auto()
    UP = enum.auto()
    CLOSED = enum.auto()


class DirectStep(enum.Enum):
    """What moves the link."""

    CONNECT = enum.auto()
    SEND = enum.auto()
    DISCONNECT = enum.auto()
    FAIL = enum.auto()


DIRECT_TRANSITIONS: Transitions[DirectState, DirectStep] = Transitions(
    {
        (DirectState.IDLE, DirectStep.CONNECT): DirectState.UP,
        (DirectState.IDLE, DirectStep.DISCONNECT): DirectState.CLOSED,
        (DirectState.IDLE, DirectStep.FAIL): DirectState.CLOSED,
        (DirectState.UP, DirectStep.SEND): DirectState.UP,
        (DirectState.UP, DirectStep.DISCONNECT): DirectState.CLOSED,
        (DirectState.UP, DirectStep.FAIL): DirectState.CLOSED,
        (DirectState.CLOSED, DirectStep.DISCONNECT): DirectState.CLOSED,
        (DirectState.CLOSED, DirectStep.FAIL): DirectState.CLOSED,
    }
)


class DirectLink(Machine[DirectState, DirectStep, LinkEvent]):
    """A `dlms.link.datalink.DataLink`. Subclasses say how an APDU is framed, and take it out of its frame.

    `answer_timeout_s` None waits for ever: the meter's side.
    """

    ENDED: ClassVar[str] = "the connection was closed"

    def __init__(self, apdu_bytes_max: int, *, packet: bool, answer_timeout_s: float | None) -> None:
        super().__init__(DirectState.IDLE, DIRECT_TRANSITIONS)
        self._apdu_bytes_max = apdu_bytes_max
        self._packet = packet
        self._answer_timeout_s = answer_timeout_s
        self._packets: deque[bytes] = deque()

    def connect(self, now: float) -> None:
        """The transport is there already, so `LinkUp` follows at once. Raises `LocalError` the second time."""
        del now
        self._step(DirectStep.CONNECT)
        longest = self._apdu_bytes_max
        self._events.append(LinkUp(longest, apdu_bytes_max=longest, may_repeat=self._packet))

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU. Raises `LocalError` before `LinkUp` or after `LinkDown`, or when it is too long."""
        self.say(apdu, now)
        self.still_due(now)

    def still_due(self, now: float) -> None:
        """An answer is still to come, as `dlms.link.datalink.SpeaksBeside`."""
        if self._answer_timeout_s is not None and self._state is DirectState.UP:
            self._deadline = now + self._answer_timeout_s

    def say(self, apdu: bytes, now: float) -> None:
        """Queue one APDU that has no answer, beside what waits for one. Raises `LocalError` as `send`."""
        del now
        if not apdu or len(apdu) > self._apdu_bytes_max:
            raise LocalError(f"APDU of {len(apdu)} bytes: 1 to {self._apdu_bytes_max}")
        self._step(DirectStep.SEND)
        self._packets.append(self._frame(apdu))

    def disconnect(self, now: float) -> None:
        """`LinkDown(None)` follows at once; closing the transport is the driver's."""
        del now
        self._leave(DirectStep.DISCONNECT, None)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from a stream, or one whole packet. Never raises for what the peer sent."""
        del now
        if self._state is DirectState.UP and data:
            self._take(data)

    def receive_eof(self, now: float) -> None:
        """The transport is closed for good."""
        del now
        self._fail(LinkError(self.ENDED))

    def take_output(self) -> bytes:
        """Bytes for the transport; over packets one per call."""
        if self._packet:
            return self._packets.popleft() if self._packets else b""
        output = b"".join(self._packets)
        self._packets.clear()
        return output

    def on_deadline(self, now: float) -> None:
        """Time passed: give up when the answer did not come."""
        if self._deadline is not None and self._deadline <= now:
            self._fail(LinkError("no answer in time"))

    def _frame(self, apdu: bytes) -> bytes:
        return apdu

    def _take(self, data: bytes) -> None:
        self._deliver(data)

    def _deliver(self, apdu: bytes) -> None:
        if not is_unsolicited(apdu):
            self._deadline = None
        self._events.append(ApduReceived(apdu))

    def _fail(self, error: DlmsError) -> None:
        self._packets.clear()
        self._leave(DirectStep.FAIL, error)

    def _leave(self, step: DirectStep, error: DlmsError | None) -> None:
        before = self._state
        self._step(step)
        self._deadline = None
        if before is not DirectState.CLOSED:
            self._events.append(LinkDown(error))
