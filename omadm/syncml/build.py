"""`SyncML` → elements, in the order of the DTD. The counterpart of `document`."""

from __future__ import annotations

from dataclasses import replace

from omadm.syncml import tnds, wbxml
from omadm.syncml.document import TNDS_WBXML, TNDS_XML
from omadm.syncml.element import PAGE_METINF, Element
from omadm.syncml.messages import (
    Alert,
    Atomic,
    Chal,
    Command,
    Cred,
    Exec,
    Item,
    Malformed,
    Meta,
    MgmtTree,
    Results,
    Sequence,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    Unsupported,
)
from omadm.syncml.text import to_base64


def build(message: SyncML, *, binary: bool) -> Element:
    """The `SyncML` element of a message; `binary` for WBXML. Raises `SyncmlValueError`."""
    body = Element("SyncBody", content=[_command(command, binary=binary) for command in message.commands])
    if message.final:
        body.content.append(Element("Final"))
    return Element("SyncML", content=[_header(message.hdr), body])


def _leaf(name: str, text: str | int) -> Element:
    return Element(name, content=[str(text)] if text != "" else [])


def _optional(name: str, text: str | int | None) -> list[Element]:
    return [] if text is None else [_leaf(name, text)]


def _located(name: str, uri: str | None, loc_name: str | None) -> list[Element]:
    if uri is None and loc_name is None:
        return []
    return [Element(name, content=[_leaf("LocURI", uri or ""), *_optional("LocName", loc_name)])]


def _header(hdr: SyncHdr) -> Element:
    return Element(
        "SyncHdr",
        content=[
            _leaf("VerDTD", hdr.ver_dtd),
            _leaf("VerProto", hdr.ver_proto),
            _leaf("SessionID", hdr.session_id),
            _leaf("MsgID", hdr.msg_ref),
            *_located("Target", hdr.target, hdr.target_name),
            *_located("Source", hdr.source, hdr.source_name),
            *_optional("RespURI", hdr.resp_uri),
            *_no_resp(hdr.no_resp),
            *_cred(hdr.cred),
            *_meta(hdr.meta),
        ],
    )


def _no_resp(flag: bool) -> list[Element]:
    return [Element("NoResp")] if flag else []


def _cred(cred: Cred | None) -> list[Element]:
    if cred is None:
        return []
    return [Element("Cred", content=[*_meta(Meta(format=cred.format, type=cred.type)), _leaf("Data", cred.data)])]


def _chal(chal: Chal | None) -> list[Element]:
    if chal is None:
        return []
    meta = Meta(format=chal.format, type=chal.type, next_nonce=chal.next_nonce)
    return [Element("Chal", content=[*_meta(meta)])]


def _meta(meta: Meta | None) -> list[Element]:
    if meta is None:
        return []
    nonce = None if meta.next_nonce is None else to_base64(meta.next_nonce)
    fields = (
        ("Format", meta.format),
        ("Type", meta.type),
        ("Mark", meta.mark),
        ("Size", meta.size),
        ("NextNonce", nonce),
        ("MaxMsgSize", meta.max_msg_size),
        ("MaxObjSize", meta.max_obj_size),
        *(("EMI", text) for text in meta.emi),
    )
    present = [Element(name, PAGE_METINF, _content(value)) for name, value in fields if value is not None]
    return [Element("Meta", content=[*present])]


def _content(value: str | int) -> list[Element | str | bytes]:
    return [str(value)] if value != "" else []


def _command(command: Command, *, binary: bool) -> Element:
    name = type(command).__name__
    match command:
        case Status():
            return _status(command, binary=binary)
        case Results():
            return _results(command, binary=binary)
        case Alert():
            data = _optional("Data", command.code)
            tail = _optional("Correlator", command.correlator)
            items = _items(command.items, None, binary=binary)
            return Element(name, content=[*_start(command), *data, *tail, *items])
        case Atomic() | Sequence():
            nested = [_command(inner, binary=binary) for inner in command.commands]
            return Element(name, content=[*_start(command), *_meta(command.meta), *nested])
        case Exec():
            tail = _optional("Correlator", command.correlator)
            items = _items(command.items, command.meta, binary=binary)
            return Element(name, content=[*_start(command), *_meta(command.meta), *tail, *items])
        case Unsupported():
            raise SyncmlValueError(f"{command.name}: a command that DM does not use is never sent")
        case Malformed():
            raise SyncmlValueError(f"{command.name}: a command that could not be read is never sent")
        case _:
            items = _items(command.items, command.meta, binary=binary)
            return Element(name, content=[*_start(command), *_meta(command.meta), *items])


def _start(command: Command) -> list[Element]:
    if not command.cmd_id:
        raise SyncmlValueError(f"{type(command).__name__}: no CmdID")
    no_resp = not isinstance(command, Status | Results) and command.no_resp
    return [_leaf("CmdID", command.cmd_id), *_no_resp(no_resp)]


def _status(status: Status, *, binary: bool) -> Element:
    return Element(
        "Status",
        content=[
            *_start(status),
            _leaf("MsgRef", status.msg_ref),
            _leaf("CmdRef", status.cmd_ref),
            _leaf("Cmd", status.cmd),
            *(_leaf("TargetRef", ref) for ref in status.target_refs),
            *(_leaf("SourceRef", ref) for ref in status.source_refs),
            *_cred(status.cred),
            *_chal(status.chal),
            _leaf("Data", status.code),
            *_items(status.items, None, binary=binary),
        ],
    )


def _results(results: Results, *, binary: bool) -> Element:
    return Element(
        "Results",
        content=[
            *_start(results),
            *_optional("MsgRef", results.msg_ref),
            _leaf("CmdRef", results.cmd_ref),
            *_meta(results.meta),
            *_optional("TargetRef", results.target_ref),
            *_optional("SourceRef", results.source_ref),
            *_items(results.items, results.meta, binary=binary),
        ],
    )


def _items(items: tuple[Item, ...], outer: Meta | None, *, binary: bool) -> list[Element]:
    return [_item(item, outer, binary=binary) for item in items]


def _item(item: Item, outer: Meta | None, *, binary: bool) -> Element:
    meta, data = _data(item, outer, binary=binary)
    return Element(
        "Item",
        content=[
            *_located("Target", item.target, item.target_name),
            *_located("Source", item.source, item.source_name),
            *_meta(meta),
            *data,
            *([Element("MoreData")] if item.more_data else []),
        ],
    )


def _data(item: Item, outer: Meta | None, *, binary: bool) -> tuple[Meta | None, list[Element]]:
    """The `Data` element, and the item's `Meta` adapted to this encoding."""
    data = item.data
    if data is None:
        return item.meta, []
    if isinstance(data, MgmtTree):
        return _tree(item.meta, outer, data, binary=binary)
    if isinstance(data, str):
        return item.meta, [_leaf("Data", data)]
    meta, around = item.meta or Meta(), outer or Meta()
    given = meta.format or around.format
    if given is None or (not binary and given not in tnds.BINARY_FORMATS):
        meta = replace(meta, format="bin")
    content = Element("Data", content=[data]) if binary else _leaf("Data", to_base64(data))
    return (None if meta == Meta() else meta), [content]


def _tree(meta: Meta | None, outer: Meta | None, tree: MgmtTree, *, binary: bool) -> tuple[Meta | None, list[Element]]:
    """An embedded document: elements in XML, opaque data in WBXML; `Meta/Type` is set accordingly."""
    element = tnds.build(tree, binary=binary)
    wanted = TNDS_WBXML if binary else TNDS_XML
    if ((meta and meta.type) or (outer and outer.type)) != wanted:
        meta = replace(meta or Meta(format="xml"), type=wanted)
    return meta, [Element("Data", content=[wbxml.write(element) if binary else element])]
