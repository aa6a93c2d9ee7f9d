"""Node addresses, sans-IO: `./A/B`, `A/B`, with `?prop=…` or `?list=…` (OMA-TS-DM_TND 1.2, sections 6 and 7.7.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from agent.tree.schema import DEPTH_MAX, PATH_CHARS_MAX, SEGMENT_CHARS_MAX, Path
from omadm.codes import Code, Refusal
from omadm.syncml.tnds import PROPERTIES

LISTS = ("Struct", "StructData", "TNDS")
TNDS_PROPERTIES = (*PROPERTIES, "Value")
_FORBIDDEN = frozenset("/?*")


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed LocURI. `prop` and `list` exclude each other; `parts` are the properties that a TNDS list wants."""

    path: Path
    prop: str = ""
    list: str = ""
    parts: frozenset[str] = frozenset(TNDS_PROPERTIES)


def parse_uri(text: str | None) -> Address:
    """The node or property that a LocURI addresses, `./A/B?prop=ACL` for one.

    Raises `Refusal`: 404 for what can address no node, 406 for an unknown query, 414 for too long.
    """
    if not text:
        raise Refusal(Code.INCOMPLETE, "no LocURI")
    if len(text) > PATH_CHARS_MAX + 64:
        raise Refusal(Code.URI_TOO_LONG, f"{len(text)} characters")
    node, question, query = text.partition("?")
    path = parse_path(node)
    if not question:
        return Address(path)
    name, _, value = query.partition("=")
    if name == "prop" and value in PROPERTIES:
        return Address(path, prop=value)
    if name == "list":
        listing, *changes = _split_list(value)
        if listing in LISTS and (listing == "TNDS" or not changes):
            return Address(path, list=listing, parts=_tnds_parts(changes))
    raise Refusal(Code.NOT_SUPPORTED, f"query {query[:32]!r}")


def parse_path(text: str) -> Path:
    """Names from the root; `.` is the root itself. Raises `Refusal`."""
    if text in {".", "./"}:
        return ()
    if text.startswith("/"):
        raise Refusal(Code.NOT_FOUND, "an address is relative to the root and starts with ./ or a name")
    path = tuple(text.removeprefix("./").removesuffix("/").split("/"))
    for name in path:
        check_name(name)
    if len(path) > DEPTH_MAX or len(text) > PATH_CHARS_MAX:
        raise Refusal(Code.URI_TOO_LONG, "deeper or longer than DevDetail/URI says")
    return path


def check_name(name: str) -> None:
    """Check the name of a node. Raises `Refusal`: 404 for what no node can be called, 414 for too long."""
    if not name or name in {".", ".."} or _FORBIDDEN & set(name) or not name.isprintable():
        raise Refusal(Code.NOT_FOUND, f"not a node name: {name[:32]!r}")
    if len(name) > SEGMENT_CHARS_MAX:
        raise Refusal(Code.URI_TOO_LONG, f"a name of {len(name)} characters")


def show(path: Path) -> str:
    """The address as a server knows it."""
    return "/".join((".", *path))


@lru_cache(maxsize=8192)  # asked for every meter at every step of a walk
def node_name(text: str) -> str:
    """A meter's or component's identifier as a node name: what an address cannot hold becomes `%` and hexadecimal."""
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "-_.:") else _percent(char) for char in text)
    return (safe.replace(".", "%2E") if not safe.strip(".") else safe)[:SEGMENT_CHARS_MAX]


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _split_list(value: str) -> list[str]:
    """`TNDS+ACL-Value` → `["TNDS", "+ACL", "-Value"]`."""
    parts = [""]
    for char in value:
        if char in "+-":
            parts.append(char)
        else:
            parts[-1] += char
    return parts


def _tnds_parts(changes: list[str]) -> frozenset[str]:
    """TND 1.2 section 7.7.3.3: `+` names what to include besides the structure, `-` what to leave out of everything."""
    names = [change[1:] for change in changes]
    if any(name not in TNDS_PROPERTIES for name in names):
        raise Refusal(Code.NOT_SUPPORTED, "unknown property in the TNDS query")
    plus = {change[1:] for change in changes if change[0] == "+"}
    minus = {change[1:] for change in changes if change[0] == "-"}
    return frozenset((plus or set(TNDS_PROPERTIES)) - minus)
