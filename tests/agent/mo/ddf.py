"""The device description (docs/ddf) and the tables of docs/management-objects.md, made from the management objects.

    python -m tests.agent.mo.ddf        writes them anew; a test compares

The XML has the shape of the OMA DM DDF DTD 1.2 (OMA-TS-DM_TND 1.2, section 10), one document per management object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from agent.tree.schema import ANY, Access, Format, NodeSpec
from agent.tree.uri import show
from tests.agent.dm.server import FakeDmServer
from tests.agent.dm_device import Device

DOCS = Path(__file__).resolve().parents[3] / "docs"
DDF = DOCS / "ddf"
DOCUMENT = DOCS / "management-objects.md"
BEGIN, END = "<!-- tables of nodes: begin -->", "<!-- tables of nodes: end -->"
DTD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE MgmtTree PUBLIC "-//OMA//DTD-DM-DDF 1.2//EN"\n'
    '  "http://www.openmobilealliance.org/tech/DTD/DM_DDF-V1_2.dtd">\n'
)
ACCESS = (
    (Access.ADD, "Add"),
    (Access.COPY, "Copy"),
    (Access.DELETE, "Delete"),
    (Access.EXEC, "Exec"),
    (Access.GET, "Get"),
    (Access.REPLACE, "Replace"),
)


@dataclass(frozen=True, slots=True)
class Described:
    """One node of the description. `permanent`: it and all above it always exist."""

    path: tuple[str, ...]
    spec: NodeSpec
    occurrence: str
    many_max: int
    permanent: bool

    @property
    def commands(self) -> tuple[str, ...]:
        return tuple(name for access, name in ACCESS if access in self.spec.access)


def described(spec: NodeSpec, path: tuple[str, ...] = (), parent: Described | None = None) -> Iterator[Described]:
    """The node and everything below it."""
    here = Described(
        (*path, spec.name),
        spec,
        _occurrence(spec, parent.spec if parent else None),
        parent.spec.names_max if parent else 0,
        spec.fixed and (parent is None or parent.permanent),
    )
    yield here
    for child in spec.children:
        yield from described(child, here.path, here)


def _occurrence(spec: NodeSpec, parent: NodeSpec | None) -> str:
    if spec.name == ANY:  # the device itself says how many there are, or servers may make so many
        return "ZeroOrMore" if parent is not None and parent.names is not None else "ZeroOrN"
    return "One" if spec.fixed else "ZeroOrOne"


def objects() -> tuple[NodeSpec, ...]:
    """The description of each management object of the device, as the daemon has it."""
    return Device(FakeDmServer()).objects.registry.schema.children


def document(spec: NodeSpec) -> str:
    """The DDF of one management object."""
    tree = ET.Element("MgmtTree")
    ET.SubElement(tree, "VerDTD").text = "1.2"
    elements: dict[tuple[str, ...], ET.Element] = {(): tree}
    for node in described(spec):
        elements[node.path] = _node(elements[node.path[:-1]], node)
    ET.indent(tree)
    return DTD + ET.tostring(tree, encoding="unicode") + "\n"


def _node(above: ET.Element, node: Described) -> ET.Element:
    element = ET.SubElement(above, "Node")
    # A node whose name servers choose has an empty NodeName (TND 1.2, section 10.3.1).
    ET.SubElement(element, "NodeName").text = "" if node.spec.name == ANY else node.spec.name
    if len(node.path) == 1:
        ET.SubElement(element, "Path").text = "."
    properties = ET.SubElement(element, "DFProperties")
    access = ET.SubElement(properties, "AccessType")
    for command in node.commands:
        ET.SubElement(access, command)
    if node.spec.default:
        ET.SubElement(properties, "DefaultValue").text = node.spec.default
    if node.spec.description:
        ET.SubElement(properties, "Description").text = node.spec.description.replace("`", "")
    ET.SubElement(ET.SubElement(properties, "DFFormat"), str(node.spec.format))
    occurrence = ET.SubElement(ET.SubElement(properties, "Occurrence"), node.occurrence)
    if node.occurrence == "ZeroOrN":
        occurrence.text = str(node.many_max)
    ET.SubElement(ET.SubElement(properties, "Scope"), "Permanent" if node.permanent else "Dynamic")
    _type(ET.SubElement(properties, "DFType"), node.spec)
    return element


def _type(element: ET.Element, spec: NodeSpec) -> None:
    if spec.interior:
        ET.SubElement(element, "DDFName").text = spec.type
    else:
        ET.SubElement(element, "MIME").text = "application/octet-stream" if spec.format is Format.BIN else "text/plain"


def tables() -> str:
    """The generated part of the document: one table per object, nodes relative to the object's root."""
    parts: list[str] = []
    for spec in objects():
        urns = [node.spec.type for node in described(spec) if node.spec.interior and node.spec.type]
        name = ", ".join(f"`{urn}`" for urn in urns)
        parts += [f"### {show((spec.name,))}", "", *([name, ""] if name else [])]
        parts += ["| Node | Format | Access | Occurrence | |", "|---|---|---|---|---|"]
        parts += [_row(node) for node in described(spec)]
        parts.append("")
    return "\n".join(parts)


def _row(node: Described) -> str:
    path = "/".join(node.path[1:]) or "."
    many = {"One": "1", "ZeroOrOne": "0, 1", "ZeroOrMore": "any", "ZeroOrN": f"0 to {node.many_max}"}[node.occurrence]
    remarks = ["live"] if node.spec.live else []
    remarks += [node.spec.description] if node.spec.description else []
    access = " ".join(node.commands) or "none"
    return f"| `{path}` | {node.spec.format} | {access} | {many} | {'; '.join(remarks)} |"


def with_tables(text: str) -> str:
    """The document `text` with its generated part made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"


def main() -> None:
    DDF.mkdir(exist_ok=True)
    for spec in objects():
        (DDF / f"{spec.name.lower()}.xml").write_text(document(spec), encoding="utf-8")
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
