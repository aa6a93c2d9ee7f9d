"""Where each node stands in the PRIME network, and what happened to it: records, and the picture made of them, sans-IO.

Two lists of the management plane say it (PRIME PIB 0x0050 and 0x0057), and each NETWORK_EVENT changes it. Numbers are
big-endian.

record of list 0x0050   EUI-48  LNID(2)  state  LSID  SID  level  terminal capabilities  switch capabilities
record of list 0x0057   LNID(2)  SID  tx power  rx level  SNR  modulation  PHY type  age(2)

SID is the switch that a node hangs on (0: the base node itself), LSID the SID that a node has as a switch itself. The
layouts are those of the host sources of the base node's maker, and were not tried on a base node.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from plc.errors import PlcLocalError
from plc.prime.cursor import PayloadCursor
from plc.prime.messages import EUI48_BYTES, NetworkEvent, NetworkEventKind, check_eui48, check_octet

HISTORY_MAX = 512  # network events kept per port: a day of a network that is in order, an hour of one that is not
NODES_MAX = 4096  # nodes in the picture
LSID_NONE = 0xFF  # of a node that is no switch
LEVELS_MAX = 64  # hierarchy of PRIME; also ends the walk to the base node in a picture that runs in a circle


class NodeState(enum.IntEnum):
    """Functional state of a registered node. Others are passed on as numbers."""

    DISCONNECTED = 0
    TERMINAL = 1
    SWITCH = 2


def _check_u16(name: str, value: int) -> None:
    if not 0 <= value <= 0xFFFF:
        raise PlcLocalError(f"{name} {value} is not sixteen bits")


@dataclass(frozen=True, slots=True)
class RegisteredDevice:
    """One record of list 0x0050: a node that the base node has registered. `level` is its level in the hierarchy."""

    SIZE: ClassVar[int] = EUI48_BYTES + 8
    eui48: bytes
    lnid: int
    state: int
    lsid: int
    sid: int
    level: int
    terminal_capabilities: int = 0
    switch_capabilities: int = 0

    def __post_init__(self) -> None:
        check_eui48(self.eui48)
        _check_u16("LNID", self.lnid)
        for name in ("state", "lsid", "sid", "level", "terminal_capabilities", "switch_capabilities"):
            check_octet(name, getattr(self, name))

    def emit(self) -> bytes:
        tail = (self.state, self.lsid, self.sid, self.level, self.terminal_capabilities, self.switch_capabilities)
        return self.eui48 + self.lnid.to_bytes(2, "big") + bytes(tail)

    @classmethod
    def parse(cls, data: bytes) -> RegisteredDevice:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "registered device")
        eui48, lnid = cursor.take(EUI48_BYTES), cursor.u16()
        device = cls(eui48, lnid, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
        cursor.check_end()
        return device


@dataclass(frozen=True, slots=True)
class PhyLink:
    """One record of list 0x0057: how the base node and a node at its own level hear each other. Levels and SNR are the
    standard's own steps; `age_s` is how old they are."""

    SIZE: ClassVar[int] = 10
    lnid: int
    sid: int
    tx_power: int
    rx_level: int
    snr: int
    modulation: int
    phy_type: int
    age_s: int

    def __post_init__(self) -> None:
        _check_u16("LNID", self.lnid)
        _check_u16("age", self.age_s)
        for name in ("sid", "tx_power", "rx_level", "snr", "modulation", "phy_type"):
            check_octet(name, getattr(self, name))

    def emit(self) -> bytes:
        middle = (self.sid, self.tx_power, self.rx_level, self.snr, self.modulation, self.phy_type)
        return self.lnid.to_bytes(2, "big") + bytes(middle) + self.age_s.to_bytes(2, "big")

    @classmethod
    def parse(cls, data: bytes) -> PhyLink:
        """Parse the encoded form, all of it. Raises `PlcDecodeError`."""
        cursor = PayloadCursor(data, "PHY link")
        lnid = cursor.u16()
        middle = (cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
        link = cls(lnid, *middle, cursor.u16())
        cursor.check_end()
        return link


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """What is known of one node. `level`, `rx_level`, `snr` and `modulation` are None where no list has told them;
    `registered` is False for a node that left, or that the base node did not let in. `heard_at`: when it was last heard
    of (monotonic seconds), None while it was only listed."""

    eui48: bytes
    registered: bool
    lnid: int
    lsid: int
    sid: int
    state: int
    level: int | None = None
    rx_level: int | None = None
    snr: int | None = None
    modulation: int | None = None
    heard_at: float | None = None
    alive_rx: int = 0
    alive_tx: int = 0
    promotions: int = 0
    registrations: int = 0

    @property
    def is_switch(self) -> bool:
        return self.state == NodeState.SWITCH


@dataclass(frozen=True, slots=True)
class Happened:
    """A network event with its time (monotonic seconds)."""

    at: float
    event: NetworkEvent


_STATE_AFTER = {
    NetworkEventKind.REGISTER: NodeState.TERMINAL,
    NetworkEventKind.UNREGISTER: NodeState.DISCONNECTED,
    NetworkEventKind.PROMOTE: NodeState.SWITCH,
    NetworkEventKind.DEMOTE: NodeState.TERMINAL,
}


class Topology:
    """The picture of one network, with the last `HISTORY_MAX` events of it. Not thread-safe: the port's thread owns it,
    others get what `entries` and `history` return."""

    def __init__(self) -> None:
        self._entries: dict[bytes, NodeEntry] = {}
        self._history: deque[Happened] = deque(maxlen=HISTORY_MAX)

    def happened(self, event: NetworkEvent, now: float) -> None:
        """Take in an event."""
        self._history.append(Happened(now, event))
        if event.event == NetworkEventKind.REBOOT:  # the base node's own: whoever is still there registers again
            self._entries = {key: self._gone(entry) for key, entry in self._entries.items()}
            return
        if event.event > NetworkEventKind.ALIVE:
            return  # a registration that was refused, or an error: no entry changes
        before = self._entries.get(event.eui48)
        state = _STATE_AFTER.get(NetworkEventKind(event.event), before.state if before else NodeState.TERMINAL)
        moved = before is None or (before.lnid, before.sid) != (event.lnid, event.sid)
        entry = NodeEntry(
            event.eui48,
            registered=event.event != NetworkEventKind.UNREGISTER,
            lnid=event.lnid,
            lsid=event.lsid,
            sid=event.sid,
            state=int(state),
            level=None if before is None or moved else before.level,
            rx_level=None if before is None or moved else before.rx_level,
            snr=None if before is None or moved else before.snr,
            modulation=None if before is None or moved else before.modulation,
            heard_at=now,
            alive_rx=event.alive_rx,
            alive_tx=event.alive_tx,
            promotions=(before.promotions if before else 0) + (event.event == NetworkEventKind.PROMOTE),
            registrations=(before.registrations if before else 0) + (event.event == NetworkEventKind.REGISTER),
        )
        self._keep(entry)

    def devices_listed(self, devices: Iterable[RegisteredDevice]) -> None:
        """Take in the whole list 0x0050: who is not in it is not registered."""
        listed = {device.eui48: device for device in devices}
        for key, entry in self._entries.items():
            if key not in listed and entry.registered:
                self._entries[key] = self._gone(entry)
        for device in listed.values():
            entry = self._entries.get(device.eui48) or NodeEntry(device.eui48, True, 0, LSID_NONE, 0, 0)  # noqa: FBT003
            self._keep(
                replace(
                    entry,
                    registered=True,
                    lnid=device.lnid,
                    lsid=device.lsid,
                    sid=device.sid,
                    state=device.state,
                    level=device.level,
                )
            )

    def links_listed(self, links: Iterable[PhyLink]) -> None:
        """Take in list 0x0057, which names nodes by LNID and SID."""
        heard = {(link.lnid, link.sid): link for link in links}
        for key, entry in self._entries.items():
            link = heard.get((entry.lnid, entry.sid)) if entry.registered else None
            if link is not None:
                self._entries[key] = replace(entry, rx_level=link.rx_level, snr=link.snr, modulation=link.modulation)

    def heard(self, eui48: bytes, now: float) -> None:
        """A node has sent something."""
        entry = self._entries.get(eui48)
        if entry is not None:
            self._entries[eui48] = replace(entry, heard_at=now)

    @property
    def entries(self) -> tuple[NodeEntry, ...]:
        """All nodes known, those that are gone included."""
        return tuple(self._entries.values())

    @property
    def history(self) -> tuple[Happened, ...]:
        """The last events, oldest first."""
        return tuple(self._history)

    def path(self, eui48: bytes) -> tuple[bytes, ...]:
        """The switches between the base node and this node, from the node on; as far as they are known."""
        by_lsid = {entry.lsid: entry for entry in self._entries.values() if entry.registered and entry.is_switch}
        found: list[bytes] = []
        entry = self._entries.get(eui48)
        while entry is not None and entry.sid != 0 and len(found) < LEVELS_MAX:
            entry = by_lsid.get(entry.sid)
            if entry is None or entry.eui48 in found or entry.eui48 == eui48:
                break
            found.append(entry.eui48)
        return tuple(found)

    def _keep(self, entry: NodeEntry) -> None:
        self._entries.pop(entry.eui48, None)
        self._entries[entry.eui48] = entry
        while len(self._entries) > NODES_MAX:
            del self._entries[next(iter(self._entries))]

    @staticmethod
    def _gone(entry: NodeEntry) -> NodeEntry:
        gone = replace(entry, registered=False, state=int(NodeState.DISCONNECTED))
        return replace(gone, level=None, rx_level=None, snr=None, modulation=None)
