"""Opens what a port of the configuration leads to, for one port of this process at a time."""

from __future__ import annotations

from collections.abc import Callable

from agent.metering.ports.port_state import Bridge
from agent.settings.config import PortConfig
from plc.bridge import open_bridge
from plc.peers import Peer, Peers

PEERS = Peers()  # of this process: two ports may lead to one place under two names


def bridge_to(port: PortConfig, peers: Peers = PEERS) -> Bridge:
    """Open a port. Raises `plc.errors.PlcError` when it cannot be opened, and when another one leads to the same
    place; where each meter has a place of its own, that is said of the meter."""
    if port.protocol.own_urls:
        from plc.connections import MeterConnections

        def claim_for(address: int, peer: Peer, is_open: Callable[[], bool]) -> str:
            return peers.claim(peer, f"meter {address} of port {port.name}", is_open)

        return MeterConnections(port.endpoint, port.protocol.make_core, claim=claim_for)

    def claim(peer: Peer, is_open: Callable[[], bool]) -> str:
        return peers.claim(peer, f"port {port.name}", is_open)

    return open_bridge(
        port.protocol, port.url, port.baudrate, parity=port.parity, silence_s=port.silence_s, claim=claim
    )
