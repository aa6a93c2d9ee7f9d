"""The guard of a boot: waits until the running system is healthy and confirms it, or asks for a reboot.

On trial, all checks of `[health] checks` must be good at once before the deadline. If they are not, the guard records
the reason and asks for a reboot: the boot loader tries again until the attempts run out, then starts the old system. On
an ordinary boot the checks of `[health] boot_checks` give the slot its attempts back; if they fail, nothing else
happens.

One check, `environment`, is always made before a trial can be confirmed: a system that reads a different boot
environment from the boot loader's cannot confirm itself, and must not believe that it has; nor may a system confirm a
slot that is not the one it runs from.

Without a journal it is unknown whether this is a trial: a new system that cannot mount the data partition looks just
like a new board. All checks must then be good. If they are not, and the boot loader has counted an attempt and has
another slot to go back to, the boot is treated as a trial. (A new board has one slot in its boot order.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum

from updateagent.boot.policy import BootEnv
from updateagent.engine import child
from updateagent.engine.health import Check, CommandCheck, HealthConfig, Missing, Verdict, Watch, parse_health
from updateagent.engine.updater import Updater
from updateagent.errors import EXIT_OK, EXIT_REBOOT_WANTED, DeviceError, UpdateError

LOG = logging.getLogger("update.guard")

ENVIRONMENT_CHECK = "environment"
SAID_BYTES_MAX = 200


class Boot(Enum):
    """What is known about this boot."""

    ORDINARY = "ordinary"
    TRIAL = "trial"
    UNKNOWN = "unknown"  # no journal: a new board, or a new system that cannot mount the data partition


@dataclass(frozen=True, slots=True)
class GuardDeps:
    """The dependencies of a guard. Each callable reads the present state, and may raise `UpdateError`.

    `check_root` raises when the mounted root is another slot's than `booted_slot` says.
    `updater` starts a run of the state machine; `alone` excludes other programs while it changes something.
    `read_health` returns the bytes of the health file and raises `OSError`. `run_command` runs one configured health
    command. `monotonic` returns seconds; `wait` sleeps for a number of them.
    """

    health: HealthConfig
    boot_id: str
    updater: Callable[[], Updater]
    alone: Callable[[], AbstractContextManager[None]]
    bootenv: Callable[[], BootEnv]
    booted_slot: Callable[[], str]
    canary: Callable[[], str | None]
    check_root: Callable[[], None]
    read_health: Callable[[], bytes]
    run_command: Callable[[CommandCheck], Check]
    monotonic: Callable[[], float]
    wait: Callable[[float], None]


class Guard:
    """The guard of one boot."""

    def __init__(self, deps: GuardDeps) -> None:
        self._deps = deps

    def run(self) -> int:
        """Watch until the end; return the exit status for init. Raises `RequestError` (configuration)."""
        health = self._deps.health
        boot = self._look()
        names = health.boot_checks if boot is Boot.ORDINARY else (*health.checks, ENVIRONMENT_CHECK)
        watch = Watch(names, self._deps.monotonic() + health.deadline_s)
        while True:
            verdict = watch.observe(self._checks(names), self._deps.monotonic())
            if verdict is Verdict.GOOD:
                try:
                    return self._good(boot)
                except DeviceError as error:
                    # Another dcu-update is running, or the storage failed: both may pass before the deadline.
                    LOG.warning("%s", error, extra={"event": "update.error"})
                    if watch.is_over(self._deps.monotonic()):
                        return self._failed(boot, Missing("storage", error.message))
            elif verdict is Verdict.FAILED:
                return self._failed(boot, watch.missing or Missing("", ""))
            self._deps.wait(health.poll_s)

    def _look(self) -> Boot:
        try:
            updater = self._deps.updater()
        except DeviceError as error:
            LOG.error("%s", error, extra={"event": "update.error"})  # noqa: TRY400  a sentence, no traceback
            return Boot.UNKNOWN
        if updater.on_trial:
            return Boot.TRIAL
        return Boot.UNKNOWN if updater.record.lost else Boot.ORDINARY

    def _good(self, boot: Boot) -> int:
        with self._deps.alone():
            updater = self._deps.updater()
            if boot is Boot.TRIAL and updater.on_trial:
                code = updater.confirm()
                return code if code == EXIT_REBOOT_WANTED else EXIT_OK
            updater.mark_good()
            return EXIT_OK

    def _failed(self, boot: Boot, missing: Missing) -> int:
        LOG.error("health check %s: %s", missing.name, missing.detail, extra={"event": "update.unhealthy"})
        if boot is Boot.TRIAL:
            try:
                with self._deps.alone():
                    self._deps.updater().record_failure(missing.name, missing.detail)
            except UpdateError as error:
                # The reason could not be stored. Going back matters more.
                LOG.error("%s", error, extra={"event": "update.error"})  # noqa: TRY400
            return EXIT_REBOOT_WANTED
        if boot is Boot.UNKNOWN and self._may_be_on_trial():
            return EXIT_REBOOT_WANTED
        return EXIT_OK

    def _may_be_on_trial(self) -> bool:
        """Whether the boot loader counted an attempt of this slot and has another one to go back to."""
        try:
            bootenv = self._deps.bootenv()
            slot = self._deps.booted_slot()
            bootenv.check_shared(self._deps.canary())
            return bootenv.needs_mark(slot) and bootenv.has_fallback(slot)
        except UpdateError:
            return False

    def _checks(self, names: tuple[str, ...]) -> dict[str, Check]:
        try:
            checks = parse_health(self._deps.read_health(), self._deps.boot_id)
        except OSError:
            checks = {}
        for command in self._deps.health.commands:
            if command.name in names:
                checks[command.name] = self._deps.run_command(command)
        if ENVIRONMENT_CHECK in names:
            checks[ENVIRONMENT_CHECK] = self._check_environment()
        return checks

    def _check_environment(self) -> Check:
        try:
            self._deps.check_root()
            self._deps.bootenv().check_shared(self._deps.canary())
        except UpdateError as error:
            return Check(ok=False, detail=error.message)
        return Check(ok=True)


def run_command_check(check: CommandCheck) -> Check:
    """Run one configured command."""
    try:
        status, said = child.run(check.command, check.timeout_s, SAID_BYTES_MAX)
    except OSError as error:
        return Check(ok=False, detail=f"{check.command[0]}: {error.strerror or error}")
    if status is None:
        return Check(ok=False, detail=f"no answer in {check.timeout_s:g} s")
    return Check(status == 0, said or f"exit status {status}")
