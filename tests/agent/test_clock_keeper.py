"""A clock that cannot be believed, from the first handshake to the next start: 1970, 2030, steps, and wrong floors."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from agent.clock import KERNEL, SERVER, SystemClock
from agent.clock_floor import SET_ASIDE_AFTER_S, ClockFloor, Stored
from agent.clock_keeper import AGAIN_S, FLOOR_FILE, ClockKeeper, load_floor
from agent.clock_trust import Evidence
from agent.https import HttpsClient, HttpsRefused
from agent.tls import Fault
from tests.agent.certificates import DAY, TlsServer, authority
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival

pytestmark = pytest.mark.process

NOW = 1_800_000_000.0  # 2027-01-15: what the time really is
YEAR = 365 * DAY
BUILT = NOW - YEAR
YEARS = (NOW - 10 * YEAR, NOW + 10 * YEAR)
CURRENT = (NOW - 30 * DAY, NOW + 60 * DAY)  # a certificate that was issued long after the image was built
FILE = Path("/var") / FLOOR_FILE


class World:
    """A device with a battery-less clock, and its head-end. Real time is `NOW` and what passes in between."""

    name = KERNEL

    def __init__(self, folder: Path, *, says: float, may_set: bool = False) -> None:
        self.folder = folder
        self.authority = authority(YEARS)
        (folder / "ca.pem").write_bytes(self.authority.ca_pem())
        self.server = TlsServer(folder, self.authority.issue(CURRENT))
        self.disk = FaultyDisk()
        self.disk.mkdir_durable(FILE.parent)
        self.built = BUILT
        self.passed = 0.0
        self.synchronised = False
        self.settable = True
        self.may_set = may_set
        self.sets = 0
        self.start(says)

    def start(self, says: float) -> None:
        """Start the device; its clock says this."""
        self.booted, self.ahead = self.passed, says - self.real
        self.synchronised = False
        floor = ClockFloor(self.built, load_floor(self.disk, FILE))
        self.clock = SystemClock([self], floor=floor, monotonic=self.monotonic, system=lambda: self.real + self.ahead)
        self.keeper = ClockKeeper(self.clock, self.disk, FILE, may_set=self.may_set, set_clock=self._set)
        self.https = HttpsClient(
            self.folder / "ca.pem",
            monotonic=self.monotonic,
            certificate_time=self.clock.certificate_time,
            on_verdict=self._judged,
        )
        self.https.on_answer = self.clock.server_date
        self.keeper.tick()

    @property
    def real(self) -> float:
        return NOW + self.passed

    def monotonic(self) -> float:
        return self.passed - self.booted + 10

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        return Evidence(KERNEL, monotonic, wall - monotonic, 0.1) if self.synchronised else None

    def _judged(self, fault: Fault | None) -> None:
        if fault is None or fault is Fault.EXPIRED:
            self.clock.certificate_judged(expired=fault is not None)

    def _set(self, seconds: float) -> None:
        if not self.settable:
            raise PermissionError(1, "Operation not permitted")
        self.sets += 1
        self.ahead = seconds - self.real

    def pass_s(self, seconds: float) -> None:
        self.passed += seconds
        self.keeper.tick()

    def ask(self, *, off: float = 0.0, tells: bool = True) -> Fault | None:
        """Ask the head-end, whose clock is `off`; return what is wrong with it."""
        self.server.date = self.real + off if tells else 0.0
        try:
            self.https.request("GET", self.server.url)
        except HttpsRefused as error:
            return error.fault
        self.keeper.tick()
        return None


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for each in made:
        each.server.close()


@pytest.fixture
def world(tmp_path: Path, worlds: list[World]) -> World:
    worlds.append(World(tmp_path, says=0.0))
    return worlds[0]


def test_with_the_clock_at_1970_the_head_end_is_reached_and_the_time_is_believed_from_then_on(world: World) -> None:
    assert not world.clock.trusted()
    assert world.ask() is None
    judged = world.clock.judge()
    assert (judged.trusted, judged.source) == (True, SERVER)
    assert judged.wall == pytest.approx(world.real, abs=1.0)
    assert world.clock.certificate_time().now == judged.wall


def test_with_the_clock_at_1970_a_certificate_that_ended_before_the_build_is_refused(world: World) -> None:
    world.server.show(world.authority.issue((BUILT - YEAR, BUILT - 1)))
    assert world.ask() is Fault.EXPIRED
    assert not world.clock.trusted()


def test_a_certificate_that_ended_before_the_newest_time_told_is_refused_after_a_restart_too(world: World) -> None:
    assert world.ask() is None
    world.keeper.close()
    world.start(says=0.0)
    world.server.show(world.authority.issue((NOW - 60 * DAY, NOW - DAY)))  # stolen, and long renewed
    assert world.ask(off=-2 * DAY) is Fault.EXPIRED
    assert not world.clock.trusted()


@pytest.mark.parametrize("says", [0.0, BUILT - 1000, NOW - DAY, NOW - 7200, NOW + 7200, NOW + 3 * YEAR])
def test_whatever_the_clock_says_at_the_start_the_head_end_is_reached_and_the_clock_set(
    tmp_path: Path, worlds: list[World], says: float
) -> None:
    world = World(tmp_path, says=says, may_set=True)
    worlds.append(world)
    assert not world.clock.trusted()
    assert world.ask() is None
    assert (world.sets, world.clock.trusted()) == (1, True)
    assert world.ahead == pytest.approx(0.0, abs=1.0)
    assert world.keeper.warnings() == []


def test_a_clock_at_2030_that_may_not_be_set_is_reported_and_civil_time_is_the_server_s(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.start(says=NOW + 3 * YEAR)
    assert world.ask() is None
    judged = world.clock.judge()
    assert (judged.trusted, world.sets) == (False, 0)
    assert judged.wall == pytest.approx(world.real, abs=1.0)
    (warning,) = world.keeper.warnings()
    assert warning.startswith(f"the machine's clock is {3 * YEAR:.0f} s ahead of what server says: ")
    assert warning.endswith("setting it is not allowed (clock.set)")


def test_a_system_that_does_not_let_its_clock_be_set_is_asked_once_an_hour(
    tmp_path: Path, worlds: list[World], caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, says=NOW + 3 * YEAR, may_set=True)
    worlds.append(world)
    world.settable = False
    assert world.ask() is None
    for _ in range(10):
        world.pass_s(60)
    assert [record.message for record in caplog.records if getattr(record, "event", "") == "clock.set.refused"] == [
        "the clock cannot be set: [Errno 1] Operation not permitted"
    ]
    assert "the system does not let it be set" in world.keeper.warnings()[0]
    world.settable = True
    world.pass_s(AGAIN_S)
    assert (world.sets, world.clock.trusted(), world.keeper.warnings()) == (1, True, [])


def test_a_clock_that_a_time_service_disciplines_is_not_set(tmp_path: Path, worlds: list[World]) -> None:
    world = World(tmp_path, says=NOW + DAY, may_set=True)
    worlds.append(world)
    world.synchronised = True
    world.pass_s(10)
    assert world.clock.trusted()
    assert world.ask() is None
    assert (world.sets, world.clock.trusted()) == (0, False)
    assert world.keeper.warnings()[0].endswith("a time service says otherwise")


def test_whoever_sets_the_clock_wrong_again_and_again_gets_no_fight(tmp_path: Path, worlds: list[World]) -> None:
    world = World(tmp_path, says=0.0, may_set=True)
    worlds.append(world)
    world.ask()
    for _ in range(60):
        world.ahead = -DAY
        world.pass_s(60)
    assert world.sets == 2


@pytest.mark.parametrize("step_s", [-NOW, -YEAR, -7200.0, 7200.0, 3 * YEAR])
def test_a_clock_that_jumps_keeps_the_head_end_reachable(world: World, step_s: float) -> None:
    world.start(says=NOW)
    assert world.ask() is None
    world.pass_s(600)
    world.ahead = step_s
    world.pass_s(10)
    assert world.ask() is None
    assert world.clock.wall() == pytest.approx(world.real, abs=1.0)


def test_a_head_end_that_was_ahead_poisons_nothing_for_long(world: World) -> None:
    assert world.ask(off=50 * DAY) is None
    assert world.clock.floor.earliest(0) == pytest.approx(NOW + 50 * DAY, abs=2)
    world.keeper.close()
    world.start(says=0.0)
    assert world.ask() is None, "its certificate is valid under whatever it told"
    assert world.clock.floor.earliest(0) == pytest.approx(NOW, abs=2)
    assert world.clock.trusted()
    assert load_floor(world.disk, FILE).proven == pytest.approx(NOW, abs=2)


def test_a_head_end_cannot_tell_a_time_beyond_its_own_certificate(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert world.ask(off=61 * DAY) is None
    assert world.clock.floor.earliest(0) == BUILT
    assert not world.clock.trusted()
    told = [record for record in caplog.records if getattr(record, "event", "") == "clock.told.refused"]
    assert [record.message for record in told if record.levelno >= logging.WARNING] == [
        "a server tells a time outside the validity of its own certificate"
    ]


def test_a_floor_that_locks_every_server_out_is_set_aside_after_hours_and_replaced(world: World) -> None:
    world.disk.write_durable(FILE, Stored(0.0, NOW + 20 * YEAR).emit())  # signed by somebody whose clock was wrong
    world.start(says=0.0)
    for _ in range(int(SET_ASIDE_AFTER_S / 600)):
        assert world.ask() is Fault.EXPIRED
        world.pass_s(600)
    assert world.ask() is None
    assert world.clock.trusted()
    world.start(says=0.0)
    assert world.ask() is None, "what was learned is kept"


def test_while_it_is_set_aside_and_no_time_was_told_the_status_says_so(world: World) -> None:
    world.disk.write_durable(FILE, Stored(NOW + 20 * YEAR).emit())
    world.start(says=0.0)
    world.ask()
    world.pass_s(SET_ASIDE_AFTER_S)
    assert world.ask(tells=False) is None
    assert "only the build's time counts now" in world.keeper.warnings()[0]
    assert world.ask() is None
    assert not any("counts now" in warning for warning in world.keeper.warnings())


def test_a_time_service_that_says_less_than_the_build_is_not_believed(world: World) -> None:
    world.synchronised = True
    world.pass_s(10)
    judged = world.clock.judge()
    assert (judged.trusted, judged.why) == (False, "the clock is before the image was built")


# --- what is kept ---


@pytest.mark.parametrize("survival", list(Survival))
def test_a_power_cut_at_any_moment_of_writing_leaves_an_old_or_a_new_floor(survival: Survival) -> None:
    old, new = Stored(NOW), Stored(NOW, NOW + 2 * DAY)
    for number in itertools.count(1):
        disk = FaultyDisk()
        disk.mkdir_durable(FILE.parent)
        disk.write_durable(FILE, old.emit())
        clock = SystemClock(floor=ClockFloor(BUILT, load_floor(disk, FILE)))
        clock.floor.signed(new.signed)
        last = disk.operations + number
        disk.on_operation = lambda operation, last=last: 0.5 if operation.number == last else None
        try:
            ClockKeeper(clock, disk, FILE, may_set=False).tick()
        except PowerCut:
            assert load_floor(disk.after_power_cut(survival, Random(number)), FILE) in (old, new)
        else:
            assert number > 3
            assert load_floor(disk.after_power_cut(survival, Random(number)), FILE) == new
            return


def test_a_damaged_file_costs_what_it_knew_and_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    disk = FaultyDisk()
    disk.mkdir_durable(FILE.parent)
    disk.write_durable(FILE, b"\0" * 50)
    assert load_floor(disk, FILE) == Stored()
    assert [getattr(record, "event", "") for record in caplog.records] == ["clock.floor.damaged"]


def test_a_disk_that_is_full_costs_a_warning_an_hour(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Full(FaultyDisk):
        def write_durable(self, path: Path, data: bytes, mode: int = 0o600) -> None:
            raise OSError(28, "no space left")

    keeper = ClockKeeper(world.clock, Full(), FILE, may_set=False)
    world.clock.floor.signed(NOW)
    for _ in range(10):
        keeper.tick()
    assert [getattr(record, "event", "") for record in caplog.records].count("clock.floor.unwritten") == 1
