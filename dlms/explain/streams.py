"""Whole streams as nodes: HDLC frames, wrapper messages, or one APDU, recognised by how they begin."""

from __future__ import annotations

from collections.abc import Iterable

from dlms import axdr
from dlms.errors import DecodeError, DlmsError
from dlms.explain.apdus import Keys, explain_apdu
from dlms.explain.node import Node
from dlms.explain.values import data_node
from dlms.link.hdlc.frames import CONTROLS, FrameType, HdlcDecoder, HdlcFrame, HdlcNoise
from dlms.link.hdlc.params import FrameReject, LinkParameters
from dlms.link.hdlc.window import LLC_BYTES, LLC_COMMAND, LLC_RESPONSE
from dlms.link.trace import TraceLine
from dlms.link.wrapper import VERSION, WrapperDecoder, WrapperFrame

SEGMENTS_BYTES_MAX = 1 << 20  # of one APDU put together for the explanation


class _HdlcExplainer:
    """Frames of one direction or of both; APDUs in segments are shown with their last frame."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._decoder = HdlcDecoder()
        self._parts: dict[tuple[bytes, bytes], bytearray] = {}
        self._last: dict[tuple[bytes, bytes], tuple[int, bytes]] = {}

    def feed(self, data: bytes) -> list[Node]:
        self._decoder.feed(data)
        return self._drain()

    def end(self) -> list[Node]:
        self._decoder.idle()
        return self._drain()

    def _drain(self) -> list[Node]:
        nodes: list[Node] = []
        while (item := self._decoder.next()) is not None:
            if isinstance(item, HdlcNoise):
                nodes.append(Node("noise", f"{item.dropped_bytes} octets: {item.why}"))
            else:
                nodes.append(Node("HDLC", str(item), self._inside(item)))
        return nodes

    def _inside(self, frame: HdlcFrame) -> tuple[Node, ...]:
        control = CONTROLS[frame.control]
        if control.type is FrameType.I:
            return self._information(frame, control.send_number)
        if not frame.info:
            if control.type in (FrameType.SNRM, FrameType.UA):
                self._parts.clear()
                self._last.clear()
            return ()
        try:
            if control.type in (FrameType.SNRM, FrameType.UA):
                return (_parameters(LinkParameters.parse(frame.info)),)
            if control.type is FrameType.FRMR:
                return (Node("reason", str(FrameReject.parse(frame.info))),)
        except DecodeError as error:
            return (Node("information", f"{frame.info.hex()}: {error}"),)
        if control.type is FrameType.UI:
            return (self._apdu(frame.info),)
        return (Node("information", frame.info.hex()),)

    def _information(self, frame: HdlcFrame, number: int) -> tuple[Node, ...]:
        way = frame.source.emit(), frame.destination.emit()
        if self._last.get(way) == (number, frame.info):
            return (Node("repeated", f"{len(frame.info)} octets"),)
        self._last[way] = number, frame.info
        parts = self._parts.setdefault(way, bytearray())
        parts += frame.info
        if frame.segmented:
            if len(parts) > SEGMENTS_BYTES_MAX:
                parts.clear()
            return (Node("segment", f"{len(frame.info)} octets, {len(parts)} so far"),)
        whole = bytes(parts)
        parts.clear()
        return (self._apdu(whole),)

    def _apdu(self, data: bytes) -> Node:
        if data[:LLC_BYTES] in (LLC_COMMAND, LLC_RESPONSE):
            return explain_apdu(data[LLC_BYTES:], self._keys)
        return Node("information", data.hex())


def _parameters(parameters: LinkParameters) -> Node:
    return Node(
        "parameters",
        "",
        (
            Node("information field", f"sends {parameters.info_sent}, takes {parameters.info_taken}"),
            Node("window", f"sends {parameters.window_sent}, takes {parameters.window_taken}"),
        ),
    )


class _WrapperExplainer:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._decoder = WrapperDecoder()
        self._broken = False

    def feed(self, data: bytes) -> list[Node]:
        if self._broken:
            return [Node("noise", f"{len(data)} octets")]
        nodes: list[Node] = []
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next()) is not None:
                nodes.append(self._message(frame))
        except DecodeError as error:
            self._broken = True
            nodes.append(Node("noise", f"{self._decoder.pending_bytes} octets: {error}"))
        return nodes

    def end(self) -> list[Node]:
        pending = self._decoder.pending_bytes
        return [Node("incomplete", f"{pending} octets")] if pending and not self._broken else []

    def _message(self, frame: WrapperFrame) -> Node:
        value = f"{frame.source} to {frame.destination}, {len(frame.apdu)} octets"
        return Node("wrapper", value, (explain_apdu(frame.apdu, self._keys),))


def _is_hdlc(data: bytes) -> bool:
    return data[:1] == b"\x7e" and (len(data) < 2 or data[1] == 0x7E or data[1] & 0xF0 == 0xA0)


def _is_wrapper(data: bytes) -> bool:
    return len(data) >= 8 and int.from_bytes(data[:2], "big") == VERSION


def explain_bytes(data: bytes, keys: Keys) -> list[Node]:
    """What some octets are: HDLC frames, wrapper messages, an APDU, or a bare value when no APDU begins like that."""
    if _is_hdlc(data) or (data.find(b"\x7e\xa0") >= 0 and not _is_wrapper(data)):
        explainer: _HdlcExplainer | _WrapperExplainer = _HdlcExplainer(keys)
        return explainer.feed(data) + explainer.end()
    if _is_wrapper(data):
        explainer = _WrapperExplainer(keys)
        return explainer.feed(data) + explainer.end()
    return [_apdu_or_value(data, keys)]


def _apdu_or_value(data: bytes, keys: Keys) -> Node:
    if data[:LLC_BYTES] in (LLC_COMMAND, LLC_RESPONSE):
        data = data[LLC_BYTES:]
    try:
        # Tags of values and of APDUs overlap below 0x20; what reads as a whole value is taken for one.
        return data_node(axdr.decode(data))
    except DlmsError:
        return explain_apdu(data, keys)


def explain_trace(lines: Iterable[TraceLine], keys: Keys) -> list[Node]:
    """A recorded conversation: each burst with its time and direction, and what it completed."""
    nodes: list[Node] = []
    explainers: dict[bool, _HdlcExplainer | _WrapperExplainer] = {}
    for line in lines:
        explainer = explainers.get(line.sent)
        if explainer is None:
            explainer = _WrapperExplainer(keys) if _is_wrapper(line.data) else _HdlcExplainer(keys)
            if not _is_wrapper(line.data) and not _is_hdlc(line.data):
                explainer = None
        way = "to the meter" if line.sent else "from the meter"
        label = f"{line.seconds:.3f} s {way}"
        if explainer is None:
            nodes.append(Node(label, f"{len(line.data)} octets", tuple(explain_bytes(line.data, keys))))
            continue
        explainers[line.sent] = explainer
        nodes.append(Node(label, f"{len(line.data)} octets", tuple(explainer.feed(line.data))))
    for sent, explainer in explainers.items():
        rest = explainer.end()
        if rest:
            nodes.append(Node("at the end", "to the meter" if sent else "from the meter", tuple(rest)))
    return nodes
