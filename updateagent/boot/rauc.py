"""RAUC's policy for U-Boot: an order of slots, and a count of attempts per slot.

    BOOT_ORDER="A B"    slots to try, first to last
    BOOT_A_LEFT=3       attempts that slot A has left, hexadecimal; some boot scripts write 0x3

The boot script takes the first slot of the order with attempts left, decrements its count, saves, and boots it; when no
slot has attempts left, it gives all slots of the order their attempts back and begins again.
"""

from __future__ import annotations

import re

from updateagent.boot.policy import TRIES_MAX, BootEnv, BootView, Trial
from updateagent.errors import ENVIRONMENT, DeviceError


class RaucPolicy(BootEnv):
    """`BOOT_ORDER` and `BOOT_<slot>_LEFT`.

    A trial has `tries` attempts. A confirmed system has the largest count that can be written, and gets it back when
    fewer than `tries` are left: it never has fewer attempts than a trial, and most boots cost no commit.
    """

    ORDER = "BOOT_ORDER"
    has_recovery = True

    def view(self) -> BootView:
        return self._parse(self._variables.load().variables)

    def protect(self, target: str, fallback: str) -> bool:
        view = self.view()
        if target not in view.order and view.left[target] == 0 and view.primary is not None:
            return False
        order = self._ordered(*(slot for slot in view.order if slot != target), fallback)
        left = {target: 0}
        if not any(view.left[slot] for slot in order if slot in view.left):
            left[fallback] = TRIES_MAX
        return self._commit(order, left)

    def try_slot(self, target: str, fallback: str) -> bool:
        order = self._ordered(target, fallback, *self.view().order)
        # One commit for order and attempts: a power cut must not leave one without the other.
        return self._commit(order, {fallback: TRIES_MAX, target: self.tries})

    def trial(self, target: str) -> Trial:
        view = self.view()
        if not view.order or view.order[0] != target:
            return Trial.NOT_SET
        return Trial.WAITING if view.left[target] == self.tries else Trial.BEGUN

    def confirm(self, slot: str, floor: int = 0) -> bool:
        return self._commit(self._ordered(slot, *self.view().order), {slot: TRIES_MAX}, floor=floor, settle=True)

    def fall_back(self, bad: str, good: str) -> bool:
        # Settled, like every decision: a stale copy that came back to life would start the bad slot again.
        others = (slot for slot in self.view().order if slot != bad)
        return self._commit(self._ordered(good, *others), {bad: 0, good: TRIES_MAX}, settle=True)

    def mark_good(self, slot: str) -> bool:
        return self._variables.commit({self._left_name(slot): str(TRIES_MAX)})

    def needs_mark(self, slot: str) -> bool:
        return self.view().left.get(slot, TRIES_MAX) < self.tries

    def has_fallback(self, slot: str) -> bool:
        view = self.view()
        return any(other != slot and view.left.get(other, 0) > 0 for other in view.order)

    def _commit(self, order: tuple[str, ...], left: dict[str, int], *, floor: int = 0, settle: bool = False) -> bool:
        changes: dict[str, str | None] = {self.ORDER: " ".join(order), **self._kept(floor)}
        changes |= {self._left_name(slot): str(count) for slot, count in left.items()}
        return self._variables.commit(changes, settle=settle)

    def _parse(self, variables: dict[str, str]) -> BootView:
        # A board fresh from the factory may have none of the variables; then the boot script's own defaults apply.
        order = tuple(dict.fromkeys(variables.get(self.ORDER, " ".join(self.slots)).split()))
        left: dict[str, int] = {}
        for slot in self.slots:
            text = variables.get(self._left_name(slot), str(self.tries))
            if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,2}", text):
                left[slot] = int(text, 16)
            elif slot in order:
                raise DeviceError(ENVIRONMENT, f"{self._left_name(slot)} is no number: {text[:20]!r}")
            else:
                left[slot] = 0  # the boot loader does not read it; the next trial sets it
        return BootView(order, left)

    @staticmethod
    def _left_name(slot: str) -> str:
        return f"BOOT_{slot}_LEFT"
