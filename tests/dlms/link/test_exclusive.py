"""A serial port belongs to one process: who comes second is told who was first, and gets it when that one is gone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlms.errors import LinkError, PortBusyError
from dlms.link import exclusive
from dlms.link.exclusive import holder_of, keep_others_out
from dlms.link.port import open_serial

HOLD = """
import sys
from dlms.link.port import open_serial
port = open_serial(sys.argv[1], 9600)
print("open", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that has the port open."""

    def __init__(self, device: str) -> None:
        command = [sys.executable, "-c", HOLD, device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"open\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def device() -> Iterator[str]:
    """One end of a pseudo-terminal, whose other end stays open as a modem's would."""
    other_end, own = os.openpty()
    name = os.ttyname(own)
    os.close(own)
    yield name
    os.close(other_end)


@pytest.fixture
def holder(device: str) -> Iterator[Holder]:
    holding = Holder(device)
    yield holding
    holding.kill()


@pytest.mark.process
def test_a_port_of_another_process_is_refused_and_its_holder_named(device: str, holder: Holder) -> None:
    with pytest.raises(PortBusyError) as caught:
        open_serial(device, 9600)
    python = (Path("/proc") / str(holder.process.pid) / "comm").read_text().strip()
    assert str(caught.value) == f"{device}: in use by {python} (process {holder.process.pid})"
    assert isinstance(caught.value, LinkError)


@pytest.mark.process
def test_a_port_is_free_again_when_its_holder_was_killed(device: str, holder: Holder) -> None:
    holder.kill()
    open_serial(device, 9600).close()


@pytest.mark.process
def test_the_holder_of_a_refused_port_keeps_it_as_it_was(device: str, holder: Holder) -> None:
    before = line_settings(device)
    with pytest.raises(PortBusyError):
        open_serial(device, 300)
    assert line_settings(device) == before


def line_settings(device: str) -> list[object]:
    descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY)
    try:
        return termios.tcgetattr(descriptor)
    finally:
        os.close(descriptor)


def test_a_port_under_two_names_is_one_port(device: str, tmp_path: Path) -> None:
    by_id = tmp_path / "by-id"
    by_id.symlink_to(device)
    first = open_serial(device, 9600)
    with pytest.raises(PortBusyError, match="in use by this process"):
        open_serial(str(by_id), 9600)
    first.close()
    second = open_serial(str(by_id), 9600)
    second.close()


def test_a_port_that_was_closed_can_be_opened_again(device: str) -> None:
    for _ in range(2):
        open_serial(device, 9600).close()


@pytest.mark.parametrize(("pseudo", "asked"), [(range(136, 144), []), (range(0), [termios.TIOCEXCL])])
def test_the_mark_of_the_terminal_is_set_where_it_ends_with_its_process(
    device: str, monkeypatch: pytest.MonkeyPatch, pseudo: range, asked: list[int]
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(exclusive, "PSEUDO_TERMINALS", pseudo)
    monkeypatch.setattr(fcntl, "ioctl", lambda _, request: calls.append(request))
    descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY)
    keep_others_out(descriptor)
    os.close(descriptor)
    assert calls == asked


# --- who has it ---


def make_proc(folder: Path, *, locks: str = "", opened: dict[int, str] | None = None) -> Path:
    """A /proc with these locks, and processes that have these files open."""
    (folder / "locks").write_text(locks)
    for pid, file in (opened or {}).items():
        (folder / str(pid) / "fd").mkdir(parents=True)
        (folder / str(pid) / "comm").write_text(f"program{pid}\n")
        (folder / str(pid) / "fd" / "3").symlink_to(file)
    return folder


def place_of(device: Path) -> str:
    node = device.stat()
    return f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"


@pytest.mark.parametrize(
    ("locks", "opened", "told"),
    [
        ("", {}, ""),
        ("1: FLOCK  ADVISORY  WRITE 41 {place} 0 EOF\n", {41: "/dev/null", 42: "{device}"}, "program41 (process 41)"),
        ("1: FLOCK  ADVISORY  WRITE 41 00:00:1 0 EOF\n", {42: "{device}"}, "program42 (process 42)"),
        ("1: POSIX  ADVISORY  WRITE 41 {place} 0 EOF\n", {41: "/dev/null"}, ""),
        ("1: FLOCK  ADVISORY  WRITE 0 {place} 0 EOF\n", {41: "/dev/null"}, ""),  # of another name space
        ("1: FLOCK  ADVISORY  WRITE 40 {place} 0 EOF\n", {}, ""),  # it ended meanwhile
        ("half a line\n\n1:\n", {43: "{device}"}, "program43 (process 43)"),
    ],
)
def test_the_holder_is_found_by_its_lock_or_by_what_it_has_open(
    tmp_path: Path, locks: str, opened: dict[int, str], told: str
) -> None:
    device = tmp_path / "ttyS1"
    device.touch()
    named = {pid: file.format(device=device) for pid, file in opened.items()}
    (tmp_path / "proc").mkdir()
    proc = make_proc(tmp_path / "proc", locks=locks.format(place=place_of(device)), opened=named)
    assert holder_of(str(device), proc) == told


def test_a_system_without_proc_tells_nobody(tmp_path: Path) -> None:
    assert holder_of(str(tmp_path / "ttyS1"), tmp_path / "none") == ""
