"""The types of attributes and method parameters as the Blue Book declares them, which say more than the A-XDR tag:
names of structure members and enum values, and octet-strings that are times or logical names."""

from __future__ import annotations

from dataclasses import dataclass, field

from dlms.axdr import Tag
from dlms.cosem.units import SYMBOLS

TAGS: dict[str, Tag] = {
    "boolean": Tag.BOOLEAN, "bit-string": Tag.BIT_STRING, "double-long": Tag.DOUBLE_LONG,
    "double-long-unsigned": Tag.DOUBLE_LONG_UNSIGNED, "octet-string": Tag.OCTET_STRING,
    "visible-string": Tag.VISIBLE_STRING, "utf8-string": Tag.UTF8_STRING, "integer": Tag.INTEGER, "long": Tag.LONG,
    "unsigned": Tag.UNSIGNED, "long-unsigned": Tag.LONG_UNSIGNED, "long64": Tag.LONG64,
    "long64-unsigned": Tag.LONG64_UNSIGNED, "enum": Tag.ENUM, "unit": Tag.ENUM, "float32": Tag.FLOAT32,
    "float64": Tag.FLOAT64, "date-time": Tag.DATE_TIME, "logical-name": Tag.OCTET_STRING, "datetime": Tag.OCTET_STRING,
    "date": Tag.OCTET_STRING, "time": Tag.OCTET_STRING, "-": Tag.INTEGER,
}  # fmt: skip
"""The simple types. `datetime`, `date`, `time` and `logical-name` are octet-strings of 12, 5, 4 and 6 octets, `unit` is
an enum, and `-` the integer 0 that a method without a parameter is called with."""


@dataclass(frozen=True, slots=True)
class CosemType:
    """A type in the table of classes.

    `name` is a key of `TAGS`, or `any` (a CHOICE), `array` (of `element`) or `structure` (of `members`: name and type).
    `numbers` has the names of the values of an enum.
    """

    name: str
    members: tuple[tuple[str, CosemType], ...] = ()
    element: CosemType | None = None
    numbers: dict[int, str] = field(default_factory=dict, hash=False, compare=False)

    @property
    def tag(self) -> Tag | None:
        """The A-XDR tag that a value must have; None for a CHOICE."""
        if self.name == "array":
            return Tag.ARRAY
        return Tag.STRUCTURE if self.name == "structure" else TAGS.get(self.name)


ANY = CosemType("any")


def type_of(text: str, structures: dict[str, CosemType], enums: dict[str, dict[int, str]]) -> CosemType:
    """Parse a type as the table writes it: `unsigned`, `enum:baud`, `@season`, `array:@season`, `any`."""
    head, _, rest = text.partition(":")
    if head == "array":
        return CosemType("array", element=type_of(rest, structures, enums))
    if head.startswith("@"):
        return structures[head[1:]]
    if head == "enum" and rest:
        return CosemType("enum", numbers=enums[rest])
    if head == "unit":
        return CosemType("unit", numbers=SYMBOLS)
    return ANY if head == "any" else CosemType(head)
