"""The associations of one connection to a meter, one per client SAP."""

from __future__ import annotations

from dlms.server.server import MeterServer, ServerAssociation, State
from dlms.xdlms.apdu.notify import Notification

CLIENTS_MAX = 16


class ServerConnection:
    """Sans-IO. Each APDU comes with the SAP of the client that sent it. Connections do not affect each other."""

    def __init__(self, server: MeterServer) -> None:
        self._server = server
        self._associations: dict[int, ServerAssociation] = {}

    def receive_apdu(self, client: int, apdu: bytes, now: float) -> list[bytes]:
        """Take one APDU of a client; return the answers to it."""
        association = self._associations.get(client)
        if association is None:
            self._make_room()
            association = self._associations[client] = self._server.new_association(client)
        return association.receive_apdu(apdu, now)

    def notify(self, message: Notification) -> dict[int, bytes]:
        """Encode `message` for each client that negotiated such messages. Raises `LocalError` when it is too long."""
        apdus = {client: association.notify(message) for client, association in self._associations.items()}
        return {client: apdu for client, apdu in apdus.items() if apdu is not None}

    def forget(self, client: int | None = None) -> None:
        """Drop the association of a client whose link is down; without `client`, of all clients."""
        if client is None:
            self._associations.clear()
        else:
            self._associations.pop(client, None)

    def _make_room(self) -> None:
        """When there are too many clients, drop one: an unassociated one if there is any, else the oldest."""
        if len(self._associations) >= CLIENTS_MAX:
            idle = [sap for sap, association in self._associations.items() if association.state is State.IDLE]
            self.forget(idle[0] if idle else next(iter(self._associations)))
