"""The sign of life: the few facts that must be known even where the store's file cannot be read, or has become older.

It lies beside the store in a file of its own, `NAME-alive`, as two generations on pages of their own, which are written
in turn and in place: a write costs twice 200 octets and one sync, and one that is cut leaves the generation before.
Each generation has its line twice, half a page apart. So a write that was cut can be told from a medium that has lost
what it held: the one leaves at least one line, of the new sign or of the old; after the other the newest sign may be
the one that is gone (`Look.doubtful`).

    octets 0 to 7   CRC-32 of the rest of the line, as hexadecimal digits
    octet 8         a blank
    then            a JSON object up to the line's end; members that are not known are passed over

It is written before a record leaves the device under an id that no sign has covered yet, with every event of a meter,
and every five minutes by the ledger. So a store that holds less than its sign says has lost what it once had given away
or was told once only: its log was cut short.

A report of gaps tells of slots that passed before it was stored, of any time before where the concentrator was off or
its clock was corrected. Where it is lost with the ledger before the head-end has it, nothing in what is left of the
store tells of these slots; the sign says since when they are (`LifeSign.lists_from`). It is written before such a
report is stored, but for those that tell of nothing older than `alive`, as most do: they cost no write.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from omadm.readings import ID_MAX
from updateagent.disk import RawFile, RealDisk, Storage

LOG = logging.getLogger("agent.metering.store")

SUFFIX = "-alive"
BAD_SUFFIX = ".bad"  # of one that the medium does not give or take any more
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # not the file's fault: another one fares no better
GENERATIONS = 2
GENERATION_BYTES = 4096  # more than the page of any flash that a file system rewrites whole
COPY_AT = (0, 2048)  # of the line within its generation
LINE_BYTES_MAX = 512
TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})  # not the file's fault
UNREADABLE = b"unreadable\n"  # in place of a sign
WAITING_MAX = 64  # times that are kept apart; beyond, the newest count as the one before
JUMP_S = 900.0  # signs come every five minutes: after more, the clock was set, or nobody was there


@dataclass(frozen=True, slots=True)
class LifeSign:
    """`number` ascends with each write. `store`: whose ids these are. `reached`: the highest id that was given out; no
    higher one was ever sent to anybody. `released`: the head-end had everything up to this id. `delivered_to`: it had
    all that was stored before this time. `alive`: when the ledger was in order last, under a clock that was trusted; 0
    when it never was. `steady`: the same before the last time that this moved on by more than a quarter of an hour at
    once. `events`: how many events of meters it did not have, the first of them with the id `events_first`, stored at
    `events_since`. `lists_from`: whoever lists the slots of all meters from this time on, for each task from the newest
    run then, has listed all that the reports of gaps told of that it did not have; 0 where there were none. Times in
    seconds since the epoch."""

    number: int = 0
    store: str = ""
    reached: int = 0
    released: int = 0
    delivered_to: float = 0.0
    alive: float = 0.0
    steady: float = 0.0
    events: int = 0
    events_first: int = 0
    events_since: float = 0.0
    lists_from: float = 0.0

    def emit(self) -> bytes:
        text = json.dumps(asdict(self), separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)

    @classmethod
    def parse(cls, octets: bytes) -> LifeSign | None:
        """The sign at the beginning of these octets; `None` where there is none that is sound."""
        line = octets.partition(b"\n")[0]
        try:
            if int(line[:8], 16) != zlib.crc32(line[9:]):
                return None
            members = json.loads(line[9:])
            counts = [int(members[name]) for name in ("number", "reached", "released")]
            counts += [int(members.get(name, 0)) for name in ("events", "events_first")]
            times = [float(members[name]) for name in ("delivered_to", "alive")]
            times += [float(members.get(name, 0.0)) for name in ("steady", "events_since", "lists_from")]
            if not all(0 <= one <= ID_MAX for one in counts) or not all(map(math.isfinite, times)):
                return None
            number, reached, released, events, first = counts
            delivered_to, alive, steady, since, lists_from = times
            store = str(members["store"])
            return cls(number, store, reached, released, delivered_to, alive, steady, events, first, since, lists_from)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None

    def alive_at(self, wall: float) -> LifeSign:
        """This sign with `alive` at this time."""
        steady = self.steady
        if self.alive and wall > self.alive + JUMP_S:
            steady = self.alive
        elif wall < self.alive:  # the clock was set back
            steady = min(steady, wall)
        return replace(self, alive=wall, steady=steady)

    @property
    def unlisted_since(self) -> float:
        """Since when slots may be listed nowhere but in reports of gaps that the head-end did not have, those included
        that were stored after this sign; 0 where nobody knows."""
        return min((at for at in (self.alive, self.lists_from) if at > 0), default=0.0)


class WaitingReports:
    """The reports of gaps that wait for the head-end: what `LifeSign.lists_from` is reckoned from. Not thread-safe.

    In memory alone: after a start what the sign says holds for all that waits then."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, float]] = []  # the last id of each, since when; both ascend

    def add(self, last: int, since: float) -> None:
        """Reports were stored with ids up to `last`, which tell of what `since` is the `lists_from` of. The ids ascend
        from one time to the next."""
        while self._waiting and self._waiting[-1][1] >= since:
            self._waiting.pop()
        if len(self._waiting) >= WAITING_MAX:
            since = self._waiting.pop()[1]
        self._waiting.append((last, since))

    def take_up(self, sign: LifeSign, store: str, newest: int) -> None:
        """A store is opened, and this is the sign that there is, whatever store it is of; `newest` is the last id of
        `store`. Of a store before it there may be reports that are not among its records yet, or that are lost and not
        listed anew: they count as waiting until a record is delivered that comes after them."""
        self._waiting.clear()
        if sign.store != store:
            last, since = newest + 1, sign.unlisted_since
        else:
            last, since = newest, sign.unlisted_since if newest > sign.reached else sign.lists_from
        if since:
            self.add(last, since)

    def since(self, released: int, *, recovering: bool) -> float:
        """The `lists_from` of now, while the head-end has all up to the id `released`. `recovering`: records of earlier
        stores wait as well, of which nobody knows here what they tell."""
        while self._waiting and self._waiting[0][0] <= released and not recovering:
            del self._waiting[0]
        return self._waiting[0][1] if self._waiting else 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the file says. `sign`: the newest that is sound, `None` where there is none; `doubtful`: there may have been
    a newer one, or any, that cannot be read."""

    sign: LifeSign | None
    doubtful: bool


class LifeSignFile:
    """Not thread-safe. A file that the medium does not give or take is logged and set aside: the store is more than its
    sign."""

    def __init__(self, file: Path, disk: Storage | None = None) -> None:
        self._file = file
        self._disk = disk or RealDisk()
        self._opened: RawFile | None = None

    def read(self) -> LifeSign | None:
        """The newest sign that is sound; `None` where there is none, or none that can be read."""
        return self.look().sign

    def look(self) -> Look:
        """Read the file. Raises `OSError` for what says nothing about it."""
        found: list[LifeSign] = []
        doubtful = False
        try:
            with self._disk.open_raw(self._file) as file:
                for generation in range(GENERATIONS):
                    at = generation * GENERATION_BYTES
                    lines = [file.pread(LINE_BYTES_MAX, at + copy) for copy in COPY_AT]
                    signs = [sign for line in lines if (sign := LifeSign.parse(line)) is not None]
                    found += signs
                    doubtful |= not signs and any(line.strip(b"\0") for line in lines)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in TRANSIENT:
                raise
            LOG.warning("the sign of life cannot be read: %s", error, extra={"event": "store.sign.bad"})
            doubtful = True
        return Look(max(found, key=lambda sign: sign.number, default=None), doubtful)

    def write(self, sign: LifeSign) -> None:
        """Make a sign durable in the place of the one before the last. Raises `OSError` when no file takes it, not even
        a new one."""
        try:
            self._write(sign)
        except OSError as error:
            if error.errno in FULL:
                raise
            self._set_aside(error)
            self._write(sign)

    def _write(self, sign: LifeSign) -> None:
        if self._opened is not None and not self._disk.exists(self._file):
            self.close()
        if self._opened is None:
            fresh = not self._disk.exists(self._file)
            self._opened = self._disk.open_raw(self._file, write=True, create=fresh)
            if fresh:
                self._disk.sync_dir(self._file.parent)
        try:
            for copy in COPY_AT:
                self._opened.pwrite(sign.emit(), sign.number % GENERATIONS * GENERATION_BYTES + copy)
            self._opened.sync()
        except OSError:
            self.close()
            raise

    def _set_aside(self, error: OSError) -> None:
        """Keep the file under another name, in the place of one of before. Raises `error` where that fails."""
        bad = self._file.with_name(self._file.name + BAD_SUFFIX)
        try:
            self._disk.rename(self._file, bad)
            self._disk.sync_dir(bad.parent)
        except OSError:
            raise error from None
        LOG.error(
            "the sign of life cannot be written: %s: kept as %s", error, bad.name, extra={"event": "store.sign.bad"}
        )

    def copy(self, target: Path) -> None:
        """Keep what the file says, where there is one, in another file: doubt about it as well."""
        try:
            with self._disk.open_raw(self._file) as file:
                octets = file.pread(GENERATIONS * GENERATION_BYTES, 0)
        except FileNotFoundError:
            return
        except OSError:
            octets = UNREADABLE
        self._disk.write_durable(target, octets)

    def close(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            with suppress(OSError):
                opened.close()
