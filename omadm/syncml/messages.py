"""SyncML messages as values (OMA-TS-SyncML_RepPro 1.2, OMA-TS-DM_RepPro 1.2).

There is one class per meaningful element; containers (`Target/LocURI`, `Source/LocURI`) are flattened into strings.
Every value is frozen. The constructors refuse what a codec could not emit.

`Item.data` has four shapes:

* `None`: no `Data` element;
* `str`: character data, as it is between the tags;
* `bytes`: binary (WBXML `OPAQUE`; in XML base64 text, with `Meta.format` saying so);
* `MgmtTree`: an embedded TNDS document (OMA-TS-DM_TNDS 1.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

VER_DTD = "1.2"
VER_PROTO = "DM/1.2"
SESSION_ID_CHARS_MAX = 64  # opaque, as long as a CmdID; DM 1.2 itself has four


class SyncmlValueError(ValueError):
    """A message value cannot be represented in a SyncML document (our mistake, not the peer's)."""


@dataclass(frozen=True, slots=True)
class TndsNode:
    """One node of a serialised management tree (TNDS 1.2, `Node`).

    `path` is the `Path` element: the parent of this node from the root, given only where the document gives it.
    `format` and `type` come from `RTProperties`; `value` is `None` for interior nodes.
    """

    name: str
    path: str | None = None
    format: str | None = None
    type: str | None = None
    acl: str | None = None
    title: str | None = None
    tstamp: str | None = None
    ver_no: int | None = None
    size: int | None = None
    value: str | bytes | None = None
    children: tuple[TndsNode, ...] = ()


@dataclass(frozen=True, slots=True)
class MgmtTree:
    """A TNDS document: `MgmtTree` with its version and nodes."""

    nodes: tuple[TndsNode, ...]
    ver_dtd: str = "1.2"
    man: str | None = None
    mod: str | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """MetInf (OMA-TS-SyncML_MetaInfo 1.2). Sizes in bytes; `next_nonce` is decoded from base64; `emi`: texts that
    need not be understood."""

    format: str | None = None
    type: str | None = None
    mark: str | None = None
    size: int | None = None
    next_nonce: bytes | None = None
    max_msg_size: int | None = None
    max_obj_size: int | None = None
    emi: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cred:
    """`Cred`: `type` as `syncml:auth-basic` or `syncml:auth-md5`; `data` is the text of the element."""

    data: str
    type: str
    format: str | None = "b64"


@dataclass(frozen=True, slots=True)
class Chal:
    """`Chal` inside a Status: the wanted scheme, empty where the peer names none, and, for md5 and MAC, the next nonce
    (decoded)."""

    type: str
    format: str | None = "b64"
    next_nonce: bytes | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """`Item`: `target` and `source` are the LocURIs, `*_name` the LocNames."""

    target: str | None = None
    source: str | None = None
    target_name: str | None = None
    source_name: str | None = None
    meta: Meta | None = None
    data: str | bytes | MgmtTree | None = None
    more_data: bool = False


@dataclass(frozen=True, slots=True)
class Add:
    """Creates nodes (OMA-TS-DM_Protocol, Add)."""

    cmd_id: str
    items: tuple[Item, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Replace:
    """Overwrites values or properties of nodes."""

    cmd_id: str
    items: tuple[Item, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes nodes with all below them."""

    cmd_id: str
    items: tuple[Item, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """Copies nodes; optional for devices."""

    cmd_id: str
    items: tuple[Item, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Asks for values, properties or subtrees; `Results` bring them."""

    cmd_id: str
    items: tuple[Item, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Exec:
    """`Exec` names one node; `correlator` comes back in the generic alert that reports the outcome."""

    cmd_id: str
    items: tuple[Item, ...]
    correlator: str | None = None
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """`Alert`: `code` is the number in `Data` (1201, 1226, …); `None` where the peer sent none."""

    cmd_id: str
    code: int | None
    items: tuple[Item, ...] = ()
    correlator: str | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """`Status`. `cmd_ref` is "0" for the SyncHdr (then `cmd` is "SyncHdr"), and empty for a command without CmdID."""

    cmd_id: str
    msg_ref: str
    cmd_ref: str
    cmd: str
    code: int
    target_refs: tuple[str, ...] = ()
    source_refs: tuple[str, ...] = ()
    chal: Chal | None = None
    cred: Cred | None = None
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """`Results` of a Get; the values are in `items` (`Item.source` names the node)."""

    cmd_id: str
    cmd_ref: str
    items: tuple[Item, ...]
    msg_ref: str | None = None
    meta: Meta | None = None
    target_ref: str | None = None
    source_ref: str | None = None


@dataclass(frozen=True, slots=True)
class Atomic:
    """Commands of which all are carried out or none."""

    cmd_id: str
    commands: tuple[Command, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """Commands that are carried out in this order."""

    cmd_id: str
    commands: tuple[Command, ...]
    meta: Meta | None = None
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A SyncML command that DM does not use (Put, Map, Sync, Search), or an unknown element: answered with 406."""

    cmd_id: str
    name: str
    no_resp: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """A command that could not be read: answered with 400, and not carried out. `why` says what is wrong.

    `msg_ref` and `cmd_ref` are those of a Status or Results, so that it is known what is without its answer.
    """

    cmd_id: str
    name: str
    why: str
    no_resp: bool = False
    msg_ref: str | None = None
    cmd_ref: str | None = None

    @property
    def is_answer(self) -> bool:
        """Whether it was to be a Status or Results, which get no Status themselves."""
        return self.name in ("Status", "Results")


Command = (
    Add | Replace | Delete | Copy | Get | Exec | Alert | Status | Results | Atomic | Sequence | Unsupported | Malformed
)

CommandT = TypeVar("CommandT")


@dataclass(frozen=True, slots=True)
class SyncHdr:
    """`SyncHdr`. `session_id` is kept as text: 1 to 4 upper-case hexadecimal digits in DM 1.2, "0" is legal.

    `msg_text` is the peer's MsgID where that is not the plain number `msg_id`, which is 0 if it is none at all.
    `unread` says what else in the peer's header could not be read, and counts as not said.
    """

    session_id: str
    msg_id: int
    target: str
    source: str
    target_name: str | None = None
    source_name: str | None = None
    resp_uri: str | None = None
    no_resp: bool = False
    cred: Cred | None = None
    meta: Meta | None = None
    ver_dtd: str = VER_DTD
    ver_proto: str = VER_PROTO
    msg_text: str = ""
    unread: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.session_id) <= SESSION_ID_CHARS_MAX:
            raise SyncmlValueError(f"SyncHdr/SessionID: 1 to {SESSION_ID_CHARS_MAX} characters")
        if self.msg_id < 0:
            raise SyncmlValueError(f"SyncHdr/MsgID: not negative, got {self.msg_id}")

    @property
    def msg_ref(self) -> str:
        """What an answer repeats as MsgRef: the MsgID as its sender wrote it."""
        return self.msg_text or str(self.msg_id)

    @property
    def numbered(self) -> bool:
        """Whether MsgID is a number, which tells the order of messages."""
        return self.msg_id > 0 or not self.msg_text


@dataclass(frozen=True, slots=True)
class SyncML:
    """A whole message: header, the commands of `SyncBody` in order, and whether `Final` closes the package."""

    hdr: SyncHdr
    commands: tuple[Command, ...] = field(default=())
    final: bool = True

    def of(self, command: type[CommandT]) -> Iterator[CommandT]:
        """The top-level commands of one class, in order."""
        return (each for each in self.commands if isinstance(each, command))
