"""The clock: monotonic time for deadlines, civil time for records, and whether civil time can be believed.

Civil time is believed because something trusted has said it, never because it looks plausible (decision 11). What said
it is *evidence*: the offset between civil and monotonic time that a source vouches for, with its uncertainty, which
grows with its age by the drift of the device's oscillator. Sources are the kernel (NTP or PTP has disciplined its
clock), a file that a time service touches after each synchronisation, and the `Date` of an answer of a server whose
certificate was verified.

`ClockTrust` decides; time is an argument of all it does. A clock that steps away from the evidence is no longer
believed, until there is new evidence or it steps back. Sources that contradict each other prove nothing; nor does any
of them prove a time before the image was built (`agent.clock_floor`).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

from agent.clock_floor import CertificateTime, ClockFloor, Validity

LOG = logging.getLogger("agent.clock")

TOLERANCE_S = 30.0  # civil time within this of the evidence is believed: servers keep time by the second, not better
DRIFT_PER_S = 100e-6  # of a bad uncompensated oscillator between -40 and 70 °C
UNCERTAINTY_MAX_S = 60.0  # evidence that has become vaguer than this proves nothing: 6.9 days after a perfect one
CONFLICT_S = 3600.0  # evidence that is so much older than another one that contradicts it is dropped
POLL_S = 1.0  # how often the sources are asked

KERNEL, FILE, SERVER = "kernel", "file", "server"


class Clock(Protocol):
    """What a component may know about time. Protocol cores get `now` as an argument and never hold a clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def wall(self) -> float:
        """The best known civil time, in seconds since 1970-01-01T00:00:00Z."""

    def trusted(self) -> bool:
        """Return whether something trusted vouches for `wall()`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one source knows: civil time is monotonic time plus `offset`, give or take `uncertainty_s`. `at`: when it
    said so, monotonic seconds. `independent`: it brought a time of its own; otherwise it vouched for the machine's
    clock as that stood then."""

    source: str
    at: float
    offset: float
    uncertainty_s: float
    independent: bool = False

    def vagueness(self, monotonic: float) -> float:
        """The uncertainty now, in seconds: it grows with the age of the evidence."""
        return self.uncertainty_s + max(0.0, monotonic - self.at) * DRIFT_PER_S


class TimeSource(Protocol):
    """Something outside that knows the time. `evidence` must not wait."""

    @property
    def name(self) -> str: ...

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        """What is new to know, given both clocks of this moment; `None` where nothing is."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Civil time and what it is worth. `source`: whose evidence it rests on, empty for none, `age_s` seconds old.
    `why`: why civil time is not trusted, empty when it is. `ahead_s`: by how much the machine's clock is ahead of
    `wall`. `alone`: no source that may be right takes the machine's clock's side."""

    wall: float
    trusted: bool
    source: str = ""
    age_s: float = 0.0
    why: str = ""
    ahead_s: float = 0.0
    alone: bool = True


class ClockTrust:
    """Decides what the machine's civil time is worth from the evidence that it was offered. Does no input or output."""

    def __init__(self) -> None:
        self._held: dict[str, Evidence] = {}

    def offer(self, evidence: Evidence) -> None:
        """Take evidence. It replaces what the same source said before, unless that is confirmed and still sharper."""
        held = self._held.get(evidence.source)
        if held is not None and held.independent and not _contradict(evidence, held, evidence.at):
            if held.vagueness(evidence.at) <= evidence.uncertainty_s:
                return
        self._held[evidence.source] = evidence
        for other in list(self._held.values()):
            if _contradict(evidence, other, evidence.at) and evidence.at - other.at > CONFLICT_S:
                del self._held[other.source]

    def judge(self, monotonic: float, system: float, built: float = 0.0) -> Judgement:
        """Say what to take for civil time while the machine's own clock says `system`.

        While evidence stands against the machine's clock, civil time follows the evidence, so that a step of the
        machine's clock moves no reading into another interval; but it is not trusted, because one of the two is wrong.
        A machine's clock that is before the image was `built` is the one of the two that is wrong, whoever vouches for
        it.
        """
        behind = system < built - TOLERANCE_S
        live = [held for held in self._held.values() if held.vagueness(monotonic) <= UNCERTAINTY_MAX_S]
        if not live:
            why = "the evidence is too old" if self._held else "nothing has vouched for the time yet"
            return Judgement(system, trusted=False, why=why)
        agreeing = [held for held in live if _off_s(held, monotonic, system) <= 0]
        opposed = [held for held in live if held.independent and held not in agreeing]
        # Whoever vouched for a setting of the machine's clock that it has no longer is no witness against this one.
        best = min(opposed or agreeing or live, key=lambda held: (held.vagueness(monotonic), -held.at))
        proven, age_s = monotonic + best.offset, monotonic - best.at
        if best in agreeing:
            why = "the clock is before the image was built" if behind else ""
            return Judgement(system, trusted=not behind, source=best.source, age_s=age_s, why=why)
        if behind and opposed:  # by what cannot be before the build itself: such a statement is not taken
            return Judgement(
                proven, trusted=True, source=best.source, age_s=age_s, ahead_s=system - proven, alone=not agreeing
            )
        why = f"{abs(system - proven):.0f} s {'ahead of' if system > proven else 'behind'} what {best.source} said"
        if agreeing:
            why += f"; {agreeing[0].source} says otherwise"
        return Judgement(
            proven, trusted=False, source=best.source, age_s=age_s, why=why, ahead_s=system - proven, alone=not agreeing
        )


def _off_s(held: Evidence, monotonic: float, system: float) -> float:
    """By how many seconds the machine's clock is further off than this evidence allows; 0 and less: it agrees."""
    return abs(system - monotonic - held.offset) - TOLERANCE_S - held.vagueness(monotonic)


def _contradict(one: Evidence, other: Evidence, monotonic: float) -> bool:
    vague = one.vagueness(monotonic) + other.vagueness(monotonic)
    return abs(one.offset - other.offset) > TOLERANCE_S + vague


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
        found = date_evidence(headers.get("date", ""), sent, received)
        if found is None:
            return
        with self.lock:
            monotonic = self.monotonic()
            before, told = self.floor.earliest(monotonic), received + found.offset
            refusal = self.floor.told(told, valid)
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

    def certificate_judged(self, *, expired: bool) -> None:
        """A certificate was judged: it had expired, or it is valid. Any thread."""
        with self.lock:
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
