"""The guard of a boot: waits until the running system is well, then confirms it; or sends it back.

On trial, all checks of `[health] checks` must be good before the deadline, else the reason is recorded and a reboot is
asked for: the boot loader tries again until the attempts run out, then the old system starts. On an ordinary boot the
checks of `[health] boot_checks` give the slot its attempts back, and nothing worse happens when they do not.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable

from updateagent.compose import Agent
from updateagent.config import CommandCheck
from updateagent.errors import EXIT_OK, EXIT_REBOOT_WANTED, DeviceError, UpdateError
from updateagent.health import Check, Missing, Verdict, Watch, parse_health
from updateagent.updater import Updater

log = logging.getLogger("update.guard")


class Guard:
    """One boot's guard. `monotonic` gives seconds, `wait` lets some pass."""

    def __init__(self, agent: Agent, monotonic: Callable[[], float], wait: Callable[[float], None]) -> None:
        self._agent = agent
        self._monotonic = monotonic
        self._wait = wait
        self._boot_id = agent.read_boot_id()

    def run(self) -> int:
        """Watch to the end; returns the exit status for init. Raises `UpdateError`."""
        health = self._agent.config.health
        updater = self._agent.updater()
        on_trial = updater.on_trial
        # A board that lost its journal may be on trial without knowing it: nothing less than full health will do.
        names = health.checks if on_trial or updater.record.lost else health.boot_checks
        watch = Watch(names, self._monotonic() + health.deadline_s)
        while True:
            verdict = watch.observe(self._checks(names), self._monotonic())
            try:
                if verdict is Verdict.GOOD:
                    return self._good(on_trial)
                if verdict is Verdict.FAILED:
                    return self._failed(on_trial, watch.missing)
            except DeviceError as error:
                # Another dcu-update is at work, or the storage has trouble: both may pass before the deadline.
                log.warning("%s", error, extra={"event": "update.error"})
                if watch.is_over(self._monotonic()):
                    return EXIT_REBOOT_WANTED if on_trial else EXIT_OK
            self._wait(health.poll_s)

    def _good(self, on_trial: bool) -> int:
        with self._agent.alone():
            updater = self._agent.updater()
            if on_trial and updater.on_trial:
                code = updater.confirm()
                return code if code == EXIT_REBOOT_WANTED else EXIT_OK
            updater.mark_good()
            return EXIT_OK

    def _failed(self, on_trial: bool, missing: Missing | None) -> int:
        name, detail = (missing.name, missing.detail) if missing else ("", "")
        if not on_trial:
            log.warning("not marked good: health check %s: %s", name, detail, extra={"event": "update.boot-not-marked"})
            return EXIT_OK
        log.error("trial: health check %s: %s", name, detail, extra={"event": "update.trial-unhealthy"})
        try:
            with self._agent.alone():
                updater: Updater = self._agent.updater()
                updater.blame(name, detail)
        except UpdateError as error:
            # The reason could not be kept. The way back matters more.
            log.error("%s", error, extra={"event": "update.error"})  # noqa: TRY400
        return EXIT_REBOOT_WANTED

    def _checks(self, names: tuple[str, ...]) -> dict[str, Check]:
        config = self._agent.config
        try:
            checks = parse_health(self._agent.disk.read_bytes(config.run_dir / "health.json"), self._boot_id)
        except OSError:
            checks = {}
        for command in config.health.commands:
            if command.name in names:
                checks[command.name] = run_command_check(command)
        return checks


def run_command_check(check: CommandCheck) -> Check:
    """Run one configured command."""
    try:
        done = subprocess.run(
            check.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=check.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(ok=False, detail=f"no answer in {check.timeout_s:g} s")
    except OSError as error:
        return Check(ok=False, detail=f"{check.command[0]}: {error.strerror or error}")
    said = done.stderr.decode("utf-8", "replace").strip()[-200:]
    return Check(done.returncode == 0, said or f"exit status {done.returncode}")
