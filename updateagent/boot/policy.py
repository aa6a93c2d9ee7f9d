"""What the boot loader will do next, and how to change it: one small class a boot loader policy.

A policy says three things to the machine of an update: which slot starts, how many attempts are left, and whether the
trial that was asked for has begun. Every verb is one commit of the environment, changes nothing when nothing is to
be changed, and can be repeated after a power cut.

Registry: `policy(name)` with `[bootenv] policy = "rauc"` of the configuration.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Protocol

from updateagent.errors import ENVIRONMENT, ENVIRONMENT_NOT_SHARED, DeviceError

TRIES_MAX = 9  # RAUC writes hexadecimal, U-Boot's bootmeth_rauc reads decimal: they agree up to 9
CANARY = "dcu_boots"
"""The boot script counts it up in the save it makes anyway and passes what it has saved to the kernel. Never written
from here, so that both must be equal all through the boot; see docs/decisions/0007."""
NOT_SAVED = "none"  # what the script passes when it could not save


class Variables(Protocol):
    """Where a policy keeps its variables: `ubootenv.EnvironmentStore`, or another one with the same verbs."""

    def load(self) -> HasVariables: ...

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool: ...


class HasVariables(Protocol):
    @property
    def variables(self) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class PlainVariables:
    """Variables that are nowhere but here."""

    variables: dict[str, str]


class DryRun:
    """Reads the real variables and keeps changes to itself. `commits` are those that would have been made."""

    def __init__(self, real: Variables) -> None:
        self._real = real
        self.commits: list[dict[str, str | None]] = []

    def load(self) -> PlainVariables:
        merged: dict[str, str | None] = {**self._real.load().variables}
        for commit in self.commits:
            merged |= commit
        return PlainVariables({name: value for name, value in merged.items() if value is not None})

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:  # noqa: ARG002
        before = self.load().variables
        changed = {name: value for name, value in changes.items() if before.get(name) != value}
        if changed:
            self.commits.append(changed)
        return bool(changed)


class Trial(Enum):
    """How far a trial has come, as far as the environment tells."""

    NOT_SET = "not set"  # the commit that asks for it is not there
    WAITING = "waiting"  # asked for, the boot loader has not tried yet
    BEGUN = "begun"  # the boot loader has counted at least one attempt


@dataclass(frozen=True, slots=True)
class BootView:
    """What the boot loader would do now. `left` has no entry for a slot that it does not count."""

    order: tuple[str, ...]
    left: dict[str, int]

    @property
    def primary(self) -> str | None:
        """The slot that starts next; None when attempts have run out everywhere."""
        return next((slot for slot in self.order if self.left.get(slot, 1) > 0), None)


class BootEnv(ABC):
    """A boot loader's policy over the variables it shares with us. All raise `DeviceError` of the environment.

    `slots` has the `recovery` slot too, if there is one: it comes last in every order, and is never on trial.
    """

    has_recovery = False
    """Whether a recovery slot can be told to the boot loader."""

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
        """Compare what the boot loader says it has saved (None: it says nothing) with what is in the environment.

        Raises `DeviceError` (environment-not-shared) when they differ, also when it could not save.
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
        """The order that begins with these slots, each once; the recovery slot is the last one, whatever they say."""
        first = tuple(slot for slot in dict.fromkeys(slots) if slot != self.recovery)
        return (*first, self.recovery) if self.recovery else first

    @abstractmethod
    def view(self) -> BootView: ...

    @abstractmethod
    def protect(self, target: str) -> bool:
        """Before `target` is written: the boot loader must not start it. Returns whether a commit was needed."""

    @abstractmethod
    def try_slot(self, target: str, fallback: str) -> bool:
        """Start `target` next, `tries` times at most, then `fallback`."""

    @abstractmethod
    def trial(self, target: str) -> Trial:
        """How far the trial of `target` has come."""

    @abstractmethod
    def confirm(self, slot: str) -> bool:
        """`slot` is good: it starts first from now on, with all its attempts."""

    @abstractmethod
    def fall_back(self, bad: str, good: str) -> bool:
        """`bad` is not started again until it is written anew; `good` starts, with all its attempts."""

    @abstractmethod
    def mark_good(self, slot: str) -> bool:
        """`slot`, which runs and is confirmed, gets all the attempts there are; the order stays."""

    @abstractmethod
    def needs_mark(self, slot: str) -> bool:
        """Whether `slot`, which runs, has fewer attempts left than a trial is given."""

    @abstractmethod
    def has_fallback(self, slot: str) -> bool:
        """Whether the boot loader would start another slot when the attempts of `slot` run out."""


class RaucPolicy(BootEnv):
    """RAUC's variables: `BOOT_ORDER="A B"` and `BOOT_<slot>_LEFT`.

    The boot script takes the first slot of the order with attempts left, counts one down, saves, and boots it; when
    none has any left it gives the slots of the order their attempts back and begins again.

    A trial has `tries` attempts. A system that is confirmed has as many as can be written, and gets them back when
    fewer than `tries` are left: it never has less to lose than a trial has, and most boots cost no commit.
    """

    ORDER = "BOOT_ORDER"
    has_recovery = True

    def view(self) -> BootView:
        return self._parse(self._variables.load().variables)

    def protect(self, target: str) -> bool:
        view = self.view()
        if target not in view.order and view.left[target] == 0:
            return False
        return self._commit(self._ordered(*(slot for slot in view.order if slot != target)), {target: 0})

    def try_slot(self, target: str, fallback: str) -> bool:
        order = self._ordered(target, fallback, *self.view().order)
        return self._commit(order, {fallback: TRIES_MAX, target: self.tries})

    def trial(self, target: str) -> Trial:
        view = self.view()
        if not view.order or view.order[0] != target:
            return Trial.NOT_SET
        return Trial.WAITING if view.left[target] == self.tries else Trial.BEGUN

    def confirm(self, slot: str) -> bool:
        return self._commit(self._ordered(slot, *self.view().order), {slot: TRIES_MAX}, settle=True)

    def fall_back(self, bad: str, good: str) -> bool:
        others = (slot for slot in self.view().order if slot != bad)
        return self._commit(self._ordered(good, *others), {bad: 0, good: TRIES_MAX}, settle=True)

    def mark_good(self, slot: str) -> bool:
        return self._variables.commit({self._left_name(slot): str(TRIES_MAX)})

    def needs_mark(self, slot: str) -> bool:
        return self.view().left.get(slot, TRIES_MAX) < self.tries

    def has_fallback(self, slot: str) -> bool:
        view = self.view()
        return any(other != slot and view.left.get(other, 0) > 0 for other in view.order)

    def _commit(self, order: tuple[str, ...], left: dict[str, int], *, settle: bool = False) -> bool:
        changes: dict[str, str | None] = {self.ORDER: " ".join(order)}
        changes |= {self._left_name(slot): str(count) for slot, count in left.items()}
        return self._variables.commit(changes, settle=settle)

    def _parse(self, variables: dict[str, str]) -> BootView:
        # A board fresh from the factory may have none of the variables: the boot script's own defaults then count.
        order = tuple(dict.fromkeys(variables.get(self.ORDER, " ".join(self.slots)).split()))
        left: dict[str, int] = {}
        for slot in self.slots:
            text = variables.get(self._left_name(slot), str(self.tries))
            if re.fullmatch(r"[0-9a-fA-F]{1,2}", text):
                left[slot] = int(text, 16)
            elif slot in order:
                raise DeviceError(ENVIRONMENT, f"{self._left_name(slot)} is no number: {text[:20]!r}")
            else:
                left[slot] = 0  # nobody reads it; the next trial sets it
        return BootView(order, left)

    @staticmethod
    def _left_name(slot: str) -> str:
        return f"BOOT_{slot}_LEFT"


POLICIES = {
    "rauc": "updateagent.boot.policy:RaucPolicy",
    "bootcount": "updateagent.boot.bootcount:BootcountPolicy",
    "mender": "updateagent.boot.bootcount:MenderPolicy",
    "rauc-grub": "updateagent.boot.grub:RaucGrubPolicy",
}
"""Where each policy is; only the one that is configured is imported."""


def policy(name: str) -> type[BootEnv]:
    """The policy of that name."""
    module, _, attribute = POLICIES[name].partition(":")
    found: type[BootEnv] = getattr(import_module(module), attribute)
    return found
