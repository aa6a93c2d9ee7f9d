"""Notifications among what a line carries beside our own conversations: sans-IO, bounded, never raises for what came.

`WrapperEar` hears one connection, `agent.metering.events.bus_ear` a bus. Both give whole APDUs; `BlockAssembly` puts
those together that come in general blocks without anybody asking for the next (GB 9.4.6.13).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from dlms.codes import Apdu
from dlms.errors import DecodeError, DlmsError
from dlms.link.datalink import MAY_BE_UNSOLICITED
from dlms.xdlms.gbt import GeneralBlock
from omadm.readings import EVENT_OCTETS_MAX

UNFINISHED_MAX = 32  # senders whose message has begun and not ended
UNFINISHED_S = 30.0  # after this long it will not go on


@dataclass(frozen=True, slots=True)
class Overheard:
    """An APDU that nobody asked for. `source`: the sender's address on a bus; its port on a connection. `destination`:
    the client that it is for. `framed` makes the octets by which an APDU goes back from there to the sender."""

    source: int
    destination: int
    apdu: bytes
    framed: Callable[[bytes], bytes] = field(default=bytes, compare=False, repr=False)


@dataclass(slots=True)
class Unfinished:
    """The blocks of one message so far, the number of the last one, and when it came."""

    parts: bytearray
    at: float
    number: int = 0


class BlockAssembly:
    """Messages in general blocks, by sender."""

    def __init__(self) -> None:
        self._open: OrderedDict[object, Unfinished] = OrderedDict()

    def take(self, sender: object, apdu: bytes, now: float) -> tuple[bytes | None, str]:
        """Take an APDU; return a whole one, or `None` while it goes on, and what was wrong: then the octets are what
        has come of it."""
        if apdu[:1] != bytes((Apdu.GENERAL_BLOCK_TRANSFER,)):
            return apdu, ""
        begun = self._open.pop(sender, None)
        if begun is not None and now - begun.at > UNFINISHED_S:
            begun = None
        try:
            block = GeneralBlock.parse(apdu)
        except DlmsError as error:
            return apdu, str(error)
        if block.number != 1 and (begun is None or block.number != begun.number + 1):
            came = bytes(begun.parts) if begun is not None else b""
            return came + block.data, f"block {block.number} came where {begun.number + 1 if begun else 1} was due"
        parts = bytearray() if begun is None or block.number == 1 else begun.parts
        parts += block.data
        if len(parts) > EVENT_OCTETS_MAX:
            return bytes(parts), f"more than {EVENT_OCTETS_MAX} octets in blocks"
        if block.last:
            return bytes(parts), ""
        self._open[sender] = Unfinished(parts, now, block.number)
        while len(self._open) > UNFINISHED_MAX:
            self._open.popitem(last=False)
        return None, ""


class WrapperEar:
    """One connection. `client` has a conversation, which gets what is for it; `None` where there is none."""

    def __init__(self, client: int | None = None, apdu_bytes_max: int = 0xFFFF) -> None:
        from dlms.link.wrapper import WrapperDecoder  # not at the top: only meters on IP need it

        self._client = client
        self._decoder = WrapperDecoder()
        self._apdu_bytes_max = apdu_bytes_max
        self.broken = ""

    def receive(self, data: bytes) -> list[Overheard]:
        """Take octets from the connection; return what nobody asked for. `broken` is set when nothing more can be read
        of it."""
        found: list[Overheard] = []
        if self.broken:
            return found
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next()) is not None:
                if frame.destination != self._client and frame.apdu and frame.apdu[0] in MAY_BE_UNSOLICITED:
                    back = partial(_wrapped, frame.destination, frame.source)
                    found.append(Overheard(frame.source, frame.destination, frame.apdu, back))
        except DecodeError as error:
            self.broken = str(error)
        if self._decoder.due_bytes > self._apdu_bytes_max:
            self.broken = f"an APDU of {self._decoder.due_bytes} octets is announced, at most {self._apdu_bytes_max}"
        return found


def _wrapped(source: int, destination: int, apdu: bytes) -> bytes:
    from dlms.link.wrapper import WrapperFrame

    return WrapperFrame(source, destination, apdu).emit()
