"""Opens a serial port with the greeting of mode E: 300 baud first, then what the meter agreed to."""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms.mode_e import START_BAUDRATE, ModeEOpening, OpeningFailed, SpeedAgreed
from dlms.port import Port, open_serial


def greet(port: Port, opening: ModeEOpening, clock: Callable[[], float] = time.monotonic) -> SpeedAgreed:
    """Run the greeting. Raises `DlmsError` when the meter does not answer or has no speed of mode E."""
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


def open_with_greeting(url: str, baudrate_max: int, address: str = "") -> Port:
    """A serial port that stands at the speed the meter agreed to. Raises `DlmsError`."""
    port = open_serial(url, START_BAUDRATE)
    try:
        agreed = greet(port, ModeEOpening(address=address, baudrate_max=baudrate_max))
        time.sleep(agreed.pause_s)
        port.set_speed(agreed.baudrate)
    except BaseException:
        port.close()
        raise
    return port
