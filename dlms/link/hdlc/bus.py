"""The meter's side of HDLC for several clients at once: a `HdlcServerLink` for each that speaks, behind one decoder.

The secondary answers whoever has given it the turn, so clients that take turns on one bus do not disturb each other.
`client` is the one whose event `next_event` gave last; what is sent goes to it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dlms.errors import LocalError
from dlms.link.datalink import LinkEvent
from dlms.link.hdlc.frames import BROADCAST_UPPER, HdlcAddress, HdlcDecoder, HdlcFrame
from dlms.link.hdlc.primary import HdlcServerLink
from dlms.link.hdlc.secondary import INTER_OCTET_TIMEOUT_S, ServerState

CLIENTS_MAX = 8


class HdlcServerBus:
    """A meter's side with any number of client SAPs; it takes the options of `HdlcServerLink`."""

    def __init__(
        self, address: HdlcAddress | int | str = 1, *, aliases: Collection[HdlcAddress | int | str] = (), **options: Any
    ) -> None:
        self._heard = frozenset(HdlcAddress.of(value) for value in (address, *aliases))
        self._address, self._aliases, self._options = address, tuple(aliases), options
        self._make()  # wrong options are said now
        self._gap_s: float = options.get("inter_octet_timeout_s", INTER_OCTET_TIMEOUT_S)
        self._gap_deadline: float | None = None
        self._decoder = HdlcDecoder()
        self._links: dict[int, HdlcServerLink] = {}
        self._closed = False
        self.client: int | None = None

    def _make(self) -> HdlcServerLink:
        return HdlcServerLink(self._address, aliases=self._aliases, **self._options)

    def connect(self, now: float) -> None:
        """A secondary waits. Raises `LocalError` when the port is gone."""
        del now
        if self._closed:
            raise LocalError("the port is closed")

    def address(self, client: int) -> None:
        """What is sent next goes to this client."""
        self.client = client

    def send(self, apdu: bytes, now: float) -> None:
        """Queue one APDU for `client`. Raises `LocalError` when it is not connected."""
        link = self._links.get(-1 if self.client is None else self.client)
        if link is None:
            raise LocalError("no client has spoken")
        link.send(apdu, now)

    def disconnect(self, now: float) -> None:
        """Forget all connections."""
        for link in self._links.values():
            link.disconnect(now)

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the line. Never raises for what came."""
        if not self._closed:
            self._decoder.feed(data)
            self._drain(now)
            self._gap_deadline = now + self._gap_s if self._decoder.pending else None

    def receive_eof(self, now: float) -> None:
        """The port below is closed for good."""
        self._closed = True
        for link in self._links.values():
            link.receive_eof(now)

    def take_output(self) -> bytes:
        """All bytes for the line since the last call."""
        return b"".join([link.take_output() for link in self._links.values()])

    def next_event(self) -> LinkEvent | None:
        """What happened at one of the clients, who is `client` then."""
        for client, link in self._links.items():
            event = link.next_event()
            if event is not None:
                self.client = client
                return event
        return None

    def next_deadline(self) -> float | None:
        """When `on_deadline` is due."""
        deadlines = [self._gap_deadline, *(link.next_deadline() for link in self._links.values())]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_deadline(self, now: float) -> None:
        """Time passed."""
        if self._gap_deadline is not None and self._gap_deadline <= now:
            self._gap_deadline = None
            self._decoder.idle()
            self._drain(now)
        for link in self._links.values():
            deadline = link.next_deadline()
            if deadline is not None and deadline <= now:
                link.on_deadline(now)

    def _drain(self, now: float) -> None:
        while (item := self._decoder.next()) is not None:
            if isinstance(item, HdlcFrame):
                self._hand_out(item, now)

    def _hand_out(self, frame: HdlcFrame, now: float) -> None:
        wire = frame.emit()
        if frame.destination.upper in BROADCAST_UPPER:
            for link in self._links.values():
                link.receive(wire, now)
        elif frame.destination in self._heard and frame.source.lower is None:
            asked = self._link_for(frame.source.upper)
            if asked is not None:
                asked.receive(wire, now)

    def _link_for(self, client: int) -> HdlcServerLink | None:
        """The client's link. A new client takes the place of one that left; when all are taken it is not heard."""
        found = self._links.get(client)
        if found is not None:
            return found
        if len(self._links) >= CLIENTS_MAX:
            left = [sap for sap, link in self._links.items() if link.state is ServerState.DISCONNECTED]
            if not left:
                return None
            del self._links[left[0]]
        made = self._links[client] = self._make()
        return made
