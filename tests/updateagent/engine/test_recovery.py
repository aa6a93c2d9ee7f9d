"""The recovery slot: the last one of the order, never written, and the way back when it runs."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.faulty_disk import Survival
from tests.updateagent.engine.power import Story, Trouble, explore, explore_errors
from tests.updateagent.engine.story_boards import InRecovery, WithRecovery, recovery_stories
from updateagent.boot.bootcount import BootcountPolicy
from updateagent.boot.grub import Block, GrubStore, RaucGrubPolicy
from updateagent.config import load
from updateagent.disk import RealDisk
from updateagent.errors import CONFIGURATION, EXIT_GUARD_WANTED, EXIT_OK, EXIT_REBOOT_WANTED, RequestError


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def started(board: WithRecovery) -> WithRecovery:
    board.assemble()
    board.power_on()
    return board


def order(board: WithRecovery) -> tuple[str, str, str, str]:
    variables = board.variables()
    return (variables["BOOT_ORDER"], *(variables[f"BOOT_{slot}_LEFT"] for slot in "ABR"))  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("story", recovery_stories(), ids=lambda story: story.name)
def test_an_update_with_a_recovery_slot_survives_cuts_and_errors(story: Story) -> None:
    for tally in (
        explore(story, survivals=(Survival.LOST, Survival.HOLED), stride=3, double_stride=40),
        explore_errors(story, troubles=(Trouble(errno.EIO, lasting=False),), stride=3),
    ):
        assert tally.violations == []
        assert (tally.fired, tally.double_fired) == (tally.planned, tally.double_planned)
        assert tally.fired > 0


def test_an_install_keeps_the_recovery_slot_last(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    board.hand_over("2")
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert order(board) == ("B A R", "9", "3", "3")
    board.power_on()
    board.updater().boot()
    board.updater().confirm()
    assert order(board) == ("B A R", "9", "9", "3")


def test_from_the_recovery_system_a_slot_that_is_not_good_is_written_and_becomes_the_first(tmp_path: Path) -> None:
    board = started(InRecovery(tmp_path))
    assert board.booted == "R"
    assert board.updater().boot() == EXIT_GUARD_WANTED
    board.updater().mark_good()
    assert order(board) == ("A B R", "0", "0", "9")

    board.hand_over("2")
    assert board.updater().boot() == EXIT_REBOOT_WANTED
    assert order(board) == ("B A R", "0", "3", "9")
    board.power_on()
    assert board.booted == "B"
    board.updater().boot()
    board.updater().confirm()
    assert order(board) == ("B A R", "0", "9", "9")
    result = board.result()
    assert result is not None
    assert (result["from_version"], result["to_version"], result["fumo"]) == ("9", "2", 200)


def test_a_slot_that_is_known_to_be_good_is_written_last(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    board.hand_over("2")
    board.updater().boot()
    board.power_on()
    board.updater().boot()
    board.updater().confirm()
    board.by_hand().mark("A", "bad")
    for _ in range(9):  # a storm: the power goes while B starts
        board.power_on()
    board.power_on()
    assert board.booted == "R"
    # A was good, too, but B is the first of the order.
    assert board.updater()._target() == "A"


def test_the_recovery_system_goes_back_to_a_good_one_by_hand(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    board.hand_over("2")
    board.updater().boot()
    board.power_on()
    board.updater().boot()
    board.updater().confirm()
    while board.booted != "R":
        board.power_on()

    assert board.by_hand().rollback() == EXIT_REBOOT_WANTED
    board.power_on()
    assert board.booted == "B"  # both are good, B was the first


def test_where_no_system_is_known_to_be_good_there_is_no_way_back_from_recovery(tmp_path: Path) -> None:
    board = started(InRecovery(tmp_path))
    with pytest.raises(RequestError, match="no system known to be good"):
        board.by_hand().rollback()


def test_a_rolled_back_update_that_ends_in_recovery_is_reported_and_the_old_system_tried_again(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    board.hand_over("2")
    board.updater().boot()
    while board.booted != "R":  # neither the new nor the old one starts
        board.power_on()

    assert board.updater().boot() in (EXIT_OK, EXIT_GUARD_WANTED)
    result = board.result()
    assert result is not None
    assert result["name"] == "trial-silent"
    assert order(board)[:3] == ("A R", "9", "0")
    board.power_on()
    assert board.booted == "A"


def test_the_recovery_slot_is_shown_and_cannot_be_made_first_or_bad(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    slots = board.updater().status()["slots"]
    assert isinstance(slots, list)
    assert slots[-1] == {"name": "R", "version": "", "state": "recovery", "left": 3}
    for how in ("active", "bad"):
        with pytest.raises(RequestError, match="recovery slot"):
            board.by_hand().mark("R", how)
    board.by_hand().mark("R", "good")
    assert order(board)[3] == "9"


def test_a_slot_marked_bad_leads_to_recovery_where_the_other_one_is_empty(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    board.by_hand().mark("A", "bad")
    assert order(board) == ("R", "0", "0", "9")


def test_when_even_the_recovery_system_never_gets_well_all_are_tried_again(tmp_path: Path) -> None:
    board = started(WithRecovery(tmp_path))
    board.environment.save({**board.variables(), "BOOT_A_LEFT": "1", "BOOT_R_LEFT": "1"})
    assert [board.power_on().slot for _ in range(4)] == ["A", "R", "A", "A"]


def test_grub_has_a_recovery_slot_too(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(Block({"ORDER": "A R", "A_OK": "1", "R_OK": "1"}).emit())
    policy = RaucGrubPolicy(GrubStore(RealDisk(), path), ("A", "B", "R"), 3, "R")
    policy.try_slot("B", "A")
    assert policy.view().order == ("B", "A", "R")
    policy.fall_back("B", "R")
    assert policy.view().order == ("A", "R")


def test_u_boots_own_counter_knows_two_slots() -> None:
    with pytest.raises(ValueError, match="no recovery slot"):
        BootcountPolicy(GrubStore(RealDisk(), Path("/none")), ("A", "B", "R"), 3, "R")


SETTINGS = """
update_dir = "/data/update"
run_dir = "/run/dcu"
roots = "/etc/roots.pem"
compatible = "HW"
[bootenv]
type = "uboot"
config = "/etc/fw_env.config"
policy = "{policy}"
[[slot]]
name = "R"
recovery = true
[[slot]]
name = "A"
type = "block"
path = "/dev/a"
[[slot]]
name = "B"
type = "block"
path = "/dev/b"
{more}
"""


def test_the_settings_name_the_recovery_slot(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS.format(policy="rauc", more=""))
    config = load(file)
    assert (config.slot_names, config.recovery) == (("A", "B", "R"), "R")


@pytest.mark.parametrize(
    ("policy", "more", "why"),
    [
        ("bootcount", "", "has no recovery slot"),
        ("rauc", '[[slot]]\nname = "Q"\nrecovery = true', "one recovery slot"),
        ("rauc", '[[slot]]\nname = "Q"\nrecovery = true\npath = "/dev/q"', "unknown key"),
        ("rauc", '[[slot]]\nname = "A"\nrecovery = true', "different names"),
    ],
)
def test_a_recovery_slot_that_cannot_be_is_a_mistake(tmp_path: Path, policy: str, more: str, why: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS.format(policy=policy, more=more))
    with pytest.raises(RequestError, match=why) as caught:
        load(file)
    assert caught.value.code is CONFIGURATION
