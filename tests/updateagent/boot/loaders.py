"""Boards with other boot loaders: U-Boot with `bootcount`, Mender's names for it, and GRUB with RAUC's script."""

from __future__ import annotations

from pathlib import Path

from tests.sim.board.uboot import BootLoaderError, Choice, count_start
from tests.updateagent.board import FILLER, TRIES, Board
from updateagent.boot.bootcount import BootcountPolicy, MenderPolicy
from updateagent.boot.grub import GrubStore, RaucGrubPolicy
from updateagent.boot.policy import BootEnv, Variables
from updateagent.disk import Storage

SIGNATURE = "# GRUB Environment Block\n"


class BootcountBoard(Board):
    """U-Boot counts up while `upgrade_available` is 1; above the limit `altbootcmd` goes to the other slot."""

    SLOT = "boot_slot"
    VALUES = ("A", "B")

    def bootenv(self) -> BootEnv:
        return BootcountPolicy(self.open_variables(), ("A", "B"), TRIES)

    def make_environment(self) -> None:
        self.environment.create(
            {"BOARD": FILLER, self.SLOT: self.VALUES[0], "upgrade_available": "0", "bootcount": "0"}
        )

    def start_boot_loader(self) -> Choice:
        _, _, variables = self.environment.load()
        if "dcu_boots" not in variables:
            count_start(variables)
            self.environment.save(variables)
        if variables.get("upgrade_available") == "1":
            count_start(variables)
            count = int(variables.get("bootcount", "0")) + 1
            variables["bootcount"] = str(count)
            if count > int(variables.get("bootlimit", "1")):
                other = self.VALUES[1 - self.VALUES.index(variables[self.SLOT])]
                variables |= {self.SLOT: other, "upgrade_available": "0", "bootcount": "0"}
                if "mender_boot_part_hex" in variables:
                    variables["mender_boot_part_hex"] = other
            self.environment.save(variables)
        slot = "AB"[self.VALUES.index(variables[self.SLOT])]
        return Choice(slot, 0, recovered=False, boots=variables["dcu_boots"])


class MenderBoard(BootcountBoard):
    SLOT = "mender_boot_part"
    VALUES = ("2", "3")

    def bootenv(self) -> BootEnv:
        return MenderPolicy(self.open_variables(), ("A", "B"), TRIES)


class GrubBoard(Board):
    """GRUB: the first slot of ORDER that is OK and not being tried; TRY is set, in place, before it starts."""

    def __init__(self, folder: Path, disk: Storage | None = None) -> None:
        super().__init__(folder, disk)
        self.grubenv = folder / "grubenv"

    def open_variables(self) -> Variables:
        return GrubStore(self.disk, self.grubenv)

    def bootenv(self) -> BootEnv:
        return RaucGrubPolicy(self.open_variables(), ("A", "B"), TRIES)

    def make_environment(self) -> None:
        self.disk.write_durable(self.grubenv, _block({"ORDER": "A B", "A_OK": "1", "A_TRY": "0", "B_OK": "0"}))

    def start_boot_loader(self) -> Choice:
        text = self.disk.read_bytes(self.grubenv).decode()
        if len(text) != 1024 or not text.startswith(SIGNATURE):
            raise BootLoaderError("no environment block")
        lines = text[len(SIGNATURE) :].rstrip("#").splitlines()
        variables = dict(line.split("=", 1) for line in lines)
        for slot in variables["ORDER"].split():
            if variables.get(f"{slot}_OK") == "1" and variables.get(f"{slot}_TRY", "0") == "0":
                variables[f"{slot}_TRY"] = "1"
                boots = variables["dcu_boots"] = "2" if variables.get("dcu_boots") == "1" else "1"
                with self.disk.open_raw(self.grubenv, write=True) as file:
                    file.pwrite(_block(variables), 0)
                    file.sync()
                return Choice(slot, 0, recovered=False, boots=boots)
        # RAUC's script then starts what was good last, without counting.
        return Choice(variables["ORDER"].split()[0], 0, recovered=True, boots=variables.get("dcu_boots", ""))


def _block(variables: dict[str, str]) -> bytes:
    return (SIGNATURE + "".join(f"{name}={value}\n" for name, value in variables.items())).ljust(1024, "#").encode()
