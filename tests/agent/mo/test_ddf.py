"""One truth: the documents on the management tree are those that the management objects give."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from agent.tree.schema import NodeSpec
from tests.agent.mo import ddf

OBJECTS = ddf.objects()

# The content of an element in the order of the DTD (DM_DDF-V1_2.dtd); "?" may be missing, "*" may be repeated.
CONTENT = {
    "MgmtTree": ("VerDTD", "Man?", "Mod?", "Node*"),
    "Node": ("NodeName", "Path?", "RTProperties?", "DFProperties", "Node*"),
    "DFProperties": (
        "AccessType", "DefaultValue?", "Description?", "DFFormat", "Occurrence?", "Scope?", "DFTitle?", "DFType",
        "CaseSense?",
    ),
    "AccessType": ("Add?", "Copy?", "Delete?", "Exec?", "Get?", "Replace?"),
}  # fmt: skip
ONE_OF = {
    "DFFormat": {"b64", "bin", "bool", "chr", "int", "node", "null", "xml", "date", "time", "float"},
    "Occurrence": {"One", "ZeroOrOne", "ZeroOrMore", "OneOrMore", "ZeroOrN", "OneOrN"},
    "Scope": {"Permanent", "Dynamic"},
    "DFType": {"MIME", "DDFName"},
}


def check_content(element: ET.Element) -> None:
    names = [child.tag for child in element]
    if element.tag in ONE_OF:
        assert len(names) == 1
        assert names[0] in ONE_OF[element.tag]
    else:
        for part in CONTENT.get(element.tag, ()):
            name, count = part.rstrip("?*"), 0
            while names and names[0] == name:
                names.pop(0)
                count += 1
            assert part.endswith("*") or count <= 1, element.tag
            assert part.endswith(("?", "*")) or count == 1, element.tag
        assert names == [], element.tag
    for child in element:
        check_content(child)


@pytest.mark.parametrize("spec", OBJECTS, ids=lambda spec: spec.name)
def test_the_device_description_is_the_one_of_the_schema(spec: NodeSpec) -> None:
    made = ddf.document(spec)
    assert (ddf.DDF / f"{spec.name.lower()}.xml").read_text(encoding="utf-8") == made, (
        "run python -m tests.agent.mo.ddf"
    )
    check_content(ET.fromstring(made))


def test_no_description_is_left_of_an_object_that_is_gone() -> None:
    assert {file.stem for file in ddf.DDF.glob("*.xml")} == {spec.name.lower() for spec in OBJECTS}


def test_the_document_has_every_node_of_the_schema() -> None:
    text = ddf.DOCUMENT.read_text(encoding="utf-8")
    assert text == ddf.with_tables(text), "run python -m tests.agent.mo.ddf"
    for spec in OBJECTS:
        for node in ddf.described(spec):
            assert f"| `{'/'.join(node.path[1:]) or '.'}` | {node.spec.format} |" in text


def test_a_new_node_makes_the_documents_differ() -> None:
    spec = OBJECTS[0]
    more = NodeSpec(spec.name, spec.format, spec.access, (*spec.children, NodeSpec("New")), type=spec.type)
    assert ddf.document(more) != ddf.document(spec)
