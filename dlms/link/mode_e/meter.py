"""The meter's side of the opening of IEC 62056-21 mode E, whose layout is in `dlms.link.mode_e.opening`. Sans-IO.

    LISTENING   at 300 baud, for a request without an address or with this meter's
    OFFERED     the identification is out, the reader chooses
    AGREED      at the speed chosen, and what comes is HDLC: no longer for this

Whoever drives it hands octets over while `is_hdlc` is false, sets the port to `baudrate` behind each output, and calls
`reset` when the HDLC connection is over or did not come. A choice that mode E does not have (a readout, a speed that
was not offered) is not answered, and the meter listens again.
"""

from __future__ import annotations

import enum

from dlms.errors import LocalError
from dlms.link.mode_e.opening import ACK, ADDRESS_CHARS_MAX, SPEEDS, START_BAUDRATE, Identification, add_even_parity
from dlms.statemachine import Machine, Transitions

CHOICE_TIMEOUT_S = 1.5  # the reader's reaction time
CONNECT_TIMEOUT_S = 10.0  # for SNRM at the new speed
LINE_CHARS_MAX = ADDRESS_CHARS_MAX + 5


class MeterState(enum.Enum):
    """How far the opening is."""

    LISTENING = enum.auto()  # at 300 baud, for a request message
    OFFERED = enum.auto()  # the identification is out, the reader's choice is due
    AGREED = enum.auto()  # HDLC at the speed chosen


class MeterStep(enum.Enum):
    """What moves the meter's side."""

    REQUEST = enum.auto()
    CHOICE = enum.auto()
    RESET = enum.auto()


METER_TRANSITIONS: Transitions[MeterState, MeterStep] = Transitions(
    {
        (MeterState.LISTENING, MeterStep.REQUEST): MeterState.OFFERED,
        (MeterState.LISTENING, MeterStep.RESET): MeterState.LISTENING,
        (MeterState.OFFERED, MeterStep.REQUEST): MeterState.OFFERED,
        (MeterState.OFFERED, MeterStep.CHOICE): MeterState.AGREED,
        (MeterState.OFFERED, MeterStep.RESET): MeterState.LISTENING,
        (MeterState.AGREED, MeterStep.RESET): MeterState.LISTENING,
    }
)


class ModeEMeter(Machine[MeterState, MeterStep, None]):
    """`identification` is what the meter says of itself, its speed the highest it offers; `address` its number on a
    loop. Raises `LocalError` for a speed that mode E does not have, and for what is not ASCII."""

    def __init__(self, identification: Identification, address: str = "") -> None:
        super().__init__(MeterState.LISTENING, METER_TRANSITIONS)
        if identification.speed not in SPEEDS:
            raise LocalError(f"speed {identification.speed!r}: one of {', '.join(SPEEDS)}")
        if not f"{identification}{address}".isascii():
            raise LocalError(f"{identification}, number {address!r}: only ASCII travels in mode E")
        self._identification = identification
        self._requests = (b"/?!", f"/?{address}!".encode("ascii"))
        self._line = bytearray()
        self.baudrate = START_BAUDRATE

    @property
    def is_hdlc(self) -> bool:
        """Whether the speed is agreed, and what comes is HDLC."""
        return self._state is MeterState.AGREED

    def receive(self, data: bytes, now: float) -> None:
        """Octets of the reader, with or without their parity bit. Never raises for what they are."""
        for octet in data:
            if self.is_hdlc:
                return  # the reader has to wait for the change of speed
            self._line.append(octet & 0x7F)
            del self._line[:-LINE_CHARS_MAX]
            if self._line.endswith(b"\n"):
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                self._on_line(line, now)

    def reset(self) -> None:
        """Listen again, at 300 baud."""
        self._step(MeterStep.RESET)
        self._line.clear()
        self._deadline = None
        self.baudrate = START_BAUDRATE

    def connected(self) -> None:
        """The HDLC connection stands: its own end ends it from now on."""
        self._deadline = None

    def on_deadline(self, now: float) -> None:
        """Time passed: what was due did not come."""
        if self._deadline is not None and self._deadline <= now:
            self.reset()

    def _on_line(self, line: bytes, now: float) -> None:
        request = line.find(b"/?")
        if request >= 0 and line[request:] in self._requests:
            self._step(MeterStep.REQUEST)
            self._output += add_even_parity(f"{self._identification}\r\n".encode("ascii"))
            self._deadline = now + CHOICE_TIMEOUT_S + len(self._output) * 10 / START_BAUDRATE
        elif self._state is MeterState.OFFERED:
            speed = chr(line[-2]) if len(line) >= 4 else ""
            if line[-4:] == bytes((ACK,)) + f"2{speed}2".encode("ascii") and self._can(speed):
                self._step(MeterStep.CHOICE)
                self._output += add_even_parity(line[-4:] + b"\r\n")
                self.baudrate = SPEEDS[speed]
                self._deadline = now + CONNECT_TIMEOUT_S
            else:
                self.reset()

    def _can(self, speed: str) -> bool:
        return speed in SPEEDS and SPEEDS[speed] <= SPEEDS[self._identification.speed]
