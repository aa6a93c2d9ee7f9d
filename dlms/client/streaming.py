"""One long answer in pieces: the value of an attribute while it still arrives in blocks.

The next block is requested before the last one is yielded, so the line and the caller work at the same time. Another
call on the same meter first lets the answer arrive completely; the pieces are yielded afterwards.
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


class SessionDriver(Protocol):
    """What runs the session that the exchange belongs to, as `dlms.client.meter.Meter` does."""

    def run(self, wanted: Callable[[SessionEvent], bool], come: Callable[[], bool]) -> list[SessionEvent]:
        """Run the session until a `wanted` event, or until `come` is true; return the events up to then.

        Raises the `DlmsError` that ended the session.
        """


class AnswerStream:
    """The encoded value of `ref`, as `exchange` reads it. Made by `Meter.stream`.

    Iterating yields the pieces; it raises `ItemFailed` when the meter refuses, or the error that ended the session.
    """

    def __init__(self, driver: SessionDriver, ref: AttributeRef, exchange: GetExchange | SnReadExchange) -> None:
        self._driver = driver
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
                self._drive(lambda: bool(self._exchange.value_from(self._taken)))
        yield from self._rest(self._outcome)

    def drain(self) -> None:
        """Let the answer arrive completely. Never raises: the iteration raises what ended it."""
        if self._outcome is None:
            self._drive(lambda: False)

    def end(self, error: DlmsError) -> None:
        """Note that the session has ended with `error`."""
        if self._outcome is None:
            self._outcome = error

    def close(self) -> None:
        """Stop: the answer ends with the block in flight, at the next call on the meter."""
        self._exchange.stop()

    def _drive(self, come: Callable[[], bool]) -> None:
        """Run the session until there is another piece, or the end."""
        try:
            for event in self._driver.run(lambda event: isinstance(event, Replied), come):
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
