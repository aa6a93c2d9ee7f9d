"""The model of the boot loader itself: what it does to the bytes of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.board.uboot import (
    ENV_BYTES,
    HEADER,
    TRIES_FULL,
    BootLoaderError,
    Environment,
    choose,
    pack_copy,
    unpack_copy,
)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(tmp_path / "env")
    made.create({"BOOT_ORDER": "B A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "2"})
    return made


def test_the_first_slot_of_the_order_is_booted_and_its_attempt_counted_before(environment: Environment) -> None:
    choice = choose(environment)
    assert (choice.slot, choice.left, choice.recovered) == ("B", 1, False)
    assert environment.load()[2]["BOOT_B_LEFT"] == "1"


def test_a_slot_without_attempts_is_passed_over(environment: Environment) -> None:
    assert [choose(environment).slot for _ in range(5)] == ["B", "B", "A", "A", "A"]


def test_when_all_attempts_are_gone_the_counters_start_again_with_the_first(environment: Environment) -> None:
    for _ in range(5):
        choose(environment)
    choice = choose(environment)
    assert (choice.slot, choice.recovered) == ("B", True)
    assert environment.load()[2]["BOOT_A_LEFT"] == str(TRIES_FULL)


def test_a_save_writes_the_copy_that_is_not_in_force(environment: Environment) -> None:
    before = environment.flash.read_bytes()
    environment.save({"BOOT_ORDER": "A"})
    after = environment.flash.read_bytes()
    assert after[:ENV_BYTES] == before[:ENV_BYTES]
    assert after[ENV_BYTES:] != before[ENV_BYTES:]
    assert environment.load()[2] == {"BOOT_ORDER": "A"}


def test_the_flag_wraps_and_zero_is_newer_than_255(environment: Environment) -> None:
    environment.flash.write_bytes(pack_copy({"x": "old"}, 255) + pack_copy({"x": "new"}, 0))
    assert environment.load() == (1, 0, {"x": "new"})
    environment.flash.write_bytes(pack_copy({"x": "new"}, 0) + pack_copy({"x": "old"}, 255))
    assert environment.load() == (0, 0, {"x": "new"})


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 100, ENV_BYTES - 1])
def test_a_torn_save_leaves_the_old_copy_in_force(environment: Environment, cut: int) -> None:
    new = pack_copy({"BOOT_ORDER": "A" * 300}, 2)
    raw = bytearray(environment.flash.read_bytes())
    raw[ENV_BYTES : ENV_BYTES + cut] = new[:cut]
    environment.flash.write_bytes(raw)
    assert environment.load()[2].get("BOOT_ORDER") in {"B A", "A" * 300}


def test_two_bad_copies_stop_the_board(environment: Environment) -> None:
    environment.flash.write_bytes(bytes([1]) * (2 * ENV_BYTES))
    with pytest.raises(BootLoaderError, match="both copies"):
        choose(environment)


def test_the_layout_is_that_of_u_boot() -> None:
    raw = pack_copy({"a": "1"}, 7)
    assert len(raw) == ENV_BYTES
    assert raw[HEADER.size : HEADER.size + 5] == b"a=1\0\0"
    assert unpack_copy(raw) == (7, {"a": "1"})
    assert unpack_copy(raw[:-1] + b"\1") is None
