"""Every target over a fixed number of mutations, and over every input that was a finding once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.guided import CORPUS, CRASHES, exercise
from tests.fuzz.targets.registry import MODULES, TARGETS

KEPT_TOTAL_BYTES_MAX = 100 << 10
REPO = Path(__file__).parents[2]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_bytes_give_success_or_a_typed_error(name: str) -> None:
    exercise(TARGETS[name], name)


@pytest.mark.parametrize("file", files(CRASHES), ids=lambda file: str(file.relative_to(CRASHES)))
def test_what_was_a_finding_once_is_none_any_more(file: Path) -> None:
    TARGETS[file.relative_to(CRASHES).parent.as_posix()].outcome(file.read_bytes())


def test_the_kept_inputs_belong_to_targets_and_are_small() -> None:
    kept = files(CORPUS)
    assert sum(file.stat().st_size for file in kept) <= KEPT_TOTAL_BYTES_MAX
    names = {file.relative_to(CORPUS).parent.as_posix() for file in kept}
    names |= {file.relative_to(CRASHES).parent.as_posix() for file in files(CRASHES)}
    assert names <= set(TARGETS)


def test_every_module_of_targets_is_run() -> None:
    room = Path(__file__).parent / "targets"
    modules = {file.stem for file in room.glob("*.py") if "\nTARGETS = {\n" in file.read_text(encoding="utf-8")}
    assert modules == {module.__name__.rpartition(".")[2] for module in MODULES}
    assert "-m tests.fuzz all" in (REPO / "Makefile").read_text(encoding="utf-8")
