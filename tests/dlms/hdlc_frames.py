"""Frames of both stations for tests of the HDLC links, and frames as short text."""

from __future__ import annotations

from dlms.link.datalink import DataLink, LinkEvent
from dlms.link.hdlc.frames import (
    CONTROLS,
    FrameType,
    HdlcAddress,
    HdlcDecoder,
    HdlcFrame,
    information_control,
    supervisory_control,
)

CLIENT, METER = HdlcAddress(17), HdlcAddress(1, 17)
COMMAND, RESPONSE = bytes.fromhex("e6e600"), bytes.fromhex("e6e700")


def frames(data: bytes) -> list[HdlcFrame]:
    decoder = HdlcDecoder()
    decoder.feed(data)
    found: list[HdlcFrame] = []
    while (item := decoder.next()) is not None:
        assert isinstance(item, HdlcFrame)
        found.append(item)
    return found


def shown(data: bytes) -> list[str]:
    """Frames as short text, without addresses: `I 0 0 P`, `RR 1 F`, `UA F`."""
    return [short(frame) for frame in frames(data)]


def short(frame: HdlcFrame) -> str:
    control = CONTROLS[frame.control]
    text = control.type.name
    if control.type is FrameType.I:
        text += f" {control.send_number}"
    if control.type in (FrameType.I, FrameType.RR, FrameType.RNR, FrameType.REJ):
        text += f" {control.receive_number}"
    return text + (" P" if control.poll_final else "") + (" S" if frame.segmented else "")


def events(link: DataLink) -> list[LinkEvent]:
    found: list[LinkEvent] = []
    while (event := link.next_event()) is not None:
        found.append(event)
    return found


def response(control: int, info: bytes = b"", *, segmented: bool = False) -> bytes:
    return HdlcFrame(CLIENT, METER, control, info, segmented).emit()


def i_frame(
    send: int, receive: int, apdu: bytes, *, final: bool = True, more: bool = False, first: bool = True
) -> bytes:
    info = (RESPONSE if first else b"") + apdu
    return response(information_control(send, receive, poll_final=final), info, segmented=more)


def rr(receive: int, kind: FrameType = FrameType.RR) -> bytes:
    return response(supervisory_control(kind, receive, poll_final=True))


UA, DM = response(0x73), response(0x1F)


def command(control: int, info: bytes = b"", *, to: HdlcAddress = METER, source: HdlcAddress = CLIENT) -> bytes:
    return HdlcFrame(to, source, control, info).emit()


def i_command(send: int, receive: int, apdu: bytes, *, poll: bool = True) -> bytes:
    return command(information_control(send, receive, poll_final=poll), COMMAND + apdu)


def rr_command(receive: int, kind: FrameType = FrameType.RR) -> bytes:
    return command(supervisory_control(kind, receive, poll_final=True))
