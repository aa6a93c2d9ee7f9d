"""COSEM values, references and message fields as nodes."""

from __future__ import annotations

import dataclasses
from enum import Enum, IntEnum, IntFlag

from dlms.axdr import DATE_TIME_OCTETS, CompactArray, Data, Tag
from dlms.codes import kebab
from dlms.cosem.classes import attribute_name, interface_class, method_name
from dlms.cosem.dictionary import describe
from dlms.cosem.obis import AttributeRef, MethodRef, Obis
from dlms.cosem.time import CosemDateTime
from dlms.errors import DlmsError
from dlms.explain.node import Node, octets_text
from dlms.xdlms.apdu.common import AccessError, ActionOutcome

# Fields that would show a secret. The tree is often pasted into a mail.
SECRET_FIELDS = frozenset({"dedicated_key"})


def data_node(data: Data, label: str = "") -> Node:
    """One value with its type; structures and arrays with their members."""
    kind = Tag(data.tag).name.lower().replace("_", "-")
    name = f"{label} {kind}" if label else kind
    value = data.value
    if isinstance(value, tuple):
        return Node(name, f"{len(value)} elements", tuple([data_node(member) for member in value]))
    if isinstance(value, CompactArray):
        try:
            elements = value.elements()
        except DlmsError as error:
            return Node(name, str(error))
        return Node(name, f"{len(elements)} elements", tuple([data_node(element) for element in elements]))
    if isinstance(value, bytes):
        return Node(name, octets_text(value) + _moment(data.tag, value))
    return Node(name, "" if value is None else str(value).lower() if isinstance(value, bool) else str(value))


def _moment(tag: int, octets: bytes) -> str:
    """A date-time behind its octets, where they can be one."""
    if len(octets) != DATE_TIME_OCTETS or tag not in (Tag.OCTET_STRING, Tag.DATE_TIME):
        return ""
    moment = CosemDateTime.parse(octets)
    plausible = 1990 <= moment.year < 2200 and 1 <= moment.month <= 12 and 1 <= moment.day <= 31 and moment.hour < 24
    return f" ({moment})" if plausible or tag == Tag.DATE_TIME else ""


def ref_text(ref: AttributeRef | MethodRef) -> str:
    """An attribute or method with the names of its class and its code."""
    known = interface_class(ref.class_id)
    class_name = known.name if known else f"class {ref.class_id}"
    meaning = describe(ref.obis)
    tail = f" ({meaning})" if meaning else ""
    if isinstance(ref, AttributeRef):
        return f"{class_name} {ref.obis} attribute {ref.attribute} {attribute_name(ref.class_id, ref.attribute)}{tail}"
    return f"{class_name} {ref.obis} method {ref.method} {method_name(ref.class_id, ref.method)}{tail}"


def field_node(label: str, value: object) -> Node:
    """A field of a message: whatever our dataclasses hold."""
    if isinstance(value, Data):
        return data_node(value, label)
    if isinstance(value, AttributeRef | MethodRef):
        return Node(label, ref_text(value))
    if isinstance(value, AccessError | ActionOutcome) and not getattr(value, "returned", None):
        return Node(label, f"{value.code} {value.text}")
    if isinstance(value, tuple | list):
        members = tuple([field_node(str(index), member) for index, member in enumerate(value, start=1)])
        return Node(label, f"{len(members)}", members)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Obis):
        return Node(label, "", message_fields(value))
    return Node(label, _plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return octets_text(value)
    if isinstance(value, IntFlag):
        names = [flag.name.lower().replace("_", "-") for flag in type(value) if flag & value and flag.name]
        return ", ".join(names) or "none"
    if isinstance(value, IntEnum):
        return f"{value.value} {kebab(value)}"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def message_fields(message: object) -> tuple[Node, ...]:
    """The fields of one of our message dataclasses; what is absent is left out, what is secret is not shown."""
    found: list[Node] = []
    for member in dataclasses.fields(message):  # type: ignore[arg-type]
        value = getattr(message, member.name)
        if value is None:
            continue
        label = member.name.replace("_", " ")
        found.append(Node(label, "(not shown)") if member.name in SECRET_FIELDS else field_node(label, value))
    return tuple(found)
