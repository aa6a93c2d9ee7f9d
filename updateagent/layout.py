"""Names in the folder of installed software, for whoever reads there: light, and without a disk. Sans-IO."""

from __future__ import annotations

from collections.abc import Collection

ACTIVE = "active"
COMPONENT_FILE = "component.json"
AGAIN = ","  # between a version and the number of its repair; no version has one in it


def version_of(name: str) -> str:
    """The version that a folder of this name holds."""
    return name.partition(AGAIN)[0]


def repair_number(name: str) -> int:
    """1 for a version as it was installed, more for one that was repaired while it was active."""
    number = name.partition(AGAIN)[2]
    return int(number) if number.isdigit() else 1


def folder_name(names: Collection[str], version: str, linked: str) -> str:
    """Which of a component's folders holds a version. `linked`: the one that is active, empty for none.

    Two of one version are what a repair has left that the power ended: the one that is in use counts.
    """
    if linked in names and version_of(linked) == version:
        return linked
    return max((name for name in names if version_of(name) == version), key=repair_number, default=version)


def version_order(version: str) -> tuple[tuple[int, str], ...]:
    """Numbers compare as numbers: 1.10 is newer than 1.9."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in version.split("."))
