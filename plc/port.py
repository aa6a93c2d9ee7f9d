"""The byte port below a bridge: pyserial, with silence told apart from the end, and one error type."""

from __future__ import annotations

import io
import select
from typing import Protocol

import serial

from plc.errors import PlcPortError

READ_BYTES_MAX = 4096  # per call: a longer burst is read in the next one
WRITE_TIMEOUT_S = 5.0  # a port that takes no bytes for so long is dead
BLIND_WAIT_S = 0.02  # ports without a file descriptor are asked for one byte, and wait so long for it


class BytePort(Protocol):
    """What a bridge needs of a port."""

    def read(self, wait_s: float) -> bytes:
        """Bytes as soon as there are any, `b""` after `wait_s` of silence. Raises `PlcPortError` at the end."""

    def write(self, data: bytes) -> None:
        """Put all of it on the line. Raises `PlcPortError`."""

    def close(self) -> None:
        """Give the port back. Never raises."""


class SerialPort:
    """A `BytePort` over anything that pyserial opens."""

    def __init__(self, port: serial.SerialBase) -> None:
        self._port = port
        self._name = str(port.name)
        self._descriptor = port.fileno() if _has_descriptor(port) else None

    def read(self, wait_s: float) -> bytes:
        try:
            if self._descriptor is None:
                return self._read_blind(wait_s)
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, wait_s))
            # Readable and yet no byte means the other side hung up; pyserial raises that itself on POSIX ports.
            return bytes(self._port.read(READ_BYTES_MAX)) if ready else b""
        except (OSError, ValueError, TypeError) as error:  # SerialException is an OSError
            raise PlcPortError(f"{self._name}: {error}") from error

    def _read_blind(self, wait_s: float) -> bytes:
        waited = 0.0
        while True:
            first = bytes(self._port.read(1))
            if first:
                more = min(int(getattr(self._port, "in_waiting", 0)), READ_BYTES_MAX - 1)
                return first + (bytes(self._port.read(more)) if more else b"")
            waited += BLIND_WAIT_S
            if waited >= wait_s:
                return b""

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (OSError, ValueError) as error:
            raise PlcPortError(f"{self._name}: {error}") from error

    def close(self) -> None:
        try:
            self._port.close()
        except (OSError, ValueError):
            return  # it was gone already


def _has_descriptor(port: serial.SerialBase) -> bool:
    """POSIX devices and sockets have one; rfc2217 and loop ports do not."""
    return type(port).fileno is not io.RawIOBase.fileno


def open_port(url: str, baudrate: int) -> SerialPort:
    """Open a pyserial URL or device, 8N1. Raises `PlcPortError`."""
    # pyserial's rfc2217 refuses a write timeout; its socket has one of its own.
    write_timeout_s = None if url.startswith("rfc2217://") else WRITE_TIMEOUT_S
    try:
        port = serial.serial_for_url(url, do_not_open=True, baudrate=baudrate, write_timeout=write_timeout_s)
        # Ports with a descriptor are waited for with select and then read without waiting.
        port.timeout = 0 if _has_descriptor(port) else BLIND_WAIT_S
        port.open()
    except (OSError, ValueError) as error:
        raise PlcPortError(f"{url}: {error}") from error
    return SerialPort(port)
