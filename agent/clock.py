"""The clock: monotonic time for deadlines, civil time for records, and whether civil time can be believed.

What civil time is worth is decided in `agent.clock_trust`, from the evidence of the sources here: the kernel (NTP or
PTP has disciplined its clock), a file that a time service touches after each synchronisation, the `Date` of an answer
of a server whose certificate was verified, and the time in messages of SSMP and DM. None of them proves a time before
the image was built (`agent.clock_floor`).

A time that a server has put into a message which it proved with a secret of this device alone is worth more than the
`Date` of whatever ended TLS: while it is known, a `Date` that contradicts it is not taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

from agent.clock_floor import CertificateTime, ClockFloor, Validity
from agent.clock_trust import TOLERANCE_S, ClockTrust, Evidence, Judgement
from updateagent.release import TIME_MAX

LOG = logging.getLogger("agent.clock")

POLL_S = 1.0  # how often the sources are asked

KERNEL, FILE, SERVER, PROVEN = "kernel", "file", "server", "session"
TOLD = frozenset({SERVER, PROVEN})  # these have a time of their own, and prove who they are


class Clock(Protocol):
    """What a component may know about time. Protocol cores get `now` as an argument and never hold a clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def wall(self) -> float:
        """The best known civil time, in seconds since 1970-01-01T00:00:00Z."""

    def trusted(self) -> bool:
        """Return whether something trusted vouches for `wall()`."""


class TimeSource(Protocol):
    """Something outside that knows the time. `evidence` must not wait."""

    @property
    def name(self) -> str: ...

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        """What is new to know, given both clocks of this moment; `None` where nothing is."""


class SystemClock:
    """The clock of the machine, and the sources that vouch for it. Thread-safe. `floor` has the earliest time that it
    can be, and learns from servers; nobody else may touch it without `lock`."""

    def __init__(
        self,
        sources: Sequence[TimeSource] = (),
        *,
        floor: ClockFloor | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        system: Callable[[], float] = time.time,
    ) -> None:
        self.monotonic = monotonic
        self._system = system
        self._sources = tuple(sources)
        self._trust = ClockTrust()
        self.floor = floor or ClockFloor()
        self.lock = threading.RLock()
        self._poll_at = -math.inf
        self._complaint = ""
        self._doubted = False

    def wall(self) -> float:
        return self.judge().wall

    def trusted(self) -> bool:
        return self.judge().trusted

    def judge(self) -> Judgement:
        """Return civil time with its evidence."""
        with self.lock:
            monotonic, system = self.monotonic(), self._system()
            if monotonic >= self._poll_at:
                self._poll_at = monotonic + POLL_S
                for source in self._sources:
                    found = source.evidence(monotonic, system)
                    if found is not None:
                        self._trust.offer(found)
            return self._trust.judge(monotonic, system, self.floor.built)

    def server_date(self, headers: Mapping[str, str], sent: float, received: float, valid: Validity) -> None:
        """Take the `Date` of an answer of a verified server. `sent`, `received`: when the request went and the head of
        the answer came, monotonic seconds. `valid`: when all certificates are that it was verified by. Any thread."""
        self._take(date_evidence(headers.get("date", ""), sent, received), valid)

    def session_time(self, told: float, sent: float, received: float, valid: Validity | None) -> None:
        """Take a time, seconds since 1970, that a server told in a message which it proved with a secret of this device
        alone. `sent`, `received`: when the message that it answers went for the first time, and the answer came.
        `valid`: as for `server_date`; `None` where the certificates' periods were not judged. Any thread."""
        self._take(told_evidence(told, sent, received), valid)

    def _take(self, found: Evidence | None, valid: Validity | None) -> None:
        if found is None:
            return
        with self.lock:
            monotonic = self.monotonic()
            before, told = self.floor.earliest(monotonic), found.at + found.offset
            refusal = self._trust.against(found, PROVEN) or self.floor.told(told, valid)
            if not refusal:
                self._trust.offer(found)
            lowered_s = before - self.floor.earliest(monotonic)
        if refusal:
            self._complain(f"a server tells a time {refusal}")
        elif lowered_s > 0:
            LOG.warning(
                "the earliest time that it can be was %.0f s too late: a server says otherwise", lowered_s,
                extra={"event": "clock.floor.lowered"},
            )  # fmt: skip

    def certificate_time(self) -> CertificateTime:
        """Return by what time certificates are judged. Any thread."""
        with self.lock:
            judged = self.judge()
            earliest = self.floor.earliest(self.monotonic())
            return CertificateTime(earliest, judged.wall if judged.trusted else None)

    def doubted(self) -> bool:
        """Return, once, whether a certificate was refused for its time: whose fault is it? Any thread."""
        with self.lock:
            doubted, self._doubted = self._doubted, False
            return doubted

    def certificate_judged(self, *, expired: bool = False, early: bool = False) -> None:
        """A certificate was judged: it had expired, is not valid yet (`early`), or it is valid. Any thread."""
        with self.lock:
            self._doubted = self._doubted or expired or early
            if early:
                return
            monotonic = self.monotonic()
            was_aside = self.floor.is_aside(monotonic)
            if not expired:
                self.floor.accepted(monotonic)
            elif not self.judge().trusted:
                self.floor.refused(monotonic)
            aside = self.floor.is_aside(monotonic)
        if aside and not was_aside:
            LOG.warning(
                "every certificate has expired by the latest time that was told or signed: only the time of the build "
                "counts until a server tells the time",
                extra={"event": "clock.floor.aside"},
            )

    def signed(self, time: float) -> None:
        """A signature that was checked has this time in it, seconds since the epoch. Any thread."""
        with self.lock:
            self.floor.signed(time)

    def _complain(self, text: str) -> None:
        """Once per cause; repeats are of interest to nobody but who debugs."""
        LOG.log(
            logging.DEBUG if text == self._complaint else logging.WARNING, "%s", text,
            extra={"event": "clock.told.refused"},
        )  # fmt: skip
        self._complaint = text


# --- sources ---


def date_evidence(date: str, sent: float, received: float) -> Evidence | None:
    """Return what an HTTP `Date` (RFC 9110, 6.6.1) proves; `None` for one that is missing, no date, or too vague.

    The server wrote it at some moment between request and answer, and cut it to whole seconds.
    """
    try:
        told = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if told.tzinfo is None:  # "-0000": a time of which the zone is not known
        return None
    uncertainty_s = (received - sent) / 2 + 0.5
    if not 0 <= uncertainty_s <= TOLERANCE_S:
        return None
    offset = told.timestamp() + 0.5 - (sent + received) / 2
    return Evidence(SERVER, received, offset, uncertainty_s, independent=True)


def told_evidence(told: float, sent: float, received: float) -> Evidence | None:
    """Return what a time in an authenticated message proves; `None` for one that is none, or too vague.

    The server wrote it at some moment between the message that it answers and its answer.
    """
    uncertainty_s = (received - sent) / 2
    if not 0 <= told <= TIME_MAX or not 0 <= uncertainty_s <= TOLERANCE_S:
        return None
    return Evidence(PROVEN, received, told - (sent + received) / 2, uncertainty_s, independent=True)


STA_UNSYNC = 0x0040  # of linux/timex.h; set at boot, by every settimeofday, and when the error exceeds 16 s
_STATUS_LONGS = 5  # modes (padded), offset, freq, maxerror, esterror come before `status`
_TIMEX_BYTES = 512  # struct timex has 208 on 64 bit, 128 on 32: room for one that grows


class KernelClock:
    """Whether NTP or PTP disciplines the kernel's clock, by adjtimex(2) (Linux 2.6 and later). Where the call does not
    exist, the kernel proves nothing."""

    name = KERNEL

    def __init__(self, adjtimex: Callable[[ctypes.Array[ctypes.c_char]], int] | None = None) -> None:
        self._adjtimex = adjtimex or _find_adjtimex()

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        if self._adjtimex is None:
            return None
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: nothing is set, and no privilege needed
        if self._adjtimex(timex) < 0:
            return None
        long_bytes = ctypes.sizeof(ctypes.c_long)
        status = ctypes.c_int.from_buffer(timex, _STATUS_LONGS * long_bytes).value
        if status & STA_UNSYNC:
            return None
        maxerror_us = ctypes.c_long.from_buffer(timex, 3 * long_bytes).value
        return Evidence(KERNEL, monotonic, wall - monotonic, max(0, maxerror_us) / 1e6)


def _find_adjtimex() -> Callable[[ctypes.Array[ctypes.c_char]], int] | None:
    with contextlib.suppress(OSError, AttributeError):
        call = ctypes.CDLL(None).adjtimex
        call.argtypes, call.restype = [ctypes.c_char_p], ctypes.c_int
        return lambda timex: int(call(timex))
    return None


class FlagFile:
    """A file that a time service touches after each synchronisation, as systemd-timesyncd does with
    /run/systemd/timesync/synchronized. It must lie where a boot removes it."""

    name = FILE

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: int | None = None

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        """New evidence each time the file was touched; one touched in the future was not touched by this clock."""
        try:
            touched = self._path.stat().st_mtime_ns
        except OSError:
            self._seen = None
            return None
        if touched == self._seen or touched / 1e9 > wall + TOLERANCE_S:
            return None
        self._seen = touched
        return Evidence(FILE, monotonic, wall - monotonic, 1.0)
