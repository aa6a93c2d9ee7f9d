"""What may exist in the management tree: the device description (OMA-TS-DM_TND 1.2, section 10) as values.

A management object describes its nodes with `NodeSpec`. Nodes are of three types:

* **fixed**: exists exactly as long as its parent does, cannot be added or deleted by a server ("permanent" when every
  ancestor is fixed too). Its value is the stored one, or `default`.
* **dynamic**: added and deleted by servers; stored. A spec named `*` stands for any name.
* **live**: the value, or the set of names, comes from a callable at the moment of the Get; never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto

from omadm.addresses import AddressError, check_address

Path = tuple[str, ...]

ANY = "*"
SEGMENT_CHARS_MAX = 64
PATH_CHARS_MAX = 255
DEPTH_MAX = 16

INT_MIN, INT_MAX = -(2**31), 2**31 - 1  # TND 1.2 section 9.3.4: int is a 32 bit value


class Access(Flag):
    """Commands that the device accepts for a node at all; the ACL then says from whom."""

    NONE = 0
    ADD = auto()
    COPY = auto()
    DELETE = auto()
    EXEC = auto()
    GET = auto()
    REPLACE = auto()


GR = Access.GET | Access.REPLACE
AGRD = Access.ADD | Access.GET | Access.REPLACE | Access.DELETE
ARD = Access.ADD | Access.REPLACE | Access.DELETE  # write only: secrets
GE = Access.GET | Access.EXEC


class Format(StrEnum):
    """DFFormat (TND 1.2 section 7.7.2). `node` is an interior node."""

    NODE = "node"
    CHR = "chr"
    INT = "int"
    BOOL = "bool"
    BIN = "bin"
    B64 = "b64"
    NULL = "null"
    XML = "xml"
    FLOAT = "float"
    DATE = "date"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class ExecCall:
    """An Exec as its handler sees it. `data` is the text of the Item; `path` the node that was named."""

    path: Path
    correlator: str
    data: str


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node of the description.

    `check` raises `ValueError` for a text the node cannot hold (after the format has been checked).
    `live` returns the value of a leaf; `names` returns the names below an interior node whose child spec is `*`.
    `secret` keeps the value out of TNDS, logs and `dcuctl`. `description` is what docs/management-objects.md and the
    device description (docs/ddf) say of it.
    """

    name: str
    format: Format = Format.NODE
    access: Access = Access.GET
    children: tuple[NodeSpec, ...] = ()
    fixed: bool = True
    default: str = ""
    type: str = ""
    title: str = ""
    description: str = ""
    secret: bool = False
    value_chars_max: int = 4096
    names_max: int = 64
    check: Callable[[str], None] | None = field(default=None, repr=False)
    live: Callable[[Path], str] | None = field(default=None, repr=False)
    names: Callable[[Path], Sequence[str]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        interior = self.format is Format.NODE
        if interior and (self.live or self.secret or self.check):
            raise ValueError(f"{self.name}: an interior node has no value")
        if not interior and self.children:
            raise ValueError(f"{self.name}: a leaf has no children")
        if self.fixed and (self.name == ANY or self.access & (Access.ADD | Access.DELETE)):
            raise ValueError(f"{self.name}: a fixed node cannot be added or deleted")

    @property
    def interior(self) -> bool:
        return self.format is Format.NODE

    def child(self, name: str) -> NodeSpec | None:
        """The spec for a child called `name`: by that name, else the wildcard's."""
        wild = None
        for spec in self.children:
            if spec.name == name:
                return spec
            if spec.name == ANY:
                wild = spec
        return wild


def interior(
    name: str,
    *children: NodeSpec,
    access: Access = Access.GET,
    type: str = "",  # noqa: A002
    description: str = "",
) -> NodeSpec:
    """A fixed interior node."""
    return NodeSpec(name, Format.NODE, access, children, type=type, description=description)


def group(
    *children: NodeSpec,
    name: str = ANY,
    access: Access = AGRD,
    type: str = "",  # noqa: A002
    description: str = "",
) -> NodeSpec:
    """An interior node that servers make: below a `*`, or an optional group of settings."""
    return NodeSpec(name, Format.NODE, access, children, fixed=False, type=type, description=description)


def setting(
    name: str,
    format: Format,  # noqa: A002
    *,
    access: Access = AGRD,
    check: Callable[[str], None] | None = None,
    secret: bool = False,
    value_chars_max: int = 1024,
    description: str = "",
) -> NodeSpec:
    """A leaf that servers make and change."""
    return NodeSpec(
        name,
        format,
        access,
        fixed=False,
        check=check,
        secret=secret,
        value_chars_max=value_chars_max,
        description=description,
    )


def number(name: str, lowest: int, highest: int, description: str) -> NodeSpec:
    """A `setting` that is a whole number from `lowest` to `highest`."""
    return setting(name, Format.INT, check=int_range(lowest, highest), description=description)


def permanent(
    name: str,
    format: Format,  # noqa: A002
    *,
    access: Access = GR,
    default: str = "",
    check: Callable[[str], None] | None = None,
    secret: bool = False,
    value_chars_max: int = 1024,
    description: str = "",
) -> NodeSpec:
    """A leaf that is always there and that servers replace."""
    return NodeSpec(
        name,
        format,
        access,
        default=default,
        check=check,
        secret=secret,
        value_chars_max=value_chars_max,
        description=description,
    )


def live(
    name: str,
    format: Format,  # noqa: A002
    read: Callable[[Path], str],
    description: str = "",
) -> NodeSpec:
    """A fixed leaf whose value is asked for at each Get."""
    return NodeSpec(name, format, Access.GET, live=read, description=description)


def check_value(spec: NodeSpec, value: str | bytes) -> str | bytes:
    """The value as it is stored. Raises `ValueError` with the reason when the node cannot hold it."""
    if len(value) > spec.value_chars_max:
        raise ValueError(f"longer than {spec.value_chars_max}")
    if spec.format is Format.BIN:
        if isinstance(value, str):
            raise ValueError("binary data expected")
        return value
    text = _text(value)
    if spec.format is Format.INT:
        text = _int(text)
    elif spec.format is Format.BOOL:
        text = text.strip().lower()
        if text not in {"true", "false"}:
            raise ValueError("true or false expected")
    elif spec.format is Format.FLOAT:
        float(text)
    if spec.check is not None:
        spec.check(text)
    return text


def _text(value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def _int(text: str) -> str:
    text = text.strip()
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 10:
        raise ValueError("a decimal number expected")
    number = int(text)
    if not INT_MIN <= number <= INT_MAX:
        raise ValueError("outside 32 bits")
    return str(number)


def int_range(lowest: int, highest: int) -> Callable[[str], None]:
    """A check for `NodeSpec.check` that a number lies between `lowest` and `highest`, both included."""

    def check(text: str) -> None:
        if not lowest <= int(text) <= highest:
            raise ValueError(f"{lowest} to {highest} expected")

    return check


def one_of(*words: str) -> Callable[[str], None]:
    """A check for `NodeSpec.check` that a text is one of `words`."""

    def check(text: str) -> None:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)} expected")

    return check


def https_url(text: str) -> None:
    """A check for `NodeSpec.check`: an absolute https URL of a host (`omadm.addresses`), or nothing."""
    if text:
        try:
            check_address(text)
        except AddressError as error:
            raise ValueError(f"an https URL expected: it {error}") from error
