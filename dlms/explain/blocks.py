"""Put the blocks of a long GET answer together, for the explanation."""

from __future__ import annotations

from dlms import axdr
from dlms.cursor import Cursor
from dlms.errors import DlmsError
from dlms.explain.node import Node
from dlms.explain.values import data_node, field_node
from dlms.xdlms.apdu import get
from dlms.xdlms.apdu.common import read_results

ANSWER_BYTES_MAX = 1 << 20


class Blocks:
    """One answer at a time; what begins in the middle is not put together."""

    def __init__(self) -> None:
        self._number = 0
        self._data = bytearray()

    def add(self, block: get.GetBlock) -> Node | None:
        """The whole value, once `block` is the last of it."""
        if not isinstance(block.content, bytes):
            return None
        if block.number == 1:
            self._number = 0
            self._data.clear()
        elif block.number == self._number and self._number:
            return None  # repeated by the link
        follows = block.number == self._number + 1 and len(self._data) + len(block.content) <= ANSWER_BYTES_MAX
        self._number = block.number if follows else 0
        self._data += block.content if follows else b""
        return _whole(bytes(self._data)) if follows and block.last else None


def _whole(data: bytes) -> Node:
    try:
        return data_node(axdr.decode(data), "the whole value:")
    except DlmsError:
        pass
    cursor = Cursor(data, "GET-response in blocks")
    try:
        results = read_results(cursor)
        cursor.check_end()
    except DlmsError as error:
        return Node("the whole value", f"cannot be read: {error}")
    return field_node("all results", results)
