"""Stored nodes as immutable values, and their JSON form.

State ── root: Node ── children ── …        nodes that servers made or changed, and their properties
      └─ records: name → JSON object        what the device must not lose together with them (jobs, alerts)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.tree.acl import Acl
from agent.tree.schema import DEPTH_MAX, Format


@dataclass(frozen=True, slots=True)
class Node:
    """One stored node. `value` is "" for interior nodes; `ver_no` counts changes modulo 2^16 (TND 1.2, 7.7.7)."""

    format: Format
    value: str | bytes = field(default="", repr=False)
    type: str = ""
    acl: Acl | None = None
    title: str = ""
    tstamp: int = 0
    ver_no: int = 0
    children: Mapping[str, Node] = field(default_factory=dict)


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


def stored_nodes(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    yield node
    for child in node.children.values():
        yield from stored_nodes(child)


def value_bytes(value: str | bytes) -> int:
    """The Size property: bytes of the value as UTF-8."""
    return len(value.encode("utf-8")) if isinstance(value, str) else len(value)


def timestamp(epoch: int) -> str:
    """ISO 8601 basic format in UTC, as the TStamp property has it; empty for never."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y%m%dT%H%M%SZ") if epoch else ""


# -- the stored form ------------------------------------------------------------------------------------------


def state_to_json(state: State) -> dict[str, Any]:
    """The state as JSON has it: `root`, a node with its children below `c`, and `records` by name."""
    return {"root": _node_to_json(state.root), "records": {name: dict(r) for name, r in state.records.items()}}


def state_from_json(document: Any) -> State:
    """The state that `state_to_json` wrote down. Raises `ValueError` for anything else."""
    try:
        records = {name: dict(record) for name, record in document["records"].items()}
        return State(_node_from_json(document["root"], 0), records)
    except (KeyError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise ValueError(f"not a stored tree: {error!r}") from None


def _node_to_json(node: Node) -> dict[str, Any]:
    out: dict[str, Any] = {"f": str(node.format), "s": node.tstamp, "r": node.ver_no}
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
        out["c"] = {name: _node_to_json(child) for name, child in node.children.items()}
    return out


def _node_from_json(out: Any, depth: int) -> Node:
    if depth > DEPTH_MAX:
        raise ValueError("not a stored tree: too deep")
    value: str | bytes = base64.b64decode(out["b"], validate=True) if "b" in out else out.get("v", "")
    texts = (out.get("v", ""), out.get("t", ""), out.get("n", ""), out.get("a", ""))
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("text expected")
    return Node(
        format=Format(out["f"]),
        value=value,
        type=out.get("t", ""),
        acl=Acl.parse(out.get("a", "")),
        title=out.get("n", ""),
        tstamp=int(out["s"]),
        ver_no=int(out["r"]),
        children={name: _node_from_json(child, depth + 1) for name, child in out.get("c", {}).items()},
    )
