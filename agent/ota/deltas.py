"""What to do with a delta that this device cannot use, and how to know that early.

A delta names what it was made from twice: in its download descriptor, which is not signed but costs no download, and in
its signed description. The first saves a useless download, the second decides. In place of a delta that is of no use
the server may offer the same release as whole images; whether that is fetched is the device's own policy, because it
is the device's line that is paid for by the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.ota.errors import DeltaUnfit, Rejected
from omadm.descriptor import DeltaFacts, DeltaSource, Descriptor
from updateagent.errors import DELTA_SOURCE, FULL_REFUSED

FULL_BYTES_MAX = 1 << 30

SourceCheck = Callable[[Sequence[DeltaSource], Callable[[], None]], None]
"""Raises `DeltaUnfit` when the system that runs is known not to be what a delta was made from. Calls the beat."""


@dataclass(frozen=True, slots=True)
class FullPolicy:
    """Whether a full package may be fetched where a delta cannot be used, and the most bytes that it may have."""

    allowed: bool = False
    bytes_max: int = FULL_BYTES_MAX

    def refusal(self, size: int) -> str:
        """Why a full package of `size` bytes is not fetched; empty when it may be."""
        if not self.allowed:
            return "this device may not fetch a full package in place of a delta"
        if size > self.bytes_max:
            return f"the full package has {size} bytes, this device may fetch {self.bytes_max}"
        return ""


@dataclass(frozen=True, slots=True)
class Deltas:
    """The checks, on the device that runs `version` (empty: not known)."""

    version: str
    check_sources: SourceCheck

    def check_described(self, delta: DeltaFacts, beat: Callable[[], None]) -> None:
        """Before the download. Raises `DeltaUnfit`."""
        if delta.from_versions and self.version and self.version not in delta.from_versions:
            made_from = ", ".join(delta.from_versions)
            raise DeltaUnfit(
                DELTA_SOURCE, f"the delta is made from version {made_from}, this device runs {self.version}"
            )
        if delta.sources:
            self.check_sources(delta.sources, beat)

    def check_signed(self, sources: Sequence[DeltaSource], beat: Callable[[], None]) -> None:
        """After verification, before the reboot. Raises `Rejected`."""
        if not sources:
            return
        try:
            self.check_sources(sources, beat)
        except DeltaUnfit as error:
            raise Rejected(error.code, error.message) from error


def check_full(descriptor: Descriptor, policy: FullPolicy) -> None:
    """What was offered as the full package must be one, and no larger than allowed. Raises `DeltaUnfit`."""
    if descriptor.delta is not None:
        raise DeltaUnfit(DELTA_SOURCE, "what the server offers as the full package is a delta too")
    refusal = policy.refusal(descriptor.size)
    if refusal:
        raise DeltaUnfit(FULL_REFUSED, refusal)
