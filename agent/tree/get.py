"""What a Get is answered with: a value, a property, the names below a node, or a subtree (OMA-TS-DM_TND 1.2, 7.7)."""

from __future__ import annotations

from agent.tree.schema import Format
from agent.tree.tnds import to_tnds
from agent.tree.tree import ExistingNode, Transaction
from agent.tree.uri import parse_uri, show
from omadm.syncml.document import TNDS_XML
from omadm.syncml.messages import Item, Meta


def results_of(looking: Transaction, item: Item) -> tuple[Item, ...]:
    """The items of the Results for one item of a Get. Raises `Refusal`."""
    address = parse_uri(item.target)
    if address.prop:
        text = looking.property(address.path, address.prop)
        return (Item(source=item.target, meta=Meta(format="chr", type="text/plain"), data=text),)
    if address.list == "TNDS":
        tree = to_tnds(looking, address.path, address.parts)
        return (Item(source=show(address.path), meta=Meta(format="xml", type=TNDS_XML), data=tree),)
    if address.list:
        with_data = address.list == "StructData"
        return tuple(_struct(looking, existing, with_data=with_data) for existing in looking.walk(address.path))
    return (_value(looking, looking.get(address.path), item.target or ""),)


def _value(looking: Transaction, existing: ExistingNode, source: str) -> Item:
    if existing.spec.interior:
        names = [name for name in looking.names(existing) if looking.find((*existing.path, name)) is not None]
        return Item(source=source, meta=Meta(format="node"), data="/".join(names))
    value = looking.value(existing)
    return Item(source=source, meta=_meta(existing, value), data=value)


def _struct(looking: Transaction, existing: ExistingNode, *, with_data: bool) -> Item:
    if existing.spec.interior:
        return Item(source=show(existing.path), meta=Meta(format="node", type=existing.properties.type or None))
    value = looking.value(existing)
    return Item(source=show(existing.path), meta=_meta(existing, value), data=value if with_data else None)


def _meta(existing: ExistingNode, value: str | bytes) -> Meta:
    binary = isinstance(value, bytes)
    return Meta(
        format=str(Format.BIN if binary else existing.spec.format),
        type=existing.properties.type or ("application/octet-stream" if binary else "text/plain"),
    )
