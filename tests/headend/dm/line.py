"""The line between the agent's DM client and the head-end's DM server: a call, which can be lost."""

from __future__ import annotations

from collections.abc import Mapping

from agent.https import HttpsError, Response
from headend.dm.server import DmServer, Request, ServerConfig
from headend.security.service import SecurityService
from omadm.auth import HMAC_HEADER
from omadm.ssmp.wire import CONTENT_TYPE

SSMP_URL = "https://headend/ssmp"
CONFIG = ServerConfig("headend", "https://headend/dm")


class Line:
    """The agent's HTTPS port, ending in the servers. `lose` has the numbers of the exchanges to lose, and how."""

    def __init__(self, server: DmServer, security: SecurityService | None = None) -> None:
        self.server = server
        self.security = security
        self.lose: dict[int, str] = {}
        self.exchanges = 0

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert method == "POST"
        headers = headers or {}
        fate = self.lose.pop(self.exchanges, "")
        self.exchanges += 1
        if fate == "request":
            raise HttpsError("the line is down")
        answer = self._answer(url, body or b"", headers)
        if fate == "answer":
            raise HttpsError("the line went down")
        return answer

    def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
        if url == SSMP_URL and self.security is not None:
            status, document = self.security.handle(body, "192.0.2.1")
            return Response(status, {"content-type": CONTENT_TYPE}, document)
        assert url == CONFIG.url
        answer = self.server.handle(Request(body, headers["Content-Type"], headers.get(HMAC_HEADER)))
        got = {"content-type": answer.content_type} | ({HMAC_HEADER: answer.mac} if answer.mac else {})
        return Response(answer.status, got, answer.body)
