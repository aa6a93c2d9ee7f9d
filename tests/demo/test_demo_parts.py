"""The demo's own machinery: it must notice what goes wrong, or its green table means nothing."""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.display import Display, Row
from tests.demo.factory import PORT_FIRST, UNTESTED, free_ports
from tests.demo.image import REPO, Defect, build, dependency_files
from tests.demo.processes import DemoError, Processes
from tests.demo.story import Story

TERM_7 = """
import signal, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("READY", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path, tmp_path)
    yield made
    made.end()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.process
def test_a_process_that_dies_unasked_is_named_at_the_next_wait(processes: Processes) -> None:
    child = processes.start("headend", python("raise SystemExit(7)"))
    child.process.wait()
    with pytest.raises(DemoError, match="'headend' ended by itself with 7"):
        processes.until(lambda: None, 1.0, "nothing")


@pytest.mark.process
def test_a_process_killed_from_outside_is_named(processes: Processes) -> None:
    child = processes.start("board", python("import signal; signal.pause()"))
    child.process.kill()
    child.process.wait()
    with pytest.raises(DemoError, match="'board' ended by itself with -9"):
        processes.check()


@pytest.mark.process
def test_ready_returns_what_the_child_says_of_itself(processes: Processes) -> None:
    processes.start(
        "server", python("print('hello'); print('READY {\"port\": 7}'); import signal; import sys; signal.pause()")
    )
    assert processes.ready("server") == {"port": 7}


@pytest.mark.process
def test_waiting_in_vain_says_for_what(processes: Processes) -> None:
    with pytest.raises(DemoError, match="for the moon, in vain"):
        processes.until(lambda: None, 0.0, "the moon", each_s=0.0)


@pytest.mark.process
def test_ending_leaves_no_process_behind(processes: Processes) -> None:
    stubborn = processes.start("stubborn", python("import signal; signal.pause()"))
    processes.end()
    assert stubborn.process.returncode is not None
    assert processes.children == {}


def test_an_image_holds_the_device_and_nothing_of_the_head_end(tmp_path: Path) -> None:
    out = tmp_path / "image.tar"
    build("7", out, tmp_path)
    with tarfile.open(out) as tar:
        names = tar.getnames()
        release = tar.extractfile("etc/dcu-release")
        assert release is not None
        assert b"VERSION=7" in release.read()
    assert "usr/lib/dcu/agent/__main__.py" in names
    assert "usr/lib/dcu/serial/__init__.py" in names
    assert any(name.endswith("__pycache__/clock.cpython-" + _tag() + ".pyc") for name in names)
    assert not [name for name in names if name.startswith(("usr/lib/dcu/headend", "usr/lib/dcu/tests"))]
    assert not [name for name in names if "starlette" in name or "sqlalchemy" in name]


def _tag() -> str:
    return f"{sys.version_info.major}{sys.version_info.minor}"


def test_two_builds_of_the_same_version_are_the_same_bytes(tmp_path: Path) -> None:
    images = []
    for number in ("1", "2"):
        out = tmp_path / f"{number}.tar"
        (tmp_path / number).mkdir()
        build("9", out, tmp_path / number)
        images.append(out.read_bytes())
    assert images[0] == images[1]


def test_the_defect_of_the_untested_release_is_a_line_that_exists() -> None:
    assert (REPO / UNTESTED.path).read_text().count(UNTESTED.old) == 1


def test_a_defect_that_does_not_apply_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="0 times"):
        build("3", tmp_path / "image.tar", tmp_path, Defect("plc/prime/usi.py", "no such line", ""))


def test_every_dependency_brings_what_it_needs() -> None:
    top = {Path(path).parts[0] for path, _ in dependency_files()}
    assert {"serial", "crcmod", "cryptography", "cffi", "yaml", "click"} <= top


def test_a_failed_stage_is_marked_and_its_error_goes_on() -> None:
    display = Display(["one"], plain=True)
    with pytest.raises(DemoError), display.stage(0):
        raise DemoError("no")


def test_the_table_shows_a_row_that_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    Display(["one"], plain=True).table([Row("sky is green", "the sky", "blue", ok=False)])
    assert "NO" in capsys.readouterr().out


@pytest.mark.process
@pytest.mark.parametrize(("code", "wanted"), [("raise SystemExit(3)", "by itself with 3"), (TERM_7, "but with 7")])
def test_a_process_that_does_not_end_in_order_is_named_when_it_is_stopped(
    processes: Processes, code: str, wanted: str
) -> None:
    child = processes.start("head-end", python(code))
    if code == TERM_7:
        processes.ready("head-end")
    else:
        child.process.wait()
    with pytest.raises(DemoError, match=f"'head-end' .*{wanted}"):
        processes.stop("head-end")


def test_ports_that_are_kept_over_a_reboot_are_none_that_the_kernel_gives_away() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(6)
    assert len(set(ports)) == 6
    assert low <= PORT_FIRST + 6 or max(ports) < low


def test_a_row_that_the_other_side_denies_ends_its_stage_and_stands_in_the_table(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.row("the sky is blue", "the sky", "blue", ok=True)
    with pytest.raises(DemoError, match=r"the sky is green \(the sky: blue\)"):
        story.row("the sky is green", "the sky", "blue", ok=False)
    assert [row.ok for row in story.rows] == [True, False]
