"""The Update Agent's commands, and the loop through the states. The steps themselves are in `updateagent.engine.steps`.

Everything it uses comes in as `EngineDeps`. All decisions depend only on the journal, the boot environment and the
running slot, so it can be stopped at any instruction and started again. `boot` runs at every start of the device,
before the agent.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from updateagent.engine.journal import STORES_MAX, NoRoomError, Outcome, Update
from updateagent.engine.machine import DECIDED, GIVE_UP, Event, State
from updateagent.engine.mailbox import result_document
from updateagent.engine.steps import MESSAGE_CHARS_MAX, STEPS, Steps
from updateagent.errors import (
    EXIT_GUARD_WANTED,
    EXIT_OK,
    EXIT_REBOOT_WANTED,
    JOURNAL,
    KIND,
    LOOP,
    OK_FUMO,
    OK_SCOMO,
    STATE,
    STORAGE_FULL,
    Code,
    RequestError,
    UpdateError,
)
from updateagent.handover import InstallRequest

LOG = logging.getLogger("update")


class Updater(Steps):
    """One run of the Update Agent: call one method, then discard the object."""

    def boot(self) -> int:
        """Advance the update, if there is one, as far as possible; return the exit status for init.

        A failure of the device never keeps the running system from starting: it is logged, and tried again next time.
        """
        try:
            code = self._boot()
        except UpdateError as error:
            LOG.error("update: %s", error, extra={"event": "update.error"})  # noqa: TRY400  a sentence, no traceback
            self.write_status(error=str(error))
            if self._agent_must_wait():
                return EXIT_REBOOT_WANTED
            return EXIT_GUARD_WANTED if self.on_trial else EXIT_OK
        if code != EXIT_REBOOT_WANTED:
            self.write_status()
        return code

    def confirm(self) -> int:
        """Confirm the running trial system as good.

        Raises `RequestError` (state) when no system is on trial, `DeviceError` (environment-not-shared) when this
        system writes a boot environment that the boot loader does not read.
        """
        if not self.on_trial:
            raise RequestError(STATE, f"slot {self._deps.booted} is not on trial")
        self._check_environment()
        self._advance(Event.CONFIRM, outcome=Outcome(0, "ok", OK_FUMO, OK_SCOMO, self._now_runs()))
        code = self._run()
        self.write_status()
        return code

    def record_failure(self, failed_check: str, detail: str) -> None:
        """Record why the running trial system gives up this attempt."""
        self._advance(
            Event.FAILURE,
            failed_check=failed_check,
            log=(*self._deps.log_tail(), f"health check {failed_check}: {detail}"[:MESSAGE_CHARS_MAX]),
        )

    def mark_good(self) -> bool:
        """Give the running, confirmed system its attempts back; return whether a commit was needed.

        An environment that the boot loader does not read is left alone.
        """
        if self.record.state is not State.IDLE:
            return False
        bootenv, booted = self._deps.bootenv, self._deps.booted
        changed = self._is_shared() and bootenv.needs_mark(booted) and bootenv.mark_good(booted)
        if self.record.lost and not self.record.refused:
            self._store(replace(self.record, lost=False))
        self._deps.mailbox.reserve()
        self.write_status()
        return changed

    # -- the way through the states

    def _boot(self) -> int:
        if self.record.state is State.IDLE:
            self._complete_hand_over()
            raw = self._deps.mailbox.read_request()
            if raw is None:
                return self._idle()
            if self.record.refused:
                self._refuse(raw, JOURNAL, self.record.refused)
                return self._idle()
            if self._deps.mailbox.is_full():
                LOG.warning("update: waits until the agent has taken two results", extra={"event": "update.waits"})
                return self._idle()
            self._deps.mailbox.reserve()
            try:
                self._stage_raw(raw)
            except NoRoomError as error:
                self._refuse(raw, STORAGE_FULL, error.message)
                return self._idle()
        elif self.record.stores >= STORES_MAX:
            self._break_loop()
        else:
            # Count this start. Progress resets the count; a step that never completes exhausts it.
            self._store(self.record)
        return self._run()

    def _run(self) -> int:
        while self.record.state is not State.IDLE:
            handler = STEPS[self.record.state]
            try:
                code = handler(self)
            except UpdateError as error:
                if error.code is JOURNAL or self.record.state not in GIVE_UP:
                    raise
                LOG.error("update: %s", error, extra={"event": "update.failed"})  # noqa: TRY400
                self._decide(error.code, error.message)
                continue
            if code is not None:
                return code
        return self._idle()

    def _idle(self) -> int:
        self._deps.mailbox.reserve()
        error = self.environment_error()
        if error:
            LOG.error("%s", error, extra={"event": "update.environment"})
        elif self._deps.bootenv.needs_mark(self._deps.booted):
            return EXIT_GUARD_WANTED
        return EXIT_GUARD_WANTED if self.record.lost else EXIT_OK

    def _break_loop(self) -> None:
        state = self.record.state
        if state in DECIDED:
            # The outcome is decided, but completing it has failed repeatedly. Report it all the same.
            LOG.error("update: gives up on completing %s", state.value, extra={"event": "update.loop"})
            self._finish()
        else:
            self._decide(LOOP, f"{state.value} was begun {self.record.stores} times and never completed")

    def _refuse(self, raw: bytes, code: Code, why: str) -> None:
        """Answer a request without the journal. After a power cut it is answered again."""
        try:
            request = InstallRequest.parse(raw)
        except RequestError:
            request = self._unreadable(raw)
        LOG.error("update: %s", why, extra={"event": "update.refused"})
        mailbox = self._deps.mailbox
        if code is STORAGE_FULL:
            # The package is what fills the partition, and will not be installed.
            mailbox.clear_inbox(request.package, request=False)
        update = Update(request.id, request.package, request.correlator, from_version=self._deps.booted_version)
        outcome = Outcome(code.number, code.name, code.fumo, code.scomo, why[:MESSAGE_CHARS_MAX])
        mailbox.hold_result(result_document(update, outcome, self._deps.wall()))
        mailbox.clear_inbox(request.package)
        mailbox.publish()

    def _unreadable(self, raw: bytes) -> InstallRequest:
        import zlib

        return InstallRequest(f"unreadable-{zlib.crc32(raw):08x}", "package.swu", "", self._deps.wall())

    def _stage_raw(self, raw: bytes) -> None:
        try:
            request = InstallRequest.parse(raw)
        except RequestError as error:
            request = self._unreadable(raw)
            self._stage(request)
            self._decide(error.code, error.message)
            return
        self._stage(request)
        if request.kind != "firmware":
            self._decide(KIND, f"a request of kind {request.kind} is not for the boot")

    def _stage(self, request: InstallRequest, *, by_hand: bool = False) -> None:
        update = Update(
            request.id, request.package, request.correlator, request.requested, by_hand, boot_id=self._deps.boot_id
        )
        self._store(self.record.stage(update))
