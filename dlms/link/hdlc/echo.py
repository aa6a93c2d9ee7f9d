"""The echo of a two-wire line, where a station hears what it says.

As a rule the addresses tell: the echo goes to the meter. Where client and meter have the same address, as the
management client 1 and the management device 1, they do not. There SNRM tells, which no meter sends: once it came back,
each frame that was sent is expected to come back once.
"""

from __future__ import annotations

from collections import deque

from dlms.link.hdlc.frames import CONTROLS, FrameType, HdlcFrame
from dlms.link.hdlc.params import WINDOW_MAX


class EchoFilter:
    """Tells echoes from frames on one client's link. Frames are known by their control octet and information field."""

    def __init__(self, same_address: bool) -> None:
        self._same_address = same_address
        self._echoes = False
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=WINDOW_MAX)

    def sent(self, control: int, info: bytes) -> None:
        """A frame goes out."""
        if self._same_address:
            self._sent.append((control, info))

    def is_echo(self, frame: HdlcFrame) -> bool:
        """Whether this frame, from our address to the meter's, is one of ours."""
        if not self._same_address:
            return True
        self._echoes = self._echoes or CONTROLS[frame.control].type is FrameType.SNRM
        mark = (frame.control, frame.info)
        if not self._echoes or mark not in self._sent:
            return False
        self._sent.remove(mark)
        return True
