"""Opens a serial port with the opening of mode E: 300 baud first, then what the meter agreed to.

The driver of `dlms.link.mode_e.opening`. A meter goes back to 300 baud when the connection was taken down in order, and
else when it has heard nothing for its inactivity timeout, which may be minutes. So where the last connection was lost,
a opening that is not answered is no failure yet: the port is opened at the speed of then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dlms.errors import LinkError, LocalError
from dlms.link.mode_e.opening import ANSWER_TIMEOUT_S, RETRIES, START_BAUDRATE, ModeEOpening, OpeningFailed, SpeedAgreed
from dlms.link.port import Port, SerialPort, open_serial

_WITHOUT_SPEED = ("socket://", "udp://")


@dataclass(frozen=True, slots=True)
class ModeE:
    """How to open. `address` names the meter where several share a loop; `require_mark` refuses meters that do not say
    that they can do HDLC. The opening is repeated `retries` times, each after `answer_timeout_s` seconds. The highest
    speed to agree to is the `baudrate` of the port."""

    address: str = ""
    require_mark: bool = False
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    retries: int = RETRIES

    def opening(self, baudrate_max: int) -> ModeEOpening:
        """The opening itself. Raises `LocalError` for an address that cannot be."""
        return ModeEOpening(
            address=self.address,
            baudrate_max=baudrate_max,
            require_mark=self.require_mark,
            answer_timeout_s=self.answer_timeout_s,
            retries=self.retries,
        )


def run_opening(port: Port, opening: ModeEOpening, clock: Callable[[], float] = time.monotonic) -> SpeedAgreed:
    """Run the opening. Raises `DlmsError` when the meter does not answer or has no speed of mode E."""
    opening.start(clock())
    while True:
        output = opening.take_output()
        if output:
            port.write(output)
        event = opening.next_event()
        if isinstance(event, SpeedAgreed):
            return event
        if isinstance(event, OpeningFailed):
            raise event.error
        deadline = opening.next_deadline()
        data = port.read(0.0 if deadline is None else max(0.0, deadline - clock()))
        if data is None:
            opening.receive_eof(clock())
        elif data:
            opening.receive(data, clock())
        opening.on_deadline(clock())  # on a line that babbles there is never silence


def open_mode_e(url: str, baudrate_max: int, mode_e: ModeE, *, lost_at: int | None = None) -> SerialPort:
    """A serial port that stands at the speed the meter agreed to, or at `lost_at`, the speed of a connection that was
    lost, when the meter does not answer the opening. Raises `LocalError` for a URL without a speed, `DlmsError`."""
    if url.startswith(_WITHOUT_SPEED):
        raise LocalError(f"{url}: mode E changes the speed of the line, use a serial port or rfc2217://")
    opening = mode_e.opening(baudrate_max)
    port = open_serial(url, START_BAUDRATE)
    try:
        try:
            agreed = run_opening(port, opening)
        except LinkError:
            if lost_at is None:
                raise
            port.set_speed(lost_at)
        else:
            time.sleep(agreed.pause_s)
            port.set_speed(agreed.baudrate)
    except BaseException:
        port.close()
        raise
    return port
