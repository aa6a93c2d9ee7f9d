"""What happened in the networks behind the ports: joins, leaves, promotions, demotions, restarts; durable and bounded.

Each port has `SEGMENTS` rows of `SEGMENT_EVENTS` events in the store, written in turn: an event costs one small row in
one transaction, and the oldest segment makes room for the newest. Events are written `FLUSH_S` after they happened at
the latest; so many seconds a power cut may cost. Keep-alives are no events here: they are in the picture of the
network (`registry.network`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.metering.registry.device_book import Memory
from agent.metering.store.store_file import StoreError

LOG = logging.getLogger("agent.metering.network")

SEGMENTS = 8
SEGMENT_EVENTS = 64
EVENTS_MAX = SEGMENTS * SEGMENT_EVENTS  # per port: a day of a network that is in order
FLUSH_S = 10.0
ROW = "network/{}/{}"
KIND_CHARS_MAX = 24


@dataclass(frozen=True, slots=True)
class NetworkChange:
    """One event. `at`: seconds since the epoch; `seq` ascends per port. `sid` is the switch that the node hangs on,
    `lsid` its own SID as a switch; both are -1 where they are not told."""

    seq: int
    at: float
    kind: str
    eui48: str = ""
    sid: int = -1
    lsid: int = -1
    detail: str = ""

    def row(self) -> list[object]:
        return [self.seq, self.at, self.kind, self.eui48, self.sid, self.lsid, self.detail]

    @classmethod
    def load(cls, row: object) -> NetworkChange | None:
        """Return a stored event, `None` for what is none."""
        match row:
            case [int(seq), int() | float() as at, str(kind), str(eui48), int(sid), int(lsid), str(detail)]:
                return cls(seq, float(at), kind, eui48, sid, lsid, detail)
            case _:
                return None


class NetworkHistory:
    """The history of one port. Not thread-safe: its owner has a lock. Times are the caller's."""

    def __init__(self, memory: Memory, port: str) -> None:
        self._memory = memory
        self._port = port
        self._changes: deque[NetworkChange] = deque(maxlen=EVENTS_MAX)
        self._flush_at: float | None = None
        self._unwritten = 0  # the newest so many
        self._changes.extend(self._load())
        self._next = self._changes[-1].seq + 1 if self._changes else 0

    @property
    def changes(self) -> tuple[NetworkChange, ...]:
        """The last events, oldest first."""
        return tuple(self._changes)

    def note(
        self, kind: str, now: float, wall: float, *, eui48: str = "", sid: int = -1, lsid: int = -1, detail: str = ""
    ) -> None:
        """Something happened. `now`: monotonic seconds, `wall`: since the epoch."""
        self._changes.append(NetworkChange(self._next, wall, kind[:KIND_CHARS_MAX], eui48, sid, lsid, detail))
        self._next += 1
        self._unwritten = min(self._unwritten + 1, EVENTS_MAX)
        if self._flush_at is None:
            self._flush_at = now + FLUSH_S

    def tick(self, now: float) -> None:
        """Write what is due."""
        if self._flush_at is not None and now >= self._flush_at:
            self.flush(now)

    def flush(self, now: float) -> None:
        """Write everything that is not written yet. Trouble of the store is its owner's to tell; it is tried again."""
        self._flush_at = None
        if not self._unwritten:
            return
        fresh = list(self._changes)[-self._unwritten :]
        segments = {change.seq // SEGMENT_EVENTS for change in fresh}
        rows: Mapping[str, Mapping[str, object]] = {
            ROW.format(self._port, segment % SEGMENTS): {
                "events": [change.row() for change in self._changes if change.seq // SEGMENT_EVENTS == segment]
            }
            for segment in sorted(segments)
        }
        try:
            self._memory.append((), (), rows)
        except StoreError:
            self._flush_at = now + FLUSH_S
            return
        self._unwritten = 0

    def _load(self) -> Iterable[NetworkChange]:
        found: dict[int, NetworkChange] = {}
        for segment in range(SEGMENTS):
            try:
                row = self._memory.knowledge(ROW.format(self._port, segment)) or {}
            except StoreError as error:
                LOG.debug("a part of the history of port %s is lost: %s", self._port, error)
                continue
            events = row.get("events")
            for stored in events[:SEGMENT_EVENTS] if isinstance(events, list) else ():
                change = NetworkChange.load(stored)
                if change is not None:
                    found[change.seq] = change
        return [found[seq] for seq in sorted(found)]


def rows_of(port: str) -> list[str]:
    """The names of the rows in the store that hold the history of a port."""
    return [ROW.format(port, segment) for segment in range(SEGMENTS)]
