"""The common part of XML and WBXML: a tree of named elements with text, and the limits of both readers.

The readers (`xml`, `wbxml`) turn bytes into `Element`s and know nothing of messages; `document` and `tnds` turn
elements into messages and know nothing of bytes. `page` is the WBXML code page, which corresponds to the XML namespace;
readers of peers' documents do not rely on it, because peers get namespaces wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

BODY_BYTES_MAX = 1 << 20  # a whole message; MaxMsgSize in the field is 4 KiB to 64 KiB
DEPTH_MAX = 64  # SyncML needs 9, a TNDS document 4 plus the depth of the tree
ELEMENTS_MAX = 50_000  # a TNDS document of about 5000 nodes
TEXT_BYTES_MAX = 4 << 20  # all text of a document; more than the body only through string table references

PAGE_SYNCML = 0
PAGE_METINF = 1
PAGE_DDF = 2


@dataclass(slots=True)
class Spent:
    """What was read so far, of all documents that lie inside each other: characters can be had for nothing, by
    references to the string table, and each document has one; an XML document counts its elements only."""

    text_bytes: int = 0
    elements: int = 0


@dataclass(slots=True)
class Element:
    """One element. `content` holds child elements, character data (`str`) and opaque data (`bytes`) in order."""

    name: str
    page: int = PAGE_SYNCML
    content: list[Element | str | bytes] = field(default_factory=list)

    def elements(self) -> Iterator[Element]:
        """The child elements, in order."""
        return (part for part in self.content if isinstance(part, Element))

    def child(self, name: str) -> Element | None:
        """The first child element of that name."""
        return next((part for part in self.elements() if part.name == name), None)

    def repeated(self, once: Collection[str]) -> set[str]:
        """Which child elements, of those that may stand once, stand there more often."""
        seen: set[str] = set()
        twice: set[str] = set()
        for part in self.content:
            if isinstance(part, Element) and part.name in once:
                (twice if part.name in seen else seen).add(part.name)
        return twice

    def text(self) -> str:
        """All character data, opaque parts read as UTF-8 (undecodable bytes become U+FFFD); white space kept."""
        return "".join(
            part if isinstance(part, str) else part.decode("utf-8", "replace")
            for part in self.content
            if not isinstance(part, Element)
        )
