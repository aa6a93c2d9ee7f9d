"""The runner of the benchmarks: what it takes for one, and the page it writes. The figures are not tested here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import __main__ as runner
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
    assert {"package", "update"} <= set(found)
    assert not {"figure", "updaters", "__main__", "test_bench"} & set(found)
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
