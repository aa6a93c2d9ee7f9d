"""The policies `bootcount` and `mender`: boot loaders that count with U-Boot's own `bootcount`.

    boot_slot=A            (mender: mender_boot_part=2, mender_boot_part_hex=2)   the slot that starts
    upgrade_available=1    a trial: only then does U-Boot increment `bootcount` at every start
    bootcount, bootlimit   above the limit U-Boot runs `altbootcmd`: the other slot, upgrade_available=0
    dcu_trial=B            ours: the slot on trial; tells a trial that is over from one that was never asked for

An ordinary boot does not write the environment at all, so there is nothing to mark good.
"""

from __future__ import annotations

from updateagent.boot.policy import BootEnv, BootView, Trial
from updateagent.errors import ENVIRONMENT, DeviceError

COUNT, LIMIT, AVAILABLE, OURS = "bootcount", "bootlimit", "upgrade_available", "dcu_trial"


class BootcountPolicy(BootEnv):
    """`boot_slot` holds the slot's name."""

    SLOT_NAMES: tuple[str, ...] = ("boot_slot",)

    def value_of(self, slot: str) -> str:
        """What the boot loader calls a slot."""
        return slot

    def view(self) -> BootView:
        variables = self._variables.load().variables
        primary = self._primary(variables)
        others = tuple(slot for slot in self.slots if slot != primary)
        if variables.get(AVAILABLE, "0") != "1":
            return BootView((primary, *others), {})
        left = max(0, self._number(variables, LIMIT, self.tries) - self._number(variables, COUNT, 0))
        return BootView((primary, *others), {primary: left})

    def protect(self, target: str, fallback: str) -> bool:
        if self.view().order[0] != target:
            return False
        return self._variables.commit(self._settled(fallback))

    def try_slot(self, target: str, fallback: str) -> bool:  # noqa: ARG002  the boot loader knows the other slot
        return self._variables.commit(
            {**self._starting(target), AVAILABLE: "1", COUNT: "0", LIMIT: str(self.tries), OURS: target}
        )

    def trial(self, target: str) -> Trial:
        variables = self._variables.load().variables
        if variables.get(OURS) != target:
            return Trial.NOT_SET
        waits = variables.get(AVAILABLE) == "1" and self._primary(variables) == target
        return Trial.WAITING if waits and self._number(variables, COUNT, 0) == 0 else Trial.BEGUN

    def confirm(self, slot: str, floor: int = 0) -> bool:
        return self._variables.commit({**self._settled(slot), **self._kept(floor)}, settle=True)

    def fall_back(self, bad: str, good: str) -> bool:  # noqa: ARG002  what does not start needs no mark
        return self._variables.commit(self._settled(good), settle=True)

    def mark_good(self, slot: str) -> bool:
        return self.needs_mark(slot) and self._variables.commit(self._settled(slot), settle=True)

    def needs_mark(self, slot: str) -> bool:
        variables = self._variables.load().variables
        return variables.get(AVAILABLE) == "1" and self._primary(variables) == slot

    def has_fallback(self, slot: str) -> bool:
        return self.needs_mark(slot)

    def _settled(self, slot: str) -> dict[str, str | None]:
        return {**self._starting(slot), AVAILABLE: "0", COUNT: "0", OURS: None}

    def _starting(self, slot: str) -> dict[str, str | None]:
        return dict.fromkeys(self.SLOT_NAMES, self.value_of(slot))

    def _primary(self, variables: dict[str, str]) -> str:
        said = variables.get(self.SLOT_NAMES[0], self.value_of(self.slots[0]))
        for slot in self.slots:
            if self.value_of(slot) == said:
                return slot
        raise DeviceError(ENVIRONMENT, f"{self.SLOT_NAMES[0]} names no slot: {said!r}")

    @staticmethod
    def _number(variables: dict[str, str], name: str, default: int) -> int:
        text = variables.get(name, str(default))
        if not text.isdigit():
            raise DeviceError(ENVIRONMENT, f"{name} is no number: {text!r}")
        return int(text)


class MenderPolicy(BootcountPolicy):
    """Mender's names; slots are partitions, the first slot of the settings is number 2."""

    SLOT_NAMES = ("mender_boot_part", "mender_boot_part_hex")
    FIRST_PART = 2

    def value_of(self, slot: str) -> str:
        return str(self.FIRST_PART + self.slots.index(slot))
