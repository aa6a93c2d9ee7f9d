"""`etc/boot.cmd` decides what the model of it decides: run by a shell in which U-Boot's commands are functions.

Nothing in the script needs more of U-Boot's shell than `sh` has too. What a shell cannot show, U-Boot's own quirks, is
shown by running it under U-Boot.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from tests.sim.board.uboot import Environment, choose

SCRIPT = Path(__file__).parents[3] / "etc" / "boot.cmd"
UBOOT = r"""
setenv() { name=$1; shift; [ $# -gt 0 ] && eval "$name=\$*" || unset "$name"; }
setexpr() { eval "$1=$(printf %x $((0x$2 $3 0x$4)))"; }
run() { eval "command_=\$$1"; eval "$command_"; }
saveenv() { [ -z "$save_fails" ] && set | grep -E '^(BOOT_|dcu_boots)' >"$saved"; }
load() { true; }
bootz() { echo "$bootargs"; exit 0; }
reset() { echo reset; exit 0; }
"""


def run_script(folder: Path, variables: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The kernel's command line, and the variables that were saved."""
    saved = folder / "saved"
    saved.unlink(missing_ok=True)
    done = subprocess.run(
        ["sh", "-c", UBOOT + SCRIPT.read_text()],
        env={**variables, "saved": str(saved), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    # To U-Boot's test what is no number is 0; the shell's says so as well.
    assert [line for line in done.stderr.splitlines() if "Illegal number" not in line] == []
    found = {}
    if saved.exists():
        found = dict(re.findall(r"(?m)^(\w+)='?(.*?)'?$", saved.read_text()))
    return done.stdout.splitlines()[-1], found


def cases() -> list[dict[str, str]]:
    orders = ["A B", "B A", "A", "B", "A B R", "B R", "R", "X", "X B", "B A R", None]
    lefts = [dict(zip("ABR", left, strict=True)) for left in itertools.product("013", "029", "012")]
    found = []
    for order, left in itertools.product(orders, lefts):
        case = {f"BOOT_{slot}_LEFT": count for slot, count in left.items()}
        found.append(case | ({"BOOT_ORDER": order} if order else {}) | {"dcu_boots": "ff"})
    return [*found, {}, {"BOOT_A_LEFT": "x", "BOOT_ORDER": "A B"}, {"BOOT_B_LEFT": "2"}]


@pytest.mark.process
def test_the_script_and_the_model_of_it_choose_and_save_the_same(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env")
    wrong = []
    for case in cases():
        environment.create(case)
        choice = choose(environment)
        has_recovery = "R" in case.get("BOOT_ORDER", "")
        line, saved = run_script(tmp_path, {**case, **({"boot_part_R": "7"} if has_recovery else {})})
        expected = environment.load()[2]
        if f"rauc.slot={choice.slot} dcu.boots={choice.boots}" not in line or not saved.items() <= expected.items():
            wrong.append((case, line, saved, choice))
    assert wrong == []


@pytest.mark.process
def test_a_board_without_a_recovery_slot_passes_over_it(tmp_path: Path) -> None:
    line, saved = run_script(tmp_path, {"BOOT_ORDER": "R A", "BOOT_A_LEFT": "1", "BOOT_R_LEFT": "3"})

    assert "root=/dev/mmcblk0p2" in line
    assert (saved["BOOT_A_LEFT"], saved["BOOT_R_LEFT"]) == ("0", "3")


@pytest.mark.process
def test_what_cannot_be_saved_is_not_passed_as_saved_and_the_board_starts_all_the_same(tmp_path: Path) -> None:
    line, saved = run_script(tmp_path, {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "0", "BOOT_B_LEFT": "0", "save_fails": "1"})

    assert "rauc.slot=A dcu.boots=none" in line
    assert saved == {}
