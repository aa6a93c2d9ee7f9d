"""Elements → `SyncML`: interprets a peer's document (OMA-TS-SyncML_RepPro 1.2, OMA-TS-DM_RepPro 1.2).

It is liberal about the order of elements, about unknown ones (skipped inside commands, and reported as `Unsupported`
beside them), and about a missing `MetInf` in `Meta`. It is strict where a wrong guess would do harm: in numbers and
references, and where an element that may stand once stands twice, or has elements in the place of text. What is wrong
inside a command makes that one `Malformed`; the others stand. What is wrong in the header counts as not said, and is in
`SyncHdr.unread`; only without SessionID, MsgID, Target or Source there is no message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from omadm.syncml import tnds, wbxml, xml
from omadm.syncml.element import Element, Spent
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import (
    Add,
    Alert,
    Atomic,
    Chal,
    Command,
    Copy,
    Cred,
    Delete,
    Exec,
    Get,
    Item,
    Malformed,
    Meta,
    MgmtTree,
    Replace,
    Results,
    Sequence,
    Status,
    SyncHdr,
    SyncML,
    SyncmlValueError,
    Unsupported,
)
from omadm.syncml.text import DIGITS_MAX, from_base64, integer, repeatable

WHAT = "SyncML message"
CMD_ID_BYTES_MAX = 64  # opaque: peers use GUIDs
MSG_ID_CHARS_MAX = 64  # opaque likewise; most count from 1
TNDS_XML = "application/vnd.syncml.dmtnds+xml"
TNDS_WBXML = "application/vnd.syncml.dmtnds+wbxml"
TNDS_TYPES = frozenset({TNDS_XML, TNDS_WBXML})


# What may stand once in each of these (the DTDs of RepPro 1.2 and MetaInfo 1.2).
_ONCE_IN_HEADER = frozenset(
    ["VerDTD", "VerProto", "SessionID", "MsgID", "Target", "Source", "RespURI", "NoResp", "Cred", "Meta"]
)
_ONCE_IN_COMMAND = frozenset(
    ["CmdID", "NoResp", "Cred", "Meta", "Correlator", "Data", "MsgRef", "CmdRef", "Cmd", "Chal"]
)
_ONCE_IN_ITEM = frozenset(["Target", "Source", "TargetParent", "SourceParent", "Meta", "Data", "MoreData"])
_ONCE_IN_PLACE = frozenset(("LocURI", "LocName"))
_ONCE_IN_META = frozenset(
    ["MetInf", "Format", "Type", "Mark", "Size", "Anchor", "Version", "NextNonce", "MaxMsgSize", "MaxObjSize", "Mem"]
)
_ONCE_IN_CRED = frozenset(("Meta", "Data"))
_ONCE_IN_RESULTS = frozenset(("TargetRef", "SourceRef"))
_NEEDED_IN_HEADER = frozenset(("SessionID", "MsgID", "Target", "Source"))


@dataclass(frozen=True, slots=True)
class _Context:
    """How to read data in this document: `binary` for WBXML; `spent` counts what embedded documents have cost."""

    binary: bool
    spent: Spent


def read(root: Element, *, binary: bool, spent: Spent | None = None) -> SyncML:
    """The message. `spent` is what reading the document has cost so far. Raises `SyncmlError`."""
    if root.name != "SyncML":
        raise SyncmlError(WHAT, root.name, "the document's element is not SyncML")
    _once(root, "SyncML", ("SyncHdr", "SyncBody"))
    header, body = root.child("SyncHdr"), root.child("SyncBody")
    if header is None or body is None:
        raise SyncmlError(WHAT, "SyncML", "SyncHdr or SyncBody is missing")
    context = _Context(binary, spent or Spent())
    hdr = _header(header)
    commands = tuple(_command(e, "SyncBody", context) for e in body.elements() if e.name != "Final")
    return SyncML(hdr, commands, final=body.child("Final") is not None)


def _once(element: Element, where: str, names: Collection[str]) -> None:
    """Check that none of these stands there twice: of two values nobody knows which one is meant."""
    if twice := element.repeated(names):
        raise SyncmlError(WHAT, f"{where}/{min(twice)}", "stands more than once")


def _text(element: Element, name: str) -> str | None:
    """The text of a child without surrounding white space (of pretty-printed documents); None without such a child."""
    child = element.child(name)
    if child is None:
        return None
    if next(child.elements(), None) is not None:
        raise SyncmlError(WHAT, f"{element.name}/{name}", "elements, where a text is wanted")
    return child.text().strip()


def _ref(element: Element, name: str) -> str | None:
    """The text of a child of a command that is bad already."""
    child = element.child(name)
    return None if child is None else child.text().strip()


def _required(element: Element, name: str, where: str) -> str:
    text = _text(element, name)
    if not text:
        raise SyncmlError(WHAT, f"{where}/{name}", "missing or empty")
    return text


def _uri(element: Element, name: str) -> str | None:
    """`Target/LocURI` or `Source/LocURI`; some peers leave out LocURI and put the text in Target or Source."""
    child = element.child(name)
    if child is None:
        return None
    _once(child, f"{element.name}/{name}", _ONCE_IN_PLACE)
    return _text(child, "LocURI") if child.child("LocURI") is not None else child.text().strip() or None


def _loc_name(element: Element, name: str) -> str | None:
    child = element.child(name)
    return None if child is None else _text(child, "LocName")


def _header(element: Element) -> SyncHdr:
    _once(element, "SyncHdr", _NEEDED_IN_HEADER)
    unread: list[str] = []
    element = _said_once(element, "SyncHdr", _ONCE_IN_HEADER, unread)
    msg_id, msg_text = _msg_id(element)
    target, source = _uri(element, "Target"), _uri(element, "Source")
    if not target or not source:
        raise SyncmlError(WHAT, "SyncHdr", "Target or Source is missing or empty")
    cred = _readable(lambda: _cred(element.child("Cred")), unread)
    meta = _meta(element.child("Meta"), "SyncHdr", unread)
    try:
        return SyncHdr(
            session_id=_required(element, "SessionID", "SyncHdr"),
            msg_id=msg_id,
            msg_text=msg_text,
            target=target,
            source=source,
            target_name=_loc_name(element, "Target"),
            source_name=_loc_name(element, "Source"),
            resp_uri=_readable(lambda: _text(element, "RespURI"), unread),
            no_resp=element.child("NoResp") is not None,
            cred=cred,
            meta=meta,
            ver_dtd=_readable(lambda: _text(element, "VerDTD") or "", unread) or "",
            ver_proto=_readable(lambda: _text(element, "VerProto") or "", unread) or "",
            unread=tuple(unread),
        )
    except SyncmlValueError as error:
        raise SyncmlError(WHAT, "SyncHdr", str(error)) from error


def _said_once(element: Element, where: str, once: Collection[str], unread: list[str] | None) -> Element:
    """The element; with a list `unread`, what stands in it more than once counts as not said, and is noted there."""
    if unread is None:
        _once(element, where, once)
        return element
    twice = element.repeated(once)
    unread += [f"{WHAT}, {where}/{name}: stands more than once" for name in sorted(twice)]
    kept = [part for part in element.content if not isinstance(part, Element) or part.name not in twice]
    return Element(element.name, element.page, kept) if twice else element


def _msg_id(header: Element) -> tuple[int, str]:
    """The MsgID as a number, and as it is written where that is another text. RepPro 1.2 leaves its form open."""
    text = _required(header, "MsgID", "SyncHdr")
    if len(text) > MSG_ID_CHARS_MAX or not repeatable(text):
        raise SyncmlError(WHAT, "SyncHdr/MsgID", "too long, or a character that no answer can repeat")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX else 0
    return number, "" if text == str(number) else text


_Read = TypeVar("_Read")


def _readable(read: Callable[[], _Read], unread: list[str] | None) -> _Read | None:
    """What `read` returns; None for a value that is none, if there is a list `unread` to say so in."""
    try:
        return read()
    except SyncmlError as error:
        if unread is None:
            raise
        unread.append(str(error))
        return None


def _cred(element: Element | None) -> Cred | None:
    if element is None:
        return None
    _once(element, "Cred", _ONCE_IN_CRED)
    meta = _meta(element.child("Meta"), "Cred") or Meta()
    return Cred(_text(element, "Data") or "", meta.type or "syncml:auth-basic", meta.format)


def _chal(element: Element | None) -> Chal | None:
    if element is None:
        return None
    _once(element, "Chal", ("Meta",))
    meta = _meta(element.child("Meta"), "Chal") or Meta()
    return Chal(meta.type or "", meta.format, meta.next_nonce)


def _meta(element: Element | None, where: str, unread: list[str] | None = None) -> Meta | None:
    """`Meta`. With `unread`, a bad value in it costs no more than that value: it counts as not said."""
    if element is None:
        return None
    where = f"{where}/Meta"
    element = _said_once(element, where, _ONCE_IN_META, unread)
    inner = _said_once(element.child("MetInf") or element, where, _ONCE_IN_META, unread)

    def number(name: str) -> int | None:
        return _readable(lambda: integer(inner.child(name), WHAT, where), unread)

    def text(name: str) -> str | None:
        return _readable(lambda: _text(inner, name), unread) or None

    return Meta(
        format=text("Format"),
        type=text("Type"),
        mark=text("Mark"),
        size=number("Size"),
        next_nonce=_readable(lambda: _nonce(inner.child("NextNonce"), where), unread),
        max_msg_size=number("MaxMsgSize"),
        max_obj_size=number("MaxObjSize"),
        emi=_texts(inner, "EMI"),
    )


def _nonce(element: Element | None, where: str) -> bytes | None:
    if element is None:
        return None
    nonce = from_base64(element.text())
    if nonce is None:
        raise SyncmlError(WHAT, f"{where}/NextNonce", "not base64")
    return nonce


def _command(element: Element, where: str, context: _Context) -> Command:
    where = f"{where}/{element.name}"
    no_resp = element.child("NoResp") is not None
    cmd_id = ""
    try:
        _once(element, where, ("CmdID",))
        cmd_id = _id(element, "CmdID", where) or ""
        _once(element, where, _ONCE_IN_COMMAND)
        reader = _READERS.get(element.name)
        if reader is None:
            return Unsupported(cmd_id, element.name, no_resp)
        return reader(element, where, cmd_id, no_resp, context)
    except SyncmlError as error:
        refs = _ref(element, "MsgRef"), _ref(element, "CmdRef")
        return Malformed(cmd_id, element.name, str(error), no_resp, *refs)


def _id(element: Element, name: str, where: str) -> str | None:
    text = _text(element, name)
    if text is not None and len(text.encode("utf-8", "surrogatepass")) > CMD_ID_BYTES_MAX:
        raise SyncmlError(WHAT, f"{where}/{name}", f"more than {CMD_ID_BYTES_MAX} octets")
    if text is not None and not repeatable(text):
        raise SyncmlError(WHAT, f"{where}/{name}", "a character that no answer can repeat")
    return text


def _items(element: Element, where: str, meta: Meta | None, context: _Context) -> tuple[Item, ...]:
    return tuple(_item(e, where, meta, context) for e in element.elements() if e.name == "Item")


def _item(element: Element, where: str, outer: Meta | None, context: _Context) -> Item:
    where = f"{where}/Item"
    _once(element, where, _ONCE_IN_ITEM)
    meta = _meta(element.child("Meta"), where)
    inner, around = meta or Meta(), outer or Meta()
    data_format, data_type = inner.format or around.format, inner.type or around.type
    return Item(
        target=_uri(element, "Target"),
        source=_uri(element, "Source"),
        target_name=_loc_name(element, "Target"),
        source_name=_loc_name(element, "Source"),
        meta=meta,
        data=_data(element.child("Data"), where, data_format, data_type, context),
        more_data=element.child("MoreData") is not None,
    )


def _data(
    element: Element | None, where: str, data_format: str | None, data_type: str | None, context: _Context
) -> str | bytes | MgmtTree | None:
    if element is None:
        return None
    tree = next(element.elements(), None)
    if tree is not None:
        if sum(not isinstance(part, str) or bool(part.strip()) for part in element.content) > 1:
            raise SyncmlError(WHAT, f"{where}/Data", "an element and something else in data")
        if tree.name != "MgmtTree":
            raise SyncmlError(WHAT, f"{where}/Data", f"element {tree.name[:40]} in data")
        return tnds.read(tree, binary=context.binary)
    if data_type in TNDS_TYPES and element.content:
        return _embedded(element, context.spent)
    if data_format in tnds.BINARY_FORMATS:
        return _binary(element)
    return _as_text(element)


def _as_text(element: Element) -> str | bytes:
    """Text, which some peers send as opaque data; opaque data that is not UTF-8 stays bytes.

    The format is a textual one or absent, which means `chr` (OMA-TS-SyncML_MetaInfo 1.2, Format).
    """
    raw = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in element.content)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
    return raw if "\0" in text else text


def _binary(element: Element) -> str | bytes:
    """Opaque data unchanged; text is decoded as base64, also in WBXML, where converters from XML leave it.

    Text that is not base64 stays text: the command that carries it fails, not the message.
    """
    if any(isinstance(part, bytes) for part in element.content):
        return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in element.content)
    text = element.text()
    decoded = from_base64(text)
    return text if decoded is None else decoded


def _embedded(element: Element, spent: Spent) -> str | bytes | MgmtTree:
    """A TNDS document inside Data."""
    if any(isinstance(part, bytes) for part in element.content):
        return embedded(b"".join(_as_octets(part) for part in element.content), spent)
    return embedded(element.text(), spent)


def _as_octets(part: object) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")


def embedded(data: str | bytes, spent: Spent | None = None) -> str | bytes | MgmtTree:
    """A TNDS document in a value, as XML text (CDATA) or as a whole WBXML document (opaque).

    What is not such a document is unchanged: a chunk of a large object, or a value that its command will refuse.
    """
    raw = _as_octets(data)
    try:
        if raw.lstrip()[:1] == b"<":
            return tnds.read(xml.read(raw.lstrip(), spent), binary=False)
        return tnds.read(wbxml.read(raw, spent), binary=True)
    except SyncmlError:
        return data


_Reader = Callable[[Element, str, str, bool, _Context], Command]


def _with_items(command: type[Add | Replace | Delete | Copy | Get]) -> _Reader:
    def reader(element: Element, where: str, cmd_id: str, no_resp: bool, context: _Context) -> Command:
        meta = _meta(element.child("Meta"), where)
        return command(cmd_id, _items(element, where, meta, context), meta, no_resp)

    return reader


def _nested(command: type[Atomic | Sequence]) -> _Reader:
    ignored = {"CmdID", "Meta", "NoResp"}

    def reader(element: Element, where: str, cmd_id: str, no_resp: bool, context: _Context) -> Command:
        commands = tuple(_command(e, where, context) for e in element.elements() if e.name not in ignored)
        return command(cmd_id, commands, _meta(element.child("Meta"), where), no_resp)

    return reader


def _exec(element: Element, where: str, cmd_id: str, no_resp: bool, context: _Context) -> Command:
    meta = _meta(element.child("Meta"), where)
    correlator = _text(element, "Correlator") or None
    return Exec(cmd_id, _items(element, where, meta, context), correlator, meta, no_resp)


def _alert(element: Element, where: str, cmd_id: str, no_resp: bool, context: _Context) -> Command:
    text = _text(element, "Data") or ""
    code = int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
    return Alert(cmd_id, code, _items(element, where, None, context), _text(element, "Correlator") or None, no_resp)


def _status(element: Element, where: str, cmd_id: str, _no_resp: bool, context: _Context) -> Command:
    code = integer(element.child("Data"), WHAT, where)
    if code is None:
        raise SyncmlError(WHAT, f"{where}/Data", "missing or empty")
    if not 100 <= code <= 999:  # three digits (DM_RepPro 1.2, section 10)
        raise SyncmlError(WHAT, f"{where}/Data", f"{code} is no status code")
    # A peer answers a command that had no CmdID with no or an empty CmdRef.
    return Status(
        cmd_id=cmd_id,
        msg_ref=_text(element, "MsgRef") or "",
        cmd_ref=_id(element, "CmdRef", where) or "",
        cmd=_text(element, "Cmd") or "",
        code=code,
        target_refs=_texts(element, "TargetRef"),
        source_refs=_texts(element, "SourceRef"),
        chal=_chal(element.child("Chal")),
        cred=_cred(element.child("Cred")),
        items=_items(element, where, None, context),
    )


def _texts(element: Element, name: str) -> tuple[str, ...]:
    return tuple(e.text().strip() for e in element.elements() if e.name == name)


def _results(element: Element, where: str, cmd_id: str, _no_resp: bool, context: _Context) -> Command:
    _once(element, where, _ONCE_IN_RESULTS)
    meta = _meta(element.child("Meta"), where)
    return Results(
        cmd_id=cmd_id,
        cmd_ref=_id(element, "CmdRef", where) or "",
        items=_items(element, where, meta, context),
        msg_ref=_text(element, "MsgRef") or None,
        meta=meta,
        target_ref=next(iter(_texts(element, "TargetRef")), None),
        source_ref=next(iter(_texts(element, "SourceRef")), None),
    )


_READERS: dict[str, _Reader] = {
    "Add": _with_items(Add),
    "Replace": _with_items(Replace),
    "Delete": _with_items(Delete),
    "Copy": _with_items(Copy),
    "Get": _with_items(Get),
    "Exec": _exec,
    "Alert": _alert,
    "Status": _status,
    "Results": _results,
    "Atomic": _nested(Atomic),
    "Sequence": _nested(Sequence),
}
