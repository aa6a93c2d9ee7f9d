"""The runner of the benchmarks: what it takes for one, and the page it writes. The figures are not tested here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as runner
from tests.bench import programs
from tests.bench.figure import Figure, absent, at_least, at_most, less_than, plain


def test_figures_know_whether_they_are_good() -> None:
    assert at_most("a", 1.5, 1.5, "x") == Figure("a", "1.50 x", "at most 1.5 x", good=True)
    assert less_than("a", 1, 1, "x").verdict == "MISSED"
    assert at_least("a", 1, 1, "x").verdict == "ok"
    assert plain("a", "1 s").verdict == ""
    assert absent("a", "no peer").verdict == "not here"


@pytest.mark.parametrize(
    ("line", "figure"),
    [
        ("install, 64 MiB           0.32 s, CPU 0.27 s     ", Figure("install, 64 MiB", "0.32 s, CPU 0.27 s")),
        ("  memory   28.6 MiB   at most 30 MiB   ok", Figure("memory", "28.6 MiB", "at most 30 MiB", good=True)),
        ("written   4 bytes   0 bytes   MISSED", Figure("written", "4 bytes", "0 bytes", good=False)),
        ("written   0 bytes   0 bytes   ", Figure("written", "0 bytes", "0 bytes")),
        ("a heading", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_printed_table_is_read(line: str, figure: Figure | None) -> None:
    assert runner.parse_line(line) == figure


def test_every_module_that_measures_is_found_and_no_helper() -> None:
    found = runner.find()
    assert {"headend", "metering", "package", "startup", "update", "wbxml"} <= set(found)
    assert found["startup"].compare is not None
    assert not {"figure", "programs", "updaters", "__main__", "test_bench"} & set(found)
    assert all(bench.about.endswith(".") and len(bench.about) < 600 for bench in found.values())


def test_one_section_is_written_again_and_the_others_stay() -> None:
    first, second = (runner.Bench(name, "Measures.", list) for name in ("first", "second"))
    page = "# Figures\n"
    for bench in (first, second):
        page = runner.replaced(page, bench.name, runner.section(bench, [plain("a", "1 s")], "a machine"))
    again = runner.replaced(page, "first", runner.section(first, [plain("a", "2 s")], "a machine"))
    assert again == page.replace("| a | 1 s |", "| a | 2 s |", 1)
    assert runner.replaced(again, "first", runner.section(first, [plain("a", "1 s")], "a machine")) == page


def test_a_benchmark_that_fails_is_a_bad_figure() -> None:
    def fails() -> list[Figure]:
        raise OSError("no room")

    (figure,) = runner.measure(runner.Bench("x", "", fails))
    assert (figure.verdict, figure.value) == ("MISSED", "OSError: no room")


def test_the_machine_is_described_without_its_name() -> None:
    described = runner.machine_class()
    assert "CPUs" in described
    hostname = Path("/proc/sys/kernel/hostname")
    assert not hostname.exists() or f" {hostname.read_text().strip()} " not in described


@pytest.mark.parametrize(
    ("value", "ratio"),
    [
        ("1.28 x", 1.28),
        ("972,519 /s, gurux 42,653 /s: 22.8 x", 22.8),
        ("wall 0.31 x, CPU 0.37 x, 27.3 MiB", 0.37),
        ("1,024 x", 1024.0),
        ("2308 B, 12 exchanges", None),
        ("profile of 1000 x 8", None),
    ],
)  # fmt: skip
def test_a_ratio_is_the_last_factor_of_the_value(value: str, ratio: float | None) -> None:
    assert plain("a", value).ratio == ratio


def test_figures_are_appended_to_the_history_with_date_and_commit(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    runner.keep(history, "first", [at_most("a", 1.25, 1.5, "x")], date="2026-01-01", commit="abc1234")
    runner.keep(history, "first", [plain("a, b", "1 s")], date="2026-01-02", commit="abc1235+")
    assert history.read_text().splitlines() == [
        "date,commit,bench,figure,value,ratio,verdict",
        "2026-01-01,abc1234,first,a,1.25 x,1.25,ok",
        '2026-01-02,abc1235+,first,"a, b",1 s,,',
    ]


def test_no_checkout_is_compared_with_a_folder_that_is_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "startup", "--against", str(tmp_path)],
        cwd=runner.REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is no checkout" in done.stderr


def test_a_program_that_fails_is_no_figure() -> None:
    with pytest.raises(programs.ProgramError, match=r"ended with 3: .*enough"):
        programs.cpu_of(programs.python("-c", "import sys; sys.stderr.write('enough'); sys.exit(3)"))


def test_the_least_time_of_each_command_is_kept() -> None:
    busy, idle = programs.python("-c", "sum(range(3_000_000))"), programs.python("-c", "pass")
    slow, fast = programs.least(2, [(busy, programs.REPO), (idle, programs.REPO)])
    assert slow > fast > 0


def test_a_program_that_ends_before_it_answers_is_named() -> None:
    ending = programs.running(programs.python("-c", "raise SystemExit(4)"))
    with ending as child, pytest.raises(programs.ProgramError, match="ended with 4"):
        programs.await_answer(child, Path("/nonexistent/control.sock"), "status")


SLEEPS = 20  # each of which gives the processor away


def test_a_running_program_is_seen_from_outside() -> None:
    code = f"import sys, time; [time.sleep(1e-4) for _ in range({SLEEPS})]; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        programs.python("-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        process = programs.Process(child.pid)
        assert 1 < process.memory_mib() <= process.memory_mib("VmHWM")
        assert process.cpu_s() > 0
        assert process.wake_ups() >= SLEEPS
        child.communicate("")
