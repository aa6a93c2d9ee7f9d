"""A port for the client with a whole meter behind it, and faults on demand."""

from __future__ import annotations

from collections.abc import Callable

from dlms.link.datalink import ApduReceived, DataLink, LinkUp
from dlms.link.hdlc.primary import HdlcServerLink
from dlms.link.wrapper import WrapperServerLink
from dlms.server.server import MeterServer, ServerAssociation


class MeterPort:
    """`dlms.link.port.Port`. What is written reaches the meter at once, and what it answers is there to be read.

    `fault` gets each answer of the meter with its number, and gives what arrives: less, more, other, or None to close
    the line for good.
    """

    def __init__(
        self,
        meter: MeterServer,
        link: str = "hdlc",
        fault: Callable[[int, bytes], bytes | None] = lambda _number, data: data,
        *,
        info_max: int = 128,
        client: int = 16,
    ) -> None:
        self._meter = meter
        self._link: DataLink = HdlcServerLink(1, info_max=info_max) if link == "hdlc" else WrapperServerLink(1)
        self._client = client
        self._association: ServerAssociation | None = None
        self._fault = fault
        self.answers = 0
        self._line = bytearray()
        self._closed = False
        self.written = 0
        self.read_octets = 0
        self._link.connect(0.0)
        if link != "hdlc":
            self._association = meter.new_association(client)

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if self._closed:
            return
        self._link.receive(data, 0.0)
        while (event := self._link.next_event()) is not None:
            if isinstance(event, LinkUp):
                self._association = self._meter.new_association(self._client)
            elif isinstance(event, ApduReceived) and self._association is not None:
                for apdu in self._association.receive_apdu(event.apdu, 0.0):
                    self._link.send(apdu, 0.0)
        answer = self._link.take_output()
        if answer:
            self.answers += 1
            arrives = self._fault(self.answers, answer)
            if arrives is None:
                self._closed = True
            else:
                self._line += arrives

    def read(self, timeout_s: float | None) -> bytes | None:
        if not self._line and self._closed:
            return None
        data = bytes(self._line)
        self._line.clear()
        self.read_octets += len(data)
        return data

    def close(self) -> None:
        self._closed = True
