"""One long answer, piece by piece: the value of an attribute while it still comes in blocks.

The next block is asked for before the last one is given out, so the line works while the caller does. Another call on
the same meter first lets the answer come in to its end; what came meanwhile is given out afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from dlms.client.events import Replied, SessionEvent
from dlms.client.reading import refusal
from dlms.errors import DlmsError, PeerError
from dlms.xdlms.apdu.common import AccessError
from dlms.xdlms.exchange import GetAnswer, GetExchange

if TYPE_CHECKING:
    from dlms.cosem.obis import AttributeRef
    from dlms.xdlms.exchange_sn import SnReadExchange


class Carrier(Protocol):
    """The driver of the session that the exchange is under way on."""

    def run(self, wanted: Callable[[SessionEvent], bool], come: Callable[[], bool]) -> list[SessionEvent]:
        """Carry octets until a wanted event comes or `come` is true; the events up to it. Raises `DlmsError`, the one
        that ended the session."""


class AnswerStream:
    """The encoded value of `ref` as `exchange` brings it. Made by `Meter.stream`.

    Iterating raises `ItemFailed` when the meter refuses, and what else ends a session, after the pieces before it.
    """

    def __init__(self, carrier: Carrier, ref: AttributeRef, exchange: GetExchange | SnReadExchange) -> None:
        self._carrier = carrier
        self._ref = ref
        self._exchange = exchange
        self._taken = 0
        self._outcome: GetAnswer | DlmsError | None = None

    def __iter__(self) -> Iterator[bytes]:
        while self._outcome is None:
            piece = self._exchange.value_from(self._taken)
            if piece:
                self._taken += len(piece)
                yield piece
            else:
                self._carry(lambda: bool(self._exchange.value_from(self._taken)))
        yield from self._rest(self._outcome)

    def drain(self) -> None:
        """Let the answer come in to its end. Never raises: what ended it is told by the iteration."""
        if self._outcome is None:
            self._carry(lambda: False)

    def end(self, error: DlmsError) -> None:
        """The session is gone."""
        if self._outcome is None:
            self._outcome = error

    def close(self) -> None:
        """No more of it is wanted. The answer ends with the block that is under way, at the next call on the meter."""
        self._exchange.stop()

    def _carry(self, come: Callable[[], bool]) -> None:
        """Carry bytes until there is more, or the end."""
        try:
            for event in self._carrier.run(lambda event: isinstance(event, Replied), come):
                self._note(event)
        except DlmsError as error:
            self._outcome = error

    def _note(self, event: SessionEvent) -> None:
        if isinstance(event, Replied):
            answer = event.outcome
            self._outcome = answer if isinstance(answer, GetAnswer | PeerError) else PeerError("no reply to a GET")

    def _rest(self, outcome: GetAnswer | DlmsError) -> Iterator[bytes]:
        piece = self._exchange.value_from(self._taken)
        if piece:
            self._taken += len(piece)
            yield piece
        if isinstance(outcome, DlmsError):
            raise outcome
        content = outcome.single()
        if isinstance(content, AccessError):
            raise refusal(self._ref, content.code, content.text)
        if content[self._taken :]:
            yield content[self._taken :]
