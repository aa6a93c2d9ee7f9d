"""Boards with a recovery system in a third slot, R, and their stories under power cuts."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from tests.updateagent.board import SLOT_BYTES, TRIES, Board, content, plain_package
from tests.updateagent.engine.power import Story
from updateagent.boot.policy import BootEnv
from updateagent.boot.rauc import RaucPolicy

RECOVERY_VERSION = "9"


class WithRecovery(Board):
    """A good system in A, nothing in B, and a recovery system that nobody needs."""

    ENVIRONMENT: ClassVar = {"BOOT_ORDER": "A R", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0", "BOOT_R_LEFT": "3"}

    def assemble(self) -> None:
        super().assemble()
        self.disk.write_durable(self.slot_file("R"), content(RECOVERY_VERSION).ljust(SLOT_BYTES, b"\xff"))

    def make_environment(self) -> None:
        self.environment.create(self.ENVIRONMENT)

    def bootenv(self) -> BootEnv:
        return RaucPolicy(self.open_variables(), ("A", "B", "R"), TRIES, "R")


class InRecovery(WithRecovery):
    """Both systems are broken, their attempts are used up."""

    ENVIRONMENT: ClassVar = {"BOOT_ORDER": "A B R", "BOOT_A_LEFT": "0", "BOOT_B_LEFT": "0", "BOOT_R_LEFT": "3"}

    def assemble(self) -> None:
        super().assemble()
        for name in "AB":
            self.disk.write_durable(self.slot_file(name), b"\0" * SLOT_BYTES)


def recovery_stories() -> list[Story]:
    """An update with a recovery slot behind it, and one from the recovery system; each for good and for bad."""
    good = Story("good, with recovery", "2", plain_package("2"), healthy=True, fumo=200, make_board=WithRecovery)
    bad = replace(good, name="never healthy, with recovery", version="3", package=plain_package("3"), healthy=False)
    return [
        good,
        replace(bad, fumo=410),
        replace(good, name="good, from recovery", make_board=InRecovery, old_version=RECOVERY_VERSION),
        replace(
            bad, name="never healthy, from recovery", make_board=InRecovery, old_version=RECOVERY_VERSION, fumo=410
        ),
    ]
