"""What civil time is worth: evidence, its age, steps of the machine's clock, and sources that lie or cannot be had."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from agent.clock import FILE, KERNEL, PROVEN, SERVER, STA_UNSYNC, FlagFile, KernelClock, SystemClock, date_evidence
from agent.clock_floor import Validity
from agent.clock_trust import CONFLICT_S, DRIFT_PER_S, TOLERANCE_S, UNCERTAINTY_MAX_S, ClockTrust, Evidence

NOW = 1_800_000_000.0
DAY = 86_400.0


class Machine:
    """A machine whose two clocks a test moves, with the kernel's word on them. A step clears that word, as Linux's
    settimeofday does."""

    name = KERNEL

    def __init__(self, *, synchronised: bool = False, wall: float = NOW) -> None:
        self.now = 500.0
        self.ahead = 0.0
        self.started = wall - self.now
        self.synchronised = synchronised
        self.clock = SystemClock([self], monotonic=lambda: self.now, system=self.system)

    def system(self) -> float:
        return self.started + self.now + self.ahead

    def step(self, ahead: float) -> None:
        self.ahead, self.synchronised = ahead, False

    def pass_s(self, seconds: float) -> None:
        self.now += seconds
        self.clock.judge()

    def serve(self, off: float = 0.0, round_trip_s: float = 0.2) -> None:
        """A server whose clock is `off` answers."""
        sent, self.now = self.now, self.now + round_trip_s
        true = self.started + self.now - round_trip_s / 2
        valid = Validity(true + off - DAY, true + off + DAY)
        self.clock.server_date({"date": formatdate(true + off, usegmt=True)}, sent, self.now, valid)

    def tell(self, off: float = 0.0, round_trip_s: float = 0.2) -> None:
        """A server whose clock is `off` tells the time in a session."""
        sent, self.now = self.now, self.now + round_trip_s
        self.clock.session_time(self.started + self.now - round_trip_s / 2 + off, sent, self.now, None)

    def evidence(self, monotonic: float, wall: float) -> Evidence | None:
        return Evidence(KERNEL, monotonic, wall - monotonic, 0.1) if self.synchronised else None


def test_a_clock_that_nothing_vouches_for_is_not_trusted_however_plausible_it_looks() -> None:
    machine = Machine()
    assert not machine.clock.trusted()
    assert machine.clock.wall() == machine.system()
    assert machine.clock.judge().why == "nothing has vouched for the time yet"


def test_a_synchronised_kernel_is_evidence() -> None:
    machine = Machine(synchronised=True)
    judged = machine.clock.judge()
    assert (judged.trusted, judged.source, judged.why) == (True, KERNEL, "")


def test_the_date_of_a_verified_server_is_evidence() -> None:
    machine = Machine()
    machine.serve()
    judged = machine.clock.judge()
    assert (judged.trusted, judged.source) == (True, SERVER)
    machine.pass_s(3600)
    assert machine.clock.trusted()
    assert machine.clock.judge().age_s == pytest.approx(3600)


def test_evidence_becomes_vaguer_until_it_proves_nothing() -> None:
    machine = Machine()
    machine.serve()
    lasts_s = (UNCERTAINTY_MAX_S - 0.6) / DRIFT_PER_S
    machine.pass_s(lasts_s - 60)
    assert machine.clock.trusted()
    machine.pass_s(120)
    assert (machine.clock.trusted(), machine.clock.judge().why) == (False, "the evidence is too old")


@pytest.mark.parametrize("step_s", [-7200.0, -60.0, 60.0, 3600.0, DAY, -NOW])
@pytest.mark.parametrize("source", [KERNEL, SERVER])
def test_a_step_without_evidence_withdraws_trust_and_civil_time_goes_on_as_it_was(source: str, step_s: float) -> None:
    machine = Machine(synchronised=source == KERNEL)
    if source == SERVER:
        machine.serve()
    machine.pass_s(10)
    machine.step(step_s)
    assert not machine.clock.trusted()
    assert machine.clock.wall() == pytest.approx(machine.started + machine.now, abs=1.0)
    assert f"what {source} said" in machine.clock.judge().why
    machine.pass_s(600)
    assert not machine.clock.trusted()
    machine.step(0.0)
    assert machine.clock.trusted()


@pytest.mark.parametrize("off_s", [-TOLERANCE_S, -1.0, 1.0, TOLERANCE_S])
def test_an_ordinary_correction_takes_no_trust(off_s: float) -> None:
    machine = Machine(synchronised=True)
    machine.pass_s(10)
    machine.step(off_s)
    assert machine.clock.trusted()
    assert machine.clock.wall() == machine.system()


def test_a_step_that_a_server_confirms_is_trusted_again_at_once() -> None:
    machine = Machine(synchronised=True)  # by a time server that is a day ahead
    machine.ahead = DAY
    machine.pass_s(10)
    assert machine.clock.trusted()
    machine.step(0.0)
    assert not machine.clock.trusted()
    machine.serve()
    assert machine.clock.trusted()
    assert machine.clock.wall() == machine.system()


def test_a_server_that_contradicts_the_kernel_leaves_neither_trusted() -> None:
    machine = Machine(synchronised=True)
    machine.ahead = DAY
    machine.serve()
    machine.pass_s(10)
    judged = machine.clock.judge()
    assert not judged.trusted
    assert judged.wall == pytest.approx(machine.started + machine.now, abs=1.0)
    assert judged.why == f"{DAY:.0f} s ahead of what server said; kernel says otherwise"


def test_evidence_that_is_much_older_than_what_contradicts_it_is_dropped() -> None:
    machine = Machine()
    machine.serve(off=DAY)
    machine.synchronised = True
    machine.pass_s(CONFLICT_S - 10)
    assert not machine.clock.trusted()
    machine.pass_s(20)
    assert machine.clock.trusted()


def test_of_two_answers_of_a_server_the_sharper_one_counts() -> None:
    trust = ClockTrust()
    trust.offer(Evidence(SERVER, 100.0, NOW, 0.6, independent=True))
    trust.offer(Evidence(SERVER, 110.0, NOW + 4, 15.0, independent=True))
    assert trust.judge(120.0, NOW + 120).age_s == 20.0
    trust.offer(Evidence(SERVER, 130.0, NOW + DAY, 15.0, independent=True))
    assert not trust.judge(140.0, NOW + 140).trusted


@pytest.mark.parametrize("date", ["", "yesterday", "Sat, 28 Nov 2026 10:00:00 -0000", "Sat, 99 Nov 2026 10:00:00 GMT"])
def test_what_is_no_date_proves_nothing(date: str) -> None:
    assert date_evidence(date, 1.0, 2.0) is None


def test_an_answer_that_took_long_proves_nothing() -> None:
    date = formatdate(NOW, usegmt=True)
    assert date_evidence(date, 1.0, 2.0) is not None
    assert date_evidence(date, 1.0, 1.0 + 2 * TOLERANCE_S) is None
    assert date_evidence(date, 5.0, 1.0) is None


def test_the_date_lies_between_request_and_answer() -> None:
    found = date_evidence(formatdate(NOW, usegmt=True), 100.0, 110.0)
    assert found is not None
    assert found.offset + 105.0 == NOW + 0.5
    assert found.uncertainty_s == 5.5


# --- the kernel ---


def timex(status: int, maxerror_us: int = 1500, result: int = 0) -> KernelClock:
    """A kernel that fills `struct timex` as the headers of this machine lay it out."""

    class Timex(ctypes.Structure):
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
        )

    def adjtimex(buffer: ctypes.Array[ctypes.c_char]) -> int:
        shown = Timex.from_buffer(buffer)
        assert shown.modes == 0, "nothing may be set"
        shown.status, shown.maxerror = status, maxerror_us
        return result

    return KernelClock(adjtimex)


def test_the_kernel_s_flag_and_error_are_read() -> None:
    assert timex(STA_UNSYNC).evidence(1.0, NOW) is None
    assert timex(0x2001 | STA_UNSYNC).evidence(1.0, NOW) is None
    found = timex(0x2001).evidence(1.0, NOW)
    assert found == Evidence(KERNEL, 1.0, NOW - 1.0, 0.0015)
    assert timex(0x2001, result=-1).evidence(1.0, NOW) is None


def test_the_kernel_of_this_machine_can_be_asked() -> None:
    found = KernelClock().evidence(1.0, NOW)
    assert found is None or 0 <= found.uncertainty_s <= 16.0


def test_a_libc_without_adjtimex_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert KernelClock().evidence(1.0, NOW) is None


# --- the file ---


def test_a_file_is_evidence_each_time_it_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "synchronized"
    source = FlagFile(file)
    assert source.evidence(1.0, NOW) is None
    file.touch()
    os.utime(file, (NOW, NOW))
    assert source.evidence(2.0, NOW + 1) == Evidence(FILE, 2.0, NOW - 1, 1.0)
    assert source.evidence(3.0, NOW + 2) is None
    os.utime(file, (NOW + 64, NOW + 64))
    assert source.evidence(66.0, NOW + 65) is not None
    file.unlink()
    assert source.evidence(67.0, NOW + 66) is None


def test_a_file_touched_in_the_future_says_nothing_about_this_clock(tmp_path: Path) -> None:
    file = tmp_path / "synchronized"
    file.touch()
    os.utime(file, (NOW + DAY, NOW + DAY))
    assert FlagFile(file).evidence(1.0, NOW) is None


# --- the time of a session ---


def test_the_time_of_a_session_is_evidence_as_sharp_as_the_round_trip_is_short() -> None:
    machine = Machine()
    machine.tell(round_trip_s=10.0)
    judged = machine.clock.judge()
    assert (judged.trusted, judged.source) == (True, PROVEN)
    machine.tell(off=DAY, round_trip_s=2 * TOLERANCE_S + 0.1)
    later = machine.clock.judge()
    assert later == replace(judged, wall=machine.system(), age_s=later.age_s)


@pytest.mark.parametrize("told", [-1.0, 33_000_000_000.0, float("nan"), float("inf")])
def test_what_is_no_time_is_no_evidence(told: float) -> None:
    machine = Machine()
    machine.clock.session_time(told, machine.now, machine.now, None)
    assert machine.clock.judge().source == ""


def test_a_date_that_contradicts_the_session_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.tell()
    for _ in range(3):
        machine.serve(off=DAY)  # whatever ends TLS in front of the head-end has a clock of its own
    assert (machine.clock.trusted(), machine.clock.judge().source) == (True, PROVEN)
    assert machine.clock.floor.earliest(machine.now) < NOW + 60
    told = [record for record in caplog.records if getattr(record, "event", "") == "clock.told.refused"]
    assert [record.getMessage() for record in told] == ["a server tells a time that contradicts what session said"]


def test_a_date_is_taken_again_when_the_session_s_time_is_too_old() -> None:
    machine = Machine()
    machine.tell(off=-DAY)
    machine.pass_s(UNCERTAINTY_MAX_S / DRIFT_PER_S)
    machine.serve()
    assert (machine.clock.trusted(), machine.clock.judge().source) == (True, SERVER)


def test_a_session_takes_back_what_one_before_and_a_date_said() -> None:
    machine = Machine()
    machine.serve(off=DAY)
    machine.tell(off=DAY)
    machine.tell()
    machine.pass_s(CONFLICT_S)
    machine.tell()
    assert (machine.clock.trusted(), machine.clock.judge().source) == (True, PROVEN)
    assert machine.clock.floor.earliest(machine.now) == pytest.approx(machine.system(), abs=1.0)


def test_a_certificate_that_is_refused_for_its_time_raises_one_doubt() -> None:
    machine = Machine()
    for judged in ({"expired": True}, {"early": True}):
        assert not machine.clock.doubted()
        machine.clock.certificate_judged(**judged)
        machine.clock.certificate_judged()
        assert machine.clock.doubted()
    machine.clock.certificate_judged()
    assert not machine.clock.doubted()
