"""What watches a boot under either init: a guard that dies, and a system on trial whose Update Agent is broken."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.updateagent.board import Board
from tests.updateagent.engine.test_child import ends
from updateagent.errors import EXIT_REBOOT_WANTED

pytestmark = pytest.mark.process

REPO = Path(__file__).parents[3]
SCRIPT = REPO / "etc" / "libexec" / "update-watch"

# Notes that it ran and ends as the next line of a file says; `wait` waits for TERM.
PROGRAM = """#!/bin/sh
cd {folder}
trap 'echo term >>ran; exit 0' TERM
echo "$*" >>ran
code=$(sed -n "$(wc -l <ran)p" codes)
if [ "$code" = wait ]; then
    while :; do sleep 0.05; done
fi
exit "$code"
"""


def shown(state: str = "trial", slot: str = "B") -> str:
    """`status.json` with one slot in this state, and A good."""
    slots = [{"name": "A", "version": "1", "state": "good"}, {"name": slot, "version": "2.0~rc1", "state": state}]
    return json.dumps({"version": 1, "state": "trial", "slots": slots})


@dataclass(frozen=True)
class Watched:
    """A boot of slot B, with a program in the place of dcu-update."""

    folder: Path

    def start(
        self, *codes: str, how: str = "", display: str | None = None, silence_s: int = 0, stop_s: int = 1
    ) -> subprocess.Popen[str]:
        program, defaults = self.folder / "program", self.folder / "defaults"
        program.write_text(PROGRAM.format(folder=self.folder))
        program.chmod(0o755)
        (self.folder / "codes").write_text("\n".join(codes) + "\n")
        (self.folder / "ran").touch()
        (self.folder / "cmdline").write_text("console=ttyS0 root=/dev/vda3 ro rauc.slot=B dcu.boots=7\n")
        (self.folder / "settings").write_text(f'# settings\nupdate_dir = "{self.folder}"  # shared\n')
        (self.folder / "status.json").write_text(shown() if display is None else display)
        defaults.write_text(
            f"PROGRAM={program}\nSETTINGS={self.folder}/settings\nCMDLINE={self.folder}/cmdline\n"
            f'REBOOT="touch {self.folder}/asked"\nREBOOT_NOW="touch {self.folder}/forced"\n'
            f"RESPAWN_S=0\nSILENCE_S={silence_s}\nPATIENCE_S=0\nSTOP_S={stop_s}\n"
        )
        return subprocess.Popen(
            ["/bin/sh", str(SCRIPT), *([how] if how else [])],
            env={"PATH": "/usr/bin:/bin", "DCU_UPDATE_DEFAULTS": str(defaults)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *codes: str, how: str = "", state: str = "trial", slot: str = "B") -> tuple[int, str]:
        with self.start(*codes, how=how, display=shown(state, slot)) as watch:
            _, said = watch.communicate(timeout=30)
        return watch.returncode, said

    @property
    def runs(self) -> list[str]:
        return (self.folder / "ran").read_text().splitlines()

    @property
    def rebooted(self) -> bool:
        asked, forced = (self.folder / "asked").exists(), (self.folder / "forced").exists()
        assert asked == forced
        return asked


def first_child(watch: subprocess.Popen[str]) -> int:
    """The process that the watcher has forked, as soon as there is one."""
    file = Path(f"/proc/{watch.pid}/task/{watch.pid}/children")
    while not (found := file.read_text().split()):
        assert watch.poll() is None
    return int(found[0])


def command_of(pid: int) -> bytes:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture
def boot(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_guard_that_is_done_is_the_end(boot: Watched) -> None:
    assert boot.run("0")[0] == 0
    assert boot.runs == ["guard"]
    assert not boot.rebooted


def test_a_guard_that_wants_a_reboot_gets_it_with_or_without_init(boot: Watched) -> None:
    boot.run("10")
    assert boot.rebooted


def test_a_guard_that_dies_is_started_again(boot: Watched) -> None:
    code, said = boot.run("137", "1", "0")
    assert (code, boot.runs) == (0, ["guard"] * 3)
    assert "ended with 137" in said
    assert not boot.rebooted


def test_a_guard_that_always_dies_costs_a_system_on_trial_its_attempt(boot: Watched) -> None:
    _, said = boot.run("1", "1", "1", "1", "1", "0")
    assert boot.runs == ["guard"] * 5
    assert "on trial" in said
    assert boot.rebooted


def test_a_guard_that_always_dies_leaves_a_confirmed_system_alone(boot: Watched) -> None:
    code, _ = boot.run("1", "1", "1", "1", "1", "0", state="good")
    assert code == 2
    assert not boot.rebooted


def test_wrong_settings_are_not_tried_again_but_end_a_trial(boot: Watched) -> None:
    boot.run("2", "0")
    assert boot.runs == ["guard"]
    assert boot.rebooted


def test_an_update_agent_that_does_not_even_boot_ends_a_trial(boot: Watched) -> None:
    boot.run(how="silent")
    assert boot.rebooted
    assert boot.runs == []


def test_the_old_system_is_left_alone_whatever_is_on_trial_in_the_other_slot(boot: Watched) -> None:
    code, _ = boot.run(how="silent", slot="C")
    assert code == 2
    assert not boot.rebooted


def test_without_a_display_nothing_is_rebooted(boot: Watched) -> None:
    with boot.start("1", "1", "1", "1", "1", display="") as watch:
        watch.communicate(timeout=30)
    assert watch.returncode == 2
    assert not boot.rebooted


def test_the_display_that_the_old_system_leaves_behind_tells_a_trial(boot: Watched) -> None:
    board = Board(boot.folder / "board")
    board.folder.mkdir()
    board.assemble()
    board.power_on()
    display = board.update_dir / "status.json"
    board.updater().boot()
    with boot.start(how="silent", display=display.read_text()) as watch:
        watch.communicate(timeout=30)
    assert not boot.rebooted
    board.hand_over("2")
    assert board.updater().boot() == EXIT_REBOOT_WANTED  # slot A's last act
    with boot.start(how="silent", display=display.read_text()) as watch:
        watch.communicate(timeout=30)
    assert boot.rebooted


def test_a_stop_reaches_the_guard(boot: Watched) -> None:
    with boot.start("wait") as watch:
        while not boot.runs:
            assert watch.poll() is None
        watch.send_signal(signal.SIGTERM)
        watch.communicate(timeout=30)
    assert watch.returncode == 0
    assert boot.runs == ["guard", "term"]
    assert not boot.rebooted


def test_a_stop_at_the_very_start_of_a_guard_leaves_no_guard(boot: Watched) -> None:
    for _ in range(20):
        with boot.start("wait", stop_s=0) as watch:
            guard = first_child(watch)  # forked; the shell may not have come to its next command
            watch.send_signal(signal.SIGTERM)
            watch.communicate(timeout=30)
        assert watch.returncode == 0
        assert ends(guard)


def test_a_stop_while_an_attempt_is_being_given_up_is_heeded_at_once(boot: Watched) -> None:
    with boot.start(how="silent", silence_s=600, stop_s=0) as watch:
        while b"600" not in command_of(nap := first_child(watch)):
            continue  # it looks at the display first
        watch.send_signal(signal.SIGTERM)
        watch.communicate(timeout=30)
    assert watch.returncode == 0
    assert ends(nap)
    assert not boot.rebooted


def test_a_stop_ends_what_the_guard_has_started(tmp_path: Path) -> None:
    check = f"sleep 1000 & echo $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait"
    script = f"from updateagent.engine.child import run\nrun(['/bin/sh', '-c', {check!r}], 1000, 9)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPO) as program:
        while not (tmp_path / "pid").exists():
            assert program.poll() is None
        program.terminate()
        assert program.wait(timeout=30) == -signal.SIGTERM
    assert ends(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("name", ["dcu-update.service", "dcu-update-guard.service"])
def test_systemd_finds_nothing_wrong_with_the_units(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text((REPO / "etc" / "systemd" / name).read_text())
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if name in line and "dcu-update.service not found" not in line]
    assert said == []
