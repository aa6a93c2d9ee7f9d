"""What a person at the device may ask for: install, mark, roll back, cancel.

One rule stands above all of it: the boot loader is never left without a slot that is known to be good. A slot is known
to be good when it runs, or was healthy the last time and still holds what was written to it (`slots.state`). What is
asked for against that is refused; with `force` it is done as far as the rule allows, and the answer says what it costs.
A slot that is not known to be good, or to which somebody goes back, is put on trial: it must get well, or the boot
loader comes back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import replace

from updateagent.boot.policy import Trial
from updateagent.engine.journal import SlotRecord, Update
from updateagent.engine.machine import GIVE_UP, Event, State
from updateagent.engine.mailbox import BY_HAND_PACKAGE
from updateagent.engine.updater import Updater
from updateagent.errors import (
    CANCELLED,
    NOT_FOUND,
    READ_BACK,
    SLOT,
    STATE,
    DeviceError,
    RequestError,
)
from updateagent.handover import InstallRequest
from updateagent.slots.block import read_back
from updateagent.slots.state import BAD, BY_HAND, GOOD, SlotState, instead_of

LOG = logging.getLogger("update")

GIVEN_UP = "given up by hand"


class ByHand(Updater):
    """One run of the Update Agent, with the commands of a person. Call one method, then discard the object.

    Each raises `RequestError` (state) when it is refused, `DeviceError` when the device fails. `cost` is then a
    sentence on what was done all the same, by `force`; empty for nothing.
    """

    cost = ""

    def install(self, request: InstallRequest) -> int:
        """Install a package in the inbox. Refused while there is an update, or a request of the agent."""
        self.check_free()
        self._stage(request, by_hand=True)
        return self._run()

    def check_free(self) -> None:
        """Check that neither an update nor a request waits. Raises `RequestError` (state)."""
        self._check_idle()
        if self._deps.mailbox.read_request() is not None:
            raise RequestError(STATE, "a package that the agent handed over waits for the next start; or cancel it")

    def _check_idle(self) -> None:
        if self.record.state is not State.IDLE:
            raise RequestError(STATE, f"not while an update is {self.record.state.value}")

    # -- mark

    def mark(self, name: str, how: str, *, force: bool = False) -> None:
        """Mark a slot as `good`, `bad` or `active`.

        Also raises `RequestError` (not-found), `DeviceError` (slot) for a slot that no longer holds what was written.
        """
        slot = next((one for one in self.slot_states() if one.name == name), None)
        if slot is None:
            raise RequestError(NOT_FOUND, f"there is no slot {name}")
        self._check_idle()
        if name == self._deps.bootenv.recovery and how != "good":
            raise RequestError(STATE, f"slot {name} is the recovery slot: the last one, always")
        self._check_environment()
        {"good": self._mark_good, "active": self._mark_active, "bad": self._mark_bad}[how](slot, force=force)
        self.write_status()

    def _mark_good(self, slot: SlotState, *, force: bool) -> None:
        if slot.running or slot.is_good or (slot.proven and slot.images):
            if not slot.running:
                self._check_content(slot)
            if slot.content == BAD:
                self._store(self.record.note(slot.name, replace(self._note(slot.name), state=GOOD, why="")))
        elif force:
            self.cost = f"{slot.describe()}; it has attempts again, and is not taken for a good one"
        else:
            raise _refused(slot.describe(), "gives it attempts, and does not make it known to be good")
        self._deps.bootenv.mark_good(slot.name)

    def _mark_active(self, slot: SlotState, *, force: bool) -> None:
        if slot.running:
            if not slot.is_good and not force:
                raise _refused(slot.describe(), "makes it first all the same, since it runs")
            self._deps.bootenv.confirm(slot.name, self.record.security_floor)
            return
        why = slot.describe()
        if slot.is_good:
            whole, why = self._first_whole([slot])
            if whole is not None and slot.images:
                self._deps.bootenv.confirm(slot.name, self.record.security_floor)
                return
            if whole is not None:
                force, why = True, f"what slot {slot.name} holds cannot be checked"
        self._offer(slot, why, force=force)

    def _offer(self, slot: SlotState, why: str, *, force: bool) -> int:
        """Put a slot on trial as it is: when it does not get well, the slot that runs now comes back."""
        deps = self._deps
        cost = f"slot {slot.name} is started {deps.bootenv.tries} times at most, and must get well"
        if not force:
            raise RequestError(STATE, f"{why} (with --force {cost})")
        update = Update(
            f"by-hand-{os.urandom(8).hex()}",
            package=BY_HAND_PACKAGE,
            requested=deps.wall(),
            by_hand=True,
            target=slot.name,
            fallback=deps.booted,
            from_version=deps.booted_version,
            to_version=slot.version,
            security_version=self._note(slot.name).security_version,
            boot_id=deps.boot_id,
        )
        if deps.bootenv.trial(slot.name) is not Trial.NOT_SET:
            # Of an earlier time: as it is, the boot loader seems to have tried it already.
            deps.bootenv.protect(slot.name, deps.booted)
        self._store(self.record.stage(update, Event.OFFER))
        self.cost = f"{why}; {cost}" if why else cost
        return self._run()

    def _mark_bad(self, slot: SlotState, *, force: bool) -> None:
        others = [one for one in instead_of(self.slot_states(), slot.name) if one.running or one.is_certain]
        good, why = self._first_whole(others)
        if good is None and force and not slot.running:
            good = self._deps.booted
        if good is None:
            why = why or "what another slot holds, if anything, cannot be checked; `rollback` tries it"
            raise RequestError(STATE, f"slot {slot.name} is the last one that is known to start: {why}")
        self._store(self.record.note(slot.name, replace(self._note(slot.name), state=BAD, why=BY_HAND)))
        self._deps.bootenv.fall_back(slot.name, good)
        if slot.running:
            self.cost = f"slot {good} starts next"

    # -- rollback, cancel

    def rollback(self, *, force: bool = False) -> int:
        """Give up the trial, or go back to another slot. Returns the exit status."""
        if self.on_trial:
            self._decide(CANCELLED, GIVEN_UP)
            return self._run()
        if self.record.state is not State.IDLE:
            raise RequestError(STATE, f"not while an update is {self.record.state.value}; it can be cancelled")
        self._check_environment()
        others = self._others(self._deps.booted)
        slots = {slot.name: slot for slot in self.slot_states()}
        good, why = self._first_whole(slots[name] for name in others if slots[name].is_good)
        if good is not None:
            code = self._offer(slots[good], "", force=True)
        else:
            why = why or "the other slots hold no system known to be good"
            code = self._offer(slots[others[0]], why, force=force)
        self.write_status()
        return code

    def cancel(self) -> int:
        """Give up an update that has not been started yet. Returns the exit status."""
        state, update = self.record.state, self.record.update
        if state is State.IDLE:
            raw = self._deps.mailbox.read_request()
            if raw is None:
                raise RequestError(STATE, "there is no update to cancel")
            self._stage_raw(raw)
        elif state is State.TRIAL and update is not None:
            if self.on_trial:
                raise RequestError(STATE, "the new system runs already, on trial; `rollback` gives it up")
            if self._deps.bootenv.trial(update.target) is Trial.BEGUN:
                raise RequestError(STATE, "the new system was started already; its trial ends at the next start")
        elif state not in (State.STAGED, State.VERIFIED, State.WRITING, State.WRITTEN):
            raise RequestError(STATE, f"the update is {state.value} already")
        if self.record.state in GIVE_UP:
            self._decide(CANCELLED, GIVEN_UP)
        code = self._run()
        self.write_status()
        return code

    # -- what a slot holds

    def _first_whole(self, slots: Iterable[SlotState]) -> tuple[str | None, str]:
        """The name of the first slot whose content is as it was written, and why the ones before it are not."""
        why = ""
        for slot in slots:
            try:
                if not slot.running:
                    self._check_content(slot)
            except DeviceError as error:
                why = error.message
                continue
            return slot.name, why
        return None, why

    def _check_content(self, slot: SlotState) -> None:
        """Compare the slot with what was written to it, where that is known. Raises `DeviceError`; a slot that holds
        something else is noted as bad."""
        partitions = self._deps.partitions.get(slot.name, {})
        for image, (size, root) in slot.images.items():
            if image not in partitions:
                raise DeviceError(SLOT, f"slot {slot.name}: the settings have no place for its image {image}")
            try:
                read_back(partitions[image], size, bytes.fromhex(root))
            except DeviceError as error:
                if error.code is READ_BACK:
                    LOG.error("update: %s", error.message, extra={"event": "update.rotten"})  # noqa: TRY400
                    note: SlotRecord = replace(self._note(slot.name), state=BAD, why=error.message, proven=False)
                    self._store(self.record.note(slot.name, note))
                raise


def _refused(why: str, cost: str) -> RequestError:
    return RequestError(STATE, f"{why} (--force {cost})")
