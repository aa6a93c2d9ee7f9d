"""XML ↔ elements: a reader on expat without document types and entities, and with limits; a writer with default
namespaces.

SyncML needs no DTD, so any document type declaration is refused, which rules out entity attacks. Prefixes and
namespaces are dropped (`<syncml:Type>` is `Type`); comments and processing instructions are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omadm.syncml.element import BODY_BYTES_MAX, DEPTH_MAX, ELEMENTS_MAX, Element, Spent
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import SyncmlValueError
from omadm.syncml.text import NO_XML_CHAR
from omadm.syncml.tokens import NAMESPACES

if TYPE_CHECKING:
    from xml.parsers import expat

WHAT = "SyncML XML"
PROLOG = '<?xml version="1.0" encoding="UTF-8"?>'

"""What cannot stand in a document, not even as a reference: XML 1.0, production 2 (Char), lists the others."""


class _Builder:
    """Collects what expat reports; raises `SyncmlError` at the first limit."""

    def __init__(self, parser: expat.XMLParserType, spent: Spent) -> None:
        self._parser = parser
        self._stack: list[Element] = []
        self._spent = spent
        self.root: Element | None = None

    def fail(self, why: str) -> SyncmlError:
        return SyncmlError(WHAT, max(0, self._parser.CurrentByteIndex), why)

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._spent.elements += 1
        if len(self._stack) >= DEPTH_MAX:
            raise self.fail(f"elements nest deeper than {DEPTH_MAX}")
        if self._spent.elements > ELEMENTS_MAX:
            raise self.fail(f"more than {ELEMENTS_MAX} elements")
        element = Element(name.rpartition(" ")[2])
        if self._stack:
            self._stack[-1].content.append(element)
        else:
            self.root = element
        self._stack.append(element)

    def end(self, _name: str) -> None:
        self._stack.pop()

    def data(self, text: str) -> None:
        if self._stack:
            self._stack[-1].content.append(text)

    def doctype(self, *_: object) -> None:
        raise self.fail("a document type declaration is not accepted")


def read(body: bytes, spent: Spent | None = None) -> Element:
    """The document's root element. `spent` counts on from the documents around this one. Raises `SyncmlError`."""
    from xml.parsers import expat  # not at the top: a device that speaks WBXML does without it

    if len(body) > BODY_BYTES_MAX:
        raise SyncmlError(WHAT, BODY_BYTES_MAX, f"longer than {BODY_BYTES_MAX} bytes")
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    builder = _Builder(parser, spent or Spent())
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.doctype
    try:
        parser.Parse(body, True)  # noqa: FBT003 (expat's own signature: isfinal)
    except expat.ExpatError as error:
        raise SyncmlError(WHAT, max(0, parser.ErrorByteIndex), expat.ErrorString(error.code) or "not XML") from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not know, or that lies
        raise SyncmlError(WHAT, 0, f"not readable: {error}") from error
    if builder.root is None:
        raise SyncmlError(WHAT, 0, "no element")
    return builder.root


def write(root: Element) -> bytes:
    """Encode a document. Raises `SyncmlValueError` for text that XML cannot hold, and for opaque data."""
    parts = [PROLOG]
    _write(root, None, parts)
    return "".join(parts).encode("utf-8")


def _write(element: Element, page: int | None, parts: list[str]) -> None:
    space = "" if element.page == page else f' xmlns="{NAMESPACES[element.page]}"'
    if not element.content:
        parts.append(f"<{element.name}{space}/>")
        return
    parts.append(f"<{element.name}{space}>")
    for part in element.content:
        if isinstance(part, Element):
            _write(part, element.page, parts)
        elif isinstance(part, str):
            parts.append(_escape(part, element.name))
        else:
            raise SyncmlValueError(f"{element.name}: binary data has no XML form")
    parts.append(f"</{element.name}>")


def _escape(text: str, name: str) -> str:
    if NO_XML_CHAR.search(text):
        raise SyncmlValueError(f"{name}: a control character has no XML form")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
