"""The meters this concentrator has seen: who they are, how they are reached, how reading them goes.

A meter is known by the way it is reached (`key`: port and EUI-48, or port and address) until it has told its logical
device name, which from then on is its id everywhere. Of two that say one name, and both answer, the one that had it
keeps it, and the other is known by the way it is reached. Joins and leaves come and go on a power line; a meter counts
as left only after it was away for `leave_after_s`, or at once where another meter answers in its place. It is kept, and
ought to be read, until it is heard again or a person forgets it.

The file holds what must survive (identity and first contact), not the counters of the day: it is written when a meter
is new, named or moved, a few seconds later and once for many. It carries a version and a checksum; a damaged one is set
aside, since the network tells again who is in it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from agent.clock import Clock
from agent.metering.registry import registry_file
from agent.metering.registry.entry import ERROR_CHARS_MAX, Entry, Meter
from agent.metering.registry.whitelist import Whitelist
from agent.status import MeterStatus
from agent.tree.newer import NewerFormatError, set_aside
from updateagent.disk import Disk

LOG = logging.getLogger("agent.metering.registry")

METERS_MAX = 4096  # the address space of one base node
FORMER_MAX = 8  # meters of one place that others have taken: names that change with each visit are no meters
SAVE_DELAY_S = 3.0  # a network that comes up brings hundreds of joins in a row


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
        self.on_named: Callable[[str, str], None] = lambda _key, _meter_id: None  # a meter said its name
        self.on_moved: Callable[[str, str], None] = lambda _before, _now: None  # a meter has another key
        self._moves: list[tuple[str, str]] = []  # that nobody was told of yet
        self._lock = threading.RLock()
        self._save_at: float | None = None
        self._changed = True
        self._entries: dict[str, Entry] = {}
        self._foreign: registry_file.Foreign = {}
        self._whitelist = Whitelist()
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
                meter = Meter(key, port, address, eui48.hex(), "", named=False, joined=self._clock.wall())
                meter = replace(meter, meter_id=meter.place)
                entry = self._entries[key] = Entry(meter, None)
                LOG.info("meter %s joined, address %d", key, address, extra={"event": "meter.joined"})
                self._touch(identity=True)
            elif entry.meter.address != address or (eui48 and not entry.meter.joined):
                joined = entry.meter.joined or self._clock.wall()
                if not entry.meter.joined:  # where nobody announces meters, the first answer is what counts
                    LOG.info("meter %s, which was expected, joined", key, extra={"event": "meter.joined"})
                entry.meter = replace(entry.meter, address=address, joined=joined)
                self._touch(identity=True)
            if entry.left:
                LOG.info("meter %s is back", entry.meter.meter_id, extra={"event": "meter.back"})
            entry.absent_since, entry.left, entry.away, entry.asked_name = None, False, False, False
            self._touch()
            return entry.meter

    def expect(self, port: str, address: int, eui48: str = "") -> Meter:
        """Somebody says that there is such a meter, which may never have been heard. Returns it."""
        key = f"{port}/{eui48 or address}"
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._make_room()
                meter = Meter(key, port, address, eui48, "", named=False, joined=0.0)
                meter = replace(meter, meter_id=meter.place)
                entry = self._entries[key] = Entry(meter, self._clock.monotonic())
                LOG.info("meter %s is expected", key, extra={"event": "meter.expected"})
                self._touch(identity=True)
            return entry.meter

    def admit(self, whitelist: Whitelist) -> None:
        """Only meters that this list admits are visited from now on."""
        with self._lock:
            before = {key for key, entry in self._entries.items() if self._whitelist.admits(entry.meter)}
            self._whitelist = whitelist
            after = {key for key, entry in self._entries.items() if whitelist.admits(entry.meter)}
            if before != after:
                LOG.info(
                    "%d of %d meters are admitted", len(after), len(self._entries), extra={"event": "meter.whitelist"}
                )
            self._touch()

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
        """The meter said who it is. Returns the meter as it is now, `None` when it is not registered any more; under
        another id than this where another meter has the name, and answers."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.meter.named and entry.meter.meter_id == meter_id:
                self._confirm_doubles(meter_id)
                return entry.meter
            meter = self._renamed(entry, meter_id)
            moves, self._moves = self._moves, []
        for before, now in moves:
            self.on_moved(before, now)
        if meter.meter_id == meter_id:
            self.on_named(key, meter_id)
        return meter

    def attempted(
        self,
        key: str,
        error: str = "",
        *,
        silent: bool = False,
        flaws: Mapping[str, str] = MappingProxyType({}),
        tasks: Collection[str] = (),
    ) -> None:
        """A visit ended: well, or with `error`. `silent`: the meter answered nothing. `flaws`: where the visit went
        well, what it had errors for, by task, empty for nothing; `tasks`: all there are."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            entry.last_attempt = self._clock.wall()
            entry.last_error, entry.silent = error[:ERROR_CHARS_MAX], silent
            if not error:
                self._note_flaws(entry, flaws, tasks)
                entry.last_success = entry.last_attempt
                entry.asked_name = not entry.meter.named
                if not entry.meter.joined:  # of a line where nobody joins
                    entry.meter = replace(entry.meter, joined=entry.last_attempt)
                    self._touch(identity=True)
            self._touch()

    def identified(self, key: str) -> None:
        """A visit for nothing but the name ended well, which says nothing of whether the meter can be read."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            entry.asked_name = not entry.meter.named
            if not entry.meter.joined:
                entry.meter = replace(entry.meter, joined=self._clock.wall())
                self._touch(identity=True)
            self._touch()

    def note_keys(self, key: str, failures: int, security: str) -> None:
        """How often the meter refused its keys, and how it is associated with."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and (entry.key_failures, entry.security) != (failures, security):
                entry.key_failures, entry.security = failures, security
                self._touch()

    def set_model(self, key: str, model: str | None) -> None:
        """What is known of the model of a meter."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.meter.model != model:
                entry.meter = replace(entry.meter, model=model)
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
        """Return the meters of `port` that can be visited now, and may be."""
        with self._lock:
            return [
                entry.meter
                for entry in self._entries.values()
                if entry.meter.port == port and entry.absent_since is None and self._is_visited(entry)
            ]

    def find(self, name: str) -> tuple[Meter, MeterStatus] | None:
        """Return the meter with this id, EUI-48 or key, and how it stands; `None` for one that is not known. Of those
        with one EUI-48 it is the one that is there."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                wanted = [it for it in self._entries.values() if name in (it.meter.meter_id, it.meter.eui48)]
                entry = min(wanted, key=lambda it: it.meter.displaced, default=None) if name else None
            return None if entry is None else (entry.meter, self._status(entry))

    def heard(self, port: str) -> list[Meter]:
        """Return the meters that are in the network of `port`, those that are not admitted included."""
        with self._lock:
            return [
                entry.meter
                for entry in self._entries.values()
                if entry.meter.port == port and entry.absent_since is None
            ]

    def name_only(self, meter: Meter) -> bool:
        """Whether this meter may be asked for its name and for nothing else."""
        with self._lock:
            return not self._whitelist.admits(meter)

    def absent(self, port: str) -> list[Meter]:
        """Return the meters of `port` that were there once and are silent now. Of a place it is the last one."""
        with self._lock:
            return [
                entry.meter
                for entry in self._entries.values()
                if entry.meter.port == port and entry.absent_since is not None and not entry.meter.displaced
                and self._is_visited(entry)
            ]  # fmt: skip

    def known(self) -> list[Meter]:
        """Return all meters, present or not."""
        with self._lock:
            return [entry.meter for entry in self._entries.values()]

    def get(self, key: str) -> Meter | None:
        with self._lock:
            entry = self._entries.get(key)
            return entry.meter if entry else None

    def at(self, port: str, address: int) -> Meter | None:
        """Return the present meter with this address, `None` when there is none."""
        return next((meter for meter in self.heard(port) if meter.address == address), None)

    def own_name(self, name: str) -> str:
        """Return the id of the meter that is reached by the `key` `name`; any other name as it is."""
        with self._lock:
            entry = self._entries.get(name)
            return entry.meter.meter_id if entry else name

    def names(self) -> set[str]:
        """Return every name under which something may be stored: ids, and the ways to reach meters (`key`)."""
        with self._lock:
            return {name for entry in self._entries.values() for name in (entry.meter.key, entry.meter.meter_id)}

    def standing(self, name: str) -> str:
        """Return the state of a meter, by id, EUI-48 or key, as `MeterStatus` has it; `left` as soon as it is away, and
        where it is not known."""
        found = self.find(name)
        return "left" if found is None or found[1].away else found[1].state

    def meters(self) -> tuple[MeterStatus, ...]:
        """Return all meters for the status, sorted by id."""
        with self._lock:
            found = [self._status(entry) for entry in self._entries.values()]
            return tuple(sorted(found, key=lambda meter: meter.meter_id))

    def due(self) -> tuple[MeterStatus, ...]:
        """Return the meters that ought to be read: all that are admitted. One that was never heard counts as left."""
        return tuple(
            replace(meter, state="left") if meter.state == "expected" else meter
            for meter in self.meters()
            if meter.state != "unlisted"
        )

    # --- time ---

    def tick(self) -> None:
        """Turn long absences into leaves, publish changes, and save what is due. Called about every second.

        Trouble of the disk is logged and not raised: a later tick tries again.
        """
        now = self._clock.monotonic()
        with self._lock:
            for entry in self._entries.values():
                away = entry.absent_since is not None and now - entry.absent_since >= self._leave_after_s
                if away and not entry.left and entry.meter.joined:
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
            data = registry_file.dump((entry.meter for entry in self._entries.values()), self._foreign)
        try:
            self._disk.mkdir_durable(self._file.parent)
            self._disk.write_durable(self._file, data)
        except OSError as error:
            LOG.warning("%s cannot be written: %s", self._file, error, extra={"event": "registry.save.failed"})
            with self._lock:
                self._save_at = self._clock.monotonic() + 20 * SAVE_DELAY_S

    # --- inside ---

    def _note_flaws(self, entry: Entry, flaws: Mapping[str, str], tasks: Collection[str]) -> None:
        """Keep them for the status, and those of tasks that this visit was not for; that there is the first one, and
        none any more, is logged."""
        before = entry.flaws
        others = {task: flaw for task, flaw in before.items() if task in tasks and task not in flaws}
        entry.flaws = others | {task: flaw for task, flaw in flaws.items() if flaw}
        if bool(entry.flaws) != bool(before):
            level, event = (logging.WARNING, "meter.flawed") if entry.flaws else (logging.INFO, "meter.unflawed")
            LOG.log(
                level, "meter %s: %s", entry.meter.meter_id, entry.flaw or "no more errors in the place of values",
                extra={"event": event},
            )  # fmt: skip

    def _renamed(self, entry: Entry, name: str) -> Meter:
        """The meter of this entry says a name that it did not have. Returns it as it is now."""
        others = [it for it in self._entries.values() if it.meter.meter_id == name and it is not entry]
        holder = next((other for other in others if _holds(other, entry, name)), None)
        if holder is not None:
            return self._known_by_place(entry, holder, name)
        if entry.meter.named:
            entry = self._displace(entry)
        LOG.info("meter %s is %s", entry.meter.key, name, extra={"event": "meter.named"})
        entry.claims = ""
        entry.meter = replace(entry.meter, meter_id=name, named=True, double_of="")
        for other in others:
            self._moved(other, entry)
        self._touch(identity=True)
        return entry.meter

    def _known_by_place(self, entry: Entry, holder: Entry, name: str) -> Meter:
        """The name that this meter says is that of another one, which answers: it is known by the way it is reached."""
        if entry.claims != name:
            entry.claims = name
            LOG.warning(
                "%s says that it is %s, as %s does: it is known as %s until one of them is gone",
                entry.meter.key, name, holder.meter.key, entry.meter.place, extra={"event": "meter.double_name"},
            )  # fmt: skip
            self._touch()
        if entry.meter.named:
            claims, entry.claims = entry.claims, ""
            entry = self._displace(entry)
            entry.claims = claims
        return entry.meter

    def _displace(self, entry: Entry) -> Entry:
        """Another meter answers in the place of this one, which has left, under a key of its own. Returns the entry of
        the place, of a meter that has told no name yet."""
        former, key = entry.meter, entry.meter.key
        here = replace(former, meter_id=former.place, named=False, joined=self._clock.wall(), double_of="")
        self._entries[key] = fresh = Entry(here, entry.absent_since, entry.left, entry.away)
        entry.meter = replace(former, key=f"{key}/{former.meter_id}")
        self._entries[entry.meter.key] = entry
        self._moves.append((key, entry.meter.key))
        self._set_absent(entry)
        entry.left = True
        same = [it for it in self._entries.values() if it.meter.displaced and it.meter.place_key == key]
        if len(same) > FORMER_MAX:
            self._forget(min(same, key=_worth_of_former), f"more than {FORMER_MAX} meters were at {key}")
        if len(self._entries) > METERS_MAX:
            self._forget(min(self._entries.values(), key=_worth), f"more than {METERS_MAX} meters")
        self._touch(identity=True)
        return fresh

    def _moved(self, other: Entry, entry: Entry) -> None:
        """The meter that was known as `other` is the one of `entry`: it has been known for as long as that, and is
        reached as this."""
        now, before = entry.meter, other.meter
        if before.place_key == now.key:
            LOG.info("meter %s is back as %s", now.meter_id, now.key, extra={"event": "meter.back"})
        else:
            LOG.warning(
                "meter %s is now reached as %s, no longer as %s", now.meter_id, now.key, before.place_key,
                extra={"event": "meter.moved"},
            )  # fmt: skip
        del self._entries[before.key]
        entry.meter = replace(now, joined=before.joined or now.joined)
        entry.last_success = max(entry.last_success, other.last_success)
        if before.displaced:
            entry.meter = replace(entry.meter, model=before.model)
            self._moves.append((before.key, now.key))

    def _confirm_doubles(self, name: str) -> None:
        """The meter that has this name has said it again: others that say it are not where it went."""
        for other in self._entries.values():
            if other.claims == name and other.meter.double_of != name:
                other.meter = replace(other.meter, double_of=name)
                self._touch(identity=True)

    def _status(self, entry: Entry) -> MeterStatus:
        return entry.status(admitted=self._whitelist.admits(entry.meter))

    def _is_visited(self, entry: Entry) -> bool:
        if self._whitelist.admits(entry.meter):
            return True
        return self._whitelist.asks_name(entry.meter) and not entry.asked_name

    def _set_absent(self, entry: Entry) -> None:
        if entry.absent_since is None:
            entry.absent_since, entry.away = self._clock.monotonic(), True

    def _touch(self, *, identity: bool = False) -> None:
        self._changed = True
        if identity and self._save_at is None:
            self._save_at = self._clock.monotonic() + SAVE_DELAY_S

    def _make_room(self) -> None:
        if len(self._entries) >= METERS_MAX:
            self._forget(min(self._entries.values(), key=_worth), f"more than {METERS_MAX} meters")

    def _forget(self, entry: Entry, why: str) -> None:
        LOG.error("%s: %s is forgotten", why, entry.meter.meter_id, extra={"event": "registry.full"})
        del self._entries[entry.meter.key]

    def _load(self, absent_since: float) -> None:
        try:
            loaded, self._foreign = registry_file.parse(self._disk.read_bytes(self._file))
        except FileNotFoundError:
            return
        except OSError as error:
            LOG.warning("%s cannot be read: %s", self._file, error, extra={"event": "registry.load.failed"})
            return
        except NewerFormatError as error:
            try:
                set_aside(self._disk, self._file, error)
            except OSError as failure:
                self._not_set_aside(failure)
            return
        except ValueError as error:
            LOG.warning("%s is damaged (%s): set aside", self._file, error, extra={"event": "registry.corrupt"})
            self._set_aside()
            return
        for meter in loaded[:METERS_MAX]:
            gone = meter.displaced
            self._entries[meter.key] = Entry(meter, absent_since, left=gone, away=gone, claims=meter.double_of)

    def _set_aside(self) -> None:
        try:
            self._disk.rename_durable(self._file, self._file.with_name(self._file.name + ".corrupt"))
        except OSError as error:
            self._not_set_aside(error)

    def _not_set_aside(self, error: OSError) -> None:
        LOG.warning("%s cannot be set aside: %s", self._file, error, extra={"event": "registry.aside.failed"})


def _holds(holder: Entry, claimant: Entry, name: str) -> bool:
    """Whether the meter that has the name keeps it. One that is silent or away may be where the other one is now,
    unless both were heard to say it: then the name is the other one's until a person forgets that."""
    if claimant.meter.double_of == name:
        return True
    return holder.absent_since is None and not holder.silent


def _worth(entry: Entry) -> tuple[bool, bool, float, float]:
    """Return the worth of a meter: the one with the lower worth is forgotten where there is no room for both.

    One that somebody named and that was never heard is no stranger.
    """
    return not entry.meter.joined, entry.absent_since is None, entry.last_success, entry.meter.joined


def _worth_of_former(entry: Entry) -> tuple[float, float]:
    """The same of meters in whose place another one is: the last that came, of those that were not read."""
    return entry.last_success, -entry.meter.joined
