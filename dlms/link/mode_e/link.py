"""HDLC that begins with the opening of mode E, as one data link: for meters that share a port with others. Sans-IO.

    IDLE        nothing was asked yet
    OPENING     the opening runs, at 300 baud
    PAUSE       the speed is agreed; both sides change to it
    LINKED      HDLC has the line, at that speed
    CLOSED      over

`line` says how the line has to stand for what `take_output` gives next; the driver sets it before it writes. A meter
that does not answer the opening may have been left at its higher speed by a connection that was lost, until its
inactivity timeout: it is asked once more, by HDLC at that speed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from dlms.errors import DlmsError, LinkError, LocalError
from dlms.link.datalink import DataLink, LineHeard, LineSettings, LinkDown, LinkEvent, beside, heard_by
from dlms.link.mode_e.opening import START_BAUDRATE, ModeEOpening, OpeningFailed, SpeedAgreed
from dlms.statemachine import Machine, Transitions


class ModeELinkState(enum.Enum):
    """The states above."""

    IDLE = enum.auto()
    OPENING = enum.auto()
    PAUSE = enum.auto()
    LINKED = enum.auto()
    CLOSED = enum.auto()


class ModeELinkStep(enum.Enum):
    """What moves the link."""

    CONNECT = enum.auto()
    AGREED = enum.auto()
    SWITCHED = enum.auto()  # also to the speed of a connection that was lost
    SEND = enum.auto()
    DISCONNECT = enum.auto()
    END = enum.auto()


_State, _Step = ModeELinkState, ModeELinkStep
MODE_E_LINK_TRANSITIONS: Transitions[ModeELinkState, ModeELinkStep] = Transitions(
    {
        (_State.IDLE, _Step.CONNECT): _State.OPENING,
        (_State.IDLE, _Step.DISCONNECT): _State.CLOSED,
        (_State.IDLE, _Step.END): _State.CLOSED,
        (_State.OPENING, _Step.AGREED): _State.PAUSE,
        (_State.OPENING, _Step.SWITCHED): _State.LINKED,
        (_State.OPENING, _Step.DISCONNECT): _State.CLOSED,
        (_State.OPENING, _Step.END): _State.CLOSED,
        (_State.PAUSE, _Step.SWITCHED): _State.LINKED,
        (_State.PAUSE, _Step.DISCONNECT): _State.CLOSED,
        (_State.PAUSE, _Step.END): _State.CLOSED,
        (_State.LINKED, _Step.SEND): _State.LINKED,
        (_State.LINKED, _Step.DISCONNECT): _State.LINKED,
        (_State.LINKED, _Step.END): _State.CLOSED,
        (_State.CLOSED, _Step.DISCONNECT): _State.CLOSED,
        (_State.CLOSED, _Step.END): _State.CLOSED,
    }
)


class ModeELink(Machine[ModeELinkState, ModeELinkStep, LinkEvent]):
    """A `dlms.link.datalink.DataLink`. `make_link` makes the HDLC link for a speed; `lost_at` is the speed at which a
    meter that does not answer the opening may stand."""

    def __init__(self, opening: ModeEOpening, make_link: Callable[[int], DataLink], *, lost_at: int) -> None:
        super().__init__(_State.IDLE, MODE_E_LINK_TRANSITIONS)
        self._opening = opening
        self._make_link = make_link
        self._lost_at = lost_at
        self._link: DataLink | None = None
        self._agreed: SpeedAgreed | None = None
        self._pause_until = 0.0
        self._opening_heard = LineHeard()
        self._unopened: DlmsError | None = None
        self.line = LineSettings(START_BAUDRATE)

    @property
    def heard(self) -> LineHeard:
        """What came, of the opening until HDLC has the line."""
        return (heard_by(self._link) if self._link else None) or self._opening_heard

    def connect(self, now: float) -> None:
        """Begin the opening. Raises `LocalError` the second time."""
        self._step(_Step.CONNECT)
        self._opening.start(now)

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU. Raises `LocalError` before `LinkUp` or after `LinkDown`."""
        self._step(_Step.SEND)
        self._linked.send(apdu, now)

    def say(self, apdu: bytes, now: float) -> None:
        """Queue one APDU that has no answer. Raises `LocalError` as `send`, and over a link that cannot."""
        self._step(_Step.SEND)
        link = beside(self._link)
        if link is None:
            raise LocalError("this link has no way beside an answer")
        link.say(apdu, now)

    def still_due(self, now: float) -> None:
        """An answer is still to come, as `dlms.link.datalink.SpeaksBeside`."""
        link = beside(self._link)
        if link is not None:
            link.still_due(now)

    def disconnect(self, now: float) -> None:
        """End in order. In the opening there is nothing to take down: the meter listens again by itself."""
        before = self._state
        self._step(_Step.DISCONNECT)
        if before is _State.LINKED:
            self._linked.disconnect(now)
        elif before is not _State.CLOSED:
            self._events.append(LinkDown(None))

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line; in the pause they are of the old speed, and dropped."""
        if self._state is _State.OPENING:
            before = self._opening.echo_octets
            self._opening.receive(data, now)
            echoed = self._opening.echo_octets - before
            self._opening_heard.octets += len(data) - echoed
            self._opening_heard.echoes += echoed > 0
            self._after_opening(now)
        elif self._state is _State.LINKED:
            self._linked.receive(data, now)

    def receive_eof(self, now: float) -> None:
        """The port below is closed for good."""
        if self._state is _State.LINKED:
            self._linked.receive_eof(now)
        elif self._state in (_State.OPENING, _State.PAUSE):
            self._end(LinkError("the connection was closed"))

    def take_output(self) -> bytes:
        """Return the bytes for the line, at the speed of `line`."""
        return (self._opening if self._link is None else self._link).take_output()

    def next_event(self) -> LinkEvent | None:
        """Return the oldest event."""
        if self._link is None or self._events:
            return super().next_event()
        event = self._link.next_event()
        if isinstance(event, LinkDown):
            self._step(_Step.END)
            if event.error is not None and self._unopened is not None and not self.heard.frames:
                return LinkDown(self._unopened)  # neither way: what was tried first says more
        return event

    def next_deadline(self) -> float | None:
        """Return when `on_deadline` is due."""
        if self._state is _State.PAUSE:
            return self._pause_until
        if self._state is _State.OPENING:
            return self._opening.next_deadline()
        return self._link.next_deadline() if self._link is not None else None

    def on_deadline(self, now: float) -> None:
        """Time passed."""
        if self._state is _State.OPENING:
            self._opening.on_deadline(now)
            self._after_opening(now)
        elif self._state is _State.PAUSE and now >= self._pause_until and self._agreed is not None:
            self._switch(self._agreed.baudrate, now)
        elif self._state is _State.LINKED:
            self._linked.on_deadline(now)

    # ---- inside

    @property
    def _linked(self) -> DataLink:
        if self._link is None:
            raise LocalError("no link yet")
        return self._link

    def _after_opening(self, now: float) -> None:
        event = self._opening.next_event()
        if isinstance(event, SpeedAgreed):
            self._opening_heard.frames += 1
            self._step(_Step.AGREED)
            self._agreed = event
            self._pause_until = now + event.pause_s
        elif isinstance(event, OpeningFailed):
            if isinstance(event.error, LinkError):
                self._unopened = event.error
                self._switch(self._lost_at, now)
            else:
                self._end(event.error)

    def _switch(self, baudrate: int, now: float) -> None:
        try:
            link = self._make_link(baudrate)
            link.connect(now)
        except DlmsError as error:
            self._end(error)
            return
        self._step(_Step.SWITCHED)
        self.line = LineSettings(baudrate)
        self._link = link

    def _end(self, error: DlmsError) -> None:
        self._step(_Step.END)
        self._events.append(LinkDown(error))
