"""The DM server as ASGI: `POST /dm`."""

from __future__ import annotations

from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from headend import web
from headend.dm.server import DmServer, Request
from omadm.auth import HMAC_HEADER
from omadm.syncml.element import BODY_BYTES_MAX

PATH = "/dm"


def routes(server: DmServer) -> list[Route]:
    """The routes of the DM server. Database work runs in the thread pool."""

    async def post(http: HttpRequest) -> Response:
        try:
            body = await web.read_body(http, BODY_BYTES_MAX)
        except web.HttpProblem as problem:
            return Response(problem.text, problem.status)
        request = Request(body, http.headers.get("content-type", ""), http.headers.get(HMAC_HEADER))
        peer = http.client.host if http.client else "unknown"
        request = replace(request, session=http.query_params.get("session", ""), peer=peer)
        answer = await run_in_threadpool(server.handle, request)
        headers = {"content-type": answer.content_type, "cache-control": "no-store"}
        if answer.mac is not None:
            headers[HMAC_HEADER] = answer.mac
        return Response(answer.body, answer.status, headers)

    return [Route(PATH, post, methods=["POST"])]
