"""The line between the agent's DM client and the head-end's DM server: a call, which can be lost."""

from __future__ import annotations

from collections.abc import Mapping

from agent.https import HttpsError, Response
from headend.dm.server import DmServer, Request, ServerConfig
from omadm.auth import HMAC_HEADER

CONFIG = ServerConfig("headend", "https://headend/dm")


class Line:
    """The agent's HTTPS port, ending in the server. `lose` has the numbers of the exchanges to lose, and how."""

    def __init__(self, server: DmServer) -> None:
        self.server = server
        self.lose: dict[int, str] = {}
        self.exchanges = 0

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert (method, url) == ("POST", CONFIG.url)
        headers = headers or {}
        fate = self.lose.pop(self.exchanges, "")
        self.exchanges += 1
        if fate == "request":
            raise HttpsError("the line is down")
        answer = self.server.handle(Request(body or b"", headers["Content-Type"], headers.get(HMAC_HEADER)))
        if fate == "answer":
            raise HttpsError("the line went down")
        got = {"content-type": answer.content_type} | ({HMAC_HEADER: answer.mac} if answer.mac else {})
        return Response(answer.status, got, answer.body)
