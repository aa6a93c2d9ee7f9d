"""Behind a PRIME base node: the 4-32 LLC over its DLMS-over-TCP port, as a packet port.

    version 0001 (2)   source (2)   destination (2)   length (2)   APDU

The layout is the wrapper's, but the far address is the node and the near one the client's LSAP. The base node passes
data on once the notification service is on (control message 03 from 1 to 0); its own messages come from source 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms.errors import DecodeError, LinkError
from dlms.link.port import Port
from dlms.link.wrapper import WrapperDecoder, WrapperFrame

ENABLE = WrapperFrame(1, 0, b"\x03").emit()


class NodePort:
    """A `dlms.link.port.Port` whose every `write` and `read` is one APDU to or from one node."""

    def __init__(self, below: Port, client: int, node: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Speak through `below` to `node` as the client with the SAP `client`. Raises `LinkError`."""
        self._below = below
        self._client = client
        self._node = node
        self._clock = clock
        self._decoder = WrapperDecoder()
        below.write(ENABLE)

    def read(self, timeout_s: float | None) -> bytes | None:
        """The next APDU of the node; `b""` for silence, `None` at the end. Raises `LinkError`."""
        limit = None if timeout_s is None else self._clock() + timeout_s
        while True:
            try:
                frame = self._decoder.next()
            except DecodeError as error:
                raise LinkError(f"this is no DLMS over TCP: {error}") from error
            if frame is not None:
                if frame.source == self._node and frame.destination == self._client and frame.apdu:
                    return frame.apdu
                continue
            data = self._below.read(None if limit is None else max(0.0, limit - self._clock()))
            if not data:
                return data
            self._decoder.feed(data)

    def write(self, data: bytes) -> None:
        """One APDU to the node. Raises `LinkError`."""
        self._below.write(WrapperFrame(self._client, self._node, data).emit())

    def close(self) -> None:
        """Close the port below."""
        self._below.close()
