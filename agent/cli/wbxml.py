"""`dcuctl wbxml`: a message of OMA DM, or a TNDS document, between WBXML and XML, without a daemon.

Decoding shows everything as text: a WBXML document inside Data as its elements, other binary data as base64. Encoding
takes what decoding made back, with the same meaning: elements of a tree inside Data become a document of their own.
"""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

from omadm.syncml import tnds, wbxml, xml
from omadm.syncml.element import BODY_BYTES_MAX, PAGE_DDF, PAGE_METINF, PAGE_SYNCML, Element, Spent
from omadm.syncml.errors import SyncmlError
from omadm.syncml.text import repeatable, to_base64
from omadm.syncml.tokens import NAMESPACES

STDIN = "-"
XML_INDENT = "  "
DOCUMENTS_MAX = 4  # inside each other; a bootstrap message has two
_EMPTY_DOCUMENT = 6  # bytes: a header of five and one element
_NAME, _NO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*"), re.compile(r"[^A-Za-z0-9_.-]")


def read_input(name: str) -> bytes:
    """The whole file, or standard input for `-`; more than a message can have is cut, and then refused by the reader.
    Raises `OSError`."""
    if name == STDIN:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input is closed")
        return sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
    with Path(name).open("rb") as stream:
        return stream.read(BODY_BYTES_MAX + 1)


def decode(document: bytes) -> str:
    """The document as indented XML. Raises `SyncmlError`, and `SyncmlValueError` for what XML has no form for."""
    spent = Spent()
    root = _readable(wbxml.read(document, spent), spent, DOCUMENTS_MAX - 1, binary=False)
    _indent(root, 0)
    return xml.write(root).decode("utf-8") + "\n"


def encode(document: bytes) -> bytes:
    """The document in WBXML. Raises `SyncmlError`, and `SyncmlValueError` for an element that has no token."""
    return wbxml.write(_paged(xml.read(document), PAGE_SYNCML))


def _readable(element: Element, spent: Spent, inside: int, *, binary: bool) -> Element:
    """The element with text in the place of its opaque data, in which documents may lie, `inside` of them inside each
    other. `binary`: the format around it is a binary one."""
    given = _format(element)
    binary = given in tnds.BINARY_FORMATS if given else binary
    content: list[Element | str | bytes] = []
    for part in element.content:
        if isinstance(part, Element):
            content.append(_readable(part, spent, inside, binary=binary))
        elif isinstance(part, bytes):
            content.append(_shown(part, spent, inside, binary=binary))
        else:
            content.append(part)
    name = element.name if _NAME.fullmatch(element.name) else f"unknown-{_NO_NAME.sub('-', element.name)[:40]}"
    return Element(name, element.page if element.page in NAMESPACES else PAGE_SYNCML, content)


def _format(element: Element) -> str:
    """The format that an element gives to the data in it, as text (MetInf) or as an element (TNDS); empty for none."""
    around = element.child("Meta") or element.child("RTProperties")
    if around is None:
        return ""
    found = (around.child("MetInf") or around).child("Format")
    if found is None:
        return ""
    return next((each.name for each in found.elements()), found.text().strip())


def _shown(data: bytes, spent: Spent, inside: int, *, binary: bool) -> Element | str:
    if inside and len(data) >= _EMPTY_DOCUMENT:
        try:
            return _readable(wbxml.read(data, spent), spent, inside - 1, binary=False)
        except SyncmlError:
            pass  # no document: text, or octets
    if binary:
        return to_base64(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return to_base64(data)
    return text if repeatable(text) else to_base64(data)


def _indent(element: Element, depth: int) -> None:
    """White space between elements, none where there is text."""
    if not element.content or not all(isinstance(part, Element) for part in element.content):
        return
    spaced: list[Element | str | bytes] = []
    for part in element.elements():
        _indent(part, depth + 1)
        spaced += ["\n" + XML_INDENT * (depth + 1), part]
    element.content = [*spaced, "\n" + XML_INDENT * depth]


def _paged(element: Element, page: int) -> Element:
    """The element with the code pages that its place says, whatever its namespaces were; white space between elements
    goes, and a tree inside Data becomes a document of its own."""
    if element.name == "MgmtTree":
        page = PAGE_DDF
    children = list(element.elements())
    if not children:
        return Element(element.name, page, list(element.content))
    below = PAGE_METINF if element.name == "Meta" else page
    if element.name == "Data" and page == PAGE_SYNCML:
        parts = [
            wbxml.write(_paged(each, PAGE_DDF)) if each.name == "MgmtTree" else _paged(each, below) for each in children
        ]
        return Element(element.name, page, [*parts])
    kept = [part for part in element.content if isinstance(part, Element) or str(part).strip()]
    content = [_paged(part, below) if isinstance(part, Element) else part for part in kept]
    return Element(element.name, page, content)
