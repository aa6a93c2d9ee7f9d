"""The tree that explanations are made of."""

from __future__ import annotations

from dataclasses import dataclass

INDENT = "  "
TEXT_OCTETS_MAX = 64  # octet-strings longer than that are shown in hexadecimal only


@dataclass(frozen=True, slots=True)
class Node:
    """One thing: what it is, what it says, and what is inside."""

    label: str
    value: str = ""
    children: tuple[Node, ...] = ()

    def lines(self, depth: int = 0) -> list[str]:
        """The tree as indented text."""
        head = INDENT * depth + self.label + (f": {self.value}" if self.value else "")
        return [head, *(line for child in self.children for line in child.lines(depth + 1))]

    def as_json(self) -> dict[str, object]:
        """The tree as objects of `label`, `value` and `children`; empty ones are left out."""
        found: dict[str, object] = {"label": self.label}
        if self.value:
            found["value"] = self.value
        if self.children:
            found["children"] = [child.as_json() for child in self.children]
        return found


def octets_text(octets: bytes) -> str:
    """Octets in hexadecimal, and as text where they are printable."""
    if 0 < len(octets) <= TEXT_OCTETS_MAX and all(0x20 <= octet < 0x7F for octet in octets):
        return f'{octets.hex()} "{octets.decode("ascii")}"'
    return octets.hex() or "(empty)"
