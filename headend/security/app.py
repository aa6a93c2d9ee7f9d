"""The security server as ASGI: `POST /ssmp`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headend import web
from headend.dm import accounts
from headend.security.service import DraftAccount, SecurityService
from omadm.ssmp import wire


def create_app(service: SecurityService) -> Starlette:
    """The security server's application."""

    async def post_ssmp(request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != wire.CONTENT_TYPE:
            raise web.HttpProblem(415, f"{wire.CONTENT_TYPE} is expected")
        body = await web.read_body(request, wire.MESSAGE_BYTES_MAX)
        peer = request.client.host if request.client else "unknown"
        status, answer = await run_in_threadpool(service.handle, body, peer)
        return Response(answer, status_code=status, media_type=wire.CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    return Starlette(
        routes=[Route("/ssmp", post_ssmp, methods=["POST"]), web.health_route()],
        exception_handlers={web.HttpProblem: web.on_problem},
    )


def dm_accounts(server_id: str, dm_url: str) -> DraftAccount:
    """Returns a function that drafts accounts at the DM server of this head-end."""
    return lambda device_id: accounts.draft(device_id, server_id=server_id, url=dm_url)
