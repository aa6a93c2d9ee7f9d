"""WBXML ↔ elements (WAP-192-WBXML 1.3, as SyncML uses it: no attributes, no extensions, UTF-8).

    version u8 | public id mb_u_int32 [| index mb_u_int32 if 0] | charset mb_u_int32 | length mb_u_int32 | string table
    body: (SWITCH_PAGE page)? tag [content END], content = STR_I text NUL | STR_T index | OPAQUE length bytes | element

An unknown tag becomes an element named `page:token`, so that the structure stays readable; the caller decides what it
means. Attributes, extensions and processing instructions are errors: SyncML has none.
"""

from __future__ import annotations

from collections.abc import Collection

from omadm.syncml import tokens
from omadm.syncml.element import BODY_BYTES_MAX, DEPTH_MAX, ELEMENTS_MAX, TEXT_BYTES_MAX, Element, Spent
from omadm.syncml.errors import SyncmlError
from omadm.syncml.messages import SyncmlValueError

WHAT = "SyncML WBXML"
MB_BYTES_MAX = 5  # a 32-bit number, 7 bits per byte


class Reader:
    """A bounds-checked cursor over the document, which also keeps the limits of the whole document."""

    def __init__(self, body: bytes, spent: Spent | None = None) -> None:
        self._body = body
        self._at = 0
        self._spent = spent or Spent()
        self._table = b""

    def fail(self, why: str) -> SyncmlError:
        return SyncmlError(WHAT, self._at, why)

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._body)

    def u8(self) -> int:
        if self.at_end:
            raise self.fail("the document ends too early")
        self._at += 1
        return self._body[self._at - 1]

    def number(self) -> int:
        """mb_u_int32."""
        value = 0
        for _ in range(MB_BYTES_MAX):
            octet = self.u8()
            value = value << 7 | octet & 0x7F
            if not octet & 0x80:
                if value > 0xFFFFFFFF:
                    raise self.fail("a number exceeds 32 bits")
                return value
        raise self.fail("a number is longer than 5 bytes")

    def take(self, length: int) -> bytes:
        if length > len(self._body) - self._at:
            raise self.fail(f"{length} bytes announced, {len(self._body) - self._at} left")
        self._at += length
        return self._body[self._at - length : self._at]

    def inline(self) -> str:
        end = self._body.find(b"\0", self._at)
        if end == -1:
            raise self.fail("a string without its end")
        raw = self.take(end - self._at)
        self._at += 1
        return self.decode(raw)

    def decode(self, raw: bytes) -> str:
        self.account(len(raw))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("a string is not UTF-8") from error

    def table_string(self, index: int) -> str:
        """The string at `index`, up to its NUL or the end of the table (some encoders leave out the last NUL)."""
        if index >= len(self._table):
            raise self.fail(f"string table index {index}, the table has {len(self._table)} bytes")
        end = self._table.find(b"\0", index)
        return self.decode(self._table[index : end if end >= 0 else len(self._table)])

    def text(self, token: int) -> str | bytes | None:
        """Character or opaque data that `token` introduces; `None` for any other token."""
        if token == tokens.STR_I:
            return self.inline()
        if token == tokens.STR_T:
            return self.table_string(self.number())
        if token == tokens.OPAQUE:
            data = self.take(self.number())
            self.account(len(data))
            return data
        if token == tokens.ENTITY:
            code = self.number()
            if code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self.fail(f"character {code:#x} does not exist")
            self.account(4)
            return chr(code)
        return None

    def account(self, size: int) -> None:
        self._spent.text_bytes += size
        if self._spent.text_bytes > TEXT_BYTES_MAX:
            raise self.fail(f"more than {TEXT_BYTES_MAX} bytes of text")

    def count(self) -> None:
        self._spent.elements += 1
        if self._spent.elements > ELEMENTS_MAX:
            raise self.fail(f"more than {ELEMENTS_MAX} elements")

    def header(self, public_ids: Collection[int] = tokens.PUBLIC_IDS, fpis: Collection[str] = tokens.FPIS) -> None:
        """Read everything before the body. The public id must be one of these, by number or by name."""
        version = self.u8()
        if version not in tokens.VERSIONS:
            raise self.fail(f"WBXML version byte {version:#04x} is not supported")
        public_id = self.number()
        index = self.number() if public_id == 0 else None
        charset = self.number()
        if charset not in (tokens.CHARSET_UTF8, tokens.CHARSET_ASCII):
            raise self.fail(f"character set {charset:#x} is not UTF-8")
        self._table = self.take(self.number())
        if index is None:
            if public_id not in public_ids:
                raise self.fail(f"public identifier {public_id:#x} is not SyncML's")
        elif (name := self.table_string(index)) not in fpis:
            raise self.fail(f"public identifier {name[:60]!r} is not SyncML's")


def read(body: bytes, spent: Spent | None = None) -> Element:
    """The document's root element. `spent` counts on from the documents around this one. Raises `SyncmlError`."""
    if len(body) > BODY_BYTES_MAX:
        raise SyncmlError(WHAT, BODY_BYTES_MAX, f"longer than {BODY_BYTES_MAX} bytes")
    reader = Reader(body, spent)
    reader.header()
    root = _body(reader)
    if not reader.at_end:
        raise reader.fail("bytes after the document's end")
    return root


def _body(reader: Reader) -> Element:
    page = 0
    stack: list[Element] = []
    while True:
        token = reader.u8()
        if token == tokens.SWITCH_PAGE:
            page = reader.u8()
        elif token == tokens.END:
            if not stack:
                raise reader.fail("an end without an element")
            done = stack.pop()
            if not stack:
                return done
        elif (text := reader.text(token)) is not None:
            if not stack:
                raise reader.fail("text outside the document's element")
            stack[-1].content.append(text)
        else:
            element = _open(reader, token, page)
            if stack:
                stack[-1].content.append(element)
            if token & tokens.CONTENT_FLAG:
                if len(stack) >= DEPTH_MAX:
                    raise reader.fail(f"elements nest deeper than {DEPTH_MAX}")
                stack.append(element)
            elif not stack:
                return element


def _open(reader: Reader, token: int, page: int) -> Element:
    reader.count()
    if token in (tokens.LITERAL, tokens.LITERAL_C):
        return Element(reader.table_string(reader.number()), page)
    if token & tokens.ATTRIBUTES_FLAG:
        raise reader.fail(f"token {token:#04x}: attributes and extensions are not SyncML")
    tag = token & tokens.TAG_MASK
    if tag < 0x05:
        raise reader.fail(f"token {token:#04x} has no meaning here")
    return Element(tokens.TAGS.get(page, {}).get(tag, f"{page}:{tag:#04x}"), page)


def write(root: Element) -> bytes:
    """Encode a document, with the public id by number for SyncML, and by name (string table) for a stand-alone TNDS.

    Raises `SyncmlValueError` for a name without token or text with NUL in it.
    """
    out = bytearray([tokens.VERSION_EMITTED])
    if root.name == "MgmtTree":
        table = tokens.FPI_TNDS.encode("ascii") + b"\0"
        out += b"\0\0"
    else:
        table = b""
        out += number(tokens.PUBLIC_ID_SYNCML)
    out += number(tokens.CHARSET_UTF8) + number(len(table)) + table
    _write(root, 0, out)
    return bytes(out)


def _write(element: Element, page: int, out: bytearray) -> int:
    """Append `element`; returns the code page in force after it."""
    if element.page != page:
        page = element.page
        out += bytes([tokens.SWITCH_PAGE, page])
    token = tokens.TOKENS[page].get(element.name)
    if token is None:
        raise SyncmlValueError(f"element {element.name} has no WBXML token on page {page}")
    if not element.content:
        out.append(token)
        return page
    out.append(token | tokens.CONTENT_FLAG)
    for part in element.content:
        if isinstance(part, Element):
            page = _write(part, page, out)
        elif isinstance(part, str):
            out += _string(part, element.name)
        else:
            out.append(tokens.OPAQUE)
            out += number(len(part)) + part
    out.append(tokens.END)
    return page


def _string(text: str, name: str) -> bytes:
    if "\0" in text:
        raise SyncmlValueError(f"{name}: a NUL character has no WBXML string form")
    try:
        return bytes([tokens.STR_I]) + text.encode("utf-8") + b"\0"
    except UnicodeEncodeError as error:
        raise SyncmlValueError(f"{name}: half of a surrogate pair is no text") from error


def number(value: int) -> bytes:
    """mb_u_int32: 7 bits per byte, most significant first; the high bit says that more bytes follow."""
    if not 0 <= value <= 0xFFFFFFFF:
        raise SyncmlValueError(f"{value} is not a 32 bit number")
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(value & 0x7F | 0x80)
    return bytes(reversed(octets))
