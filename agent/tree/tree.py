"""The management tree: nodes, and what the commands of OMA DM do to them. Sans-IO, without locks.

A tree is an immutable value (`agent.tree.nodes.State`): a transaction works on its own copy, shares every untouched
node with the committed one, and is dropped without a trace when it is not committed. A savepoint is a reference.

What may exist is said by `agent.tree.schema`. Fixed and live nodes exist without being stored.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.tree import acl as acls
from agent.tree.acl import Acl
from agent.tree.nodes import NOTHING, Content, Node, State, stored_nodes, timestamp, value_bytes
from agent.tree.schema import Access, Format, NodeSpec, Path, check_value
from agent.tree.uri import check_name, show
from omadm.codes import Code, Refusal

DEVICE = ""  # the "server" of transactions that the device itself makes; no ACL applies to it
NODES_MAX = 4096  # some 100 tasks with all their settings fit ten times over
WALK_MAX = 4096  # nodes of one subtree listing


@dataclass(frozen=True, slots=True)
class ExistingNode:
    """A node that exists: its description, what is stored of it, and the ACL that holds for it."""

    path: Path
    spec: NodeSpec
    node: Node | None
    acl: Acl
    parent_acl: Acl

    @property
    def properties(self) -> Node:
        """The stored node, or what stands for it where nothing is stored."""
        return self.node or Node(self.spec.format, self.spec.default, self.spec.type)


class Transaction:
    """Commands on a working copy. `server` is the identifier that ACLs are asked about, or `DEVICE`.

    Every command raises `Refusal`; then the working copy is as before the command.
    """

    def __init__(self, schema: NodeSpec, state: State, *, server: str, wall: float) -> None:
        self._schema = schema
        self._server = server
        self._wall = int(wall)
        self._count = sum(1 for _ in stored_nodes(state.root))
        self.state = state

    # -- looking ----------------------------------------------------------------------------------------------

    @property
    def wall(self) -> int:
        """Seconds since 1970 when this was begun."""
        return self._wall

    def find(self, path: Path) -> ExistingNode | None:
        """The node at `path`, whoever asks."""
        spec, node = self._schema, self.state.root
        current: Node | None = node
        acl = parent_acl = node.acl or acls.ROOT
        for depth, name in enumerate(path):
            child_spec = spec.child(name)
            if child_spec is None:
                return None
            child = current.children.get(name) if current else None
            if child is None and not _implied(spec, child_spec, path[:depth], name):
                return None
            parent_acl = acl
            acl = (child.acl if child else None) or acl
            spec, current = child_spec, child
        return ExistingNode(path, spec, current, acl, parent_acl)

    def existing(self, path: Path) -> ExistingNode:
        """Return the node at `path`. Raises `Refusal` 404."""
        found = self.find(path)
        if found is None:
            raise Refusal(Code.NOT_FOUND, show(path))
        return found

    def names(self, existing: ExistingNode) -> list[str]:
        """The children of an interior node: described ones in order, then the others by name."""
        stored = set(existing.node.children) if existing.node else set()
        live = set(existing.spec.names(existing.path)) if existing.spec.names else set()
        named = [spec.name for spec in existing.spec.children if spec.fixed or spec.name in stored]
        reachable = {name for name in stored | live if existing.spec.child(name) is not None}
        return named + sorted(reachable - {spec.name for spec in existing.spec.children})

    def value(self, existing: ExistingNode) -> str | bytes:
        """The value of a leaf."""
        if existing.spec.live is not None:
            return existing.spec.live(existing.path)
        value = existing.properties.value
        return b"" if existing.spec.format is Format.BIN and not value else value

    def text(self, path: Path, default: str = "") -> str:
        """The text of a leaf for the device's own use; `default` when there is no such node."""
        existing = self.find(path)
        if existing is None or existing.spec.interior:
            return default
        value = self.value(existing)
        return value if isinstance(value, str) else value.decode("utf-8", "replace")

    def allowed(self, acl: Acl, command: str) -> bool:
        return self._server == DEVICE or acl.allows(command, self._server)

    def readable(self, existing: ExistingNode) -> bool:
        """Whether a Get of this node would be answered."""
        if self._server == DEVICE:
            return not existing.spec.secret
        return bool(existing.spec.access & Access.GET) and self.allowed(existing.acl, "Get")

    def walk(self, path: Path) -> Iterator[ExistingNode]:
        """The subtree at `path`, parents before children, without the parts that may not be read. Raises `Refusal`:
        404, 405, 425, and 413 above `WALK_MAX` nodes."""
        stack = [self.get(path)]
        count = 0
        while stack:
            existing = stack.pop()
            count += 1
            if count > WALK_MAX:
                raise Refusal(Code.TOO_LARGE, f"more than {WALK_MAX} nodes")
            yield existing
            if existing.spec.interior:
                below = [self.find((*existing.path, name)) for name in self.names(existing)]
                stack.extend(child for child in reversed(below) if child is not None and self.readable(child))

    # -- the commands -----------------------------------------------------------------------------------------

    def get(self, path: Path) -> ExistingNode:
        """Get: the place, for `value` or `names`."""
        existing = self.existing(path)
        if not existing.spec.access & Access.GET and self._server != DEVICE:
            raise Refusal(Code.NOT_ALLOWED, f"{show(path)} has no Get")
        self._permit(existing.acl, "Get", path)
        return existing

    def add(self, path: Path, content: Content = NOTHING) -> None:
        """Add a node, and the dynamic interior nodes above it that are missing (DM_RepPro 1.2 section 6.6.1 leaves
        that to the device)."""
        if not path or self.find(path) is not None:
            raise Refusal(Code.ALREADY_EXISTS, show(path))
        depth = len(path) - 1
        while (anchor := self.find(path[:depth])) is None:
            depth -= 1
        self._permit(anchor.acl, "Add", path)
        spec = anchor.spec
        specs: list[NodeSpec] = []
        for name in path[depth:]:
            check_name(name)
            child = spec.child(name)
            if child is None or not child.access & Access.ADD or spec.names is not None:
                raise Refusal(Code.NOT_ALLOWED, f"{show(path)} cannot be added")
            specs.append(child)
            spec = child
        self._room(anchor, len(specs))
        leaf = self._new(specs[-1], content)
        for index, middle in enumerate(specs[:-1], start=depth + 1):
            self._store(path[:index], Node(Format.NODE, type=middle.type, acl=self._creator_acl(anchor, middle)))
        self._store(path, replace(leaf, acl=self._creator_acl(anchor, specs[-1])))
        self._count += len(specs)

    def replace(self, path: Path, content: Content = NOTHING) -> None:
        """Replace the value of a leaf that exists."""
        existing = self.existing(path)
        if not existing.spec.access & Access.REPLACE or existing.spec.interior:
            raise Refusal(Code.NOT_ALLOWED, f"{show(path)} has no Replace")
        self._permit(existing.acl, "Replace", path)
        new = self._new(existing.spec, content)
        old = existing.properties
        self._store(path, replace(old, value=new.value, type=new.type or old.type))

    def delete(self, path: Path) -> None:
        """Delete a dynamic node with everything below it."""
        existing = self.existing(path)
        if existing.spec.fixed or not existing.spec.access & Access.DELETE or existing.node is None:
            raise Refusal(Code.NOT_ALLOWED, f"{show(path)} cannot be deleted")
        self._permit(existing.acl, "Delete", path)
        self._remove(path)

    def clear(self, path: Path) -> None:
        """Replace of a dynamic interior node, first half: it and everything below it goes, to be added anew."""
        existing = self.existing(path)
        if (
            existing.spec.fixed
            or not existing.spec.interior
            or not existing.spec.access & Access.REPLACE
            or existing.node is None
        ):
            raise Refusal(Code.NOT_ALLOWED, f"{show(path)} cannot be replaced whole")
        self._permit(existing.acl, "Replace", path)
        self._remove(path)

    def copy(self, source: Path, target: Path) -> None:
        """Copy leaf to leaf; the target is added, or replaced when it exists."""
        existing = self.get(source)
        if existing.spec.interior:
            raise Refusal(Code.NOT_ALLOWED, f"{show(source)} is no leaf")
        content = Content(None, existing.properties.type, self.value(existing))
        if self.find(target) is None:
            self.add(target, content)
        else:
            self.replace(target, content)

    def exec(self, path: Path) -> ExistingNode:
        """Check an Exec; what it does is the business of the management object."""
        existing = self.existing(path)
        if not existing.spec.access & Access.EXEC:
            raise Refusal(Code.NOT_ALLOWED, f"{show(path)} has no Exec")
        self._permit(existing.acl, "Exec", path)
        return existing

    # -- properties -------------------------------------------------------------------------------------------

    def property(self, path: Path, name: str) -> str:
        """Get of `?prop=name`. The ACL of a node that has none is empty, not the inherited one (TND 1.2, 7.7.1.1)."""
        existing = self.get(path)
        node = existing.properties
        if name == "Size":
            if existing.spec.interior:
                raise Refusal(Code.NOT_SUPPORTED, "an interior node has no Size")
            return str(value_bytes(self.value(existing)))
        acl = node.acl if path else existing.acl
        return {
            "ACL": acl.emit() if acl else "",
            "Format": str(existing.spec.format),
            "Name": path[-1] if path else ".",
            "Title": node.title or existing.spec.title,
            "TStamp": timestamp(node.tstamp),
            "Type": node.type or existing.spec.type,
            "VerNo": str(node.ver_no),
        }[name]

    def replace_property(self, path: Path, name: str, text: str) -> None:
        """Replace of `?prop=name`: ACL, Name and Title can be replaced (TND 1.2, 7.7.5)."""
        existing = self.existing(path)
        if name == "ACL":
            self._replace_acl(existing, text)
        elif name == "Title":
            self._permit(existing.acl, "Replace", path)
            if len(text) > 255:
                raise Refusal(Code.TOO_LARGE, "a title of more than 255 characters")
            self._store(path, replace(existing.properties, title=text))
        elif name == "Name":
            self._permit(existing.acl, "Replace", path)
            self._rename(existing, text)
        else:
            raise Refusal(Code.NOT_ALLOWED, f"{name} cannot be replaced")

    def _replace_acl(self, existing: ExistingNode, text: str) -> None:
        """Who may: Replace in the node's own ACL if it is interior; Replace in the parent's ACL for both."""
        allowed = self.allowed(existing.parent_acl, "Replace") if existing.path else False
        if existing.spec.interior:
            allowed = allowed or self.allowed(existing.acl, "Replace")
        if not allowed:
            raise Refusal(Code.PERMISSION_DENIED, f"ACL of {show(existing.path)}")
        try:
            acl = Acl.parse(text)
        except ValueError as error:
            raise Refusal(Code.BAD_REQUEST, str(error)) from None
        if not existing.path and (acl is None or not acl.allows("Add", acls.ANYONE)):
            raise Refusal(Code.NOT_ALLOWED, "the root keeps Add=*")
        self._store(existing.path, replace(existing.properties, acl=acl))

    def _rename(self, existing: ExistingNode, name: str) -> None:
        check_name(name)
        target = (*existing.path[:-1], name)
        if existing.spec.fixed or existing.node is None or not existing.path:
            raise Refusal(Code.NOT_ALLOWED, f"{show(existing.path)} keeps its name")
        parent = self.existing(existing.path[:-1])
        if parent.spec.child(name) is not existing.spec:
            raise Refusal(Code.NOT_ALLOWED, f"{show(target)} is described otherwise")
        if self.find(target) is not None:
            raise Refusal(Code.ALREADY_EXISTS, show(target))
        node = existing.node
        self._remove(existing.path)
        self._count += sum(1 for _ in stored_nodes(node))
        self._store(target, node)

    def rollback(self, savepoint: State) -> None:
        """Back to an earlier `state` of this transaction."""
        self.state = savepoint
        self._count = sum(1 for _ in stored_nodes(savepoint.root))

    # -- the device's own changes -----------------------------------------------------------------------------

    def put(self, path: Path, value: str | bytes = "", *, acl: Acl | None = None) -> None:
        """Set a node, adding it and what is missing above it. Raises `Refusal` for what the description forbids."""
        for depth in range(1, len(path)):
            existing = self.find(path[:depth])
            if existing is None or existing.node is None:
                self._put_node(path[:depth], "", None)
        self._put_node(path, value, acl)

    def _put_node(self, path: Path, value: str | bytes, acl: Acl | None) -> None:
        spec: NodeSpec | None = self._schema
        for name in path:
            check_name(name)
            spec = spec.child(name) if spec else None
        if spec is None:
            raise Refusal(Code.NOT_ALLOWED, f"{show(path)} is not described")
        existing = self.find(path)
        old = existing.node if existing else None
        if old is None:
            self._count += 1
            if self._count > NODES_MAX:
                raise Refusal(Code.DEVICE_FULL, f"more than {NODES_MAX} nodes")
        new = Node(Format.NODE, type=spec.type) if spec.interior else self._new(spec, Content(value=value))
        kept = old or new
        self._store(path, replace(kept, value=new.value, acl=acl or kept.acl))

    def drop(self, path: Path) -> None:
        """Remove a stored node with everything below it; nothing happens when there is none."""
        existing = self.find(path)
        if path and existing is not None and existing.node is not None:
            self._remove(path)

    def record(self, name: str) -> dict[str, Any]:
        """A copy of the record `name`, empty when there is none."""
        return dict(self.state.records.get(name, {}))

    def set_record(self, name: str, value: Mapping[str, Any] | None) -> None:
        """Replace a record, or remove it with `None`. The value must be JSON."""
        records = {key: old for key, old in self.state.records.items() if key != name}
        if value is not None:
            records[name] = dict(value)
        self.state = replace(self.state, records=records)

    def update_record(self, name: str, **members: object) -> None:
        """Replace these members of a record and keep its others."""
        self.set_record(name, {**self.record(name), **members})

    # -- inner parts ------------------------------------------------------------------------------------------

    def _permit(self, acl: Acl, command: str, path: Path) -> None:
        if not self.allowed(acl, command):
            raise Refusal(Code.PERMISSION_DENIED, f"{command} of {show(path)} for {self._server}")

    def _room(self, anchor: ExistingNode, more: int) -> None:
        stored = len(anchor.node.children) if anchor.node else 0
        if stored >= anchor.spec.names_max or self._count + more > NODES_MAX:
            raise Refusal(Code.DEVICE_FULL, f"no more nodes below {show(anchor.path)}")

    def _creator_acl(self, anchor: ExistingNode, spec: NodeSpec) -> Acl | None:
        """TND 1.2, 7.7.1.3: a server without Replace on the parent gets Add, Delete and Replace on the interior node
        it makes. What the parent's ACL grants it for Get and Exec is kept, or it could not read its own node."""
        if self._server == DEVICE or not spec.interior or anchor.acl.allows("Replace", self._server):
            return None
        commands = ["Add", "Delete", "Replace"]
        commands += [command for command in ("Get", "Exec") if anchor.acl.allows(command, self._server)]
        return Acl.granting(dict.fromkeys(sorted(commands), (self._server,)))

    def _new(self, spec: NodeSpec, content: Content) -> Node:
        """A node for `spec`. Raises `Refusal` 415 for another format, 400 for a value that cannot be."""
        format_, value = content.format, content.value
        if spec.interior:
            if format_ not in {None, "node"} or value:
                raise Refusal(Code.UNSUPPORTED_FORMAT, "an interior node")
            return Node(Format.NODE, type=content.type or spec.type)
        wanted = {spec.format, Format.B64} if spec.format is Format.BIN else {spec.format}
        if format_ is not None and format_ not in wanted:
            raise Refusal(Code.UNSUPPORTED_FORMAT, f"{format_}, where {spec.format} is")
        if value is None:
            value = b"" if spec.format is Format.BIN else ""
        if spec.format is Format.BIN and isinstance(value, str):
            value = _binary(value, base64_text=format_ == Format.B64)
        if len(value) > spec.value_chars_max:
            raise Refusal(Code.TOO_LARGE, f"{len(value)}, more than {spec.value_chars_max}")
        try:
            checked = check_value(spec, value)
        except ValueError as error:
            raise Refusal(Code.BAD_REQUEST, str(error)) from None
        return Node(spec.format, checked, content.type or spec.type)

    def _store(self, path: Path, node: Node) -> None:
        old = self._stored_at(path)
        ver_no = ((old.ver_no if old else -1) + 1) % 0x10000
        stamped = replace(node, tstamp=self._wall, ver_no=ver_no)
        self.state = replace(self.state, root=_with(self.state.root, self._schema, path, stamped))

    def _remove(self, path: Path) -> None:
        node = self._stored_at(path)
        self._count -= sum(1 for _ in stored_nodes(node)) if node else 0
        self.state = replace(self.state, root=_with(self.state.root, self._schema, path, None))

    def _stored_at(self, path: Path) -> Node | None:
        node: Node | None = self.state.root
        for name in path:
            node = node.children.get(name) if node else None
        return node


def _implied(parent: NodeSpec, spec: NodeSpec, parent_path: Path, name: str) -> bool:
    """Whether a node exists without being stored."""
    if spec.fixed:
        return True
    return parent.names is not None and name in parent.names(parent_path)


def _with(node: Node, spec: NodeSpec, path: Path, new: Node | None) -> Node:
    """`node` with the node at `path` replaced, or removed. Fixed nodes on the way come into being."""
    if not path:
        return new or Node(Format.NODE)
    name, rest = path[0], path[1:]
    child_spec = spec.child(name)
    if child_spec is None:
        raise Refusal(Code.NOT_FOUND, name)
    children = dict(node.children)
    if not rest and new is None:
        children.pop(name, None)
    else:
        below = children.get(name) or Node(child_spec.format, type=child_spec.type)
        children[name] = _with(below, child_spec, rest, new)
    return replace(node, children=children)


def _binary(text: str, *, base64_text: bool) -> bytes:
    if base64_text:
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except binascii.Error:
            raise Refusal(Code.BAD_REQUEST, "not base64") from None
    return text.encode("utf-8")
