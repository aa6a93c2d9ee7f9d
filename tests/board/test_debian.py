"""A machine without the emulator's packages says what it lacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.board.image import debian


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "NEEDED_TOOLS", {"no-such-tool": "its-package", "sh": "dash"})
    monkeypatch.setattr(debian, "UBOOT", Path("/nonexistent/u-boot.bin"))
    assert debian.missing().endswith("of apt-packages-board.txt; missing: its-package, u-boot-qemu")


def test_only_root_builds_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "built by root" in debian.missing()


def test_every_package_that_may_be_named_is_in_the_list() -> None:
    listed = debian.PACKAGES_FILE.read_text().split()
    assert listed == sorted(listed)
    assert {*debian.NEEDED_TOOLS.values(), "u-boot-qemu"} - {"apt"} <= set(listed)
