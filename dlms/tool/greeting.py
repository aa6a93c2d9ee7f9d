"""Opens a serial port with the greeting of mode E: 300 baud first, then what the meter agreed to."""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms.errors import LinkError
from dlms.mode_e import START_BAUDRATE, ModeEOpening, OpeningFailed, SpeedAgreed
from dlms.port import WRITE_TIMEOUT_S, Port, SerialPort


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
        else:
            opening.on_deadline(clock())


def open_with_greeting(url: str, baudrate_max: int, address: str = "") -> Port:
    """A serial port that stands at the speed the meter agreed to. Raises `DlmsError`."""
    import serial

    try:
        line = serial.serial_for_url(url, baudrate=START_BAUDRATE, write_timeout=WRITE_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise LinkError(f"{url}: {error}") from error
    port = SerialPort(line)
    try:
        agreed = greet(port, ModeEOpening(address=address, baudrate_max=baudrate_max))
        time.sleep(agreed.pause_s)
        line.baudrate = agreed.baudrate
        line.reset_input_buffer()
    except (OSError, ValueError) as error:
        port.close()
        raise LinkError(f"{url}: {error}") from error
    except BaseException:
        port.close()
        raise
    return port
