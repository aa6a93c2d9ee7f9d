"""The earliest time that it can be (sans-IO): what a device knows about time although nothing vouches for its clock.

Four times bound it from below. When the image was *built* can only be earlier than now. What was *proven* is the time
that a server whose certificate was verified has told. *Signed* is the newest time that stands in a signature which was
checked. The last two may be wrong, for a server's clock may run ahead; they are kept over restarts and must not lock
the device out for ever. So there are three ways back (docs/decisions/0013-a-clock-that-cannot-be-believed.md):

* A proven time lies within the validity of the certificates that it was told under, where those were judged. Whoever
  told it can be reached under it, too.
* A later statement of a verified server takes an earlier one back.
* A floor under which every certificate has been refused for `SET_ASIDE_AFTER_S` is set aside, and only the time of the
  build counts until a server has told the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from updateagent.release import TIME_MAX

LOWERED_BY_S = 3600.0  # a statement that is so much earlier than the floor takes it back; less is how clocks differ
SET_ASIDE_AFTER_S = 6 * 3600.0  # long enough for whoever put the wrong certificate there to notice, short for a meter
SKEW_S = 300.0  # what a certificate that is valid from now on may lie ahead, for the clocks that made it
STORED_EVERY_S = 86_400.0  # the floor is written once it has risen by so much: flash wears, and a day is near enough
STORED_AT_END_S = 3600.0  # at an orderly end
FILE_VERSION = 1  # of the file


@dataclass(frozen=True, slots=True)
class Validity:
    """When a chain of certificates is valid, seconds since the epoch, both included."""

    not_before: float
    not_after: float

    @classmethod
    def of_chain(cls, chain: Iterable[Validity]) -> Validity:
        """The time in which all of them are valid. `chain` is not empty."""
        every = list(chain)
        return cls(max(one.not_before for one in every), min(one.not_after for one in every))


@dataclass(frozen=True, slots=True)
class CertificateTime:
    """By what certificates are judged: it is not before `earliest`, and it is `now` where something vouches for the
    clock. Seconds since the epoch."""

    earliest: float
    now: float | None

    @property
    def least(self) -> float:
        """The latest moment that is known to have passed. A certificate that ended before it has expired."""
        return self.earliest if self.now is None else max(self.earliest, self.now)


@dataclass(frozen=True, slots=True)
class Stored:
    """What is kept over restarts. `refuted`: signing times up to this one were in the future when they were made."""

    proven: float = 0.0
    signed: float = 0.0
    refuted: float = 0.0

    def emit(self) -> bytes:
        """The content of the file."""
        document = {"version": FILE_VERSION, "proven": self.proven, "signed": self.signed, "refuted": self.refuted}
        return json.dumps(document).encode()

    @classmethod
    def parse(cls, data: bytes) -> Stored:
        """Read the file of this version or a later one, whose other members are left aside. Raises `ValueError`."""
        try:
            document = json.loads(data)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        members = document if isinstance(document, dict) else {"proven": None}
        return cls(*(_time(members.get(name, 0)) for name in ("proven", "signed", "refuted")))


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TIME_MAX:
        raise ValueError(f"the time {value!r} is invalid")
    return float(value)


class ClockFloor:
    """Keeps the bounds. Times are seconds since the epoch; `monotonic` is an argument wherever it matters."""

    def __init__(self, built: float = 0.0, stored: Stored | None = None) -> None:
        self.built = built
        self._stored = self._now = stored or Stored()
        self._refused_since: float | None = None

    def earliest(self, monotonic: float) -> float:
        """The moment that now cannot lie before."""
        return self.built if self.is_aside(monotonic) else max(self.built, self._now.proven, self._signed())

    def is_aside(self, monotonic: float) -> bool:
        """Whether what was told and signed counts for nothing, because no certificate is valid under it."""
        return self._refused_since is not None and monotonic - self._refused_since >= SET_ASIDE_AFTER_S

    def told(self, time: float, valid: Validity | None) -> str:
        """A server with verified certificates, all valid in that time, says what time it is. `None`: it has proven
        itself otherwise, and is reached whatever its certificates' periods are.

        Returns why it is not believed, empty when it is. The floor moves up with it, and down by more than an hour.
        """
        if time < self.built - SKEW_S:
            return "before the image was built"
        if valid is not None:
            if not valid.not_before - SKEW_S <= time <= valid.not_after + SKEW_S:
                return "outside the validity of its own certificate"
            time = min(time, valid.not_after)
        now, earliest = self._now, max(self._now.proven, self._signed())
        if time < earliest - LOWERED_BY_S:
            refuted = max(now.refuted, now.signed) if now.signed > time else now.refuted
            self._now = Stored(time, now.signed, refuted)
        elif time > now.proven:
            self._now = Stored(time, now.signed, now.refuted)
        self._refused_since = None
        return ""

    def signed(self, time: float) -> None:
        """A signature that was checked has this time in it."""
        if time > self._now.signed:
            self._now = Stored(self._now.proven, time, self._now.refuted)

    def refused(self, monotonic: float) -> None:
        """A certificate was refused because it had expired under this floor."""
        if self._refused_since is None:
            self._refused_since = monotonic

    def accepted(self, monotonic: float) -> None:
        """A certificate is valid under this floor. One that needed the floor to be set aside does not bring it back:
        only a server that tells the time does."""
        if not self.is_aside(monotonic):
            self._refused_since = None

    def to_store(self, *, at_end: bool = False) -> Stored | None:
        """What is to be kept now; `None` while what is kept is near enough."""
        kept, now = self._stored, self._now
        risen = max(now.proven - kept.proven, now.signed - kept.signed)
        if now.proven < kept.proven or now.refuted != kept.refuted:
            return now
        return now if risen >= (STORED_AT_END_S if at_end else STORED_EVERY_S) else None

    def stored(self, kept: Stored) -> None:
        """That is kept durably."""
        self._stored = kept

    def _signed(self) -> float:
        return self._now.signed if self._now.signed > self._now.refuted else 0.0
