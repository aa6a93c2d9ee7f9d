"""Notifications among what an HDLC bus carries beside our own conversations: sans-IO, bounded, never raises for what
came.

A meter pushes in UI frames to a client address that is not ours, during a conversation and outside of any.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import partial

from agent.metering.events.overheard import UNFINISHED_MAX, UNFINISHED_S, Overheard, Unfinished
from dlms.codes import Apdu
from dlms.link.datalink import MAY_BE_UNSOLICITED
from dlms.link.hdlc.frames import CONTROLS, FrameType, HdlcAddress, HdlcDecoder, HdlcFrame, unnumbered_control
from dlms.link.hdlc.window import LLC_BYTES, LLC_COMMAND, LLC_RESPONSE
from omadm.readings import EVENT_OCTETS_MAX

SILENCE_S = 0.3  # what came before such a pause belongs to no frame of now


class HdlcEar:
    """All octets of one bus."""

    def __init__(self) -> None:
        self._decoder = HdlcDecoder()
        self._open: OrderedDict[HdlcAddress, Unfinished] = OrderedDict()
        self._heard: deque[Overheard] = deque()
        self._at = 0.0

    def receive(self, data: bytes, now: float) -> None:
        """Octets from the line."""
        if self._decoder.pending and now - self._at > SILENCE_S:
            self._decoder.idle()
        self._at = now
        self._decoder.feed(data)
        while (item := self._decoder.next()) is not None:
            if isinstance(item, HdlcFrame) and CONTROLS[item.control].type is FrameType.UI:
                self._take(item, now)

    def next_apdu(self) -> Overheard | None:
        """What was heard, oldest first."""
        return self._heard.popleft() if self._heard else None

    def _take(self, frame: HdlcFrame, now: float) -> None:
        begun = self._open.pop(frame.source, None)
        if begun is not None and now - begun.at > UNFINISHED_S:
            begun = None
        info = frame.info
        if info[:LLC_BYTES] in (LLC_RESPONSE, LLC_COMMAND):
            begun, info = None, info[LLC_BYTES:]
        elif begun is None and info[:1] != bytes((Apdu.GENERAL_BLOCK_TRANSFER,)):
            return  # the rest of a message whose beginning was not heard, or none of COSEM
        parts = bytearray() if begun is None else begun.parts
        parts += info
        if frame.segmented and len(parts) <= EVENT_OCTETS_MAX:
            self._open[frame.source] = Unfinished(parts, now)
            while len(self._open) > UNFINISHED_MAX:
                self._open.popitem(last=False)
        elif parts and parts[0] in MAY_BE_UNSOLICITED:
            back = partial(_framed, frame)
            self._heard.append(Overheard(_station(frame.source), frame.destination.upper, bytes(parts), back))


def _station(address: HdlcAddress) -> int:
    """The number by which a port knows a meter: the lower address, where there is one."""
    return address.upper if address.lower is None else address.lower


def _framed(frame: HdlcFrame, apdu: bytes) -> bytes:
    """A UI frame back to the sender of this one; the meter has nothing to say to it."""
    control = unnumbered_control(FrameType.UI, poll_final=False)
    return HdlcFrame(frame.source, frame.destination, control, LLC_COMMAND + apdu).emit()
