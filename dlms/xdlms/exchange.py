"""Exchanges: one confirmed service from its first request to its complete answer (GB 9.3.5 to 9.3.7).

Block transfer may turn one service into many APDUs. `start` returns the first request; `advance` takes each APDU of the
answer and returns the next request, or the answer once it is complete. An exchange knows nothing of the association.

GET is here; SET, ACTION and ACCESS are in `dlms.xdlms.exchange_write`, READ and WRITE in `dlms.xdlms.exchange_sn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dlms import axdr
from dlms.axdr import Data
from dlms.codes import Apdu
from dlms.cosem.obis import MethodRef
from dlms.cursor import Cursor
from dlms.errors import PeerError
from dlms.xdlms.apdu import get as get_apdu
from dlms.xdlms.apdu.common import AccessError, ActionOutcome, Item, Result, read_result, read_results

if TYPE_CHECKING:
    from dlms.xdlms.apdu.access import Access, AccessOutcome

ANSWER_BYTES_MAX = 4 * 1024 * 1024  # a year of quarter-hours with 8 columns is 2 MiB; a device has 128 MiB of memory


@dataclass(frozen=True, slots=True)
class GetAnswer:
    """Answer to a GET, not decoded yet: the next request can be sent before `results` is called.

    `form` says what `body` holds: one Get-Data-Result, a list of them, or one bare value that came in blocks.
    """

    items: tuple[Item, ...]
    form: str
    body: bytes

    def results(self) -> tuple[Result, ...]:
        """A value or an error per item, in order. Raises `DecodeError`, and `PeerError` for a wrong number of them."""
        cursor = Cursor(self.body, "GET-response")
        results: tuple[Result, ...]
        if self.form == "list":
            results = read_results(cursor)
        elif self.form == "result":
            results = (read_result(cursor),)
        else:
            results = (axdr.read(cursor),)
        cursor.check_end()
        if len(results) != len(self.items):
            raise PeerError(f"{len(results)} results for {len(self.items)} attributes")
        return results

    def single(self) -> bytes | AccessError:
        """The encoded value of a GET of one attribute, for a caller that decodes it itself. Raises `DecodeError`."""
        if self.form == "value":
            return self.body
        if self.form == "result" and self.body[:1] == b"\x00":
            return self.body[1:]
        if self.form == "list" and self.body[:2] == b"\x01\x00":
            return self.body[2:]
        (result,) = self.results()
        return result if isinstance(result, AccessError) else result.emit()


@dataclass(frozen=True, slots=True)
class SetAnswer:
    """Answer to a SET: one Data-Access-Result code per item."""

    items: tuple[Item, ...]
    results: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ActionAnswer:
    """Answer to an ACTION: one outcome per method."""

    methods: tuple[MethodRef, ...]
    outcomes: tuple[ActionOutcome, ...]


@dataclass(frozen=True, slots=True)
class AccessAnswer:
    """Answer to an ACCESS: one outcome per specification."""

    items: tuple[Access, ...]
    outcomes: tuple[AccessOutcome, ...]


Answer = GetAnswer | SetAnswer | ActionAnswer | AccessAnswer


class Exchange(Protocol):
    """One confirmed service, as `dlms.client.association.Association` runs it.

    `response_tag` is the first octet of its answers; `has_invoke_id` says that their third octet repeats the
    invoke-id-and-priority of the request.
    """

    response_tag: int
    has_invoke_id: bool

    def start(self, invoke: int) -> bytes:
        """Return the first request. `invoke` is the octet invoke-id-and-priority."""

    def advance(self, apdu: bytes) -> bytes | Answer:
        """Take an answer APDU; return the next request, or the complete answer.

        Raises `DecodeError` and `PeerError`; the exchange is then over.
        """


class GetExchange:
    """GET of one attribute or a list."""

    response_tag = int(Apdu.GET_RESPONSE)
    has_invoke_id = True

    def __init__(self, items: tuple[Item, ...], *, as_list: bool | None = None) -> None:
        self._items = items
        self._as_list = len(items) > 1 if as_list is None else as_list
        self._invoke = 0
        self._blocks = bytearray()
        self._number = 0
        self._stopped = False

    def value_from(self, start: int) -> bytes:
        """Return what has come so far, from octet `start` on, of the encoded value that comes in blocks."""
        return bytes(self._blocks[start:])

    @property
    def in_blocks(self) -> bool:
        """Whether a block has come since the last `start`."""
        return self._number > 0

    def stop(self) -> None:
        """End the exchange with the next block. A new request tells the meter that no more blocks are wanted."""
        self._stopped = True

    def start(self, invoke: int) -> bytes:
        """The request. A second call begins anew, blocks included: for an answer that was lost on the way."""
        self._invoke = invoke
        self._blocks.clear()
        self._number = 0
        if self._as_list:
            return get_apdu.GetListRequest(invoke, self._items).emit()
        return get_apdu.GetRequest(invoke, self._items[0]).emit()

    def advance(self, apdu: bytes) -> bytes | GetAnswer:
        choice = apdu[1]
        if choice == get_apdu.BLOCK:
            return self._block(apdu)
        if self._number:
            raise PeerError("a GET-response without block in the middle of blocks")
        if choice == get_apdu.LIST:
            if not self._as_list:
                raise PeerError("a GET-response with list to a GET of one attribute")
            return GetAnswer(self._items, "list", apdu[3:])
        if choice == get_apdu.NORMAL:
            return self._normal(apdu)
        raise PeerError(f"GET-response of form {choice}")

    def _normal(self, apdu: bytes) -> GetAnswer:
        """An answer without list. As the answer to a list it can only be one error, which then holds for every item."""
        if self._as_list and len(self._items) > 1:
            response = get_apdu.parse_response(apdu)
            if not isinstance(response, get_apdu.GetResponse) or isinstance(response.result, Data):
                raise PeerError("one value as the answer to a GET with list")
            raise ListRefused(f"GET with list refused: {response.result.text}")
        return GetAnswer(self._items, "result", apdu[3:])

    def _block(self, apdu: bytes) -> bytes | GetAnswer:
        block = get_apdu.parse_block(apdu)
        if isinstance(block.content, AccessError):
            if self._as_list and len(self._items) > 1:
                raise ListRefused(f"GET with list ended: {block.content.text}")
            return GetAnswer(self._items, "result", bytes((1, block.content.code)))
        if block.number != self._number + 1:
            raise PeerError(f"block {block.number} where block {self._number + 1} is due")
        self._number = block.number
        if len(self._blocks) + len(block.content) > ANSWER_BYTES_MAX:
            raise PeerError(f"an answer of more than {ANSWER_BYTES_MAX} octets")
        self._blocks += block.content
        if not block.last and not self._stopped:
            return get_apdu.GetNext(self._invoke, block.number).emit()
        return GetAnswer(self._items, "list" if self._as_list else "value", bytes(self._blocks))


class ListRefused(PeerError):
    """The server answered a list with a single error: it does not take lists, or not this one."""
