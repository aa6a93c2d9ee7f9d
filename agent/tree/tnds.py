"""Subtrees as documents: between the management tree and `MgmtTree` values (OMA-TS-DM_TNDS 1.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agent.tree.acl import Acl
from agent.tree.nodes import Content, timestamp, value_bytes
from agent.tree.schema import DEPTH_MAX, Format, Path
from agent.tree.tree import NODES_MAX, ExistingNode, Transaction
from agent.tree.uri import parse_path, show
from omadm.codes import Code, Refusal
from omadm.syncml.messages import MgmtTree, TndsNode


def to_tnds(looking: Transaction, path: Path, parts: frozenset[str]) -> MgmtTree:
    """The subtree at `path` with the properties in `parts`. Raises `Refusal` as `Transaction.walk`."""
    existing_nodes = list(looking.walk(path))
    below: dict[Path, list[ExistingNode]] = {}
    for existing in existing_nodes[1:]:
        below.setdefault(existing.path[:-1], []).append(existing)
    root = _node(looking, existing_nodes[0], below, parts)
    parent = show(path[:-1]) if path else ""
    return MgmtTree((replace(root, path=parent),))


def _node(
    looking: Transaction, existing: ExistingNode, below: dict[Path, list[ExistingNode]], parts: frozenset[str]
) -> TndsNode:
    stored = existing.properties
    interior = existing.spec.interior
    value = None if interior else looking.value(existing)
    return TndsNode(
        name=existing.path[-1] if existing.path else ".",
        format=str(existing.spec.format) if "Format" in parts else None,
        type=(stored.type or existing.spec.type or None) if "Type" in parts else None,
        acl=stored.acl.emit() if stored.acl and "ACL" in parts else None,
        title=(stored.title or None) if "Title" in parts else None,
        tstamp=(timestamp(stored.tstamp) or None) if "TStamp" in parts else None,
        ver_no=stored.ver_no if "VerNo" in parts and existing.node is not None else None,
        size=value_bytes(value) if value is not None and "Size" in parts else None,
        value=value if "Value" in parts else None,
        children=tuple(_node(looking, child, below, parts) for child in below.get(existing.path, ())),
    )


def from_tnds(changing: Transaction, base: Path, tree: MgmtTree) -> list[Path]:
    """Add every node of the document. `base` is the command's target: the parent of the topmost nodes that give no
    `Path`, or, where there is no such node yet, the one topmost node of that name itself. Returns the leaves that
    were written. Raises `Refusal`; then the caller rolls back."""
    written: list[Path] = []
    if base and changing.find(base) is None and [(node.name, node.path) for node in tree.nodes] == [(base[-1], None)]:
        base = base[:-1]
    for path, node in flatten(base, tree):
        content = Content(node.format, node.type, node.value)
        if node.value is None and not node.children and changing.find(path) is not None:
            continue  # a fixed or already added interior node, named for its position only
        if node.children or node.format == Format.NODE:
            if changing.find(path) is None:
                changing.add(path, Content("node", node.type))
        else:
            if changing.find(path) is None:
                changing.add(path, content)
            else:
                changing.replace(path, content)
            written.append(path)
        if node.acl:
            changing.replace_property(path, "ACL", node.acl)
    return written


def replace_tnds(changing: Transaction, base: Path, tree: MgmtTree) -> list[Path]:
    """Put the document in the place of the dynamic subtree at `base`, which it must name. As `from_tnds` otherwise."""
    if len(tree.nodes) != 1 or next(path for path, _ in flatten(base[:-1], tree)) != base:
        raise Refusal(Code.BAD_REQUEST, f"a tree for {show(base)} expected")
    changing.clear(base)
    return from_tnds(changing, base, tree)


def put_tnds(changing: Transaction, base: Path, tree: MgmtTree) -> None:
    """Write a bootstrap document by the device's own right, else as `from_tnds` does. Refuse what is not described."""
    for path, node in flatten(base, tree):
        acl = None
        if node.acl:
            try:
                acl = Acl.parse(node.acl)
            except ValueError as error:
                raise Refusal(Code.BAD_REQUEST, str(error)) from None
        changing.put(path, "" if node.value is None else node.value, acl=acl)


def flatten(base: Path, tree: MgmtTree) -> Iterator[tuple[Path, TndsNode]]:
    """Every node with its path from the root, parents first. Raises `Refusal` for too many or too deep."""
    count = 0
    pending: list[tuple[Path, TndsNode]] = []
    for node in reversed(tree.nodes):
        parent = base if node.path is None else parse_path(node.path or ".")
        pending.append((parent, node))
    while pending:
        parent, node = pending.pop()
        count += 1
        if count > NODES_MAX or len(parent) >= DEPTH_MAX:
            raise Refusal(Code.TOO_LARGE, "more or deeper nodes than the tree may have")
        path = parent if node.name in {".", ""} else (*parent, *parse_path(node.name))
        yield path, node
        pending.extend((path, child) for child in reversed(node.children))
