"""The meters this concentrator has seen: who they are, how they are reached, how reading them goes.

A meter is known by the way it is reached (`key`: port and EUI-48, or port and address) until it has told its logical
device name, which from then on is its id everywhere. Joins and leaves come and go on a power line; a meter counts as
left only after it was away for `leave_after_s`.

The file holds what must survive (identity and first contact), not the counters of the day: it is written when a meter
is new, named or moved, a few seconds later and once for many. It carries a version and a checksum; a damaged one is set
aside, since the network tells again who is in it.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent.clock import Clock
from agent.status import MeterStatus
from updateagent.disk import Disk

LOG = logging.getLogger("agent.metering.registry")

VERSION = 1
METERS_MAX = 4096  # the address space of one base node
SAVE_DELAY_S = 3.0  # a network that comes up brings hundreds of joins in a row
NAME_BYTES_MAX = 64
ERROR_CHARS_MAX = 160


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter. `joined`: first contact, seconds since the epoch. `named`: `meter_id` is its own name."""

    key: str
    port: str
    address: int
    eui48: str
    meter_id: str
    named: bool
    joined: float


@dataclass(slots=True)
class _Entry:
    """What changes, beside the meter. `absent_since`: monotonic seconds, `None` while it is in the network."""

    meter: Meter
    absent_since: float | None
    left: bool = False
    last_success: float = 0.0
    last_attempt: float = 0.0
    last_error: str = ""
    key_failures: int = 0
    security: str = ""
    silent: bool = False

    def status(self) -> MeterStatus:
        if self.left:
            state = "left"
        elif self.last_error:
            state = "silent" if self.silent else "failing"
        else:
            state = "read" if self.last_success else "joined"
        return MeterStatus(
            meter_id=self.meter.meter_id,
            port=self.meter.port,
            address=self.meter.address,
            state=state,
            joined=self.meter.joined,
            last_success=self.last_success,
            last_attempt=self.last_attempt,
            last_error=self.last_error,
            key_failures=self.key_failures,
            security=self.security,
            named=self.meter.named,
            eui48=self.meter.eui48,
        )


def meter_name(octets: bytes) -> str:
    """Return the id that a logical device name gives: its text, else its octets as hexadecimal; empty when it is empty.

    A name may become part of a path in the management tree and of a file name, so only plain characters count as text.
    """
    text = octets.strip(b"\0 ")[:NAME_BYTES_MAX]
    if text and all(0x21 <= octet <= 0x7E and octet not in b'/\\"' for octet in text):
        return text.decode("ascii")
    return text.hex()


class Registry:
    """Thread-safe. `publish` gets the whole picture after each change of it."""

    def __init__(
        self,
        disk: Disk,
        file: Path,
        clock: Clock,
        *,
        leave_after_s: float,
        publish: Callable[[tuple[MeterStatus, ...]], None] = lambda _meters: None,
    ) -> None:
        self._disk = disk
        self._file = file
        self._clock = clock
        self._leave_after_s = leave_after_s
        self._publish = publish
        self._lock = threading.RLock()
        self._save_at: float | None = None
        self._changed = True
        self._entries: dict[str, _Entry] = {}
        # Who is in the file was in the network once; whether it still is, the network has yet to say.
        self._load(absent_since=clock.monotonic())

    @property
    def disk(self) -> Disk:
        return self._disk

    # --- what happens to meters ---

    def join(self, port: str, address: int, eui48: bytes = b"") -> Meter:
        """A node is in the network of `port`. Returns the meter, which may have been known before."""
        key = f"{port}/{eui48.hex() or address}"
        with self._lock:
            for other in list(self._entries.values()):
                if other.meter.port == port and other.meter.address == address and other.meter.key != key:
                    self._set_absent(other)  # another node has its address now
            entry = self._entries.get(key)
            if entry is None:
                self._make_room()
                meter_id = eui48.hex() or f"{port}-{address}"
                meter = Meter(key, port, address, eui48.hex(), meter_id, named=False, joined=self._clock.wall())
                entry = self._entries[key] = _Entry(meter, None)
                LOG.info("meter %s joined, address %d", key, address, extra={"event": "meter.joined"})
                self._touch(identity=True)
            elif entry.meter.address != address:
                entry.meter = replace(entry.meter, address=address)
                self._touch(identity=True)
            if entry.left:
                LOG.info("meter %s is back", entry.meter.meter_id, extra={"event": "meter.back"})
            entry.absent_since, entry.left = None, False
            self._touch()
            return entry.meter

    def leave(self, key: str) -> None:
        """A node is not in the network now; it may be back in a moment."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._set_absent(entry)

    def leave_all(self, port: str) -> None:
        """The port is gone, and with it the way to all its meters."""
        with self._lock:
            for entry in self._entries.values():
                if entry.meter.port == port:
                    self._set_absent(entry)

    def name(self, key: str, meter_id: str) -> Meter | None:
        """The meter said who it is. Returns the meter as it is now, `None` when it is not registered any more."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.meter.named and entry.meter.meter_id == meter_id:
                return entry.meter
            for other in [other for other in self._entries.values() if other.meter.meter_id == meter_id]:
                if other.meter.key != key:
                    LOG.warning(
                        "meter %s is now reached as %s, no longer as %s",
                        meter_id,
                        key,
                        other.meter.key,
                        extra={"event": "meter.moved"},
                    )
                    del self._entries[other.meter.key]
            LOG.info("meter %s is %s", key, meter_id, extra={"event": "meter.named"})
            entry.meter = replace(entry.meter, meter_id=meter_id, named=True)
            self._touch(identity=True)
            return entry.meter

    def attempted(self, key: str, error: str = "", *, silent: bool = False) -> None:
        """A visit ended: well, or with `error`. `silent`: the meter answered nothing."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            entry.last_attempt = self._clock.wall()
            entry.last_error, entry.silent = error[:ERROR_CHARS_MAX], silent
            if not error:
                entry.last_success = entry.last_attempt
            self._touch()

    def note_keys(self, key: str, failures: int, security: str) -> None:
        """How often the meter refused its keys, and how it is associated with."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and (entry.key_failures, entry.security) != (failures, security):
                entry.key_failures, entry.security = failures, security
                self._touch()

    def remove(self, meter_id: str) -> list[Meter]:
        """Forget a meter that is gone for good, and return what was known under that id. It may join again."""
        with self._lock:
            gone = [entry.meter for entry in self._entries.values() if entry.meter.meter_id == meter_id]
            for meter in gone:
                del self._entries[meter.key]
                self._touch(identity=True)
            return gone

    # --- what is asked ---

    def present(self, port: str) -> list[Meter]:
        """Return the meters of `port` that can be visited now."""
        with self._lock:
            return [
                entry.meter
                for entry in self._entries.values()
                if entry.meter.port == port and entry.absent_since is None
            ]

    def absent(self, port: str) -> list[Meter]:
        """Return the meters of `port` that were there once and are silent now."""
        with self._lock:
            return [
                entry.meter
                for entry in self._entries.values()
                if entry.meter.port == port and entry.absent_since is not None
            ]

    def get(self, key: str) -> Meter | None:
        with self._lock:
            entry = self._entries.get(key)
            return entry.meter if entry else None

    def at(self, port: str, address: int) -> Meter | None:
        """Return the present meter with this address, `None` when there is none."""
        return next((meter for meter in self.present(port) if meter.address == address), None)

    def names(self) -> set[str]:
        """Return every name under which something may be stored: ids, and the ways to reach meters (`key`)."""
        with self._lock:
            return {name for entry in self._entries.values() for name in (entry.meter.key, entry.meter.meter_id)}

    def meters(self) -> tuple[MeterStatus, ...]:
        """Return all meters for the status, sorted by id."""
        with self._lock:
            return tuple(sorted((entry.status() for entry in self._entries.values()), key=lambda meter: meter.meter_id))

    # --- time ---

    def tick(self) -> None:
        """Turn long absences into leaves, publish changes, and save what is due. Called about every second.

        Trouble of the disk is logged and not raised: a later tick tries again.
        """
        now = self._clock.monotonic()
        with self._lock:
            for entry in self._entries.values():
                away = entry.absent_since is not None and now - entry.absent_since >= self._leave_after_s
                if away and not entry.left:
                    entry.left = True
                    LOG.info("meter %s left", entry.meter.meter_id, extra={"event": "meter.left"})
                    self._touch()
            changed, self._changed = self._changed, False
            due = self._save_at is not None and now >= self._save_at
        if changed:
            self._publish(self.meters())
        if due:
            self.save()

    def save(self) -> None:
        """Write the file now, if there is anything new. Trouble of the disk is logged and tried again later."""
        with self._lock:
            if self._save_at is None:
                return
            self._save_at = None
            meters = [asdict(entry.meter) for entry in self._entries.values()]
        document = {"version": VERSION, "crc32": zlib.crc32(_canonical(meters)), "meters": meters}
        try:
            self._disk.mkdir_durable(self._file.parent)
            self._disk.write_durable(self._file, json.dumps(document).encode())
        except OSError as error:
            LOG.warning("%s cannot be written: %s", self._file, error, extra={"event": "registry.save.failed"})
            with self._lock:
                self._save_at = self._clock.monotonic() + 20 * SAVE_DELAY_S

    # --- inside ---

    def _set_absent(self, entry: _Entry) -> None:
        if entry.absent_since is None:
            entry.absent_since = self._clock.monotonic()

    def _touch(self, *, identity: bool = False) -> None:
        self._changed = True
        if identity and self._save_at is None:
            self._save_at = self._clock.monotonic() + SAVE_DELAY_S

    def _make_room(self) -> None:
        if len(self._entries) >= METERS_MAX:
            oldest = min(self._entries.values(), key=lambda e: (e.absent_since is None, e.last_success, e.meter.joined))
            LOG.error(
                "more than %d meters: %s is forgotten",
                METERS_MAX,
                oldest.meter.meter_id,
                extra={"event": "registry.full"},
            )
            del self._entries[oldest.meter.key]

    def _load(self, absent_since: float) -> None:
        try:
            loaded = _parse(self._disk.read_bytes(self._file))
        except FileNotFoundError:
            return
        except OSError as error:
            LOG.warning("%s cannot be read: %s", self._file, error, extra={"event": "registry.load.failed"})
            return
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            LOG.warning("%s is damaged (%s): set aside", self._file, error, extra={"event": "registry.corrupt"})
            self._set_aside()
            return
        for meter in loaded[:METERS_MAX]:
            self._entries[meter.key] = _Entry(meter, absent_since)

    def _set_aside(self) -> None:
        try:
            self._disk.rename_durable(self._file, self._file.with_name(self._file.name + ".corrupt"))
        except OSError as error:
            LOG.warning("%s cannot be set aside: %s", self._file, error, extra={"event": "registry.aside.failed"})


def _canonical(meters: Iterable[object]) -> bytes:
    return json.dumps(list(meters), sort_keys=True, separators=(",", ":")).encode()


def _parse(data: bytes) -> list[Meter]:
    """Raises `ValueError`, `KeyError` or `TypeError` for what is not a file of ours."""
    document = json.loads(data)
    meters = document["meters"]
    if document["version"] != VERSION or document["crc32"] != zlib.crc32(_canonical(meters)):
        raise ValueError("version or checksum")
    return [Meter(**_checked(meter)) for meter in meters]


_TYPES: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "port": str,
    "address": int,
    "eui48": str,
    "meter_id": str,
    "named": bool,
    "joined": (int, float),
}


def _checked(meter: object) -> dict[str, Any]:
    """The fields of a meter, each of its type. Raises `ValueError`."""
    if not isinstance(meter, dict) or set(meter) != set(_TYPES):
        raise ValueError("fields of a meter")
    for name, kind in _TYPES.items():
        if not isinstance(meter[name], kind):
            raise ValueError(f"{name} of a meter")  # noqa: TRY004 - what is wrong is the file, not the call
    return meter
