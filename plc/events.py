"""What a serial bridge tells its user, whichever protocol it speaks.

Addresses are the bridge's own: a 4-32 node address behind a PRIME base node (0-0xFFF), a node number behind a
DLMS-over-TCP base node, or whatever number the user gave to a channel of a transparent HDLC port.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FailReason(enum.Enum):
    """Why a packet was given up. None of these is retried below the application."""

    NO_CONFIRM = "no confirm from the base node in time"
    NODE_TIMEOUT = "the node did not acknowledge"  # DL_DATA.cfm status 2
    BAD_ADDRESS = "the base node does not know the address"  # status 0xC0
    BAD_HANDLER = "the base node does not know the handler"  # status 0xC1
    BUSY = "the base node is busy"  # status 0xC2
    OTHER_STATUS = "the base node answered with another status"
    NODE_LEFT = "the node left the network before the packet was sent"
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
    """A network event of the base node (alive, promote, demote, reboot, …): for the log, nothing to act on."""

    event: int
    eui48: bytes


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
    | DataReceived
    | DataConfirmed
    | DataFailed
    | ResyncNoted
    | NetworkNoted
    | ProtocolBroken
)
