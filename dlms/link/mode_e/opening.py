"""IEC 62056-21 mode E: the opening at 300 baud that ends in HDLC at a higher speed (annex B there).

    reader   /?!CRLF                            or /?00012345!CRLF, at 300 baud, seven bits, even parity
    meter    /XXXZ\2identificationCRLF          XXX maker, Z speed it can do, \2 HDLC offered
    reader   ACK 2 Z 2 CRLF                     2 HDLC procedure, Z the speed chosen, 2 binary mode
    meter    ACK 2 Z 2 CRLF                     still at 300 baud; some meters leave it out
    both     HDLC at the chosen speed, eight bits, no parity

Sans-IO. The parity bit is made and taken off here, so the port may stand at 300 8N1 from the beginning; `SpeedAgreed`
says when to change the speed, and the pause before that.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from dlms.errors import DecodeError, DlmsError, LinkError, LocalError, PeerError
from dlms.statemachine import Machine, Transitions

START_BAUDRATE = 300
SPEEDS = {"0": 300, "1": 600, "2": 1200, "3": 2400, "4": 4800, "5": 9600, "6": 19200}
ADDRESS_CHARS_MAX = 32
IDENTIFICATION_CHARS_MAX = 64  # the standard allows 16 and escapes; makers take more
NOISE_BYTES_MAX = 512  # what a waking optical head may send before the meter does
ANSWER_TIMEOUT_S = 2.5  # 1.5 s to the first character, and an identification takes 0.7 s at 300 baud
ECHO_TIMEOUT_S = 0.6  # the meter's own ACK line takes 0.2 s
SWITCH_PAUSE_S = 0.2  # the reaction time after which both sides are at the new speed
RETRIES = 2
ACK = 0x06


class ModeEState(enum.Enum):
    """Where the opening is."""

    IDLE = enum.auto()
    ASKED = enum.auto()  # the request is out, the identification is due
    CHOSEN = enum.auto()  # the speed is chosen, the meter's ACK is due or left out
    DONE = enum.auto()
    FAILED = enum.auto()


class ModeEStep(enum.Enum):
    """What moves the opening."""

    START = enum.auto()
    ASK_AGAIN = enum.auto()
    IDENTIFIED = enum.auto()
    AGREED = enum.auto()
    FAIL = enum.auto()


MODE_E_TRANSITIONS: Transitions[ModeEState, ModeEStep] = Transitions(
    {
        (ModeEState.IDLE, ModeEStep.START): ModeEState.ASKED,
        (ModeEState.ASKED, ModeEStep.ASK_AGAIN): ModeEState.ASKED,
        (ModeEState.ASKED, ModeEStep.IDENTIFIED): ModeEState.CHOSEN,
        (ModeEState.ASKED, ModeEStep.FAIL): ModeEState.FAILED,
        (ModeEState.CHOSEN, ModeEStep.AGREED): ModeEState.DONE,
        (ModeEState.CHOSEN, ModeEStep.FAIL): ModeEState.FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Identification:
    """What the meter says of itself. `offers_hdlc`: it has the mark of mode E."""

    maker: str
    speed: str
    text: str
    offers_hdlc: bool

    @classmethod
    def parse(cls, line: str) -> Identification:
        """A line from its slash on, without CR LF. Raises `DecodeError`."""
        if len(line) < 5 or not line.startswith("/"):
            raise DecodeError("identification", 0, f"{line!r} is no identification")
        if len(line) > IDENTIFICATION_CHARS_MAX:
            raise DecodeError("identification", IDENTIFICATION_CHARS_MAX, "too long")
        maker, speed, text = line[1:4], line[4], line[5:]
        if not maker.isalpha() or not maker.isascii():
            raise DecodeError("identification", 1, f"maker {maker!r}")
        offers = text.startswith("\\2")
        return cls(maker, speed, text[2:] if offers else text, offers)

    def __str__(self) -> str:
        mark = "\\2" if self.offers_hdlc else ""
        return f"/{self.maker}{self.speed}{mark}{self.text}"


@dataclass(frozen=True, slots=True)
class SpeedAgreed:
    """Wait `pause_s`, set the port to `baudrate` 8N1, and begin HDLC."""

    baudrate: int
    pause_s: float
    identification: Identification


@dataclass(frozen=True, slots=True)
class OpeningFailed:
    """The opening came to nothing."""

    error: DlmsError


ModeEEvent = SpeedAgreed | OpeningFailed


def add_even_parity(text: bytes) -> bytes:
    """Seven-bit characters as a port without parity must send them. Raises `LocalError` for eight-bit ones."""
    if any(octet > 0x7F for octet in text):
        raise LocalError("only seven-bit characters travel in mode E")
    return bytes(octet | (octet.bit_count() & 1) << 7 for octet in text)


class ModeEOpening(Machine[ModeEState, ModeEStep, ModeEEvent]):
    """The reader's side of the opening. `address` is the meter's, needed where several share a loop; `baudrate_max`
    bounds the speed chosen; `require_mark` refuses meters that do not say that they can do HDLC."""

    def __init__(
        self,
        *,
        address: str = "",
        baudrate_max: int = 19200,
        require_mark: bool = False,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        super().__init__(ModeEState.IDLE, MODE_E_TRANSITIONS)
        if len(address) > ADDRESS_CHARS_MAX or not address.isascii() or not (address.isalnum() or not address):
            raise LocalError(f"device address {address!r}: at most {ADDRESS_CHARS_MAX} letters and digits")
        self._request = f"/?{address}!\r\n".encode("ascii")
        self._baudrate_max = baudrate_max
        self._require_mark = require_mark
        self._answer_timeout_s = answer_timeout_s
        self._retries = retries
        self._line = bytearray()
        self._noise_bytes = 0
        self._attempts = 0
        self._agreed: SpeedAgreed | None = None
        self.echo_octets = 0  # of what came: our own request, given back

    def start(self, now: float) -> None:
        """Ask the meter for its identification. Raises `LocalError` when that was done before."""
        self._step(ModeEStep.START)
        self._ask(now)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the port, with or without their parity bit. Never raises for what the meter sent."""
        for octet in data:
            if self._state not in (ModeEState.ASKED, ModeEState.CHOSEN):
                return
            self._line.append(octet & 0x7F)
            if self._line[-1] == 0x0A:
                line = bytes(self._line)
                self._line.clear()
                self._on_line(line, now)
            elif len(self._line) > IDENTIFICATION_CHARS_MAX + 2:
                self._noise_bytes += 1
                del self._line[0]
                if self._noise_bytes > NOISE_BYTES_MAX:
                    self._fail(LinkError("nothing but noise on the line"))

    def receive_eof(self, now: float) -> None:
        """The port is closed for good."""
        del now
        if self._state in (ModeEState.ASKED, ModeEState.CHOSEN):
            self._fail(LinkError("the connection was closed"))

    def on_deadline(self, now: float) -> None:
        """Time passed: ask again, give up, or go on without the meter's ACK."""
        if self._deadline is None or now < self._deadline:
            return
        if self._state is ModeEState.CHOSEN:
            self._agree()
        elif self._attempts <= self._retries:
            self._step(ModeEStep.ASK_AGAIN)
            self._ask(now)
        else:
            self._fail(LinkError("the meter does not answer the opening"))

    # ---- inside

    def _ask(self, now: float) -> None:
        self._attempts += 1
        self._line.clear()
        self._send(self._request, now, self._answer_timeout_s)

    def _send(self, text: bytes, now: float, timeout_s: float) -> None:
        self._output += add_even_parity(text)
        self._deadline = now + len(text) * 10 / START_BAUDRATE + timeout_s

    def _on_line(self, line: bytes, now: float) -> None:
        text = line.decode("ascii").rstrip("\r\n")
        if self._state is ModeEState.CHOSEN:
            if ACK in line:
                self._agree()
            return
        slash = text.rfind("/")
        if text[slash:].startswith("/?"):  # an optical head gives back what is sent
            self.echo_octets += len(text[slash:]) + len("\r\n")
            return
        if slash < 0:
            return  # noise
        try:
            self._choose(Identification.parse(text[slash:]), now)
        except DecodeError:
            return  # damaged: the timeout asks again
        except DlmsError as error:
            self._fail(error)

    def _choose(self, identification: Identification, now: float) -> None:
        offered = SPEEDS.get(identification.speed)
        if offered is None:
            raise PeerError(f"the meter offers speed {identification.speed!r}, which mode E does not have")
        if self._require_mark and not identification.offers_hdlc:
            raise PeerError(f"meter {identification.maker} {identification.text} does not offer HDLC")
        speed, baudrate = max(
            ((key, rate) for key, rate in SPEEDS.items() if rate <= min(offered, max(self._baudrate_max, 300))),
            key=lambda pair: pair[1],
        )
        self._step(ModeEStep.IDENTIFIED)
        self._agreed = SpeedAgreed(baudrate, SWITCH_PAUSE_S, identification)
        self._send(bytes((ACK,)) + f"2{speed}2\r\n".encode("ascii"), now, ECHO_TIMEOUT_S)

    def _agree(self) -> None:
        self._step(ModeEStep.AGREED)
        self._deadline = None
        if self._agreed is not None:
            self._events.append(self._agreed)

    def _fail(self, error: DlmsError) -> None:
        self._step(ModeEStep.FAIL)
        self._deadline = None
        self._events.append(OpeningFailed(error))
