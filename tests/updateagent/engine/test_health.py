"""The guard: confirms a system that is well, sends back one that is not, and is not fooled by yesterday's health."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS
from tests.updateagent.board import Board
from tests.updateagent.slots.facts import Facts
from updateagent.compose import UpdateAgent
from updateagent.config import BootEnvConfig, Config, PartitionConfig, SlotConfig
from updateagent.disk import RawFile, RealDisk
from updateagent.engine.guard import run_command_check
from updateagent.engine.health import Check, CommandCheck, HealthConfig, Missing, Verdict, Watch, parse_health
from updateagent.engine.journal import DAMAGED
from updateagent.engine.machine import State
from updateagent.errors import EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED, DeviceError
from updateagent.slots.identity import System


def document(boot: str = "b1", **checks: bool) -> bytes:
    return json.dumps(
        {"version": 1, "boot": boot, "checks": {name: {"ok": ok, "at": 1.0} for name, ok in checks.items()}}
    ).encode()


def test_health_of_this_boot_is_read() -> None:
    assert parse_health(document(meter_port=True, storage=False), "b1") == {
        "meter_port": Check(ok=True),
        "storage": Check(ok=False),
    }


@pytest.mark.parametrize(
    "raw",
    [
        document(boot="b0", meter_port=True),
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "boot": "b1", "checks": {}}',
        b'{"version": 1, "boot": 1, "checks": {}}',
        b'{"version": 1, "boot": "b1", "checks": {"a": 1}}',
        b'{"version": 1, "boot": "b1", "checks": []}',
        b"\xff\xfe",
        b"[" * 70_000,
    ],
)
def test_anything_else_is_no_health_at_all(raw: bytes) -> None:
    assert parse_health(raw, "b1") == {}


def test_without_a_boot_id_nothing_counts() -> None:
    assert parse_health(document(boot=""), "") == {}


def test_only_true_is_good() -> None:
    assert parse_health(b'{"version":1,"boot":"b1","checks":{"a":{"ok":1}}}', "b1") == {"a": Check(ok=False)}


def test_all_checks_must_be_good_at_the_same_time() -> None:
    watch = Watch(("a", "b"), deadline=10)
    good, bad = Check(ok=True), Check(ok=False, detail="silent")

    assert watch.observe({"a": good}, 0) is Verdict.WAIT
    assert watch.missing == Missing("b", "no word of it")
    assert watch.observe({"a": bad, "b": good}, 9) is Verdict.WAIT
    assert watch.missing == Missing("a", "silent")
    assert watch.observe({"a": good, "b": good}, 9.5) is Verdict.GOOD


def test_at_the_deadline_what_is_not_good_has_failed_but_good_is_good() -> None:
    watch = Watch(("a",), deadline=10)

    assert watch.observe({}, 10) is Verdict.FAILED
    assert watch.observe({"a": Check(ok=True)}, 11) is Verdict.GOOD


def test_a_command_is_good_when_it_exits_with_0() -> None:
    assert run_command_check(CommandCheck("a", ("true",))).ok
    failed = run_command_check(CommandCheck("a", ("sh", "-c", "echo no carrier >&2; exit 3")))
    assert (failed.ok, failed.detail) == (False, "no carrier")
    assert "no answer in" in run_command_check(CommandCheck("a", ("sleep", "5"), timeout_s=0.01)).detail
    assert not run_command_check(CommandCheck("a", ("/no/such/program",))).ok


class Bench:
    """A board with a guard, and time that passes only when the guard waits."""

    def __init__(self, folder: Path, health: HealthConfig) -> None:
        self.board = Board(folder)
        self.board.assemble()
        self.folder = folder
        env = self.board.environment.flash
        (folder / "fw_env.config").write_text("".join(f"{env} {at:#x} {ENV_BYTES:#x}\n" for at in ENV_OFFSETS))
        (folder / "release").write_text("VERSION=1\n")
        slots = tuple(
            SlotConfig(name, {"rootfs": PartitionConfig("file", self.board.slot_file(name), 1 << 20)}) for name in "AB"
        )
        self.config = Config(
            slots=slots,
            bootenv=BootEnvConfig("uboot", "rauc", folder / "fw_env.config", lock=None),
            update_dir=self.board.update_dir,
            run_dir=folder,
            software_dir=folder / "software",
            roots=folder / "roots.pem",
            compatible="HW",
            cmdline=folder / "cmdline",
            boot_id_file=folder / "boot_id",
            release_file=folder / "release",
            health=health,
        )
        self.system: System = Facts()
        self.now = 0.0
        self.on_wait: Callable[[], None] = lambda: None

    def power_on(self) -> None:
        self.board.power_on()
        (self.folder / "cmdline").write_text(f"rauc.slot={self.board.booted} dcu.boots={self.board.canary}")
        (self.folder / "boot_id").write_text(self.board.boot_id)

    def publish(self, **checks: bool) -> None:
        (self.folder / "health.json").write_bytes(document(self.board.boot_id, **checks))

    def agent(self) -> UpdateAgent:
        return UpdateAgent(self.config, RealDisk(), wall=lambda: 1.0, system=self.system)

    def guard(self) -> int:
        return self.agent().guard(lambda: self.now, self._wait).run()

    def _wait(self, seconds: float) -> None:
        self.now += seconds
        self.on_wait()

    def become_known(self) -> None:
        """Version 1 was once well, and the journal knows."""
        self.power_on()
        self.board.updater().mark_good()
        self.board.environment.save({**self.board.variables(), "BOOT_A_LEFT": "3"})  # many starts later
        self.power_on()

    def bring_on_trial(self) -> None:
        self.power_on()
        self.board.hand_over("2")
        self.board.updater().boot()
        self.power_on()
        assert self.board.updater().boot() == EXIT_GUARD_WANTED


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, HealthConfig(deadline_s=30, poll_s=1, checks=("agent_up", "meter_port")))


def test_a_trial_is_confirmed_as_soon_as_all_is_well(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.on_wait = lambda: bench.publish(agent_up=True, meter_port=bench.now >= 5)

    assert bench.guard() == EXIT_OK
    assert bench.now == 5
    assert bench.board.updater().record.state is State.IDLE
    result = bench.board.result()
    assert result is not None
    assert result["fumo"] == 200


def test_a_trial_that_is_not_well_by_the_deadline_wants_a_reboot_and_keeps_the_reason(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.publish(agent_up=True, meter_port=False)

    assert bench.guard() == EXIT_REBOOT_WANTED
    assert bench.now == 30
    update = bench.board.updater().record.update
    assert update is not None
    assert update.failed_check == "meter_port"


def on_root_of(bench: Bench, slot: str) -> Facts:
    """What the kernel says when the root file system is a loop device over this slot's file."""
    facts = Facts()
    for number, name in enumerate("AB"):
        path = str(bench.board.slot_file(name))
        facts.file(path, 50 + number)
        facts.loop(f"/dev/loop{number}", f"7:{number}", path)
    facts.mounts(f"7:{'AB'.index(slot)} / / ro - squashfs /dev/root ro")
    return facts


def test_a_trial_is_not_confirmed_from_the_root_of_another_slot(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.publish(agent_up=True, meter_port=True)
    bench.system = on_root_of(bench, "A")
    with pytest.raises(DeviceError, match="the command line names slot B, and the root file system is slot A's"):
        bench.agent().updater().confirm()

    assert bench.guard() == EXIT_REBOOT_WANTED
    update = bench.board.updater().record.update
    assert update is not None
    assert update.failed_check == "environment"
    assert update.log[-1].endswith("the command line names slot B, and the root file system is slot A's")

    bench.system = on_root_of(bench, "B")
    assert bench.guard() == EXIT_OK
    assert bench.board.updater().record.state is State.IDLE


def test_attempts_are_not_given_back_to_a_slot_that_does_not_run(bench: Bench) -> None:
    bench.become_known()
    bench.publish(agent_up=True)
    bench.system = on_root_of(bench, "B")
    assert bench.guard() == EXIT_OK
    assert bench.now == 0
    assert bench.board.variables()["BOOT_A_LEFT"] == "2"

    bench.system = on_root_of(bench, "A")
    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "9"


def test_silence_is_no_health(bench: Bench) -> None:
    bench.bring_on_trial()

    assert bench.guard() == EXIT_REBOOT_WANTED


def test_an_ordinary_boot_is_marked_good_by_fewer_checks(bench: Bench) -> None:
    bench.become_known()
    bench.publish(agent_up=True)

    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "9"


def test_an_environment_that_is_locked_for_a_while_gets_the_attempts_in_the_end(bench: Bench) -> None:
    bench.become_known()
    bench.publish(agent_up=True)
    kept = bench.board.environment.flash.read_bytes()
    bench.board.environment.flash.write_bytes(b"")  # as good as locked: it cannot be read

    def later() -> None:
        if bench.now == 3:
            bench.board.environment.flash.write_bytes(kept)

    bench.on_wait = later

    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "9"


def test_an_ordinary_boot_that_is_not_well_is_not_marked_and_not_rebooted(bench: Bench) -> None:
    bench.become_known()
    bench.board.environment.save({**bench.board.variables(), "BOOT_B_LEFT": "3"})

    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "2"


def test_a_board_that_lost_its_journal_must_be_fully_well_to_be_marked_good(bench: Bench) -> None:
    bench.power_on()
    for index in (0, 1):
        (bench.board.update_dir / f"journal.{index}").write_bytes(b"?")
    bench.publish(agent_up=True)
    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "2"

    bench.now = 0
    bench.publish(agent_up=True, meter_port=True)
    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "9"
    assert not bench.board.updater().record.lost
    status = bench.board.updater().status()
    assert (status["state"], status["error"]) == ("idle", DAMAGED)


def test_a_new_system_that_cannot_see_the_journal_goes_back_when_it_is_not_well(bench: Bench) -> None:
    bench.bring_on_trial()
    for name in ("journal.0", "journal.1"):
        (bench.board.update_dir / name).unlink()  # as when the data partition is not mounted
    bench.publish(agent_up=True)

    assert bench.guard() == EXIT_REBOOT_WANTED
    assert bench.board.variables()["BOOT_B_LEFT"] == "2"


def test_a_new_board_that_is_not_well_yet_is_not_rebooted(bench: Bench) -> None:
    bench.power_on()

    assert bench.guard() == EXIT_OK
    assert bench.board.variables()["BOOT_A_LEFT"] == "2"


def test_a_guard_that_cannot_read_its_journal_acts_as_on_a_trial(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.publish(agent_up=True, meter_port=True)

    class Unreadable(RealDisk):
        def read_bytes(self, path: Path) -> bytes:
            if path.name.startswith("journal"):
                raise OSError(5, "Input/output error")
            return super().read_bytes(path)

    guard = UpdateAgent(bench.config, Unreadable(), wall=lambda: 1.0).guard(lambda: bench.now, bench._wait)
    assert guard.run() == EXIT_REBOOT_WANTED


def test_a_guard_whose_storage_has_trouble_for_a_while_tries_again(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.publish(agent_up=True, meter_port=True)

    class Failing(RealDisk):
        failures = 3

        def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
            if write and path.name.startswith("journal") and self.failures:
                self.failures -= 1
                raise OSError(5, "Input/output error")
            return super().open_raw(path, write=write, create=create, mode=mode)

    guard = UpdateAgent(bench.config, Failing(), wall=lambda: 1.0).guard(lambda: bench.now, bench._wait)
    assert guard.run() == EXIT_OK
    assert bench.now == 3


def test_a_trial_whose_storage_never_works_wants_a_reboot(bench: Bench) -> None:
    bench.bring_on_trial()
    bench.publish(agent_up=True, meter_port=True)

    class Broken(RealDisk):
        def open_raw(self, path: Path, *, write: bool = False, create: bool = False, mode: int = 0o600) -> RawFile:
            if write:
                raise OSError(5, "Input/output error")
            return super().open_raw(path, write=write, create=create, mode=mode)

    guard = UpdateAgent(bench.config, Broken(), wall=lambda: 1.0).guard(lambda: bench.now, bench._wait)
    assert guard.run() == EXIT_REBOOT_WANTED
