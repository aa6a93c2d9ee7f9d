"""Programs that hooks and health checks are: whatever they do, they end in time and in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlms.link.readable import readable
from updateagent.engine.child import run
from updateagent.engine.guard import run_command_check
from updateagent.engine.health import CommandCheck
from updateagent.engine.mailbox import command_tail
from updateagent.handover import TAIL_LINES_MAX

LONG_S = 60.0  # no test waits for it


def shell(script: str, timeout_s: float = LONG_S, *, with_output: bool = False) -> tuple[int | None, str]:
    return run(["/bin/sh", "-c", script], timeout_s, 100, with_output=with_output)


def ends(pid: int) -> bool:
    """Whether a process has ended, or is about to."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(readable([process], LONG_S / 2))
    finally:
        os.close(process)


def test_the_status_and_the_last_words_are_told() -> None:
    assert shell("echo out; echo err >&2; exit 3") == (3, "err")
    assert shell("echo out; echo err >&2", with_output=True) == (0, "out\nerr")
    assert shell("exec 2>&-; exit 4") == (4, "")


def test_a_program_killed_by_a_signal_has_its_negative_number() -> None:
    assert shell("kill -9 $$") == (-9, "")


def test_much_output_is_kept_only_at_its_end() -> None:
    status, said = shell("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done")
    assert status == 0
    assert said.endswith("line 2999")
    assert len(said) <= 100


def test_what_a_program_leaves_running_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    status, said = shell(f"sleep 1000 & echo $! > {tmp_path}/pid; echo done >&2")
    assert (status, said) == (0, "done")
    assert ends(int((tmp_path / "pid").read_text()))


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open("{0}/pid", "w") as file:
            file.write(str(os.getpid()))
        os.rename("{0}/pid", "{0}/left")
        time.sleep(1000)
    os._exit(0)
os.wait()
"""


def test_what_left_the_session_and_outlived_its_parent_is_ended_too(tmp_path: Path) -> None:
    program = tmp_path / "daemon.py"
    program.write_text(DAEMON.format(tmp_path))
    script = f"{sys.executable} {program}; while [ ! -f {tmp_path}/left ]; do sleep 0.01; done"
    assert shell(script)[0] == 0
    assert not Path(f"/proc/{(tmp_path / 'left').read_text()}").exists()


def test_the_children_of_before_are_left_alone() -> None:
    other = subprocess.Popen(["sleep", "1000"])
    try:
        assert shell("true")[0] == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("script", ["sleep 1000; true", "trap '' TERM; sleep 1000; true", "exec 2>&-; sleep 1000"])
def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(script: str) -> None:
    assert shell(script, 0.1)[0] is None


def test_a_check_whose_child_holds_its_output_does_not_keep_the_guard() -> None:
    check = CommandCheck("modem", ("sh", "-c", "sleep 1000; true"), timeout_s=0.1)
    assert run_command_check(check).detail == "no answer in 0.1 s"


def test_the_log_of_a_command_is_its_last_lines() -> None:
    lines = command_tail(["seq", "100"])
    assert lines == tuple(str(number) for number in range(101 - TAIL_LINES_MAX, 101))
    assert command_tail(["/no/such/journal"]) == ()
    assert command_tail([]) == ()
