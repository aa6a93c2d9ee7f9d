"""Opens what a port of the configuration leads to."""

from __future__ import annotations

from agent.metering.ports.port_state import Bridge
from agent.settings.config import PortConfig
from plc.bridge import open_bridge


def bridge_to(port: PortConfig) -> Bridge:
    """Open a port. Raises `plc.errors.PlcError` when it cannot be opened."""
    if port.protocol.own_urls:
        from plc.connections import MeterConnections

        return MeterConnections(port.endpoint, port.protocol.make_core)
    return open_bridge(port.protocol, port.url, port.baudrate, parity=port.parity, silence_s=port.silence_s)
