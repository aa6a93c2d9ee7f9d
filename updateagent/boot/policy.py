"""What the boot loader will do next, and how to change it: the contract of a policy.

A policy says three things to the machine of an update: which slot starts, how many attempts are left, and whether the
trial that was asked for has begun. Every verb is one commit of the environment, changes nothing when nothing is to
be changed, and can be repeated after a power cut. Which policies there are says the table of `updateagent.boot`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from updateagent.boot import BOOT_LOADERS, CANARY
from updateagent.disk import Storage
from updateagent.errors import CONFIGURATION, ENVIRONMENT_NOT_SHARED, DeviceError, RequestError

TRIES_MAX = 9  # RAUC writes hexadecimal, U-Boot's bootmeth_rauc reads decimal: they agree up to 9
NOT_SAVED = "none"  # what the script passes when it could not save


class Variables(Protocol):
    """Where a policy keeps its variables: `uboot.env.EnvironmentStore`, or another one with the same verbs."""

    def load(self) -> HasVariables: ...

    def commit(self, changes: Mapping[str, str | None], *, settle: bool = False) -> bool: ...


class HasVariables(Protocol):
    @property
    def variables(self) -> dict[str, str]: ...


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


class NoSuchBootLoader(RequestError):
    """A pair of type and policy that is not in the table."""

    def __init__(self, of_type: str, policy: str) -> None:
        super().__init__(CONFIGURATION, f"there is no boot loader of type {of_type} with the policy {policy}")
        self.of_type = of_type
        self.policy = policy


def open_variables(of_type: str, policy: str, disk: Storage, config: Path, lock: Path | None) -> Variables:
    """The variables that the boot loader shares with us. Raises `RequestError` (configuration)."""
    found: Variables = _load(_row(of_type, policy)[0])(disk, config, lock)
    return found


def policy_class(of_type: str, policy: str) -> type[BootEnv]:
    """The policy of this pair. Raises `NoSuchBootLoader`."""
    found: type[BootEnv] = _load(_row(of_type, policy)[1])
    return found


def _row(of_type: str, policy: str) -> tuple[str, str]:
    try:
        return BOOT_LOADERS[of_type, policy]
    except KeyError:
        raise NoSuchBootLoader(of_type, policy) from None


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
