"""The composition root: makes the parts of the Update Agent from its configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from updateagent import kernel_clock
from updateagent.boot import CANARY_KEY
from updateagent.boot.loaders import open_variables, policy_class
from updateagent.boot.policy import BootEnv, Variables
from updateagent.config import ROOTFS, Config
from updateagent.disk import Storage
from updateagent.engine.deps import EngineDeps, Package, Packages
from updateagent.engine.journal import Journal, Record
from updateagent.engine.mailbox import Mailbox, command_tail, log_tail, read_release, read_release_version
from updateagent.engine.migration import StateFolders
from updateagent.engine.updater import Updater
from updateagent.errors import (
    BOOTED_SLOT,
    BUSY,
    DeviceError,
    storage_error,
)
from updateagent.release import built_at, floor_of
from updateagent.slots.block import Slot
from updateagent.slots.identity import Place, System
from updateagent.slots.survey import Survey
from updateagent.slots.system import KernelSystem
from updateagent.slots.types import slot_type

if TYPE_CHECKING:
    from updateagent.engine.by_hand import ByHand
    from updateagent.engine.dry_run import DryVariables
    from updateagent.engine.guard import Guard
    from updateagent.package.verifier import SignedPackages

CMDLINE_BYTES_MAX = 16 << 10
LOCK_NAME = "lock"
LOCK_WAIT_S = 5.0  # enough for a confirmation or a software installation; a firmware installation takes longer
LOCK_POLL_S = 0.05


class LazyPackages:
    """Imports the verifier (and `cryptography`) only when there is a package to verify."""

    def __init__(self, make: Callable[[], Packages]) -> None:
        self._make = make
        self._made: Packages | None = None

    def verify(self, path: Path, record: Record, target: str, fallback: str) -> Package:
        return self._packages().verify(path, record, target, fallback)

    def keep_roots(self, envelope: bytes) -> None:
        self._packages().keep_roots(envelope)

    def _packages(self) -> Packages:
        if self._made is None:
            self._made = self._make()
        return self._made


@dataclass(frozen=True, slots=True)
class UpdateAgent:
    """The configured parts. `wall` returns seconds since 1970, `vouched` whether something vouches for them.

    With `dry_run` nothing is written: it collects the commits to the boot environment. `package` is then a file to use
    instead of the package in the inbox. `system` tells which device a slot is, and what is mounted.
    """

    config: Config
    disk: Storage
    wall: Callable[[], float] = time.time
    vouched: Callable[[], bool] = kernel_clock.is_disciplined
    dry_run: DryVariables | None = None
    package: Path | None = None
    system: System = field(default_factory=KernelSystem)

    def dry(self, package: Path | None = None) -> UpdateAgent:
        """The same parts over a disk that cannot write. Raises `RequestError` (configuration)."""
        from updateagent.engine.dry_run import DryVariables, ReadOnlyDisk

        reading = replace(self, disk=ReadOnlyDisk(self.disk))
        return replace(reading, dry_run=DryVariables(reading.environment()), package=package)

    def read_booted_slot(self) -> str:
        """The running slot, from the kernel's command line. Raises `DeviceError` (booted-slot)."""
        config = self.config
        found = self._from_cmdline(config.cmdline_key)
        if found not in config.slot_names:
            raise DeviceError(BOOTED_SLOT, f"{config.cmdline} names no configured slot with {config.cmdline_key}=")
        return found

    def read_canary(self) -> str | None:
        """What the boot loader saved at this start (`boot.CANARY`); None when it does not pass it. Raises
        `DeviceError`."""
        return self._from_cmdline(CANARY_KEY)

    def _from_cmdline(self, key: str) -> str | None:
        path = self.config.cmdline
        try:
            with self.disk.open_raw(path) as file:
                text = file.pread(CMDLINE_BYTES_MAX, 0).decode("utf-8", "replace")
        except OSError as error:
            raise DeviceError(BOOTED_SLOT, f"{path}: {error.strerror or error}") from error
        found = [word.partition("=")[2] for word in text.split() if word.startswith(f"{key}=")]
        return found[-1] if found else None

    def read_boot_id(self) -> str:
        """The kernel's identifier of this boot; empty when there is none."""
        try:
            with self.disk.open_raw(self.config.boot_id_file) as file:
                return file.pread(256, 0).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def partitions(self) -> dict[str, dict[str, Slot]]:
        """The partition for each image of each slot, except a recovery slot, which is never written."""
        return {
            slot.name: {
                image: slot_type(one.type)(self.disk, slot.name, one.path, one.size)
                for image, one in slot.partitions.items()
            }
            for slot in self.config.slots
            if not slot.recovery
        }

    def survey(self, copies: Iterable[tuple[Path, int, int | None]] = ()) -> Survey:
        """Which devices the slots are, and the `copies` of the boot environment (`Variables.places`)."""
        slots = {
            slot.name: [
                Place(_label(slot.name, image), str(one.path), 0, one.size) for image, one in slot.partitions.items()
            ]
            for slot in self.config.slots
        }
        others = [
            Place(f"copy {number} of the boot environment", str(path), begin, length)
            for number, (path, begin, length) in enumerate(copies, start=1)
        ]
        return Survey(self.system, slots, others, str(self.config.mountinfo))

    def check_root(self) -> None:
        """Compare the mounted root with the slot of the command line. Raises `DeviceError` (booted-slot)."""
        self.survey().check_root(self.read_booted_slot())

    def environment(self) -> Variables:
        """The boot environment's variables. Raises `RequestError` (configuration)."""
        if self.dry_run is not None:
            return self.dry_run
        where = self.config.bootenv
        return open_variables(where.type, where.policy, self.disk, where.config, where.lock)

    def bootenv(self, variables: Variables) -> BootEnv:
        config = self.config
        kind = policy_class(config.bootenv.type, config.bootenv.policy)
        return kind(variables, config.slot_names, config.trial_tries, config.recovery)

    def mailbox(self) -> Mailbox:
        return Mailbox(self.disk, self.config.update_dir)

    def journal(self) -> Journal:
        return Journal(self.disk, self.config.update_dir)

    def packages(self) -> SignedPackages:
        """The verifier of packages."""
        from updateagent.package.verifier import SignedPackages, VerifierDeps

        config = self.config
        return SignedPackages(
            VerifierDeps(
                disk=self.disk,
                roots=config.roots,
                newer_roots=config.update_dir / "roots.json",
                compatible=config.compatible,
                partitions=self.partitions(),
                running_version=read_release_version(self.disk, config.release_file),
                clock=self.wall,
                run_hook=self._run_hook,
                built=self._built(),
                clock_vouched=self.vouched,
            )
        )

    def _built(self) -> float:
        """When the image was built; 0 where its release file does not say so."""
        try:
            return built_at(read_release(self.disk, self.config.release_file))
        except ValueError:  # the agent says so (`clock.built.unknown`)
            return 0.0

    def _run_hook(self, step: str, content: Iterable[bytes], variables: Mapping[str, str]) -> None:
        from updateagent.engine.hooks import run_hook  # imported only where a package has one

        run_hook(step, content, self.config.run_dir, variables)

    def updater(self) -> Updater:
        """Make one run of the state machine.

        Raises `DeviceError` (booted-slot, journal, storage), or `RequestError` (configuration), for slots
        that overlap, too.
        """
        return Updater(self._deps())

    def by_hand(self) -> ByHand:
        """Make one run with the commands of a person. Raises like `updater`."""
        from updateagent.engine.by_hand import ByHand  # not imported at a start

        return ByHand(self._deps())

    def _deps(self) -> EngineDeps:
        config = self.config
        variables = self.environment()
        survey = self.survey(variables.places())
        survey.check_overlaps()
        booted = self.read_booted_slot()
        deps = EngineDeps(
            journal=self.journal(),
            bootenv=self.bootenv(variables),
            partitions=self.partitions(),
            mailbox=self.mailbox(),
            packages=LazyPackages(self.packages),
            booted=booted,
            boot_id=self.read_boot_id(),
            booted_version=read_release_version(self.disk, config.release_file),
            wall=self.wall,
            log_tail=lambda: log_tail(self.disk, config.log_file) or command_tail(config.log_command),
            state_folders=lambda folders: StateFolders(self.disk, folders),
            state_dirs=tuple(str(folder) for folder in config.state_dirs),
            canary=self.read_canary(),
            image_floor=floor_of(read_release(self.disk, config.release_file)),
            check_root=lambda: survey.check_root(booted),
            check_target=survey.check_target,
        )
        if self.dry_run is not None:
            from updateagent.engine.dry_run import dry_deps

            deps = dry_deps(deps, self.disk, self.package)
        return deps

    def guard(self, monotonic: Callable[[], float], wait: Callable[[float], None]) -> Guard:
        """The guard of this boot. `monotonic` returns seconds; `wait` sleeps for a number of them."""
        from updateagent.engine.guard import Guard, GuardDeps, run_command_check

        run_command = run_command_check
        if self.dry_run is not None:
            from updateagent.engine.dry_run import command_not_run as run_command

        return Guard(
            GuardDeps(
                health=self.config.health,
                boot_id=self.read_boot_id(),
                updater=self.updater,
                alone=self.alone,
                bootenv=lambda: self.bootenv(self.environment()),
                booted_slot=self.read_booted_slot,
                canary=self.read_canary,
                check_root=self.check_root,
                read_health=lambda: self.disk.read_bytes(self.config.run_dir / "health.json"),
                run_command=run_command,
                monotonic=monotonic,
                wait=wait,
            )
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the Update Agent's lock, making its folders (not on a dry run). Raises `DeviceError` (busy, storage)."""
        folder = self.config.update_dir
        try:
            if self.dry_run is None:
                self.disk.mkdir_durable(folder / "inbox")
            lock = self.disk.lock(folder / LOCK_NAME)
            waited = 0.0
            while not (taken := lock.acquire()) and waited < LOCK_WAIT_S:
                time.sleep(LOCK_POLL_S)
                waited += LOCK_POLL_S
        except OSError as error:
            raise storage_error(error, str(folder)) from error
        if not taken:
            raise DeviceError(BUSY, "another dcu-update is at work")
        try:
            yield
        finally:
            lock.release()


def _label(slot: str, image: str) -> str:
    return f"slot {slot}" if image == ROOTFS else f"{image} of slot {slot}"
