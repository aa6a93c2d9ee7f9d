"""The metering server as ASGI: `POST /v1/readings`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headend import access, db, web
from headend.metering import readings as store
from headend.metering import resend
from omadm import readings

LOG = logging.getLogger("headend.metering")


def create_app(engine: Engine, *, wall: Callable[[], float] = time.time) -> Starlette:
    """The metering server's application. `wall` returns seconds since the epoch."""
    refusals = access.RefusalLog(engine)

    def device_of(token: str) -> str:
        with db.reader(engine).begin() as connection:
            return _admitted(connection, token)

    async def post_readings(request: Request) -> Response:
        try:
            return await take(request)
        except _SwitchedOffError as problem:
            peer = request.client.host if request.client else "unknown"
            await run_in_threadpool(refusals.note, problem.device, access.Door.READINGS, peer, wall())
            raise

    async def take(request: Request) -> Response:
        token = web.bearer(request)
        device = await run_in_threadpool(device_of, token)
        body = await web.read_body(request, readings.BODY_BYTES_MAX)
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in ("gzip", "identity"):
            raise web.HttpProblem(415, "Content-Encoding is gzip or none")
        batch = await run_in_threadpool(_parse, body, encoding == "gzip")
        if batch.device != device:
            raise web.HttpProblem(403, "the batch is of another device than the token")
        try:
            # Asked again with what is stored: the body may have taken its time.
            listed = await run_in_threadpool(store.store, engine, batch, wall(), lambda c: _admitted(c, token))
            if batch.reports:
                await run_in_threadpool(resend.close, engine, device, batch.reports, wall())
            orders = await run_in_threadpool(resend.open_orders, engine, device)
        except SQLAlchemyError as error:
            LOG.exception("readings not stored", extra={"event": "metering.store.failed"})
            raise web.HttpProblem(503, "the readings could not be stored") from error
        LOG.info(
            "%s: %d readings, %d events, %d reports of gaps, up to id %s",
            device,
            len(batch.records),
            len(batch.events),
            len(batch.gaps),
            batch.last,
            extra={"event": "metering.batch"},
        )
        again = {"resend": [order.entry() for order in orders]} if orders else {}
        answer = {"listed": listed} if listed is not None else {}
        kinds = {readings.ACCEPTS_HEADER: ", ".join(readings.KINDS)}
        return web.JsonAnswer({"acknowledged": batch.last, **again, **answer}, headers=kinds)

    return Starlette(
        routes=[Route("/v1/readings", post_readings, methods=["POST"]), web.health_route()],
        exception_handlers={web.HttpProblem: web.on_problem},
    )


class _SwitchedOffError(web.HttpProblem):
    def __init__(self, device: str) -> None:
        super().__init__(403, access.SWITCHED_OFF)
        self.device = device


def _admitted(connection: Connection, token: str) -> str:
    """The device whose token this is. Raises `HttpProblem` 401 for an unknown one, 403 for a device that is off."""
    device = store.owner_of_token(connection, token)
    if device is None:
        raise web.HttpProblem(401, "this token is not known", {"WWW-Authenticate": "Bearer"})
    if not access.admits(connection, device):
        raise _SwitchedOffError(device)
    return device


def _parse(body: bytes, packed: bool) -> readings.Batch:
    try:
        return readings.parse(readings.inflate(body) if packed else body)
    except readings.BatchTooLargeError as error:
        raise web.HttpProblem(413, str(error)) from None
    except readings.LaterVersionError as error:
        # Not 400, by which a device sets a record aside: every version of it tries again after this, and keeps it.
        raise web.HttpProblem(415, str(error)) from None
    except readings.BatchError as error:
        raise web.HttpProblem(400, str(error)) from None
