"""The types of slots: what `[[slot]] type` of the configuration may say, and the class of each."""

from __future__ import annotations

from importlib import import_module

from updateagent.slots.block import Slot

SLOT_TYPES = {
    "file": "updateagent.slots.block:FileSlot",
    "block": "updateagent.slots.block:BlockSlot",
    "ubi": "updateagent.slots.flash:UbiSlot",
    "mtd": "updateagent.slots.flash:MtdSlot",
}
"""The class of each slot type, as "module:name", so that only configured types are imported."""


def slot_type(name: str) -> type[Slot]:
    """The type of slot of that name."""
    module, _, attribute = SLOT_TYPES[name].partition(":")
    found: type[Slot] = getattr(import_module(module), attribute)
    return found
