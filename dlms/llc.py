"""The data link over a PLC bridge: one LSDU of IEC 61334-4-32 is one APDU.

The service access points travel beside the LSDU, in the bridge's own primitives, so there is no header here. The base
node repeats on the power line and confirms; nothing is repeated above it, because a packet that was not confirmed may
have arrived. What is left for this link: an answer that does not come in time ends it with a `LinkError`.
"""

from __future__ import annotations

import enum
from collections import deque

from dlms.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.errors import DlmsError, LinkError, LocalError

LSDU_BYTES_MAX = 1021  # what DL_DATA.req carries
# A base node may take 40 s to confirm a request behind others, and the answer has the same way to go.
ANSWER_TIMEOUT_S = 60.0


class LlcState(enum.Enum):
    """IDLE until `connect`, UP while APDUs flow, CLOSED for good."""

    IDLE = enum.auto()
    UP = enum.auto()
    CLOSED = enum.auto()


class LlcStep(enum.Enum):
    """What moves the link."""

    CONNECT = enum.auto()
    SEND = enum.auto()
    DISCONNECT = enum.auto()
    FAIL = enum.auto()


LLC_TRANSITIONS: dict[tuple[LlcState, LlcStep], LlcState] = {
    (LlcState.IDLE, LlcStep.CONNECT): LlcState.UP,
    (LlcState.IDLE, LlcStep.DISCONNECT): LlcState.CLOSED,
    (LlcState.IDLE, LlcStep.FAIL): LlcState.CLOSED,
    (LlcState.UP, LlcStep.SEND): LlcState.UP,
    (LlcState.UP, LlcStep.DISCONNECT): LlcState.CLOSED,
    (LlcState.UP, LlcStep.FAIL): LlcState.CLOSED,
    (LlcState.CLOSED, LlcStep.DISCONNECT): LlcState.CLOSED,
    (LlcState.CLOSED, LlcStep.FAIL): LlcState.CLOSED,
}


class LlcLink:
    """A `dlms.datalink.DataLink` for packets, for both sides. `receive` takes one LSDU, `take_output` gives one a call
    and `b""` when there is none.

    `client` and `server` are the LSAPs that the caller hands to the bridge's channel; they are kept for its use.
    A meter's side passes `answer_timeout_s=None`: it waits for ever.
    """

    def __init__(
        self,
        client: int,
        server: int,
        *,
        answer_timeout_s: float | None = ANSWER_TIMEOUT_S,
        lsdu_bytes_max: int = LSDU_BYTES_MAX,
    ) -> None:
        self.client = client
        self.server = server
        self._answer_timeout_s = answer_timeout_s
        self._lsdu_bytes_max = lsdu_bytes_max
        self._state = LlcState.IDLE
        self._output: deque[bytes] = deque()
        self._events: deque[LinkEvent] = deque()
        self._deadline: float | None = None

    @property
    def state(self) -> LlcState:
        """Where the link is."""
        return self._state

    def connect(self, now: float) -> None:
        """The node is in the network already, so `LinkUp` follows at once."""
        del now
        self._step(LlcStep.CONNECT)
        self._events.append(LinkUp(self._lsdu_bytes_max, apdu_bytes_max=self._lsdu_bytes_max, may_repeat=True))

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU. Raises `LocalError` before `LinkUp` or after `LinkDown`, or when it is too long."""
        if not apdu or len(apdu) > self._lsdu_bytes_max:
            raise LocalError(f"APDU of {len(apdu)} bytes: 1 to {self._lsdu_bytes_max}")
        self._step(LlcStep.SEND)
        self._output.append(apdu)
        if self._answer_timeout_s is not None:
            self._deadline = now + self._answer_timeout_s

    def disconnect(self, now: float) -> None:
        """`LinkDown(None)` follows at once."""
        del now
        before = self._state
        self._step(LlcStep.DISCONNECT)
        self._deadline = None
        if before is not LlcState.CLOSED:
            self._events.append(LinkDown(None))

    def receive(self, data: bytes, now: float) -> None:
        """One LSDU from the node."""
        del now
        if self._state is LlcState.UP and data:
            self._deadline = None
            self._events.append(ApduReceived(data))

    def receive_eof(self, now: float) -> None:
        """The bridge is gone."""
        del now
        self._fail(LinkError("the bridge was closed"))

    def packet_failed(self, why: str) -> None:
        """The bridge says that a packet was not delivered: the link ends with a `LinkError`."""
        self._fail(LinkError(why))

    def take_output(self) -> bytes:
        """The next LSDU for the node, `b""` when there is none."""
        return self._output.popleft() if self._output else b""

    def next_event(self) -> LinkEvent | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        return self._deadline

    def on_deadline(self, now: float) -> None:
        """Time passed: give up when the answer did not come."""
        if self._deadline is not None and self._deadline <= now:
            self._fail(LinkError("no answer in time"))

    def _fail(self, error: DlmsError) -> None:
        before = self._state
        self._step(LlcStep.FAIL)
        self._deadline = None
        if before is not LlcState.CLOSED:
            self._output.clear()
            self._events.append(LinkDown(error))

    def _step(self, step: LlcStep) -> None:
        target = LLC_TRANSITIONS.get((self._state, step))
        if target is None:
            raise LocalError(f"{step.name.lower()} in state {self._state.name}")
        self._state = target
