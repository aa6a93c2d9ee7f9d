"""What the boot loader will do next, and how to change it: the contract of a policy.

A policy tells an update's state machine three things: which slot starts next, how many attempts it has left, and
whether the trial that was asked for has begun. Every operation is one commit of the environment, writes nothing when
nothing changes, and can be repeated after a power cut. The table of policies is in
`updateagent.boot.loaders`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from updateagent.boot import CANARY
from updateagent.errors import CONFIGURATION, ENVIRONMENT_NOT_SHARED, DeviceError, RequestError

TRIES_MAX = 9  # RAUC writes hexadecimal, U-Boot's bootmeth_rauc reads decimal: they agree up to 9
FLOOR = "dcu_floor"
NOT_SAVED = "none"  # what the script passes when it could not save


class Variables(Protocol):
    """Where a policy keeps its variables, such as `uboot.env.EnvironmentStore` or `grub.GrubStore`."""

    def load(self) -> HasVariables:
        """Read all variables. Raises `DeviceError` (environment)."""

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:
        """Set variables (None removes one) in one write; returns whether anything had to be written.

        `settle` also updates a redundant copy, where there is one. Raises `DeviceError` (environment, -write, -full).
        """

    def places(self) -> Sequence[tuple[Path, int, int | None]]:
        """Where each copy is: a path, the first byte (negative: from the end), and how many (None: all)."""


class HasVariables(Protocol):
    """An environment as read."""

    @property
    def variables(self) -> dict[str, str]: ...


def with_changes(variables: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """`variables` after a commit of `changes`, in which None removes a variable."""
    merged = {**variables, **changes}
    return {name: value for name, value in merged.items() if value is not None}


class Trial(Enum):
    """How far a trial has got, according to the environment."""

    NOT_SET = "not set"  # the commit that asks for it is not there
    WAITING = "waiting"  # asked for, but the boot loader has not tried it yet
    BEGUN = "begun"  # the boot loader has counted at least one attempt


@dataclass(frozen=True, slots=True)
class BootView:
    """What the boot loader would do now: the slots in the order it tries them, and the attempts each has left.

    `left` has no entry for a slot whose attempts are not counted.
    """

    order: tuple[str, ...]
    left: dict[str, int]

    @property
    def primary(self) -> str | None:
        """The slot that starts next; None when no slot has attempts left."""
        return next((slot for slot in self.order if self.left.get(slot, 1) > 0), None)


class BootEnv(ABC):
    """A boot loader's policy over the variables it shares with us. Every method may raise `DeviceError` (environment).

    `slots` includes the `recovery` slot, if there is one: it comes last in every order and is never on trial.
    """

    has_recovery = False
    """Whether the boot loader can be given a recovery slot."""

    def __init__(self, variables: Variables, slots: tuple[str, ...], tries: int, recovery: str = "") -> None:
        if not 1 <= tries <= TRIES_MAX:
            raise ValueError(f"attempts of a trial: 1 to {TRIES_MAX}, not {tries}")
        if recovery and not self.has_recovery:
            raise ValueError(f"{type(self).__name__} has no recovery slot")
        self._variables = variables
        self.slots = slots
        self.tries = tries
        self.recovery = recovery

    def check_shared(self, passed: str | None) -> None:
        """Compare what the boot loader reports as saved (None: it reports nothing) with what is in the environment.

        Raises `DeviceError` (environment-not-shared) when they differ, or when the boot loader could not save.
        """
        if passed is None:
            return
        if passed == NOT_SAVED:
            raise DeviceError(ENVIRONMENT_NOT_SHARED, "the boot loader could not save its environment at this start")
        found = self._variables.load().variables.get(CANARY, "")
        if found != passed:
            raise DeviceError(
                ENVIRONMENT_NOT_SHARED,
                f"the boot loader has saved {CANARY}={passed[:20]}, this environment has {found[:20] or 'none'}",
            )

    def _ordered(self, *slots: str) -> tuple[str, ...]:
        """These slots in this order, each once, with the recovery slot always last."""
        first = tuple(slot for slot in dict.fromkeys(slots) if slot != self.recovery)
        return (*first, self.recovery) if self.recovery else first

    @abstractmethod
    def view(self) -> BootView:
        """Read what the boot loader would do now."""

    # The operations that change something return whether a commit was needed.

    @abstractmethod
    def protect(self, target: str, fallback: str) -> bool:
        """Keep the boot loader from starting `target`, which is about to be written, and let it start `fallback`."""

    @abstractmethod
    def try_slot(self, target: str, fallback: str) -> bool:
        """Start `target` next, at most `tries` times, then `fallback`."""

    @abstractmethod
    def trial(self, target: str) -> Trial:
        """How far the trial of `target` has got."""

    @abstractmethod
    def confirm(self, slot: str, floor: int = 0) -> bool:
        """Accept `slot` as good: from now on it starts first, with all its attempts.

        A `floor` above 0, the lowest security version that may still be installed, is kept in the same commit: the
        environment outlives the data partition.
        """

    def floor(self) -> int:
        """The floor that was kept; 0 for none. Raises `DeviceError` (environment)."""
        text = self._variables.load().variables.get(FLOOR, "")
        return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else 0

    @staticmethod
    def _kept(floor: int) -> dict[str, str | None]:
        return {FLOOR: str(floor)} if floor > 0 else {}

    @abstractmethod
    def fall_back(self, bad: str, good: str) -> bool:
        """Start `good`, with all its attempts; `bad` is not started again until it has been rewritten."""

    @abstractmethod
    def mark_good(self, slot: str) -> bool:
        """Give `slot`, which is running and confirmed, all its attempts back; the order stays."""

    @abstractmethod
    def needs_mark(self, slot: str) -> bool:
        """Whether `slot`, which is running, has fewer attempts left than a trial gets."""

    @abstractmethod
    def has_fallback(self, slot: str) -> bool:
        """Whether the boot loader would start another slot when the attempts of `slot` run out."""


class NoSuchBootLoader(RequestError):
    """A pair of type and policy that is not in the table."""

    def __init__(self, of_type: str, policy: str) -> None:
        super().__init__(CONFIGURATION, f"there is no boot loader of type {of_type} with the policy {policy}")
        self.of_type = of_type
        self.policy = policy
