"""TNDS ↔ elements: a serialised part of a management tree (OMA-TS-DM_TNDS 1.2).

    MgmtTree: VerDTD, Man?, Mod?, Node+
    Node: NodeName, Path?, RTProperties? (ACL, Format, Name, Size, Title, TStamp, Type, VerNo), Node* or Value?

Values of format `b64` and `bin` are `bytes` in memory; on the wire base64 text in XML, opaque in WBXML.
"""

from __future__ import annotations

from collections.abc import Collection

from omadm.syncml.element import PAGE_DDF, Element
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import MgmtTree, SyncmlValueError, TndsNode
from omadm.syncml.text import from_base64, integer, to_base64

WHAT = "TNDS"
WHERE_CHARS_MAX = 160  # of the path in an error
FORMATS = frozenset({"b64", "bin", "bool", "chr", "date", "float", "int", "node", "null", "time", "xml"})
BINARY_FORMATS = frozenset({"b64", "bin"})
_ONCE_IN_TREE = frozenset(("VerDTD", "Man", "Mod"))
_ONCE_IN_NODE = frozenset(("NodeName", "Path", "RTProperties", "DFProperties", "Value"))
PROPERTIES = ("ACL", "Format", "Name", "Size", "Title", "TStamp", "Type", "VerNo")  # of a node; each stands once


def read(root: Element, *, binary: bool) -> MgmtTree:
    """Read the tree from a `MgmtTree` element; `binary` for WBXML. Raises `SyncmlError`."""
    if root.name != "MgmtTree":
        raise SyncmlError(WHAT, root.name, "the document's element is not MgmtTree")
    _once(root, "MgmtTree", _ONCE_IN_TREE)
    nodes = tuple(_read_node(e, "MgmtTree", binary=binary) for e in root.elements() if e.name == "Node")
    if not nodes:
        raise SyncmlError(WHAT, "MgmtTree", "no Node")
    return MgmtTree(nodes, _text(root, "VerDTD") or "1.2", _text(root, "Man"), _text(root, "Mod"))


def _once(element: Element, where: str, names: Collection[str]) -> None:
    if twice := element.repeated(names):
        raise SyncmlError(WHAT, f"{where}/{min(twice)}", "stands more than once")


def _text(element: Element, name: str) -> str | None:
    child = element.child(name)
    if child is None:
        return None
    if next(child.elements(), None) is not None:
        raise SyncmlError(WHAT, f"{element.name}/{name}", "elements, where a text is wanted")
    return child.text().strip()


def _only(element: Element, where: str) -> Element | None:
    """The one element in Format or Type; None without any."""
    found = list(element.elements())
    if len(found) > 1:
        raise SyncmlError(WHAT, f"{where}/{element.name}", "more than one element")
    return found[0] if found else None


def _read_node(element: Element, where: str, *, binary: bool) -> TndsNode:
    _once(element, where, _ONCE_IN_NODE)
    name = _text(element, "NodeName")
    if name is None:
        raise SyncmlError(WHAT, where, "a Node without NodeName")
    where = f"{where}/{name[:WHERE_CHARS_MAX]}"[
        -WHERE_CHARS_MAX:
    ]  # a long name above thousands of nodes is copied often
    properties = element.child("RTProperties") or Element("RTProperties", PAGE_DDF)
    _once(properties, where, PROPERTIES)
    if element.child("Value") is not None and element.child("Node") is not None:
        raise SyncmlError(WHAT, where, "a value, and nodes below it")
    node_format = _choice(properties.child("Format"), where)
    return TndsNode(
        name=name,
        path=_text(element, "Path"),
        format=node_format,
        type=_type(properties.child("Type"), where),
        acl=_text(properties, "ACL"),
        title=_text(properties, "Title"),
        tstamp=_text(properties, "TStamp"),
        ver_no=integer(properties.child("VerNo"), WHAT, where),
        size=integer(properties.child("Size"), WHAT, where),
        value=_value(element.child("Value"), node_format, where, binary=binary),
        children=tuple(_read_node(e, where, binary=binary) for e in element.elements() if e.name == "Node"),
    )


def _choice(element: Element | None, where: str) -> str | None:
    """The name of the element inside Format (`<Format><chr/></Format>`); some peers write it as text instead."""
    if element is None:
        return None
    first = _only(element, where)
    name = first.name if first is not None else element.text().strip()
    if name not in FORMATS:
        raise SyncmlError(WHAT, where, f"format {name[:20]!r} does not exist")
    return name


def _type(element: Element | None, where: str) -> str | None:
    """The MIME type of a leaf or the DDF name of an interior node."""
    if element is None:
        return None
    return (_only(element, where) or element).text().strip() or None


def _value(element: Element | None, node_format: str | None, where: str, *, binary: bool) -> str | bytes | None:
    if element is None:
        return None
    if next(element.elements(), None) is not None:
        raise SyncmlError(WHAT, where, "a Value with elements in it")
    if node_format not in BINARY_FORMATS:
        return element.text()
    if element.content and all(isinstance(part, bytes) for part in element.content):
        return b"".join(part for part in element.content if isinstance(part, bytes))
    text = element.text()
    value = from_base64(text)  # in WBXML too: converters of XML leave it as text
    if value is None and binary:
        return text.encode("utf-8")
    if value is None:
        raise SyncmlError(WHAT, where, "a binary Value that is not base64")
    return value


def build(tree: MgmtTree, *, binary: bool) -> Element:
    """The `MgmtTree` element of `tree`; `binary` for WBXML. Raises `SyncmlValueError`."""
    root = Element("MgmtTree", PAGE_DDF)
    root.content.append(_leaf("VerDTD", tree.ver_dtd))
    root.content += [_leaf(name, text) for name, text in (("Man", tree.man), ("Mod", tree.mod)) if text is not None]
    root.content += [_build_node(node, binary=binary) for node in tree.nodes]
    return root


def _leaf(name: str, text: str) -> Element:
    return Element(name, PAGE_DDF, [text] if text else [])


def _build_node(node: TndsNode, *, binary: bool) -> Element:
    element = Element("Node", PAGE_DDF, [_leaf("NodeName", node.name)])
    if node.path is not None:
        element.content.append(_leaf("Path", node.path))
    properties = _build_properties(node)
    if properties.content:
        element.content.append(properties)
    if node.children and node.value is not None:
        raise SyncmlValueError(f"TNDS node {node.name}: children and a value at once")
    if node.value is not None:
        element.content.append(_build_value(node, binary=binary))
    element.content += [_build_node(child, binary=binary) for child in node.children]
    return element


def _build_properties(node: TndsNode) -> Element:
    properties = Element("RTProperties", PAGE_DDF)
    if node.acl is not None:
        properties.content.append(_leaf("ACL", node.acl))
    if node.format is not None:
        if node.format not in FORMATS:
            raise SyncmlValueError(f"TNDS node {node.name}: format {node.format!r} does not exist")
        properties.content.append(Element("Format", PAGE_DDF, [Element(node.format, PAGE_DDF)]))
    for name, number in (("Size", node.size),):
        if number is not None:
            properties.content.append(_leaf(name, str(number)))
    for name, text in (("Title", node.title), ("TStamp", node.tstamp)):
        if text is not None:
            properties.content.append(_leaf(name, text))
    if node.type is not None:
        interior = bool(node.children) or node.format == "node"
        value = _leaf("DDFName" if interior else "MIME", node.type)
        properties.content.append(Element("Type", PAGE_DDF, [value]))
    if node.ver_no is not None:
        properties.content.append(_leaf("VerNo", str(node.ver_no)))
    return properties


def _build_value(node: TndsNode, *, binary: bool) -> Element:
    if isinstance(node.value, bytes):
        if node.format not in BINARY_FORMATS:
            raise SyncmlValueError(f"TNDS node {node.name}: bytes need format bin or b64, not {node.format}")
        return Element("Value", PAGE_DDF, [node.value if binary else to_base64(node.value)])
    text = node.value or ""
    if node.format in BINARY_FORMATS:
        raise SyncmlValueError(f"TNDS node {node.name}: format {node.format} needs bytes")
    return _leaf("Value", text)
