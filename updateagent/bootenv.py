"""What the boot loader will do next, and how to change it: one small class a boot loader policy.

A policy says three things to the machine of an update: which slot starts, how many attempts are left, and whether the
trial that was asked for has begun. Every verb is one commit of the environment, changes nothing when nothing is to
be changed, and can be repeated after a power cut.

Registry: `policy(name)` with `[bootenv] policy = "rauc"` of the configuration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Protocol

from updateagent.errors import ENVIRONMENT, DeviceError

TRIES_MAX = 9  # RAUC writes hexadecimal, U-Boot's bootmeth_rauc reads decimal: they agree up to 9


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
    """Reads the real variables and keeps changes to itself. `changes` are those that would have been written."""

    def __init__(self, real: Variables) -> None:
        self._real = real
        self.changes: dict[str, str | None] = {}

    def load(self) -> PlainVariables:
        merged = {**self._real.load().variables, **self.changes}
        return PlainVariables({name: value for name, value in merged.items() if value is not None})

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool:  # noqa: ARG002
        before = self.load()
        self.changes |= {name: value for name, value in changes.items() if before.variables.get(name) != value}
        return self.load() != before


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
    """A boot loader's policy over the variables it shares with us. All raise `DeviceError` of the environment."""

    def __init__(self, variables: Variables, slots: tuple[str, ...], tries: int) -> None:
        if not 1 <= tries <= TRIES_MAX:
            raise ValueError(f"attempts of a trial: 1 to {TRIES_MAX}, not {tries}")
        self._variables = variables
        self.slots = slots
        self.tries = tries

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
        """`slot`, which runs and is confirmed, gets its attempts back; the order stays."""

    @abstractmethod
    def needs_mark(self, slot: str) -> bool:
        """Whether `slot`, which runs, has fewer attempts than it should have."""

    @abstractmethod
    def has_fallback(self, slot: str) -> bool:
        """Whether the boot loader would start another slot when the attempts of `slot` run out."""


class RaucPolicy(BootEnv):
    """RAUC's variables: `BOOT_ORDER="A B"` and `BOOT_<slot>_LEFT`.

    The boot script takes the first slot of the order with attempts left, counts one down, saves, and boots it; when
    none has any left it gives all slots their attempts back and takes the first.
    """

    ORDER = "BOOT_ORDER"

    def view(self) -> BootView:
        return self._parse(self._variables.load().variables)

    def protect(self, target: str) -> bool:
        view = self.view()
        if target not in view.order and view.left[target] == 0:
            return False
        return self._commit(tuple(slot for slot in view.order if slot != target), {target: 0})

    def try_slot(self, target: str, fallback: str) -> bool:
        rest = tuple(slot for slot in self.view().order if slot not in (target, fallback))
        return self._commit((target, fallback, *rest), {target: self.tries, fallback: self.tries})

    def trial(self, target: str) -> Trial:
        view = self.view()
        if not view.order or view.order[0] != target:
            return Trial.NOT_SET
        return Trial.WAITING if view.left[target] == self.tries else Trial.BEGUN

    def confirm(self, slot: str) -> bool:
        view = self.view()
        return self._commit((slot, *(other for other in view.order if other != slot)), {slot: self.tries}, settle=True)

    def fall_back(self, bad: str, good: str) -> bool:
        view = self.view()
        others = tuple(slot for slot in view.order if slot not in (bad, good))
        return self._commit((good, *others), {bad: 0, good: self.tries}, settle=True)

    def mark_good(self, slot: str) -> bool:
        return self._variables.commit({self._left_name(slot): str(self.tries)})

    def needs_mark(self, slot: str) -> bool:
        return self.view().left.get(slot, self.tries) < self.tries

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
            try:
                left[slot] = int(text, 16)
            except ValueError:
                raise DeviceError(ENVIRONMENT, f"{self._left_name(slot)} is no number: {text!r}") from None
        return BootView(order, left)

    @staticmethod
    def _left_name(slot: str) -> str:
        return f"BOOT_{slot}_LEFT"


POLICIES = {
    "rauc": "updateagent.bootenv:RaucPolicy",
    "bootcount": "updateagent.bootcount:BootcountPolicy",
    "mender": "updateagent.bootcount:MenderPolicy",
    "rauc-grub": "updateagent.grubenv:RaucGrubPolicy",
}
"""Where each policy is; only the one that is configured is imported."""


def policy(name: str) -> type[BootEnv]:
    """The policy of that name."""
    module, _, attribute = POLICIES[name].partition(":")
    found: type[BootEnv] = getattr(import_module(module), attribute)
    return found
