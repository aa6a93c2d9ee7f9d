"""Damaged packages through `dcu-update install`: refused by number, no byte of slots and boot environment changed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.updateagent.damage import Damage, Device, Good, cuts, flips, mixtures, packages, play, shuffles
from updateagent.errors import COMPATIBLE, EXIT_REBOOT_WANTED, PAYLOAD

NAMES = ["raw", "compressed", "delta", "roots"]
FRAME_PART, BITS_A_MEMBER = 0.02, 8


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Good]:
    return {good.name: good for good in packages(tmp_path_factory.mktemp("packages"))}


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of installs need not reach the medium."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def device_for(good: Good, folder: Path) -> Device:
    return Device(folder / "device", good.roots)


@pytest.mark.parametrize("name", NAMES)
def test_flipped_bits_are_refused_and_nothing_is_written(name: str, goods: dict[str, Good], tmp_path: Path) -> None:
    good = goods[name]
    answers = play(device_for(good, tmp_path), flips(good, random.Random(name), FRAME_PART, BITS_A_MEMBER))
    assert answers.total() > 80


@pytest.mark.parametrize("name", NAMES)
def test_cut_and_rearranged_packages_are_refused_and_a_good_one_is_taken_after_them(
    name: str, goods: dict[str, Good], tmp_path: Path
) -> None:
    good = goods[name]
    device = device_for(good, tmp_path)
    play(device, cuts(good))
    play(device, shuffles(good))
    play(device, mixtures([good, *goods.values()]))
    before = device.state()
    code, said = device.install(good.data)
    assert code == EXIT_REBOOT_WANTED, said
    after = device.state()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_the_sweep_notices_an_answer_that_is_not_right(goods: dict[str, Good], tmp_path: Path) -> None:
    good = goods["raw"]
    with pytest.raises(AssertionError, match="answered 34"):
        damaged = next(one for one in flips(good, random.Random(1), 0, 1) if one.what.endswith("rootfs.img"))
        play(device_for(good, tmp_path), iter([Damage(damaged.what, damaged.data, frozenset({COMPATIBLE.number}))]))
    assert PAYLOAD.number == 34


def test_the_sweep_notices_a_package_that_is_taken(goods: dict[str, Good], tmp_path: Path) -> None:
    good = goods["raw"]
    with pytest.raises(AssertionError, match="answered 10"):
        play(device_for(good, tmp_path), iter([Damage("good", good.data)]))
