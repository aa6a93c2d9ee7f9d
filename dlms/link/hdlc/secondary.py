"""The meter's side of HDLC (IEC 62056-46, 6.4): the secondary station, which speaks only when it has the turn.

    DISCONNECTED    SNRM is answered with UA, DISC and everything else with DM
    CONNECTED       I and RR are accepted; P=1 gives us the turn until a frame with F=1 goes out
    REJECTING       an impossible frame came: FRMR answers everything but SNRM and DISC
    CLOSED          the port is gone

The answer to a request is put into the burst that gives the turn back, so the application has `answer_s` to bring it.
When it does not, RR with F=1 goes out and the client asks again later.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

from dlms.errors import DecodeError, DlmsError, LinkError, LocalError, PeerError
from dlms.link.datalink import ApduReceived, LinkDown, LinkEvent, LinkUp
from dlms.link.hdlc.frames import (
    BROADCAST_UPPER,
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
from dlms.link.hdlc.window import LLC_BYTES, LLC_COMMAND, LLC_RESPONSE, Reassembly, SendWindow
from dlms.statemachine import Machine, Transitions

ANSWER_S = 0.5  # shorter than any client's patience
INTER_OCTET_TIMEOUT_S = 0.3


class ServerState(enum.Enum):
    """The state of the meter's link, as the text at the head of this module describes it."""

    DISCONNECTED = enum.auto()
    CONNECTED = enum.auto()
    REJECTING = enum.auto()
    CLOSED = enum.auto()


class ServerStep(enum.Enum):
    """What moves the meter's link."""

    SET_MODE = enum.auto()  # SNRM came
    LEAVE = enum.auto()  # DISC arrived, the user disconnects, or nothing arrived for too long
    SEND = enum.auto()  # the user sends: an APDU is queued
    REJECT = enum.auto()  # a frame came that cannot be
    EOF = enum.auto()


SERVER_TRANSITIONS: Transitions[ServerState, ServerStep] = Transitions(
    {
        (ServerState.DISCONNECTED, ServerStep.SET_MODE): ServerState.CONNECTED,
        (ServerState.DISCONNECTED, ServerStep.LEAVE): ServerState.DISCONNECTED,
        (ServerState.DISCONNECTED, ServerStep.EOF): ServerState.CLOSED,
        (ServerState.CONNECTED, ServerStep.SET_MODE): ServerState.CONNECTED,
        (ServerState.CONNECTED, ServerStep.LEAVE): ServerState.DISCONNECTED,
        (ServerState.CONNECTED, ServerStep.SEND): ServerState.CONNECTED,
        (ServerState.CONNECTED, ServerStep.REJECT): ServerState.REJECTING,
        (ServerState.CONNECTED, ServerStep.EOF): ServerState.CLOSED,
        (ServerState.REJECTING, ServerStep.SET_MODE): ServerState.CONNECTED,
        (ServerState.REJECTING, ServerStep.LEAVE): ServerState.DISCONNECTED,
        (ServerState.REJECTING, ServerStep.EOF): ServerState.CLOSED,
        (ServerState.CLOSED, ServerStep.LEAVE): ServerState.CLOSED,
        (ServerState.CLOSED, ServerStep.EOF): ServerState.CLOSED,
    }
)


class HdlcServerLink(Machine[ServerState, ServerStep, LinkEvent]):
    """The secondary station: a `dlms.link.datalink.DataLink` that waits for its client. `LinkUp` comes with each SNRM.

    `address` and `aliases` are heard; answers carry the address that was called. `client` is the SAP of the client that
    is connected. Frames of other addresses on the bus are left alone.
    """

    def __init__(
        self,
        address: HdlcAddress | int | str = 1,
        *,
        aliases: Collection[HdlcAddress | int | str] = (),
        info_max: int = 128,
        window: int = 1,
        answer_s: float = ANSWER_S,
        inter_octet_timeout_s: float = INTER_OCTET_TIMEOUT_S,
        inactivity_timeout_s: float | None = None,
    ) -> None:
        super().__init__(ServerState.DISCONNECTED, SERVER_TRANSITIONS)
        self._heard = frozenset(HdlcAddress.of(value) for value in (address, *aliases))
        self._offer = LinkParameters(info_max, info_max, window, window)
        self._answer_s = answer_s
        self._inter_octet_timeout_s = inter_octet_timeout_s
        self._inactivity_timeout_s = inactivity_timeout_s
        self._decoder = HdlcDecoder()
        self._gap_deadline: float | None = None
        self._quiet_deadline: float | None = None
        self._peer: HdlcAddress | None = None
        self._addresses = b""
        self._reset(LinkParameters())

    def _reset(self, agreed: LinkParameters) -> None:
        self.parameters = agreed
        self._send_window = SendWindow(agreed.info_sent, agreed.window_sent)
        self._reassembly = Reassembly()
        self._turn = False  # P=1 came and F=1 did not go yet
        self._turn_deadline: float | None = None
        self._client_busy = False
        self._reject: FrameReject | None = None

    @property
    def client(self) -> int | None:
        """SAP of the client that is connected, or was last."""
        return self._peer.upper if self._peer else None

    # ---- requests of the user

    def connect(self, now: float) -> None:
        """A secondary waits: there is nothing to do. Raises `LocalError` when the port is gone."""
        del now
        if self._state is ServerState.CLOSED:
            raise LocalError("the port is closed")

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU for the next turn. Raises `LocalError` without a connection, or when it is too long."""
        del now
        if not apdu:
            raise LocalError("an empty APDU")
        self._step(ServerStep.SEND)
        self._send_window.queue(LLC_RESPONSE, apdu)
        if self._turn:
            self._turn_deadline = None  # `take_output` gives the turn back, with everything that is queued by then

    def disconnect(self, now: float) -> None:
        """Forget the connection; the client learns it from DM when it speaks next."""
        del now
        self._leave(None)

    # ---- the sans-IO contract

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line. Never raises for what the peer sent."""
        if self._state is ServerState.CLOSED:
            return
        self._decoder.feed(data)
        self._drain(now)
        self._gap_deadline = now + self._inter_octet_timeout_s if self._decoder.pending else None

    def receive_eof(self, now: float) -> None:
        """The port below is closed for good."""
        del now
        before = self._state
        self._step(ServerStep.EOF)
        self._turn = False
        if before is not ServerState.CLOSED:
            self._events.append(LinkDown(LinkError("the connection was closed")))

    def take_output(self) -> bytes:
        """All bytes for the line since the last call; gives the turn back when an answer is queued."""
        if self._turn and self._turn_deadline is None and self._state is ServerState.CONNECTED:
            self._give_turn_back()
        return super().take_output()

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        deadlines = (self._gap_deadline, self._turn_deadline, self._quiet_deadline)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_deadline(self, now: float) -> None:
        """Time passed."""
        if self._gap_deadline is not None and self._gap_deadline <= now:
            self._gap_deadline = None
            self._decoder.idle()
            self._drain(now)
        if self._turn_deadline is not None and self._turn_deadline <= now:
            self._turn_deadline = None  # no answer in time: RR with F=1
        if self._quiet_deadline is not None and self._quiet_deadline <= now:
            self._leave(LinkError("the client was silent for too long"))

    # ---- what came in

    def _drain(self, now: float) -> None:
        while (item := self._decoder.next()) is not None:
            if isinstance(item, HdlcNoise):
                continue
            if item.destination in self._heard and item.source.lower is None:
                self._handle(item, CONTROLS[item.control], now)
            elif item.destination.upper in BROADCAST_UPPER and self._state is ServerState.CONNECTED:
                if CONTROLS[item.control].type is FrameType.UI:
                    self._deliver(item.info)

    def _handle(self, frame: HdlcFrame, control: Control, now: float) -> None:
        if control.type is FrameType.SNRM:
            self._on_snrm(frame, now)
            return
        mine = self._state is not ServerState.DISCONNECTED and frame.source == self._peer
        if not mine:
            self._refuse(frame, control)
            return
        if self._inactivity_timeout_s is not None:
            self._quiet_deadline = now + self._inactivity_timeout_s
        self._addresses = frame.source.emit() + frame.destination.emit()
        if control.type is FrameType.DISC:
            self._leave(None)
            self._emit_unnumbered(FrameType.UA)
        elif self._state is ServerState.REJECTING:
            self._repeat_reject(control)
        else:
            self._on_transfer(frame, control, now)

    def _refuse(self, frame: HdlcFrame, control: Control) -> None:
        """A client that is not connected speaks."""
        if control.poll_final and control.type is not FrameType.UI:
            addresses = frame.source.emit() + frame.destination.emit()
            self._output += emit_frame(addresses, unnumbered_control(FrameType.DM, poll_final=True))

    def _on_snrm(self, frame: HdlcFrame, now: float) -> None:
        self._addresses = frame.source.emit() + frame.destination.emit()
        try:
            agreed = self._offer.agree(LinkParameters.parse(frame.info))
        except DecodeError:
            self._refuse(frame, CONTROLS[frame.control])
            return
        if self._state is not ServerState.DISCONNECTED:
            self._events.append(LinkDown(None))
        self._step(ServerStep.SET_MODE)
        self._reset(agreed)
        self._peer = frame.source
        if self._inactivity_timeout_s is not None:
            self._quiet_deadline = now + self._inactivity_timeout_s
        info = agreed.emit_full() if frame.info else agreed.emit()
        self._output += emit_frame(self._addresses, unnumbered_control(FrameType.UA, poll_final=True), info)
        self._events.append(LinkUp(min(agreed.info_sent, agreed.info_taken) - LLC_BYTES))

    def _on_transfer(self, frame: HdlcFrame, control: Control, now: float) -> None:
        if control.type is FrameType.UI:
            self._deliver(frame.info)
            return
        reasons = self._why_not(frame, control)
        if reasons:
            self._start_reject(control, frame.control, reasons)
            return
        if control.type in (FrameType.UA, FrameType.DM, FrameType.FRMR):
            return  # responses: an echo of the line
        self._client_busy = control.type is FrameType.RNR
        new = control.type is FrameType.I and self._on_information(frame, control)
        if control.poll_final:
            self._take_turn(now, waits=new)

    def _why_not(self, frame: HdlcFrame, control: Control) -> int:
        if control.type is FrameType.UNKNOWN:
            return FrameReject.UNKNOWN_COMMAND
        if control.type is FrameType.I and len(frame.info) > self.parameters.info_taken:
            return FrameReject.INFO_TOO_LONG
        if control.type in (FrameType.I, FrameType.RR, FrameType.RNR, FrameType.REJ):
            if self._send_window.acknowledge(control.receive_number) is None:
                return FrameReject.WRONG_NUMBER
        return 0

    def _on_information(self, frame: HdlcFrame, control: Control) -> bool:
        """Take one I frame; whether it completed an APDU that waits for its answer now."""
        try:
            _, whole = self._reassembly.accept(control.send_number, frame.info, frame.segmented)
        except LinkError as error:
            self._leave(error)
            return False
        if whole is None:
            return False
        self._deliver(whole)
        return True

    def _deliver(self, data: bytes) -> None:
        if data[:LLC_BYTES] not in (LLC_COMMAND, LLC_RESPONSE) or len(data) == LLC_BYTES:
            self._leave(PeerError(f"{len(data)} octets with the LLC header {data[:LLC_BYTES].hex()}"))
            return
        self._events.append(ApduReceived(data[LLC_BYTES:]))

    # ---- the turn is here

    def _take_turn(self, now: float, *, waits: bool) -> None:
        if self._state is not ServerState.CONNECTED:
            return
        self._turn = True
        self._send_window.rewind()
        # With an answer to come the turn is kept for a while; otherwise `take_output` gives it back at once.
        self._turn_deadline = now + self._answer_s if waits and not self._send_window.sendable else None

    def _give_turn_back(self) -> None:
        self._turn = False
        receive_number = self._reassembly.receive_number
        frames = [] if self._client_busy else self._send_window.burst()
        for index, (number, segment) in enumerate(frames):
            last = index == len(frames) - 1
            control = information_control(number, receive_number, poll_final=last)
            self._output += emit_frame(self._addresses, control, segment.info, segment.more)
        if not frames:
            control = supervisory_control(FrameType.RR, receive_number, poll_final=True)
            self._output += emit_frame(self._addresses, control)

    # ---- refusing and leaving

    def _start_reject(self, control: Control, raw: int, reasons: int) -> None:
        self._step(ServerStep.REJECT)
        self._reject = FrameReject(raw, self._send_window.send_number, self._reassembly.receive_number, reasons)
        self._turn = False
        self._turn_deadline = None
        self._repeat_reject(control)

    def _repeat_reject(self, control: Control) -> None:
        if self._reject is not None and control.poll_final:
            octet = unnumbered_control(FrameType.FRMR, poll_final=True)
            self._output += emit_frame(self._addresses, octet, self._reject.emit())

    def _emit_unnumbered(self, kind: FrameType) -> None:
        self._output += emit_frame(self._addresses, unnumbered_control(kind, poll_final=True))

    def _leave(self, error: DlmsError | None) -> None:
        before = self._state
        self._step(ServerStep.LEAVE)
        self._turn = False
        self._turn_deadline = self._quiet_deadline = None
        if before in (ServerState.CONNECTED, ServerState.REJECTING):
            self._events.append(LinkDown(error))
