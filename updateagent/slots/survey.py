"""What may be written, and whether the slot that is said to run is the one that does. Sans-IO, over `identity`.

Three questions, each answered by devices and bytes, never by names:

* do two slots, two images of a slot, or a slot and the boot environment share a byte? A mistake in the settings;
* is anything mounted from the slot that is about to be written? It is then left alone;
* is the root file system the one of the slot that the kernel's command line names?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations

from updateagent.errors import BOOTED_SLOT, CONFIGURATION, SLOT, DeviceError, RequestError
from updateagent.slots.identity import (
    Identity,
    Mount,
    Place,
    System,
    identify,
    identify_mount,
    parse_mountinfo,
    root_of,
)


class Survey:
    """The places of this device as they are now. `slots[slot]` has one place for each image, the root file system's
    first; `others` are the copies of the boot environment. `mountinfo` is the kernel's file of what is mounted."""

    def __init__(
        self,
        system: System,
        slots: Mapping[str, Sequence[Place]],
        others: Sequence[Place] = (),
        mountinfo: str = "/proc/self/mountinfo",
    ) -> None:
        self._system = system
        self._mountinfo = mountinfo
        self._slots = slots
        self._others = others
        self._known: dict[Place, Identity] = {}

    def check_overlaps(self) -> None:
        """Look for a byte that two have. Raises `RequestError` (configuration) with every such pair, one a line."""
        places = [*(place for slot in self._slots.values() for place in slot), *self._others]
        mistakes = [
            f"{one} and {other} are the same bytes ({common})"
            for one, other in combinations(places, 2)
            if (common := self._identity(one).meets(self._identity(other)))
        ]
        if mistakes:
            raise RequestError(CONFIGURATION, "\n".join(mistakes))

    def check_target(self, slot: str) -> None:
        """Look for mounts. Raises `DeviceError` (slot) when something of the slot is mounted, or in other use."""
        for place in self._slots[slot]:
            identity = self._identity(place)
            for mount, mounted in self._mounted:
                if identity.holds(mounted):
                    raise DeviceError(SLOT, f"{place} is mounted at {mount.point}; a mounted slot is never written")
            node = self._system.node(place.path)
            if node is not None and node.kind == "block" and self._system.in_use(place.path):
                raise DeviceError(SLOT, f"{place} is in use: mounted elsewhere, swap, or part of another device")

    def check_root(self, booted: str) -> None:
        """Compare the slot that the command line names with the root file system.

        Raises `DeviceError` (booted-slot) when it is another slot's, or when the slot is a device, the root is on a
        device too, and nothing of the slot is mounted. Silent where nothing can be told: a root in memory or on the
        network, a slot in a file.
        """
        root = root_of(self._mounts)
        identity = Identity() if root is None else identify_mount(self._system, root, self._mounts)
        if root is None or not identity.own:
            return
        running = [
            name for name, places in self._slots.items() if any(self._identity(one).holds(identity) for one in places)
        ]
        if booted in running:
            return
        if running:
            raise DeviceError(
                BOOTED_SLOT, f"the command line names slot {booted}, and the root file system is slot {running[0]}'s"
            )
        place = next(iter(self._slots.get(booted, ())), None)  # a recovery slot has none
        if place is not None and self._is_device(place) and not self._is_mounted(place):
            raise DeviceError(
                BOOTED_SLOT,
                f"the command line names slot {booted}, and the root file system is on {root.source}, not on {place}",
            )

    def _is_device(self, place: Place) -> bool:
        node = self._system.node(place.path)
        return node is not None and node.kind in ("block", "char")

    def _is_mounted(self, place: Place) -> bool:
        return any(self._identity(place).holds(mounted) for _, mounted in self._mounted)

    def _identity(self, place: Place) -> Identity:
        if place not in self._known:
            self._known[place] = identify(self._system, place, self._mounts)
        return self._known[place]

    @cached_property
    def _mounts(self) -> tuple[Mount, ...]:
        return parse_mountinfo(self._system.text(self._mountinfo) or "")

    @cached_property
    def _mounted(self) -> list[tuple[Mount, Identity]]:
        """What is mounted, each device once."""
        first = {(mount.number, mount.source): mount for mount in reversed(self._mounts)}
        return [(mount, identify_mount(self._system, mount, self._mounts)) for mount in first.values()]
