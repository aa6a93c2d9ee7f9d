"""What the control socket answers: the daemon's state as plain values for `dcuctl`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from agent.daemon.control import ControlError, Handler
from agent.metering.ledger.gap_table import GAPS_MAX
from agent.metering.store.events import KEPT as EVENTS_KEPT
from agent.metering.store.reading_store import REFUSED_MAX, Refusal, Store, StoreError, StoreStats
from agent.metering.store.sinks import SinkState
from agent.metering.uplink.worker import HEAD_END
from agent.status import SinkStatus, Status, StatusBoard
from omadm.readings import TEXT_CHARS_MAX

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.clock_trust import Judgement
    from agent.daemon.health import Health
    from agent.metering.collector import Collector
    from agent.ota.handover import HandOver

REFUSED_SHOWN = 20  # unless more are asked for
QUEUE_WARNING_S = 7 * 86_400.0  # a refusal that nobody cared for in a week is history
VALUE_CHARS_MAX = 100
EVENTS_SHOWN = 20  # unless more are asked for
GAPS_SHOWN = 100  # unless more are asked for


class Views:
    """The handlers, by command name. All of them run on the control thread and read what others own."""

    def __init__(
        self,
        *,
        board: StatusBoard,
        store: Store,
        collector: Collector,
        health: Health,
        handover: HandOver,
        clock: Clock,
        session_now: Callable[[str], None],
        ages: Callable[[], Mapping[str, float]],
        judge: Callable[[], Judgement] | None = None,
        sinks: Sequence[Callable[[], SinkStatus]] = (),
        warnings: Sequence[Callable[[], Sequence[str]]] = (),
    ) -> None:
        """`sinks` say how delivery goes, the head-end's first. `judge` says what civil time is worth, where the clock
        can say more than whether it is trusted. `warnings` have sentences about other parts."""
        self._board = board
        self._store = store
        self._collector = collector
        self._health = health
        self._handover = handover
        self._clock = clock
        self._session_now = session_now
        self._ages = ages
        self._judge = judge
        self._sinks = sinks
        self._other_warnings = warnings

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "meters": self.meters,
            "queue": self.queue,
            "refused": self.refused,
            "tasks": self.tasks,
            "health": self.health,
            "session": self.session,
            "update": self.update,
            "forget-meter": self.forget_meter,
            "gaps": self.gaps,
            "give-up": self.give_up,
            "events": self.events,
        }

    def status(self, _: Mapping[str, object]) -> object:
        return self.document()

    def document(self) -> dict[str, object]:
        """Everything at once: the parts of `agent.status.Status`, with `now`, `warnings`, `ports`, `tasks`, `gaps`,
        `clock`, `health` and `beats`. Any thread."""
        status = self._dated(self._current())
        document = asdict(status)
        document["now"] = self._clock.wall()
        document["warnings"] = self._warnings(status)
        document["clock_trusted"] = self._clock.trusted()
        document["clock"] = asdict(self._judge()) if self._judge is not None else None
        document["tasks"] = {
            name: asdict(replace(task, waiting=(), left_out=()))
            for name, task in self._collector.tasks.statuses().items()
        }
        document["gaps"] = self._gap_count()
        document["ports"] = self._collector.port_statuses()
        document["health"] = {name: asdict(check) for name, check in self._health.checks.items()}
        document["beats"] = {name: round(age, 1) for name, age in self._ages().items()}
        return document

    def meters(self, _: Mapping[str, object]) -> object:
        return [asdict(meter) for meter in self._collector.meters()]

    def queue(self, _: Mapping[str, object]) -> object:
        try:
            stats = self._store.stats()
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        return {
            **asdict(self._current().queue), "store": stats.uuid, "kept": stats.kept, "sinks": self._sink_list(stats),
        }  # fmt: skip

    def _sink_list(self, stats: StoreStats) -> list[dict[str, object]]:
        """Everybody who gets readings, with what waits for them and what they did not get. Raises `ControlError`."""
        try:
            states = self._store.sink_states()
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        found: list[dict[str, object]] = []
        for status in (each() for each in self._sinks):
            if status.name == HEAD_END:
                state = SinkState(stats.pending, stats.lost + stats.refused, stats.refused, stats.refused_at)
            else:
                state = states.get(status.name, SinkState(0, 0))
            waiting = max(0, state.waiting - status.ahead)
            found.append({**asdict(status), **asdict(state), "waiting": waiting})
        return found

    def refused(self, request: Mapping[str, object]) -> object:
        """The readings that the head-end, or another sink, would not take, newest first, at most `limit` of them. A
        value may be long:
        `value` is the beginning of its JSON text."""
        limit = request.get("limit", REFUSED_SHOWN)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= REFUSED_MAX:
            raise ControlError(f"limit is 1 to {REFUSED_MAX}")
        try:
            stats = self._store.stats()
            found = self._store.refused(limit)
            by_sinks = sum(state.refused for state in self._store.sink_states().values())
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        return {"total": stats.refused + by_sinks, "readings": [_refusal(refusal) for refusal in found]}

    def tasks(self, _: Mapping[str, object]) -> object:
        return {name: asdict(task) for name, task in self._collector.tasks.statuses().items()}

    def health(self, _: Mapping[str, object]) -> object:
        return {name: asdict(check) for name, check in self._health.checks.items()}

    def session(self, _: Mapping[str, object]) -> object:
        if self._board.current.dm.state != "registered":
            reason = self._board.current.dm.error
            raise ControlError(f"the device is not registered yet{': ' + reason if reason else ''}")
        self._session_now("user")
        return {"asked": True}

    def update(self, _: Mapping[str, object]) -> object:
        try:
            status = self._handover.status()
            result = self._handover.result()
        except OSError as error:
            raise ControlError(f"the Update Agent's files: {error}") from error
        shown = self._board.current
        return {
            **asdict(status),
            "job": shown.firmware_job,
            "download": asdict(shown.download) if shown.download else None,
            "result": asdict(result) if result else None,
        }

    def forget_meter(self, request: Mapping[str, object]) -> object:
        meter_id = request.get("meter")
        try:
            gone = self._collector.remove(meter_id) if isinstance(meter_id, str) else []
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        except OSError as error:
            raise ControlError(f"the file of added meters: {error}") from error
        if not gone:
            raise ControlError(f"no meter {meter_id}")
        stay = [meter.meter_id for meter in gone if meter.key in self._collector.added.keys]
        return {"forgotten": [meter.meter_id for meter in gone], "provisioned": stay}

    def gaps(self, request: Mapping[str, object]) -> object:
        """The slots that are missing, as ranges, of one `meter` or of all, at most `limit`. `going_on`: `last` is only
        the last one so far."""
        meter, limit = request.get("meter", ""), request.get("limit", GAPS_SHOWN)
        if not isinstance(meter, str):
            raise ControlError("meter is a text")
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= GAPS_MAX:
            raise ControlError(f"limit is 1 to {GAPS_MAX}")
        try:
            found = self._collector.tasks.gaps(self._collector.id_of(meter))
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        if meter and not found:
            self._check_meter(meter)
        shown = [
            {**asdict(gap), "slots": (gap.last - gap.first) // gap.every + 1, "going_on": going_on}
            for gap, going_on in found[:limit]
        ]
        return {"total": len(found), "gaps": shown}

    def give_up(self, request: Mapping[str, object]) -> object:
        """Close the gaps of a `meter`, or of one `task` of it, because of `why`."""
        meter, task, why = (request.get(name, "") for name in ("meter", "task", "why"))
        if not (isinstance(meter, str) and isinstance(task, str) and isinstance(why, str) and meter and why):
            raise ControlError("meter, why, and at will task, are texts")
        if len(why) > TEXT_CHARS_MAX:
            raise ControlError(f"why has at most {TEXT_CHARS_MAX} characters")
        try:
            closed = self._collector.tasks.give_up(self._collector.id_of(meter), task, why)
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        if not closed:
            self._check_meter(meter)
        return {"closed": closed}

    def _check_meter(self, name: str) -> None:
        """Refuse a meter that is not known: that nothing of it is missing would be a lie. Raises `ControlError`."""
        if self._collector.registry.find(name) is None:
            raise ControlError(f"no meter {name}")

    def events(self, request: Mapping[str, object]) -> object:
        """The newest events of meters, newest first, at most `limit`."""
        limit = request.get("limit", EVENTS_SHOWN)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= EVENTS_KEPT:
            raise ControlError(f"limit is 1 to {EVENTS_KEPT}")
        desk = self._collector.events
        try:
            found = self._store.events(limit)
        except StoreError as error:
            raise ControlError(f"the store: {error}") from error
        return {"events": found, **asdict(desk.counts())}

    def _gap_count(self) -> dict[str, int] | None:
        """Open gaps and how many go on; `None` while the store cannot tell."""
        try:
            count, going_on = self._collector.tasks.gap_count()
        except StoreError:
            return None
        return {"open": count, "going_on": going_on}

    def _warnings(self, status: Status) -> list[str]:
        """What a person should look at although everything works."""
        queue, wall = status.queue, self._clock.wall()
        found = [text for say in self._other_warnings for text in say()]
        if status.update_error:
            found.append(f"the Update Agent: {status.update_error}")
        if queue.refused_at and wall - queue.refused_at < QUEUE_WARNING_S:
            found.append(
                f"the head-end refused {queue.refused} readings for good: `dcuctl queue refused` has the reasons"
            )
        found += self._sink_warnings(wall)
        if queue.lost_at and wall - queue.lost_at < QUEUE_WARNING_S:
            lost = f"{queue.lost} readings are lost" if queue.lost else "readings may be lost, how many is not known"
            found.append(f"{lost}: the store was full or damaged, the log says which")
        refusing = sum(meter.state == "failing" and meter.key_failures > 0 for meter in status.meters)
        if refusing:
            found.append(f"meters that do not take their keys: {refusing}; `dcuctl meters` has the reasons")
        return found

    def _sink_warnings(self, wall: float) -> list[str]:
        """What sinks beside the head-end did not take, or do not take now."""
        found = [
            f"{each.name}: {each.held} readings are offered again: {each.refusal}"
            for each in (say() for say in self._sinks)
            if each.refusal
        ]
        try:
            states = self._store.sink_states()
        except StoreError:
            return found  # which says so itself
        return found + [
            f"{name} did not take {state.refused} readings, the last one since {state.refused_why}:"
            " `dcuctl queue refused` lists them"
            for name, state in states.items()
            if state.refused_at and wall - state.refused_at < QUEUE_WARNING_S
        ]

    def _dated(self, status: Status) -> Status:
        """The status with the agent's start and its last session by the clock as it stands now: it may have stood at
        1970 or 2030 then."""
        zero, last = self._clock.wall() - self._clock.monotonic(), status.dm.last_session
        if status.up is not None:
            status = replace(status, started=round(zero + status.up, 3))
        if last is not None and last.up is not None:
            ended = round(zero + last.up, 3)
            dated = replace(last, started=ended - (last.ended - last.started), ended=ended)
            status = replace(status, dm=replace(status.dm, last_session=dated))
        return status

    def _current(self) -> Status:
        """The published status with the queue as it is now."""
        status = self._board.current
        try:
            stats = self._store.stats()
        except StoreError as error:
            return replace(status, queue=replace(status.queue, last_error=f"store: {error}"))
        return replace(status, meters=self._collector.meters(), queue=stats.on(status.queue))


def _refusal(refusal: Refusal) -> dict[str, object]:
    fields = ("task", "meter", "cls", "obis", "attr", "tag", "received")
    return {
        "store": refusal.store,
        "id": refusal.id,
        "refused_at": refusal.refused_at,
        "why": f"{refusal.sink}: {refusal.reason}" if refusal.sink else refusal.reason,
        "sink": refusal.sink or HEAD_END,
        **{name: refusal.record.get(name) for name in fields},
        "value": json.dumps(refusal.record.get("raw"))[:VALUE_CHARS_MAX],
    }
