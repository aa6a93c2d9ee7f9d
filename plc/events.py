"""What a serial bridge tells its user, whichever protocol it speaks.

Addresses are the bridge's own: a 4-32 node address behind a PRIME base node (0-0xFFF), a node number behind a
DLMS-over-TCP base node, or whatever number the user gave to a channel of a transparent HDLC port.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FailReason(enum.Enum):
    """Why a packet was given up. None of these is retried below the application.

    The first three say that nobody knows whether the packet arrived, or that it did not: what may be asked twice can be
    asked again. After the others it is of no use.
    """

    NO_CONFIRM = "no confirm from the base node in time"
    BASE_NODE_RESTARTED = "the base node restarted"
    NODE_TIMEOUT = "the node did not acknowledge"  # DL_DATA.cfm status 2
    BAD_ADDRESS = "the base node does not know the address"  # status 0xC0
    BAD_HANDLER = "the base node does not know the handler"  # status 0xC1
    BUSY = "the base node is busy"  # status 0xC2
    OTHER_STATUS = "the base node answered with another status"
    NODE_LEFT = "the node left the network"
    NO_CONNECTION = "the meter cannot be connected"
    CONNECTION_LOST = "the connection to the meter is lost"


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node is in the network: it just joined, or a list query found it (`from_list`)."""

    address: int
    eui48: bytes  # 6 octets; empty when the bridge does not tell
    dlms_id: bytes  # what the node calls itself; empty when the bridge does not tell
    from_list: bool = False


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node is not in the network any more."""

    address: int
    eui48: bytes


@dataclass(frozen=True, slots=True)
class NodesListed:
    """A list query ended: the base node answers, and this many nodes are known now."""

    count: int


@dataclass(frozen=True, slots=True)
class BaseNodeSilent:
    """A list query was not answered in time; it is asked again later."""

    attempts: int


@dataclass(frozen=True, slots=True)
class BaseNodeRestarted:
    """The base node said that it has just started; what was in flight is given up, and the list of nodes is read."""


@dataclass(frozen=True, slots=True)
class DataReceived:
    """One packet (an LSDU) from a node; on a transparent port, some bytes of the stream."""

    address: int
    dst_lsap: int
    src_lsap: int
    lsdu: bytes


@dataclass(frozen=True, slots=True)
class DataConfirmed:
    """The base node delivered the packet that `send` gave this ticket to."""

    address: int
    dst_lsap: int
    src_lsap: int
    ticket: int


@dataclass(frozen=True, slots=True)
class DataFailed:
    """The packet with this ticket was not delivered, or nobody knows. `status` is the base node's own code, `detail`
    what else there is to say. Of a lost connection the ticket is 0: it is about all packets."""

    address: int
    dst_lsap: int
    src_lsap: int
    ticket: int
    reason: FailReason
    status: int | None = None
    detail: str = ""

    @property
    def why(self) -> str:
        """The reason in words."""
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


@dataclass(frozen=True, slots=True)
class ResyncNoted:
    """Bytes from the line were dropped: no frame, a wrong checksum, or a payload that makes no sense."""

    dropped_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class NetworkNoted:
    """A network event of the base node (register, promote, alive, …), see `plc.prime.topology` for what they add up to.

    `kind` names it in lower case, `event` is its number. `sid` is the switch that the node hangs on, `lsid` its own SID
    as a switch. `alive_rx` and `alive_tx` count the keep-alive messages that were received and sent.
    """

    kind: str
    event: int
    eui48: bytes
    sid: int
    lnid: int
    lsid: int
    alive_rx: int
    alive_tx: int
    alive_time: int


@dataclass(frozen=True, slots=True)
class PibRead:
    """A PIB attribute of the base node was read; `status` 0 is success, and only then is there a value."""

    pib: int
    status: int
    value: bytes


@dataclass(frozen=True, slots=True)
class PibWritten:
    """A PIB attribute of the base node was written, or not: `status` 0 is success."""

    pib: int
    status: int


@dataclass(frozen=True, slots=True)
class WhitelistChanged:
    """The base node took an entry into its whitelist (`added`) or out of it; or did not, where `code` is not 0."""

    eui48: bytes
    added: bool
    code: int


@dataclass(frozen=True, slots=True)
class ManagementUnanswered:
    """The base node has not answered one order of the management plane: nobody knows whether it was carried out.

    `what` is `"get"`, `"set"`, `"whitelist"` or `"list"`; `pib` the attribute or list, 0 for the whitelist.
    """

    what: str
    pib: int
    eui48: bytes = b""


@dataclass(frozen=True, slots=True)
class TopologyListed:
    """Both lists of the topology were read; `devices` are registered, `links` of them are heard by the base node."""

    devices: int
    links: int


@dataclass(frozen=True, slots=True)
class ProtocolBroken:
    """What comes is not the protocol, and there is no step to find again: the connection is of no use any more.

    `Bridge.poll` raises this as a `PlcPortError`.
    """

    why: str


NodeEvent = (
    NodeJoined
    | NodeLeft
    | NodesListed
    | BaseNodeSilent
    | BaseNodeRestarted
    | DataReceived
    | DataConfirmed
    | DataFailed
    | ResyncNoted
    | NetworkNoted
    | PibRead
    | PibWritten
    | WhitelistChanged
    | ManagementUnanswered
    | TopologyListed
    | ProtocolBroken
)
