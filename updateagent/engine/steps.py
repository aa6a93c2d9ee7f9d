"""The steps of an update, one per state.

A step performs the effect that its state stands for (the table in `updateagent.engine.machine`), and advances the
record. It can be stopped at any instruction and started again. A step that returns an exit status ends the run; after
None, the next step follows. `updateagent.engine.updater` calls them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from updateagent.boot.policy import BootView, Trial
from updateagent.engine.deps import EngineDeps, Image, Package
from updateagent.engine.journal import Outcome, Record, SlotRecord, Update
from updateagent.engine.machine import GIVE_UP, Event, State
from updateagent.engine.mailbox import result_document
from updateagent.errors import (
    BOOTED_SLOT,
    CANCELLED,
    ENVIRONMENT_NOT_SHARED,
    EXIT_GUARD_WANTED,
    EXIT_REBOOT_WANTED,
    HOOK,
    IMAGE_ROLE,
    SLOT,
    TRIAL_FAILED,
    TRIAL_SILENT,
    Code,
    DeviceError,
    PackageError,
    RequestError,
    UpdateError,
)
from updateagent.handover import InstallRequest
from updateagent.slots.block import BLOCK_BYTES, read_back, write_image
from updateagent.slots.state import BAD, GOOD, PARTLY_WRITTEN, RECOVERY, TRIAL, SlotState

LOG = logging.getLogger("update")

PROGRESS_STEP = 4  # per cent between two updates of the display
MESSAGE_CHARS_MAX = 500
POST_INSTALL = "post-install"  # the hook that sees the written slot
ADAPT = "adapt"  # the hook that may change it
MIGRATE = "migrate"  # the hook that changes the format of the state


class Steps:
    """The steps, and what they share. `record` is the content of the journal, kept up to date by this run."""

    def __init__(self, deps: EngineDeps) -> None:
        self._deps = deps
        self._package: Package | None = None
        self._environment_error: str | None = None  # not looked at yet
        self.record = deps.journal.load()

    def _verify(self) -> None:
        deps = self._deps
        self._check_environment()
        target = self._target()
        deps.check_target(target)
        self.record = replace(self.record, security_floor=self._floor())
        package = self._verified(target, deps.booted)
        for image in package.images:
            if image.name not in deps.partitions[target]:
                raise PackageError(IMAGE_ROLE, f"no place for an image named {image.name}")
        migrates = MIGRATE in package.hooks
        if migrates and not deps.state_dirs:
            raise PackageError(HOOK, "the package migrates state, and the settings name no state_dirs")
        if package.new_roots is not None:
            # Before the package is accepted: when it is verified again after a power cut, it must still fit.
            deps.packages.keep_roots(package.new_roots)
        noted = self.record.note(deps.booted, replace(self._note(deps.booted), version=deps.booted_version))
        self._store(
            replace(noted, signed_time=max(noted.signed_time, package.signed_time)).advance(
                Event.ACCEPT,
                target=target,
                fallback=deps.booted,
                from_version=deps.booted_version,
                to_version=package.version,
                security_version=package.security_version,
                state_dirs=deps.state_dirs if migrates else (),
            )
        )
        self.write_status()

    def _protect(self) -> None:
        self._check_devices()
        self._run_hook("pre-install")
        # Before the first byte is written: the boot loader must not start a half-written slot.
        self._deps.bootenv.protect(self._update.target, self._update.fallback)
        note = SlotRecord(self._update.to_version, state=BAD, why=PARTLY_WRITTEN)
        self._store(self.record.note(self._update.target, note).advance(Event.WRITE))

    def _write(self) -> None:
        update = self._update
        if update.target == self._deps.booted:
            raise DeviceError(SLOT, f"slot {update.target} runs; it is never written")
        self._check_devices()
        package = self._verified(update.target, update.fallback)
        total = sum(image.size for image in package.images)
        done = 0
        for index, image in enumerate(package.images):
            if index >= self._update.image:
                self._write_one(index, image, done, total)
            done += image.size
        self._read_back(package)
        self._run_hook(POST_INSTALL)
        if POST_INSTALL in package.hooks:
            try:
                self._read_back(package)
            except DeviceError as error:
                why = f"{error.message}: hook {POST_INSTALL} changed it, and only a hook {ADAPT} may"
                raise PackageError(HOOK, why) from error
        images = {image.name: (image.size, image.root.hex()) for image in package.images}
        if ADAPT in package.hooks:
            images = {}
            # After a power cut in the hook, the whole slot is compared with the package again.
            self._advance(Event.CHECKPOINT, image=0, block=0)
            self._run_hook(ADAPT)
        note = SlotRecord(update.to_version, update.security_version, TRIAL, images=images)
        self._store(self.record.note(update.target, note).advance(Event.COMPLETE))

    def _read_back(self, package: Package) -> None:
        slot = self._deps.partitions[self._update.target]
        for image in package.images:
            read_back(slot[image.name], image.size, image.root, image.known())

    def _run_hook(self, step: str, **more: str) -> None:
        update = self._update
        self._verified(update.target, update.fallback).run_hook(
            step,
            {
                "DCU_SLOT": update.target,
                "DCU_FROM_VERSION": update.from_version,
                "DCU_TO_VERSION": update.to_version,
                "DCU_UPDATE_DIR": str(self._deps.mailbox.folder),
                **more,
            },
        )

    def _write_one(self, index: int, image: Image, done: int, total: int) -> None:
        start = self._update.block if index == self._update.image else 0
        checkpoint_blocks = self._deps.checkpoint_bytes // BLOCK_BYTES
        stored = start
        shown = -PROGRESS_STEP

        def checkpoint(block: int) -> None:
            nonlocal stored, shown
            if block - stored >= checkpoint_blocks:
                self._advance(Event.CHECKPOINT, image=index, block=block)
                stored = block
            progress = (done + block * BLOCK_BYTES) * 100 // total
            if progress >= shown + PROGRESS_STEP:
                self.write_status(progress=progress)
                shown = progress

        partition = self._deps.partitions[self._update.target][image.name]
        count = write_image(
            partition, image.size, image.blocks(start), start, checkpoint, sync_bytes=self._deps.sync_bytes
        )
        LOG.info(
            "slot %s, image %s: %d bytes written, %d were there already",
            self._update.target,
            image.name,
            count.written,
            count.unchanged,
            extra={"event": "update.written"},
        )

    def _begin_trial(self) -> None:
        self._advance(Event.TRY, boot_id=self._deps.boot_id)

    def _trial(self) -> int | None:
        return self._attempt() if self.on_trial else self._before_or_after_trial()

    def _attempt(self) -> int | None:
        update = self._update
        if update.boot_id != self._deps.boot_id:
            # The log was written by the previous attempt, unless that one recorded its own end (`record_failure`).
            lines = update.log or (self._deps.log_tail() if update.attempts else ())
            self._advance(Event.ATTEMPT, attempts=update.attempts + 1, boot_id=self._deps.boot_id, log=lines)
        if self._update.attempts > self._deps.bootenv.tries:
            self._decide(*self._failure_of_trial())
            return None
        self._migrate()
        return EXIT_GUARD_WANTED

    def _migrate(self) -> None:
        """Give the new system its state before its agent starts. Runs on every attempt, and does nothing twice."""
        update = self._update
        if not update.state_dirs:
            return
        folders = self._deps.state_folders(update.state_dirs)
        if not update.migrated:
            # The copies are durable before the journal calls them migrated; only after that they replace the folders.
            folders.copy()
            self._run_hook(MIGRATE, DCU_STATE=":".join(str(copy) for copy in folders.copies))
            folders.sync()
            self._advance(Event.MIGRATE, migrated=True)
        folders.put_in_place()

    def _agent_must_wait(self) -> bool:
        """Whether the agent must not start, because the state may be that of the other version.

        Never when there is no other system to start: then any start is better than none.
        """
        update, state = self.record.update, self.record.state
        if update is None or not update.state_dirs:
            return False
        on_target = update.target == self._deps.booted
        if state not in ((State.TRIAL, State.ROLLED_BACK) if on_target else (State.CONFIRMED,)):
            return False
        try:
            return self._deps.bootenv.has_fallback(self._deps.booted)
        except UpdateError:
            return False

    def _before_or_after_trial(self) -> int | None:
        deps = self._deps
        found = deps.bootenv.trial(self._update.target)
        if found is Trial.NOT_SET:
            self._check_environment()
            if self._update.boot_id != deps.boot_id:
                self._advance(Event.TRY, boot_id=deps.boot_id)
            deps.bootenv.try_slot(self._update.target, self._update.fallback)
            self.write_status()
            return EXIT_REBOOT_WANTED
        if found is Trial.WAITING:
            if self._update.boot_id == deps.boot_id:
                return EXIT_REBOOT_WANTED
            self._decide(
                ENVIRONMENT_NOT_SHARED,
                "the boot loader did not see the trial that was asked for: does it read this environment?",
            )
            return None
        self._decide(*self._failure_of_trial())
        return None

    def _failure_of_trial(self) -> tuple[Code, str]:
        update = self._update
        if update.failed_check:
            return TRIAL_FAILED, f"health check {update.failed_check} was not good in time"
        what = f"version {update.to_version}" if update.to_version else f"what slot {update.target} holds"
        if update.attempts:
            return TRIAL_SILENT, f"{what} was started {update.attempts} times and never got well"
        return TRIAL_SILENT, f"{what} never got as far as its Update Agent"

    def _make_confirmed(self) -> int | None:
        update = self._update
        self._deps.bootenv.confirm(update.target, max(self.record.security_floor, update.security_version))
        if update.target != self._deps.booted:
            # The last attempt was used up before the environment was committed. Its health was proven: start it again.
            return EXIT_REBOOT_WANTED
        if update.state_dirs:
            self._deps.state_folders(update.state_dirs).forget()
        self._finish()
        return None

    def _make_rolled_back(self) -> int | None:
        update = self._update
        if update.target == self._deps.booted:
            # The state stays as it is: the agent of this version may be running.
            self._deps.bootenv.fall_back(update.target, update.fallback)
            return EXIT_REBOOT_WANTED
        folders = self._deps.state_folders(update.state_dirs)
        if update.migrated:
            folders.put_back()
        if self._never_started and self._note(update.target).state == GOOD:
            self._deps.bootenv.confirm(update.fallback)  # what was offered stays what it was: good, and the second
        else:
            self._deps.bootenv.fall_back(update.target, update.fallback)
        folders.forget()
        self._finish()
        return None

    def _finish(self) -> None:
        """Hand the result over and forget the update."""
        deps, update = self._deps, self._update
        outcome = update.outcome
        if outcome is None:
            raise AssertionError(f"{self.record.state.value} without an outcome")
        # Held, then forgotten, then handed over: a power cut in between neither loses a result nor reports it twice.
        if not update.by_hand:
            deps.mailbox.hold_result(result_document(update, outcome, deps.wall()))
        self._store(self._settled().advance(Event.REPORT))
        LOG.info("update to %s: %s", update.to_version or "?", outcome.name, extra={"event": f"update.{outcome.name}"})
        deps.mailbox.clear_inbox(update.package, request=not update.by_hand)
        deps.mailbox.publish()

    def _settled(self) -> Record:
        """The record with what this update showed about the slots."""
        record, update = self.record, self._update
        if record.state is State.CONFIRMED:
            images = self._note(update.target).images
            version = update.to_version or self._deps.booted_version  # a slot of which nothing was known
            note = SlotRecord(version, update.security_version, GOOD, images=images, proven=True)
            floor = max(record.security_floor, update.security_version)
            return replace(record.note(update.target, note), security_floor=floor, lost=False, damaged=False)
        if record.state is State.ROLLED_BACK and update.outcome is not None:
            if self._never_started:
                return record  # whole, verified, and never started: what is noted of it still holds
            note = replace(self._note(update.target), state=BAD, why=update.outcome.message)
            return record.note(update.target, note)
        return record

    @property
    def _never_started(self) -> bool:
        """Whether the update was cancelled before the boot loader tried its slot."""
        outcome = self._update.outcome
        return outcome is not None and outcome.code == CANCELLED.number and not self._update.attempts

    def _complete_hand_over(self) -> None:
        """Complete a hand-over after a power cut at the very end: the journal is idle, but files may be left."""
        mailbox = self._deps.mailbox
        raw = mailbox.read_request()
        if raw is not None:
            try:
                request = InstallRequest.parse(raw)
            except RequestError:
                request = None
            if request is not None and request.id in (self.record.last_id, mailbox.held_id()):
                mailbox.clear_inbox(request.package)
        mailbox.publish()
        mailbox.clear_by_hand()

    @property
    def on_trial(self) -> bool:
        """Whether the running system is on trial."""
        update = self.record.update
        return self.record.state is State.TRIAL and update is not None and update.target == self._deps.booted

    # -- helpers

    @property
    def _update(self) -> Update:
        if self.record.update is None:
            raise AssertionError("no update")
        return self.record.update

    def _verified(self, target: str, fallback: str) -> Package:
        """The package, verified by this process; the result of an earlier process is never trusted."""
        if self._package is None:
            path = self._deps.mailbox.inbox / self._update.package
            self._package = self._deps.packages.verify(path, self.record, target, fallback)
        return self._package

    def _store(self, record: Record) -> None:
        self.record = self._deps.journal.store(record)

    def _advance(self, event: Event, **changes: object) -> None:
        self._store(self.record.advance(event, **changes))

    def _decide(self, code: Code, message: str) -> None:
        """End an update that cannot go on, in the way that its state requires (`GIVE_UP`)."""
        outcome = Outcome(code.number, code.name, code.fumo, code.scomo, message[:MESSAGE_CHARS_MAX])
        event = GIVE_UP[self.record.state]
        lines = self._update.log
        if event is Event.FALL_BACK and not lines:
            lines = self._deps.log_tail()
        self._advance(event, outcome=outcome, log=lines)

    def environment_error(self) -> str:
        """Why the boot environment cannot be used (unreadable, or not the boot loader's), as a sentence; else empty."""
        if self._environment_error is None:
            try:
                self._check_environment()
                self._environment_error = ""
            except DeviceError as error:
                self._environment_error = str(error)
        return self._environment_error

    def _is_shared(self) -> bool:
        try:
            self._check_environment()
        except DeviceError as error:
            if error.code not in (ENVIRONMENT_NOT_SHARED, BOOTED_SLOT):
                raise  # a temporary failure: the caller tries again
            return False
        return True

    def _check_devices(self) -> None:
        """Look once more, in each step that writes: what is mounted may have changed since the package was accepted."""
        self._deps.check_root()
        self._deps.check_target(self._update.target)

    def _check_environment(self) -> None:
        """Find out whether a commit would have an effect, and on the slot that it names. Raises `DeviceError`."""
        self._deps.check_root()
        self._deps.bootenv.check_shared(self._deps.canary)

    def _floor(self) -> int:
        """The lowest security version of firmware: where the data partition was lost, the journal's is gone, and those
        of the environment and of the image are not."""
        return max(self.record.security_floor, self._deps.bootenv.floor(), self._deps.image_floor)

    def _target(self) -> str:
        """The slot to write: never the running one. From recovery, preferably one not known to be good, then a later
        one in the boot order."""
        others = self._others(self._deps.booted)
        if self._deps.booted != self._deps.bootenv.recovery:
            return others[0]
        broken = [slot for slot in others if self._note(slot).state != GOOD]
        return (broken or others)[-1]

    def _others(self, slot: str) -> list[str]:
        """The slots that can be written when `slot` is running: the next one first; from recovery, in boot order."""
        names = list(self._deps.partitions)
        if slot in names:
            at = names.index(slot)
            return names[at + 1 :] + names[:at]
        if slot != self._deps.bootenv.recovery:
            raise DeviceError(SLOT, f"slot {slot} is not configured")
        order = self._deps.bootenv.view().order
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def _note(self, slot: str) -> SlotRecord:
        default = SlotRecord(state=GOOD) if slot == self._deps.booted else SlotRecord()
        return self.record.slots.get(slot, default)

    def _now_runs(self) -> str:
        return f"version {self._update.to_version} runs and is well"

    # -- display

    def status(self, *, progress: int | None = None, error: str = "") -> dict[str, object]:
        """The content of `status.json` and of `dcu-update status`. `progress`: per cent, by default the state's."""
        deps, record = self._deps, self.record
        update, last = record.update, record.last
        if progress is None:
            progress = 100 if record.state in (State.WRITTEN, State.TRIAL, State.CONFIRMED) else 0
        slots = self.slot_states()
        floor = record.security_floor
        with suppress(DeviceError):
            floor = self._floor()
        order = sorted((slot for slot in slots if slot.place is not None), key=lambda slot: slot.place or 0)
        return {
            "version": 1,
            "state": record.state.value,
            "progress": progress,
            "booted": deps.booted,
            "slots": [_shown(slot) for slot in slots],
            "order": [slot.name for slot in order],
            "floors": {"firmware": floor, **record.software_floors},
            "update": None
            if update is None
            else {"id": update.id, "to_version": update.to_version, "attempts": update.attempts},
            "last": None if last is None else {"id": record.last_id, "name": last.name, "message": last.message},
            "error": error or record.refused or self.environment_error() or record.problem,
        }

    def write_status(self, *, progress: int | None = None, error: str = "") -> None:
        self._deps.mailbox.write_status(self.status(progress=progress, error=error))

    def slot_states(self) -> list[SlotState]:
        """Every slot, as the journal and the boot environment have it; without order and attempts when the boot
        environment cannot be read."""
        try:
            view = self._deps.bootenv.view()
        except DeviceError:
            view = BootView((), {})
        return [self._slot_state(name, view) for name in self._deps.bootenv.slots]

    def _slot_state(self, name: str, view: BootView) -> SlotState:
        deps, note = self._deps, self._note(name)
        running = name == deps.booted
        content = TRIAL if running and self.on_trial else note.state
        return SlotState(
            name,
            version=deps.booted_version if running else note.version,
            content=RECOVERY if name == deps.bootenv.recovery and not running else content,
            why=note.why if note.state == BAD else "",
            running=running,
            place=view.order.index(name) if name in view.order else None,
            left=view.left.get(name),
            images=note.images,
            proven=note.proven,
        )


def _shown(slot: SlotState) -> dict[str, object]:
    """A slot in `status.json`; what is not known or not counted is left out."""
    shown: dict[str, object] = {"name": slot.name, "version": slot.version, "state": slot.content}
    if slot.why:
        shown["why"] = slot.why
    if slot.left is not None:
        shown["left"] = slot.left
    return shown


STEPS: dict[State, Callable[[Steps], int | None]] = {
    State.STAGED: Steps._verify,
    State.VERIFIED: Steps._protect,
    State.WRITING: Steps._write,
    State.WRITTEN: Steps._begin_trial,
    State.TRIAL: Steps._trial,
    State.CONFIRMED: Steps._make_confirmed,
    State.ROLLED_BACK: Steps._make_rolled_back,
    State.REFUSED: Steps._finish,
    State.FAILED: Steps._finish,
}
