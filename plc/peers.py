"""Whom the ports of this process are connected to: one place on the network, one port.

A terminal server or a meter that is reached by two names would be talked to by two ports at once, and each would get
half of every answer. Serial devices have a lock of the system's (`dlms.link.exclusive`); of two connections to one
place only the process itself knows. Which place a name leads to is known once it is looked up, so this is found out
when a port is opened; what can be told before is refused with the configuration.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end: an address in its shortest form, and what is spoken to it."""

    address: str
    port: int
    datagrams: bool = False

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}{' (UDP)' if self.datagrams else ''}"

    @classmethod
    def of(cls, address: tuple[object, ...], *, datagrams: bool) -> Peer:
        """Return the peer that a socket address, as of `getpeername` or `getaddrinfo`, stands for."""
        import ipaddress  # not at the top: a device with serial ports only has no use for it

        host, port = str(address[0]), address[1]
        try:
            known = ipaddress.ip_address(host)
        except ValueError:
            known = None
        if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is not None:
            known = known.ipv4_mapped
        scope = f"%{address[3]}" if len(address) > 3 and address[3] and "%" not in host else ""
        return cls(f"{known or host}{scope}", port if isinstance(port, int) else 0, datagrams)

    @classmethod
    def of_socket(cls, connected: socket.socket) -> Peer | None:
        """Return whom a socket is connected to; `None` where it is not."""
        import socket

        try:
            address = connected.getpeername()
        except OSError:
            return None
        return cls.of(address, datagrams=connected.type == socket.SOCK_DGRAM) if isinstance(address, tuple) else None


Claim = Callable[[Peer, Callable[[], bool]], str]
"""Says that somebody is connected to a peer for as long as the function says so; returns who else is, or nothing."""


class Peers:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Peer, tuple[str, Callable[[], bool]]] = {}

    def claim(self, peer: Peer, who: str, is_open: Callable[[], bool]) -> str:
        """Say that `who` is connected to this peer for as long as `is_open` says so. Returns who is already; empty
        where nobody else is."""
        with self._lock:
            holder, still = self._held.get(peer, ("", lambda: False))
            if still():
                return holder
            self._held = {other: held for other, held in self._held.items() if held[1]()}
            self._held[peer] = who, is_open
            return ""
