"""Stored nodes as immutable values, and their JSON form.

State ── root: Node ── children ── …        nodes that servers made or changed, and their properties
      └─ records: name → JSON object        what the device must not lose together with them (jobs, alerts)

What a later version of the program stored and this one does not know (a member, a format) is `foreign`: it is kept as
it came and written back, and nobody sees it (docs/decisions/0014).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from agent.tree.acl import Acl
from agent.tree.schema import DEPTH_MAX, Format

NO_MEMBERS: Mapping[str, Any] = MappingProxyType({})
_NODE_MEMBERS = frozenset("fsrbvtanc")


@dataclass(frozen=True, slots=True)
class Node:
    """One stored node. `value` is "" for interior nodes; `ver_no` counts changes modulo 2^16 (TND 1.2, 7.7.7).
    `foreign`: members of its stored form that this program does not know; below `c`, children that it cannot read."""

    format: Format
    value: str | bytes = field(default="", repr=False)
    type: str = ""
    acl: Acl | None = None
    title: str = ""
    tstamp: int = 0
    ver_no: int = 0
    children: Mapping[str, Node] = field(default_factory=dict)
    foreign: Mapping[str, Any] = field(default_factory=lambda: NO_MEMBERS, repr=False)


@dataclass(frozen=True, slots=True)
class Content:
    """What Add and Replace bring: Meta Format and Type as sent (`None`: not sent) and the data."""

    format: str | None = None
    type: str | None = None
    value: str | bytes | None = field(default=None, repr=False)


NOTHING = Content()


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is stored."""

    root: Node = Node(Format.NODE)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    foreign: Mapping[str, Any] = field(default_factory=lambda: NO_MEMBERS, repr=False)


def stored_nodes(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    yield node
    for child in node.children.values():
        yield from stored_nodes(child)


def value_bytes(value: str | bytes) -> int:
    """The Size property: bytes of the value as UTF-8, also of what a file has given that is no text: it is refused when
    it is to be written into a message."""
    return len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else len(value)


def timestamp(epoch: int) -> str:
    """ISO 8601 basic format in UTC, as the TStamp property has it; empty for never."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y%m%dT%H%M%SZ") if epoch else ""


_UNREADABLE = (KeyError, TypeError, AttributeError, OverflowError, ValueError)  # binascii.Error is a ValueError

# -- the stored form ------------------------------------------------------------------------------------------


def state_to_json(state: State) -> dict[str, Any]:
    """The state as JSON has it: `root`, a node with its children below `c`, and `records` by name."""
    records = {name: dict(r) for name, r in state.records.items()}
    return {**state.foreign, "root": _node_to_json(state.root), "records": records}


def state_from_json(document: Any) -> State:
    """The state that `state_to_json` wrote down, in this or a later version. Raises `ValueError` for anything else."""
    try:
        records = {name: dict(record) for name, record in document["records"].items()}
        foreign = {name: value for name, value in document.items() if name not in ("root", "records")}
        return State(_node_from_json(document["root"], 0), records, foreign or NO_MEMBERS)
    except _UNREADABLE as error:
        raise ValueError(f"not a stored tree: {error!r}") from None


def foreign_nodes(node: Node) -> int:
    """How many nodes at and below `node` this program keeps without being able to read them."""
    return sum(_count(raw) for each in stored_nodes(node) for raw in each.foreign.get("c", {}).values())


def _count(raw: Any) -> int:
    below = raw.get("c") if isinstance(raw, dict) else None
    return 1 + (sum(map(_count, below.values())) if isinstance(below, dict) else 0)


def _node_to_json(node: Node) -> dict[str, Any]:
    out: dict[str, Any] = {**node.foreign, "f": str(node.format), "s": node.tstamp, "r": node.ver_no}
    if isinstance(node.value, bytes):
        out["b"] = base64.b64encode(node.value).decode("ascii")
    elif node.value:
        out["v"] = node.value
    if node.type:
        out["t"] = node.type
    if node.acl is not None:
        out["a"] = node.acl.emit()
    if node.title:
        out["n"] = node.title
    if node.children:
        out["c"] = {**out.get("c", {}), **{name: _node_to_json(child) for name, child in node.children.items()}}
    return out


def _node_from_json(out: Any, depth: int) -> Node:
    if depth > DEPTH_MAX:
        raise ValueError("not a stored tree: too deep")
    value: str | bytes = base64.b64decode(out["b"], validate=True) if "b" in out else out.get("v", "")
    texts = (out.get("v", ""), out.get("t", ""), out.get("n", ""), out.get("a", ""))
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("text expected")
    foreign = {name: member for name, member in out.items() if name not in _NODE_MEMBERS}
    children, unread = _children_from_json(out.get("c", {}), depth + 1)
    if unread:
        foreign["c"] = unread
    return Node(
        format=Format(out["f"]),
        value=value,
        type=out.get("t", ""),
        acl=Acl.parse(out.get("a", "")),
        title=out.get("n", ""),
        tstamp=int(out["s"]),
        ver_no=int(out["r"]),
        children=children,
        foreign=foreign or NO_MEMBERS,
    )


def _children_from_json(raw: Any, depth: int) -> tuple[dict[str, Node], dict[str, Any]]:
    """The children that can be read, and the others as they are: one node that cannot be read costs one node."""
    children: dict[str, Node] = {}
    unread: dict[str, Any] = {}
    for name, child in raw.items():
        try:
            children[name] = _node_from_json(child, depth)
        except _UNREADABLE:
            unread[name] = child
    return children, unread
