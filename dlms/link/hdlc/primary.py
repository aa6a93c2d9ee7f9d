"""HDLC as a data link (IEC 62056-46, 6.4): the client is the primary station, the meter the secondary. Sans-IO.

The primary owns the line and passes the turn: a command with the poll bit (P=1) gives the turn to the secondary, which
keeps it until it sends a frame with the final bit (F=1). The client is always in one of these states:

    IDLE            nothing was asked yet
    CONNECTING      SNRM is out
    READY           connected, and the turn is ours
    WAITING         connected, a command with P=1 is out
    RESTING         connected, the turn is ours, and the meter had nothing to say yet or is busy: it is asked again soon
    DISCONNECTING   DISC is out
    CLOSED          over; `connect` begins anew

Recovery after a lost or damaged frame: when the answer does not come, or comes damaged, the client asks with RR, P=1.
Its N(R) says what the client has, the N(R) of the answer says what the meter has, and both sides send again what the
other is missing. (A command that takes less time on the line than RR is sent again without asking.) Since frames are
numbered, the meter never carries out a request twice.

The link ends with a `LinkError` after `retries` polls in a row without progress, and when an answer takes longer than
`answer_timeout_s`. `dlms.link.hdlc.timer` decides how long the client waits for an answer to begin.

`HdlcServerLink`, the meter's side, is in `dlms.link.hdlc.secondary`.
"""

from __future__ import annotations

import enum

from dlms.errors import DecodeError, DlmsError, LinkError, LocalError, PeerError
from dlms.link.datalink import IN_BLOCKS, ApduReceived, LineHeard, LinkDown, LinkEvent, LinkUp, is_unsolicited
from dlms.link.hdlc.echo import EchoFilter
from dlms.link.hdlc.frames import (
    CONTROLS,
    Control,
    FrameType,
    HdlcAddress,
    HdlcDecoder,
    HdlcFrame,
    HdlcNoise,
    emit_frame,
    information_control,
    supervisory_control,
    unnumbered_control,
)
from dlms.link.hdlc.params import FrameReject, LinkParameters
from dlms.link.hdlc.secondary import HdlcServerLink
from dlms.link.hdlc.timer import ResponseTimer
from dlms.link.hdlc.window import LLC_BYTES, LLC_COMMAND, LLC_RESPONSE, MODULUS, Reassembly, SendWindow
from dlms.link.options import LinkOptions
from dlms.statemachine import Machine, Transitions

__all__ = ["HdlcClientLink", "HdlcServerLink", "State", "Step", "TRANSITIONS"]

# A meter answers within this, counted from the end of our burst and again from every octet; see `dlms.link.hdlc.timer`.
ACK_TIMEOUT_S = 3.0
INTER_OCTET_TIMEOUT_S = 0.3  # far over the standard's 25 ms: serial servers and USB adapters deliver in lumps
ANSWER_TIMEOUT_S = 60.0  # for a meter that acknowledges the request and says "not yet"
POLL_INTERVAL_S = 0.5  # between two polls of such a meter
RETRIES = 4
FRUITLESS_FACTOR = 2  # answers that bring nothing cost less time than missing ones, so more are tolerated
FRUITLESS_AT_ONCE = 2  # after that many, a pause of `poll_interval_s` precedes the next question
BABBLE_TIMEOUTS = 4  # octets without a frame push the deadline at most this many timeouts away
SHORT_FRAME_OCTETS = 9  # RR with one-octet addresses
LONGEST_FRAME_OCTETS = 2060  # with flags and gaps: at `octet_s` each, how long a frame may be on the line


class State(enum.Enum):
    """The state of the client's link, as the text at the head of this module describes it."""

    IDLE = enum.auto()
    CONNECTING = enum.auto()
    READY = enum.auto()
    WAITING = enum.auto()
    RESTING = enum.auto()
    DISCONNECTING = enum.auto()
    CLOSED = enum.auto()


class Step(enum.Enum):
    """What moves the client's link."""

    CONNECT = enum.auto()  # the user connects: SNRM is sent
    SEND = enum.auto()  # the user sends: an APDU is queued
    DISCONNECT = enum.auto()  # the user disconnects
    ACCEPT = enum.auto()  # UA answers SNRM
    ASK = enum.auto()  # a command with P=1 goes out
    TURN = enum.auto()  # F=1 came back
    REST = enum.auto()  # the meter is not ready: wait, then ask
    ENDED = enum.auto()  # UA or DM answers DISC
    FAIL = enum.auto()  # the link is given up


TRANSITIONS: Transitions[State, Step] = Transitions(
    {
        (State.IDLE, Step.CONNECT): State.CONNECTING,
        (State.IDLE, Step.DISCONNECT): State.CLOSED,
        (State.IDLE, Step.FAIL): State.CLOSED,
        (State.CONNECTING, Step.ACCEPT): State.READY,
        (State.CONNECTING, Step.DISCONNECT): State.DISCONNECTING,
        (State.CONNECTING, Step.FAIL): State.CLOSED,
        (State.READY, Step.SEND): State.READY,
        (State.READY, Step.ASK): State.WAITING,
        (State.READY, Step.REST): State.RESTING,
        (State.READY, Step.DISCONNECT): State.DISCONNECTING,
        (State.READY, Step.FAIL): State.CLOSED,
        (State.WAITING, Step.SEND): State.WAITING,
        (State.WAITING, Step.ASK): State.WAITING,
        (State.WAITING, Step.TURN): State.READY,
        (State.WAITING, Step.DISCONNECT): State.DISCONNECTING,
        (State.WAITING, Step.FAIL): State.CLOSED,
        (State.RESTING, Step.SEND): State.RESTING,
        (State.RESTING, Step.ASK): State.WAITING,
        (State.RESTING, Step.DISCONNECT): State.DISCONNECTING,
        (State.RESTING, Step.FAIL): State.CLOSED,
        (State.DISCONNECTING, Step.DISCONNECT): State.DISCONNECTING,
        (State.DISCONNECTING, Step.ENDED): State.CLOSED,
        (State.DISCONNECTING, Step.FAIL): State.CLOSED,
        (State.CLOSED, Step.CONNECT): State.CONNECTING,
        (State.CLOSED, Step.DISCONNECT): State.CLOSED,
        (State.CLOSED, Step.FAIL): State.CLOSED,
    }
)

_CONNECTED = frozenset({State.READY, State.WAITING, State.RESTING})


class HdlcClientLink(Machine[State, Step, LinkEvent]):
    """The primary station: a `dlms.link.datalink.DataLink` from a client SAP to one server address.

    `server_address` is an `HdlcAddress`, a number (upper part alone) or `"upper/lower"`. `info_max` and `window` are
    offered for both directions. Times are seconds; `octet_s` is how long one octet takes on the line (10 / baud rate),
    which keeps the deadlines right on slow lines. `connect_tries` is how often SNRM is sent (`None`: `retries` + 1
    times) and `connect_timeout_s` the longest wait for each answer: for stations that are likely not there.
    """

    def __init__(
        self,
        client: int,
        server_address: HdlcAddress | int | str = 1,
        *,
        info_max: int = 128,
        window: int = 1,
        ack_timeout_s: float = ACK_TIMEOUT_S,
        inter_octet_timeout_s: float = INTER_OCTET_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        poll_interval_s: float = POLL_INTERVAL_S,
        retries: int = RETRIES,
        octet_s: float = 0.0,
        connect_tries: int | None = None,
        connect_timeout_s: float | None = None,
    ) -> None:
        super().__init__(State.IDLE, TRANSITIONS)
        self._connect_retries = retries if connect_tries is None else connect_tries - 1
        self._connect_timeout_s = ack_timeout_s if connect_timeout_s is None else min(connect_timeout_s, ack_timeout_s)
        self.heard = LineHeard()
        self._client = HdlcAddress(client)
        self._server = HdlcAddress.of(server_address)
        self._addresses = self._server.emit() + self._client.emit()
        self._offer = LinkParameters(info_max, info_max, window, window)
        self._ack_timeout_s = ack_timeout_s
        self._inter_octet_timeout_s = inter_octet_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._poll_interval_s = poll_interval_s
        self._retries = retries
        self._octet_s = octet_s
        self._timer = ResponseTimer(ack_timeout_s, octet_s)
        self._echo = EchoFilter(self._client == self._server)
        self._reset(LinkParameters(), 0.0)

    @classmethod
    def from_options(cls, options: LinkOptions) -> HdlcClientLink:
        """A link with the addresses, timeouts and parameters of `options`. Raises `LocalError` where they cannot be."""
        return cls(
            options.client,
            options.server,
            info_max=options.info_max,
            window=options.window,
            ack_timeout_s=options.timeout_s or ACK_TIMEOUT_S,
            octet_s=options.octet_s,
        )

    def _reset(self, agreed: LinkParameters, now: float) -> None:
        self.parameters = agreed
        self._decoder = HdlcDecoder()
        self._send_window = SendWindow(agreed.info_sent, agreed.window_sent)
        self._reassembly = Reassembly()
        self._timeouts = 0  # in a row without progress
        self._fruitless = 0  # answers in a row without progress
        self._burst_frames = 0  # of the last burst
        self._burst_s = 0.0  # its time on the line
        self._blind = False  # the last burst was sent again without asking first
        self._questions = 0  # commands with P=1 since the last burst, its own included
        self._gap = False  # a frame came that is ahead of the next one
        self._answer_due = False  # an APDU went out and none came back yet
        self._peer_busy = False
        self._progress = False  # something new came, or something of ours was acknowledged, since the last P=1
        self._progress_at = now
        self._frame_at = now  # when the last frame came, or the last burst left
        self._last_taken: HdlcFrame | None = None  # the newest I frame
        self._asked_once = False  # UA answers the only SNRM

    # ---- requests of the user

    def connect(self, now: float) -> None:
        """Send SNRM; `LinkUp` or `LinkDown` follows. Raises `LocalError` while the link is in use."""
        self._step(Step.CONNECT)
        self.heard = LineHeard()
        self._timer = ResponseTimer(self._ack_timeout_s, self._octet_s)
        self._echo = EchoFilter(self._client == self._server)
        self._reset(LinkParameters(), now)
        self._send_unnumbered(FrameType.SNRM, self._offer.emit(), now)

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU. Raises `LocalError` before `LinkUp` or after `LinkDown`, or when it is too long."""
        self._queue(apdu)
        self._answer_due = True
        self._progress_at = now
        if self._state is State.READY:
            self._take_turn(now)

    def say(self, apdu: bytes, now: float) -> None:
        """Queue one APDU that has no answer, for the next turn of ours. Raises `LocalError` as `send`."""
        self._queue(apdu)
        if self._state is State.READY:
            self._progress_at = now
            self._take_turn(now)

    def still_due(self, now: float) -> None:
        """An answer is still to come, as `dlms.link.datalink.SpeaksBeside`: the meter is given the turn for it."""
        self._answer_due = self._state in _CONNECTED
        if self._state is State.READY:
            self._take_turn(now)

    def _queue(self, apdu: bytes) -> None:
        if not apdu:
            raise LocalError("an empty APDU")
        self._step(Step.SEND)
        self._send_window.queue(LLC_COMMAND, apdu)

    def poll(self, now: float) -> None:
        """Ask the meter for what it has to say: more blocks, a notification. Without effect while it is being asked."""
        if self._state not in _CONNECTED:
            raise LocalError(f"poll in state {self._state.name}")
        self._progress_at = now
        if self._state is State.READY:
            self._ask_status(now)

    def disconnect(self, now: float) -> None:
        """Send DISC; `LinkDown(None)` follows, at the latest when the meter does not answer."""
        before = self._state
        self._step(Step.DISCONNECT)
        if self._state is State.DISCONNECTING and before is not State.DISCONNECTING:
            self._timeouts = 0
            self._progress_at = now
            self._send_unnumbered(FrameType.DISC, b"", now)
        elif before is State.IDLE:
            self._events.append(LinkDown(None))

    # ---- the sans-IO contract

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line. Never raises for what the peer sent: that becomes an event."""
        if self._state in (State.IDLE, State.CLOSED):
            return
        self._timer.heard(len(data), now)
        self.heard.octets += len(data)
        self._decoder.feed(data)
        self._drain(now)
        self._extend_deadline(now)

    def receive_eof(self, now: float) -> None:
        """The port below is closed for good."""
        del now
        if self._state is not State.CLOSED:
            self._fail(LinkError("the connection was closed"))

    def on_deadline(self, now: float) -> None:
        """Time passed: ask again, or give up."""
        if self._deadline is None or now < self._deadline:
            return
        if self._decoder.pending:
            self._decoder.idle()
            self._drain(now)
            if self._deadline is None or now < self._deadline:
                return
        if self._state is State.RESTING:
            if not self._check_patience(now):
                return
            if self._send_window.sendable and not self._peer_busy:
                self._send_burst(now)
            else:
                self._ask_status(now)
        elif self._state is State.WAITING:
            self._timeouts += self._timer.expired()
            if self._check_patience(now):
                self._ask_again(now)
        elif self._state in (State.CONNECTING, State.DISCONNECTING):
            self._repeat_unnumbered(now)

    # ---- what came in

    def _drain(self, now: float) -> None:
        while (item := self._decoder.next()) is not None:
            if isinstance(item, HdlcNoise):
                continue
            # an RS-485 converter or optical head returns what we sent: that is neither noise nor an answer
            if item.destination == self._server and item.source == self._client and self._echo.is_echo(item):
                self._timer.was_echo()
                self.heard.echoes += 1
                self.heard.octets -= len(emit_frame(self._addresses, item.control, item.info, item.segmented))
                continue
            if item.destination != self._client or item.source != self._server:
                self.heard.others += 1
                continue
            if self._state in (State.IDLE, State.CLOSED):
                continue  # the link ended while older frames were still in the decoder
            self._frame_at = now
            self._timer.answered()
            self.heard.frames += 1
            try:
                self._handle(item, CONTROLS[item.control], now)
            except DlmsError as error:
                self._fail(error)

    def _handle(self, frame: HdlcFrame, control: Control, now: float) -> None:
        if control.type is FrameType.UA:
            self._on_ua(frame, now)
        elif control.type is FrameType.DM:
            self._on_dm()
        elif control.type is FrameType.FRMR:
            if self._state in _CONNECTED or self._state is State.CONNECTING:
                raise PeerError(str(FrameReject.parse(frame.info)))
        elif self._state in _CONNECTED:
            self._on_transfer(frame, control, now)

    def _on_ua(self, frame: HdlcFrame, now: float) -> None:
        if self._state is State.CONNECTING:
            agreed = self._offer.agree(LinkParameters.parse(frame.info))
            asked_once = self._timeouts == 0
            if asked_once and self._timer.learned:
                self.heard.turnaround_s = self._timer.turnaround_s
            self._step(Step.ACCEPT)
            self._reset_after_ua(agreed, now)
            self._asked_once = asked_once
        elif self._state is State.DISCONNECTING:
            self._end()
        elif self._asked_once:
            self.heard.doubles += 1  # one SNRM, two UA

    def _reset_after_ua(self, agreed: LinkParameters, now: float) -> None:
        decoder = self._decoder  # it may hold the beginning of what comes behind the UA
        self._reset(agreed, now)
        self._decoder = decoder
        self._deadline = None
        frame = min(agreed.info_sent, agreed.info_taken) - LLC_BYTES
        burst = min(agreed.info_sent * agreed.window_sent, agreed.info_taken * agreed.window_taken) - LLC_BYTES
        self._events.append(LinkUp(frame, burst, ends_association=True))

    def _on_dm(self) -> None:
        if self._state is State.DISCONNECTING:
            self._end()
        elif self._state is State.CONNECTING:
            raise PeerError("the meter refuses the connection (DM)")
        else:
            raise PeerError("the meter says that it is not connected (DM)")

    def _on_transfer(self, frame: HdlcFrame, control: Control, now: float) -> None:
        """I, RR, RNR, REJ and UI while connected. Commands that only a primary sends are left alone."""
        repeated = news = False
        if control.type is FrameType.UI:
            self._on_unnumbered(frame)
        elif control.type in (FrameType.I, FrameType.RR, FrameType.RNR, FrameType.REJ):
            freed = self._send_window.acknowledge(control.receive_number)
            if freed is None:
                return  # cannot be: a late repetition, or damage that the FCS did not show
            news = freed > 0
            if control.type is FrameType.I:
                new, repeated = self._on_information(frame, control)
                news = news or new
            self._peer_busy = control.type is FrameType.RNR
        else:
            return
        if news:
            self._progress = True
            self._timeouts = self._fruitless = 0
            self._blind = False
            self._progress_at = now
        if control.poll_final and self._state is State.WAITING and (self._progress or not repeated):
            self._on_final(now)

    def _on_unnumbered(self, frame: HdlcFrame) -> None:
        """A UI frame: never the answer that is waited for, and nothing that the conversation depends on. One that is a
        part of a message, by segmentation or in blocks, is not for the association."""
        apdu = frame.info[LLC_BYTES:]
        if frame.segmented or not apdu or frame.info[:LLC_BYTES] not in (LLC_RESPONSE, LLC_COMMAND):
            return
        if apdu[0] != IN_BLOCKS:
            self._events.append(ApduReceived(apdu))

    def _on_information(self, frame: HdlcFrame, control: Control) -> tuple[bool, bool]:
        """Take one I frame; whether it is the next one, and whether it is an old one again.

        The last command told the meter what had arrived, so an old frame answers an earlier command.
        """
        ahead = (control.send_number - self._reassembly.receive_number) % MODULUS
        last = self._last_taken
        if last is not None and ahead == MODULUS - 1 and (frame.info, frame.segmented) != (last.info, last.segmented):
            self.heard.contradictions += 1
            self.heard.doubles += 1  # the number of the newest frame, but not what was in it: somebody else's
        new, whole = self._reassembly.accept(control.send_number, frame.info, frame.segmented)
        if new:
            self._last_taken = frame
        if whole is not None:
            self._deliver(whole)
        if not new and ahead < self.parameters.window_taken:
            self._gap = True
        return new, not new and not self._gap

    def _deliver(self, data: bytes) -> None:
        if data[:LLC_BYTES] not in (LLC_RESPONSE, LLC_COMMAND):
            raise DecodeError("LLC header", 0, f"{data[:LLC_BYTES].hex()} instead of {LLC_RESPONSE.hex()}")
        apdu = data[LLC_BYTES:]
        if not apdu:
            raise DecodeError("APDU", LLC_BYTES, "nothing behind the LLC header")
        # Behind a notification the answer is still to come, and the meter has to be given the turn for it.
        self._answer_due = self._answer_due and is_unsolicited(apdu)
        self._events.append(ApduReceived(apdu))

    def _on_final(self, now: float) -> None:
        """The turn came back, unless the answer is late."""
        refused = self._send_window.unacknowledged and not self._progress and not self._peer_busy
        at_once = self._questions == 1  # nothing was asked since the burst
        if refused and at_once and self._burst_frames == 1:
            # A meter that has the frame acknowledges it, and one that lost it does not answer it at all. So this
            # answers something older, that we had given up.
            return
        self._step(Step.TURN)
        if not self._progress and (refused or self._reassembly.inside or self._gap):
            self._fruitless += 1
        if not self._check_patience(now):
            return
        if self._fruitless > FRUITLESS_AT_ONCE:
            self._send_window.rewind()
            self._rest(now)  # answers to older questions may be all over the line: let them pass
        elif refused and at_once:
            self._ask_status(now)  # late or true: the answer to this one tells
        else:
            self._send_window.rewind()
            self._take_turn(now)

    # ---- the turn is ours

    def _take_turn(self, now: float) -> None:
        """Send what there is to send, ask for what is missing, or stay READY."""
        if self._peer_busy:
            self._rest(now)
        elif self._send_window.sendable:
            self._send_burst(now)
        elif self._reassembly.inside or self._gap:
            self._ask_status(now)
        elif self._answer_due:
            self._rest(now)
        else:
            self._deadline = None

    def _rest(self, now: float) -> None:
        self._step(Step.REST)
        self._deadline = now + self._poll_interval_s

    def _send_burst(self, now: float, *, again: bool = False) -> None:
        frames = self._send_window.burst()
        self._burst_frames = len(frames)
        self._questions = 0
        for index, (number, segment) in enumerate(frames):
            last = index == len(frames) - 1
            control = information_control(number, self._reassembly.receive_number, poll_final=last)
            self._emit(control, segment.info, segmented=segment.more)
        self._burst_s = len(self._output) * self._octet_s
        self._ask(now, again=again)

    def _ask_again(self, now: float) -> None:
        """No answer came: was the command lost, or the answer? RR asks; where that takes clearly longer than the
        command itself, the command is sent again at once, which the meter answers either way: it knows the number.
        Once only."""
        question_s = 3 * SHORT_FRAME_OCTETS * self._octet_s + self._timer.turnaround_s
        once = self._questions == 1 and self._burst_frames == 1 and not self._blind
        if once and self._octet_s and self._timer.silent and 3 * self._burst_s <= 2 * question_s:
            self._blind = True
            self._send_window.rewind()
            self._send_burst(now, again=True)
        else:
            self._ask_status(now, again=True)

    def _ask_status(self, now: float, *, again: bool = False) -> None:
        control = supervisory_control(FrameType.RR, self._reassembly.receive_number, poll_final=True)
        self._emit(control)
        self._ask(now, again=again)

    def _emit(self, control: int, info: bytes = b"", *, segmented: bool = False) -> None:
        self._output += emit_frame(self._addresses, control, info, segmented)
        self._echo.sent(control, info)

    def _ask(self, now: float, *, again: bool = False) -> None:
        """A command with P=1 is in the output."""
        self._step(Step.ASK)
        self._questions += 1
        self._progress = False
        self._peer_busy = False
        self._gap = False
        self._start_waiting(now, again=again)

    def _start_waiting(self, now: float, *, again: bool) -> None:
        self._frame_at = self._timer.asked(len(self._output), now, again=again)
        self._deadline = self._frame_at + self._wait_s

    @property
    def _wait_s(self) -> float:
        """How long to wait for the first octet of the answer."""
        wait_s = self._timer.wait_s
        return min(wait_s, self._connect_timeout_s) if self._state is State.CONNECTING else wait_s

    def _extend_deadline(self, now: float) -> None:
        """Octets are coming: wait for the end of them, but not for ever: neither for a babbling line nor for a station
        that sends one good frame after another and none that helps."""
        if self._deadline is None or self._state is State.RESTING:
            return
        pause = self._wait_s
        if self._decoder.pending or self._decoder.broken:
            pause = min(pause, self._inter_octet_timeout_s)
        babble = self._ack_timeout_s * BABBLE_TIMEOUTS + LONGEST_FRAME_OCTETS * self._octet_s
        patience = self._progress_at + self._answer_timeout_s
        self._deadline = min(max(now, self._frame_at) + pause, self._frame_at + babble, max(now, patience))

    # ---- giving up

    def _check_patience(self, now: float) -> bool:
        """Whether to go on; otherwise the link is down."""
        if self._timeouts > self._retries or self._fruitless > FRUITLESS_FACTOR * self._retries:
            silent, empty = self._timeouts, self._fruitless
            text = f"no progress with {self._server}: {silent} answers missing, {empty} without news"
            self._fail(LinkError(text))
            return False
        if now - self._progress_at >= self._answer_timeout_s:
            self._fail(LinkError(f"{self._server} gave no answer in {self._answer_timeout_s:g} s"))
            return False
        return True

    def _send_unnumbered(self, kind: FrameType, info: bytes, now: float, *, again: bool = False) -> None:
        self._emit(unnumbered_control(kind, poll_final=True), info)
        self._start_waiting(now, again=again)

    def _repeat_unnumbered(self, now: float) -> None:
        """SNRM or DISC was not answered."""
        self._timeouts += self._timer.expired()
        connecting = self._state is State.CONNECTING
        if self._timeouts <= (self._connect_retries if connecting else self._retries):
            kind = FrameType.SNRM if connecting else FrameType.DISC
            self._send_unnumbered(kind, self._offer.emit() if connecting else b"", now, again=True)
        elif connecting:
            self._fail(LinkError(f"{self._server} does not answer"))
        else:
            self._end()  # the meter is gone or has forgotten us: either way the link is over

    def _end(self) -> None:
        self._step(Step.ENDED)
        self._deadline = None
        self._events.append(LinkDown(None))

    def _fail(self, error: DlmsError) -> None:
        self._step(Step.FAIL)
        self._deadline = None
        self._events.append(LinkDown(error))
