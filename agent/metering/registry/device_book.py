"""What each meter is and can, how often reading it failed, and when to ask it again: durable, a row per meter.

The rows are kept with what else is learned about meters, in the store of readings: a few hundred octets per change, in
one transaction for all meters that changed within `SOON_S`, which is what a power cut may cost. Counters alone are no
reason to write; they go with the next change, after `FLUSH_S`, or at the end. An object list is kept once for all
meters that have the same one, under its digest.

A meter is asked who made it and which firmware it runs in idle line time: after its first successful visit, and once a
day from then on; with that its scalers are looked at (`agent.metering.events.scaler_check`), in as many visits as that
takes. Where the firmware is another one than the object list was read for, the list is read anew, and what was learned
about the meter's attributes is forgotten.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from agent.clock import Clock
from agent.metering.registry.capabilities import OBJECT_LIST, ObjectList, Offered, model_of, text_of
from agent.metering.registry.counters import Counters, FailureKind
from agent.metering.registry.entry import Meter
from agent.metering.registry.registry import Registry
from agent.metering.store.store_file import StoreError
from dlms.axdr import Data
from dlms.cosem.obis import FIRMWARE_ID, AttributeRef

LOG = logging.getLogger("agent.metering.registry")

SOON_S = 5.0  # the first run of a network changes hundreds of rows, and flash bears no commit for each
FLUSH_S = 21_600.0  # how old counters that were not written may be: every visit counts, and flash is not for that
CHECK_S = 86_400.0  # how often a meter is asked for its firmware
RETRY_S = 3600.0  # after a question in idle time was not answered
LOOK_AGAIN_S = 10.0  # how often meters are looked through for one to ask
ROW = "device"
LISTS = "objects/"  # the rows of object lists begin with that; no meter has such a name


class Memory(Protocol):
    """The part of `agent.metering.store.reading_store.Store` that is used. Both raise `StoreError`."""

    def knowledge(self, meter: str) -> dict[str, object] | None: ...

    def append(
        self, readings: tuple[()], progress: tuple[()], knowledge: Mapping[str, Mapping[str, object]], /
    ) -> tuple[int, int]: ...


@dataclass(slots=True)
class Device:
    """One meter. `objects` is the digest of its object list, empty for none; `objects_for` the firmware that it was
    read with, and `objects_why` why there is none. `checked`: when it was last asked who it is (civil seconds).
    `scalers_after`: up to where its scalers were looked at since then, while some remain."""

    logical_device: str = ""
    device_type: str = ""
    firmware: str = ""
    offered: Offered | None = None
    objects: str = ""
    objects_for: str | None = None
    objects_why: str = ""
    object_count: int = 0
    checked: float = 0.0
    scalers_after: str = ""
    counters: Counters = field(default_factory=Counters)

    @property
    def model(self) -> str | None:
        """Who made it and what it is; `None` also before it has told its name, which tasks wait for."""
        return model_of(self.logical_device, self.device_type or self.firmware) if self.logical_device else None

    def dump(self) -> dict[str, object]:
        offered = self.offered
        return {
            "logical_device": self.logical_device,
            "device_type": self.device_type,
            "firmware": self.firmware,
            "offered": [offered.conformance, offered.pdu_size, offered.list_max] if offered else None,
            "objects": self.objects,
            "objects_for": self.objects_for,
            "objects_why": self.objects_why,
            "object_count": self.object_count,
            "checked": self.checked,
            "scalers_after": self.scalers_after,
            "counters": self.counters.dump(),
        }

    @classmethod
    def load(cls, row: Mapping[str, object]) -> Device:
        """Return a stored device; what is not as expected is as if it was never learned."""
        checked, count, offered = row.get("checked"), row.get("object_count"), row.get("offered")
        return cls(
            logical_device=_text(row, "logical_device"),
            device_type=_text(row, "device_type"),
            firmware=_text(row, "firmware"),
            offered=_offered(offered),
            objects=_text(row, "objects"),
            objects_for=_text(row, "objects_for") if isinstance(row.get("objects_for"), str) else None,
            objects_why=_text(row, "objects_why"),
            object_count=count if isinstance(count, int) else 0,
            checked=float(checked) if isinstance(checked, int | float) else 0.0,
            scalers_after=_text(row, "scalers_after"),
            counters=Counters.load(row.get("counters")),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What a meter is to be asked in idle time: these attributes, and its scalers behind `scalers_after`, where that is
    not `None`."""

    meter: Meter
    refs: tuple[AttributeRef, ...] = ()
    scalers_after: str | None = None


class DeviceBook:
    """Thread-safe. `device_type` is the attribute that says which type a meter is, `None` for none."""

    def __init__(
        self, memory: Memory, registry: Registry, clock: Clock, *, device_type: AttributeRef | None = None
    ) -> None:
        self._memory = memory
        self._registry = registry
        self._clock = clock
        self._device_type = device_type
        self._lock = threading.RLock()
        self._devices: dict[str, Device] = {}
        self._asked_at: dict[str, float] = {}  # key → monotonic seconds of the last question in idle time
        self._dirty: set[str] = set()
        self._lists: set[str] = set()  # digests of lists that were written since the start
        self._flush_at: float | None = None
        self._look_at = 0.0
        for meter in registry.known():
            registry.set_model(meter.key, self._of(meter.key).model)
        registry.on_moved = self.moved

    # --- what visits tell ---

    def visited(self, meter: Meter, offered: Offered | None) -> None:
        """A visit went well; `offered` is what its association agreed to."""
        with self._lock:
            if self._registry.get(meter.key) is None:
                return  # it was forgotten meanwhile
            device = self._of(meter.key)
            if meter.named and device.logical_device not in ("", meter.meter_id):
                counters = device.counters  # another meter stands there now; the place keeps its counts
                device = self._devices[meter.key] = Device(counters=counters)
                self._asked_at.pop(meter.key, None)
            device.counters.count("read")
            self._later(meter.key)
            changed = False
            if meter.named and device.logical_device != meter.meter_id:
                device.logical_device, changed = meter.meter_id, True
            if offered is not None and device.offered != offered:
                device.offered, changed = offered, True
            if changed:
                self._changed(meter.key)

    def moved(self, before: str, now: str) -> None:
        """The meter that had the key `before` has another one now: what is known of it goes along. Counts stay."""
        with self._lock:
            device, there = self._of(before), self._of(now)
            here = self._registry.get(before)
            name = here.meter_id if here is not None and here.named else ""
            self._devices[now] = replace(device, counters=there.counters)
            self._devices[before] = Device(logical_device=name, counters=device.counters)
            for key in (before, now):
                self._asked_at.pop(key, None)
                self._changed(key)

    def failed(self, key: str, kind: FailureKind) -> None:
        """A visit failed."""
        with self._lock:
            if self._registry.get(key) is not None:
                self._of(key).counters.count(kind)
                self._later(key)

    def told(self, key: str, values: Mapping[AttributeRef, Data | None]) -> bool:
        """A meter answered a question of `due`: `None` for an attribute that it refused.

        Returns whether its firmware is another one than before, so that nothing learned about it holds any more.
        """
        with self._lock:
            if self._registry.get(key) is None:
                return False
            device = self._of(key)
            before = device.firmware
            if FIRMWARE_ID in values:
                device.firmware = text_of(values[FIRMWARE_ID])
                device.checked = self._clock.wall()
            if self._device_type is not None and self._device_type in values:
                device.device_type = text_of(values[self._device_type])
            if OBJECT_LIST in values:
                self._take_list(device, values[OBJECT_LIST])
            self._changed(key)
            exchanged = bool(before) and device.firmware != before
            if exchanged:
                LOG.info(
                    "meter %s runs firmware %s, it was %s",
                    device.logical_device or key,
                    device.firmware or "that it does not name",
                    before,
                    extra={"event": "meter.firmware"},
                )
            return exchanged

    # --- what is to be asked ---

    def due(self, port: str, now: float) -> Question | None:
        """Return what to ask a meter of `port` now that the line is idle; `None` for nothing.

        Each call that returns one counts as the question. `now`: monotonic seconds.
        """
        with self._lock:
            if now < self._look_at:
                return None
            for meter in self._registry.present(port):
                asked = self._asked_at.get(meter.key)
                if self._registry.name_only(meter) or (asked is not None and now < asked + RETRY_S):
                    continue
                question = self._question(meter)
                if question is not None:
                    self._asked_at[meter.key] = now
                    return question
            self._look_at = now + LOOK_AGAIN_S
            return None

    def _question(self, meter: Meter) -> Question | None:
        device = self._of(meter.key)
        if not device.counters.read:
            return None  # before its first successful visit there are more important things to ask
        if not 0 <= self._clock.wall() - device.checked < CHECK_S:
            refs = (FIRMWARE_ID,) if self._device_type is None else (FIRMWARE_ID, self._device_type)
            return Question(meter, refs, device.scalers_after)
        if device.scalers_after:
            return Question(meter, (), device.scalers_after)
        if meter.named and device.objects_for != device.firmware:
            return Question(meter, (OBJECT_LIST,))
        return None

    def looked(self, key: str, after: str) -> None:
        """The scalers of a meter were looked at up to this one; empty: all of them."""
        with self._lock:
            if self._registry.get(key) is not None and self._of(key).scalers_after != after:
                self._of(key).scalers_after = after
                self._changed(key)

    def answered(self, key: str) -> None:
        """The last question was answered: the next one need not wait."""
        with self._lock:
            self._asked_at.pop(key, None)
            self._look_at = 0.0

    # --- what is shown ---

    def device(self, key: str) -> Device:
        """Return what is known of a meter. Not to be changed by the caller."""
        with self._lock:
            return self._of(key)

    def objects(self, key: str) -> ObjectList | None:
        """Return the object list of a meter, `None` where there is none. Raises `StoreError`."""
        with self._lock:
            digest = self._of(key).objects
            row = self._memory.knowledge(LISTS + digest) if digest else None
            return ObjectList.load(digest, row) if row else None

    def rows(self) -> set[str]:
        """Return the names of rows in the store that belong to no meter alone."""
        with self._lock:
            return {LISTS + device.objects for device in self._devices.values() if device.objects}

    # --- time and end ---

    def tick(self) -> None:
        """Write what is due. Called about every second."""
        if self._flush_at is not None and self._clock.monotonic() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Write everything that is not written yet. Trouble of the store is its owner's to tell; it is tried again."""
        with self._lock:
            rows = {f"{key}#{ROW}": self._devices[key].dump() for key in self._dirty if key in self._devices}
            self._flush_at = None
            if rows and self._write(rows):
                self._dirty.clear()

    def forget(self, keys: Iterable[str]) -> None:
        """These meters are gone for good. Their rows go with what the store has of them."""
        with self._lock:
            for key in keys:
                self._devices.pop(key, None)
                self._asked_at.pop(key, None)
                self._dirty.discard(key)

    # --- inside ---

    def _of(self, key: str) -> Device:
        device = self._devices.get(key)
        if device is None:
            try:
                row = self._memory.knowledge(f"{key}#{ROW}")
            except StoreError:
                row = None  # its owner reports it; who the meter is will be asked again
            device = self._devices[key] = Device.load(row) if row else Device()
        return device

    def _take_list(self, device: Device, data: Data | None) -> None:
        device.objects_for = device.firmware
        device.objects, device.object_count = "", 0
        if data is None:
            device.objects_why = "the meter does not give it"
            return
        try:
            found = ObjectList.parse(data)
        except ValueError as error:
            device.objects_why = str(error)[:160]
            return
        if found.digest in self._lists or self._write({LISTS + found.digest: found.dump()}):
            self._lists.add(found.digest)
            device.objects, device.object_count, device.objects_why = found.digest, found.count, ""
        else:
            device.objects_for, device.objects_why = None, "the store did not take it"

    def _changed(self, key: str) -> None:
        self._registry.set_model(key, self._of(key).model)
        self._later(key, SOON_S)

    def _later(self, key: str, within_s: float = FLUSH_S) -> None:
        self._dirty.add(key)
        flush_at = self._clock.monotonic() + within_s
        self._flush_at = flush_at if self._flush_at is None else min(self._flush_at, flush_at)

    def _write(self, rows: Mapping[str, Mapping[str, object]]) -> bool:
        try:
            self._memory.append((), (), rows)
        except StoreError:
            self._flush_at = self._clock.monotonic() + RETRY_S
            return False
        return True


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _offered(stored: object) -> Offered | None:
    match stored:
        case [int(conformance), int(pdu_size), int() | None as list_max]:
            return Offered(conformance, pdu_size, list_max)
        case _:
            return None
