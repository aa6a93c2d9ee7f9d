"""Base64 and numbers in character data: read liberally, written canonically; and what character data cannot hold."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator

from omadm.syncml.element import Element
from omadm.syncml.errors import SyncmlError

B64 = "b64"  # the format of a value whose octets go as base64 (OMA-TS-SyncML_MetaInfo 1.2, Format)
DIGITS_MAX = 10  # 32 bits
NUMBER_MAX = 2**32 - 1
NESTING_MAX = 32  # of lists and objects in a document of JSON; a job has 6
# All but Char of XML 1.0, named one by one: the complement of Char takes ten times as long to compile.
NO_XML_CHAR = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes | None:
    """Decode base64, ignoring white space; None when it is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def plain(data: str | bytes, data_format: str | None, data_type: str | None) -> str | bytes:
    """Text that no XML can carry comes with format `b64`; its type says that it is text, and it is given back as such.
    Anything else is unchanged."""
    if not isinstance(data, bytes) or data_format != B64 or not (data_type or "").startswith("text/"):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def repeatable(text: str) -> bool:
    """Whether both encodings can carry a text that a peer sent, in an answer that refers to it."""
    return NO_XML_CHAR.search(text) is None


def unfit(document: object, bad: re.Pattern[str] = NO_XML_CHAR) -> str:
    """Which member of a JSON document cannot be passed on, and why, as `nodes[3].value: …`; empty where all can.

    That is a text or a name with a character that matches `bad`, a number that is none (Infinity, NaN), or lists and
    objects nested deeper than `NESTING_MAX`.
    """
    return next(_unfit(document, "", 0, bad), "")


def _unfit(part: object, where: str, depth: int, bad: re.Pattern[str]) -> Iterator[str]:
    place = where or "the document"
    if isinstance(part, str):
        if found := bad.search(part):
            yield f"{place}: the character U+{ord(found[0]):04X} cannot be sent as text"
    elif isinstance(part, float):
        if not math.isfinite(part):
            yield f"{place}: {part} is no number"
    elif isinstance(part, dict | list) and depth >= NESTING_MAX:
        yield f"{place}: nested deeper than {NESTING_MAX}"
    elif isinstance(part, dict):
        for name, member in part.items():
            below = f"{where}.{ascii(name)[1:-1]}" if where else ascii(name)[1:-1]
            if found := bad.search(name):
                yield f"{below}: a name with the character U+{ord(found[0]):04X}, which cannot be sent as text"
            yield from _unfit(member, below, depth + 1, bad)
    elif isinstance(part, list):
        for at, member in enumerate(part):
            yield from _unfit(member, f"{where}[{at}]", depth + 1, bad)


def integer(element: Element | None, what: str, where: str) -> int | None:
    """A decimal number of at most 32 bits; `None` for a missing element. Raises `SyncmlError`, also for an empty
    element: it says a number, and not which."""
    if element is None:
        return None
    text = element.text().strip()
    where = f"{where}/{element.name}"
    if not text:
        raise SyncmlError(what, where, "empty, where a number is wanted")
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX or int(text) > NUMBER_MAX:
        raise SyncmlError(what, where, f"{text[:20]!r} is not a number")
    return int(text)
