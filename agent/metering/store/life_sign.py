"""The sign of life: the few facts that must be known even where the store's file cannot be read, or has become older.

It lies beside the store in a file of its own, `NAME-alive`, as two generations on pages of their own, which are written
in turn and in place: a write costs some 150 octets and one sync, and one that is cut leaves the generation before.

    octets 0 to 7   CRC-32 of the rest of the line, as hexadecimal digits
    octet 8         a blank
    then            a JSON object up to the line's end; members that are not known are passed over

It is written before a record leaves the device under an id that no sign has covered yet, and every five minutes by the
ledger. So a store that holds less than its sign says has lost what it once had given away: its log was cut short.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from omadm.readings import ID_MAX
from updateagent.disk import RawFile, RealDisk, Storage

LOG = logging.getLogger("agent.metering.store")

SUFFIX = "-alive"
BAD_SUFFIX = ".bad"  # of one that the medium does not give or take any more
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # not the file's fault: another one fares no better
GENERATIONS = 2
GENERATION_BYTES = 4096  # more than the page of any flash that a file system rewrites whole
LINE_BYTES_MAX = 512


@dataclass(frozen=True, slots=True)
class LifeSign:
    """`number` ascends with each write. `store`: whose ids these are. `reached`: the highest id that was given out; no
    higher one was ever sent to anybody. `released`: the head-end had everything up to this id. `delivered_to`: it had
    all that was stored before this time. `alive`: when the ledger was in order last, under a clock that was trusted; 0
    when it never was. Times in seconds since the epoch."""

    number: int = 0
    store: str = ""
    reached: int = 0
    released: int = 0
    delivered_to: float = 0.0
    alive: float = 0.0

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
            number, reached, released = (int(members[name]) for name in ("number", "reached", "released"))
            delivered_to, alive = (float(members[name]) for name in ("delivered_to", "alive"))
            if not all(0 <= one <= ID_MAX for one in (number, reached, released)):
                return None
            if not (math.isfinite(delivered_to) and math.isfinite(alive)):
                return None
            return cls(number, str(members["store"]), reached, released, delivered_to, alive)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None


class LifeSignFile:
    """Not thread-safe. A file that the medium does not give or take is logged and set aside: the store is more than its
    sign."""

    def __init__(self, file: Path, disk: Storage | None = None) -> None:
        self._file = file
        self._disk = disk or RealDisk()
        self._opened: RawFile | None = None

    def read(self) -> LifeSign | None:
        """The newest sign that is sound; `None` where there is none, or none that can be read."""
        found: list[LifeSign] = []
        try:
            with self._disk.open_raw(self._file) as file:
                for generation in range(GENERATIONS):
                    sign = LifeSign.parse(file.pread(LINE_BYTES_MAX, generation * GENERATION_BYTES))
                    found += [sign] if sign is not None else []
        except FileNotFoundError:
            pass
        except OSError as error:
            LOG.warning("the sign of life cannot be read: %s", error, extra={"event": "store.sign.bad"})
        return max(found, key=lambda sign: sign.number, default=None)

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
        if self._opened is None:
            fresh = not self._disk.exists(self._file)
            self._opened = self._disk.open_raw(self._file, write=True, create=fresh)
            if fresh:
                self._disk.sync_dir(self._file.parent)
        try:
            self._opened.pwrite(sign.emit(), sign.number % GENERATIONS * GENERATION_BYTES)
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
        """Keep the present sign, where there is one, in another file."""
        sign = self.read()
        if sign is not None:
            self._disk.write_durable(target, sign.emit())

    def close(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            with suppress(OSError):
                opened.close()
