"""The interface classes: attributes and methods by number, each with its name and type (BB 4.3 to 4.9).

The table is the text of `dlms.cosem.class_table`. It is read on first use:

    % baud 0=300 1=600                  names of the numbers of an enum
    @ season name:octet-string ...      a structure and its members
    %+ ..., @+ ...                      continuation of the line before
    20 0 activity_calendar              a class in one version
    15 1 association_ln < 0             a version that inherits what it does not redefine from version 0
      3 season_profile array:@season    an attribute
      +1 activate -                     a method and its parameter

Attribute 1 is the logical name everywhere and is not repeated. Types are those of `dlms.cosem.types`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from dlms.axdr import Tag
from dlms.cosem.types import CosemType, type_of


@dataclass(frozen=True, slots=True)
class Member:
    """An attribute or a method. `type_name` is its type as the table spells it, of a method that of its parameter."""

    name: str
    type_name: str
    type: CosemType

    @property
    def tag(self) -> Tag | None:
        """The A-XDR tag that a value must have; None for a CHOICE."""
        return self.type.tag


@dataclass(frozen=True, slots=True)
class InterfaceClass:
    """One version of one interface class."""

    class_id: int
    version: int
    name: str
    attributes: dict[int, Member]
    methods: dict[int, Member]


def interface_class(class_id: int, version: int | None = None) -> InterfaceClass | None:
    """The newest known version of a class that is not newer than `version`; None for an unknown class."""
    versions = _classes().get(class_id)
    if not versions:
        return None
    fit = [number for number in versions if version is None or number <= version]
    return versions[max(fit) if fit else min(versions)]


def attribute_type(class_id: int, attribute: int, version: int | None = None) -> CosemType | None:
    """The attribute's type; None when the table does not have it."""
    found = interface_class(class_id, version)
    member = found.attributes.get(attribute) if found else None
    return member.type if member else _LOGICAL_NAME.type if attribute == 1 else None


def method_type(class_id: int, method: int, version: int | None = None) -> CosemType | None:
    """The type of the method's parameter; None when the table does not have it."""
    found = interface_class(class_id, version)
    member = found.methods.get(method) if found else None
    return member.type if member else None


def attribute_name(class_id: int, attribute: int, version: int | None = None) -> str:
    """The attribute's name, `attribute_9` when the table does not have it."""
    if attribute == 1:
        return "logical_name"
    found = interface_class(class_id, version)
    member = found.attributes.get(attribute) if found else None
    return member.name if member else f"attribute_{attribute}"


def method_name(class_id: int, method: int, version: int | None = None) -> str:
    """The method's name, `method_9` when the table does not have it."""
    found = interface_class(class_id, version)
    member = found.methods.get(method) if found else None
    return member.name if member else f"method_{method}"


_LOGICAL_NAME = Member("logical_name", "logical-name", CosemType("logical-name"))


class _Reader:
    """Parses the table line by line; the format is in the docstring of the module."""

    def __init__(self) -> None:
        self.classes: dict[int, dict[int, InterfaceClass]] = {}
        self._enums: dict[str, dict[int, str]] = {}
        self._structures: dict[str, CosemType] = {}
        self._current: InterfaceClass | None = None

    def line(self, line: str) -> None:
        first, *rest = line.split()
        if first == "%":
            self._enums[rest[0]] = {int(number): name for number, _, name in (word.partition("=") for word in rest[1:])}
        elif first == "@":
            members = [(name, self._type(text)) for name, _, text in (word.partition(":") for word in rest[1:])]
            self._structures[rest[0]] = CosemType("structure", tuple(members))
        elif not line.startswith(" "):
            self._class(int(first), int(rest[0]), rest[1], rest[3:])
        elif self._current is not None:
            member = Member(rest[0], rest[1], self._type(rest[1]))
            if first.startswith("+"):
                self._current.methods[int(first)] = member
            else:
                self._current.attributes[int(first)] = member

    def _class(self, class_id: int, version: int, name: str, like: list[str]) -> None:
        versions = self.classes.setdefault(class_id, {})
        base = versions[int(like[0])] if like else None
        attributes = dict(base.attributes) if base else {1: _LOGICAL_NAME}
        self._current = InterfaceClass(class_id, version, name, attributes, dict(base.methods) if base else {})
        versions[version] = self._current

    def _type(self, text: str) -> CosemType:
        return type_of(text, self._structures, self._enums)


@cache
def _classes() -> dict[int, dict[int, InterfaceClass]]:
    from dlms.cosem.class_table import TABLE

    reader = _Reader()
    for line in TABLE.replace("\n@+", "").replace("\n%+", "").splitlines():
        if line:
            reader.line(line)
    return reader.classes
