"""The operator's JSON API (docs/headend.md, "Operator API"). Every request carries the operator's bearer token."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from headend import access, db, passes, web
from headend.config import SERVER_ID
from headend.dm import accounts
from headend.dm import routes as dm_routes
from headend.dm.jobs import queue
from headend.dm.jobs.types import JobError
from headend.dm.push import DeviceOffError, PushError, PushForbiddenError
from headend.metering import events, gaps, missing, readings, resend
from headend.operator import lifecycle, networks, orders, views
from headend.operator.console import Console
from headend.operator.lifecycle import Actor
from headend.operator.zones import posix_zone
from headend.security import certificates, devices, records
from headend.software.repository import DEFAULT_TYPE, PackageStore, PackageStoreError
from headend.software.repository import shown as described
from omadm.addresses import AddressError
from omadm.auth import SECRET_TYPES
from omadm.bootstrap import Account
from omadm.local_time import ZoneError
from omadm.readings import BatchError, parse_orders

LOG = logging.getLogger("headend.operator")

LIST_DEFAULT = 100
LIST_MAX = 10_000
CSV_BYTES_MAX = 16 << 20
API = "/v1/"  # everything below needs the token; the web pages have sessions of their own

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class OperatorDeps:
    """What the API needs. `push(device_id)` sends a notification and returns the session id in it; `urls` returns the
    servers' base URLs by name; `server_id` is the DM server's; `wall` returns seconds since the epoch;
    `issues_certificates`: an authority is set by which certificates of devices are renewed."""

    engine: Engine
    packages: PackageStore
    push: lifecycle.Push
    urls: Callable[[], dict[str, str]]
    token_hash: str
    wall: Callable[[], float] = time.time
    server_id: str = SERVER_ID
    issues_certificates: bool = False


class RequireToken:
    """Refuses every request to the API without the operator's token."""

    def __init__(self, app: ASGIApp, token_hash: str) -> None:
        self._app = app
        self._token_hash = token_hash

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(API):
            request = Request(scope)
            try:
                web.require_token(request, self._token_hash)
            except web.HttpProblem as problem:
                await (await web.on_problem(request, problem))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_app(deps: OperatorDeps) -> Starlette:
    """The operator server's application: the API, and the pages for people."""
    console = Console(deps.engine, deps.packages, deps.token_hash, deps.push, monotonic=time.monotonic, wall=deps.wall)
    return Starlette(
        routes=[
            *_device_routes(deps),
            *_lifecycle_routes(deps),
            *_device_action_routes(deps),
            *_push_routes(deps),
            *_job_routes(deps),
            *_order_routes(deps),
            *_report_routes(deps),
            *_resend_routes(deps),
            *_reading_routes(deps),
            *_gap_routes(deps),
            *_event_routes(deps),
            *_package_routes(deps),
            *console.routes(),
            web.health_route(),
        ],
        middleware=[Middleware(RequireToken, token_hash=deps.token_hash)],
        exception_handlers={web.HttpProblem: web.on_problem},
    )


# ---- devices


def _identity(document: dict[str, Any]) -> Callable[[Connection, lifecycle.Actor, str, bool], None] | None:
    """How a device is to prove itself, as the step that enrols it so; `None` unless one way is named."""
    given = [name for name in ("key", "certificate", "by_authority") if name in document]
    value = document[given[0]] if len(given) == 1 else None
    match given, value:
        case ["key"], str():
            return lambda c, actor, device_id, replace: lifecycle.enrol(
                c, actor, device_id, devices.key_from(value), replace=replace
            )
        case ["certificate"], str():
            return lambda c, actor, device_id, replace: lifecycle.enrol_certificate(
                c, actor, device_id, certificates.pinned_from(value), replace=replace
            )
        case ["by_authority"], True:
            return lambda c, actor, device_id, replace: lifecycle.enrol_certificate(
                c, actor, device_id, None, replace=replace
            )
    return None


def _device_routes(deps: OperatorDeps) -> list[Route]:
    async def list_devices(_: Request) -> Response:
        return await _listing(deps, "devices", views.devices)

    async def enrol(request: Request) -> Response:
        document = await web.read_json(request)
        device_id, replace = document.get("id"), document.get("replace", False)
        by = _identity(document)
        if not isinstance(device_id, str) or not isinstance(replace, bool) or by is None:
            raise web.HttpProblem(
                400,
                "id is expected, and one of key (hexadecimal), certificate (PEM) and by_authority (true); "
                "replace is true or false",
            )
        await _step(deps, request, lambda c, actor: by(c, actor, device_id, replace))
        LOG.info("enrolled %s", device_id, extra={"event": "operator.enrolled"})
        return web.JsonAnswer({"id": device_id}, status_code=201)

    async def enrol_csv(request: Request) -> Response:
        text = (await web.read_body(request, CSV_BYTES_MAX)).decode("utf-8", "replace")
        with _told():
            count = await run_in_threadpool(lifecycle.enrol_csv, deps.engine, _actor(deps, request), text)
        LOG.info("enrolled %d devices", count, extra={"event": "operator.enrolled"})
        return web.JsonAnswer({"enrolled": count}, status_code=201)

    async def list_registrations(request: Request) -> Response:
        limit = _limit(request)
        return await _listing(deps, "registrations", lambda connection: devices.log_listing(connection, limit))

    return [
        Route("/v1/devices", list_devices, methods=["GET"]),
        Route("/v1/devices", enrol, methods=["POST"]),
        Route("/v1/enrolments", enrol_csv, methods=["POST"]),
        Route("/v1/registrations", list_registrations, methods=["GET"]),
    ]


def _lifecycle_routes(deps: OperatorDeps) -> list[Route]:
    """What happens to a device that is enrolled; and what was done, and was alarming."""

    async def change(request: Request) -> Response:
        enabled = (await web.read_json(request)).get("enabled")
        if not isinstance(enabled, bool):
            raise web.HttpProblem(400, "enabled: true or false is expected")
        device_id = request.path_params["device"]
        await _step(deps, request, lambda c, actor: lifecycle.switch(c, actor, device_id, on=enabled))
        LOG.info("%s switched %s", device_id, "on" if enabled else "off", extra={"event": "operator.switched"})
        return web.JsonAnswer({"id": device_id, "enabled": enabled})

    async def replace_key(request: Request) -> Response:
        document = await web.read_json(request)
        device_id, key, end = request.path_params["device"], document.get("key"), document.get("end_account", False)
        if not isinstance(key, str) or not isinstance(end, bool):
            raise web.HttpProblem(400, "key (hexadecimal) is expected, end_account is true or false")
        await _step(
            deps,
            request,
            lambda c, actor: lifecycle.replace_key(c, actor, device_id, devices.key_from(key), end_account=end),
        )
        return web.JsonAnswer({"id": device_id})

    async def renew_key(request: Request) -> Response:
        device_id = request.path_params["device"]
        number = await _step(deps, request, lambda c, actor: lifecycle.renew_key(c, actor, device_id))
        return web.JsonAnswer(await _read(deps, lambda connection: queue.show(connection, number)), status_code=201)

    async def renew_certificate(request: Request) -> Response:
        device_id = request.path_params["device"]
        number = await _step(
            deps,
            request,
            lambda c, actor: lifecycle.renew_certificate(c, actor, device_id, issues=deps.issues_certificates),
        )
        return web.JsonAnswer(await _read(deps, lambda connection: queue.show(connection, number)), status_code=201)

    async def decommission(request: Request) -> Response:
        device_id = request.path_params["device"]
        path = (await web.read_json(request)).get("path", lifecycle.ACCOUNT_PATH)
        if not isinstance(path, str):
            raise web.HttpProblem(400, "path: a node of the device's tree is expected")
        number = await _step(deps, request, lambda c, actor: lifecycle.decommission(c, actor, device_id, path))
        return web.JsonAnswer(await _read(deps, lambda connection: queue.show(connection, number)), status_code=201)

    async def remove(request: Request) -> Response:
        device_id = request.path_params["device"]
        await _step(deps, request, lambda c, actor: lifecycle.remove(c, actor, device_id))
        return Response(status_code=204)

    async def list_audit(request: Request) -> Response:
        device_id, limit = request.query_params.get("device"), _limit(request)
        return await _listing(deps, "audit", lambda c: records.audit_listing(c, device_id, limit))

    async def list_alarms(request: Request) -> Response:
        query, limit = request.query_params, _limit(request)
        only = _state(request, "open") == "open"
        return await _listing(
            deps, "alarms", lambda c: records.alarm_listing(c, query.get("device"), limit, open_only=only)
        )

    async def acknowledge_alarm(request: Request) -> Response:
        number = request.path_params["alarm"]
        if not await _step(deps, request, lambda c, actor: records.acknowledge(c, number, actor.who, actor.now)):
            raise web.HttpProblem(404, "there is no open alarm of this number")
        return web.JsonAnswer({"id": number})

    return [
        Route("/v1/devices/{device}", change, methods=["PATCH"]),
        Route("/v1/devices/{device}", remove, methods=["DELETE"]),
        Route("/v1/devices/{device}/key", replace_key, methods=["POST"]),
        Route("/v1/devices/{device}/renew-key", renew_key, methods=["POST"]),
        Route("/v1/devices/{device}/renew-certificate", renew_certificate, methods=["POST"]),
        Route("/v1/devices/{device}/decommission", decommission, methods=["POST"]),
        Route("/v1/audit", list_audit, methods=["GET"]),
        Route("/v1/security-alarms", list_alarms, methods=["GET"]),
        Route("/v1/security-alarms/{alarm:int}/acknowledge", acknowledge_alarm, methods=["POST"]),
    ]


def _device_action_routes(deps: OperatorDeps) -> list[Route]:
    refusals = access.RefusalLog(deps.engine)

    async def require_in_service(request: Request, device_id: str) -> None:
        """Credentials are for a device that is switched on. Raises `HttpProblem` 404 or 409."""
        await _require_device(deps, device_id)
        if not await _read(deps, lambda connection: access.admits(connection, device_id)):
            peer = request.client.host if request.client else "unknown"
            await run_in_threadpool(refusals.note, device_id, access.Door.TOKEN, peer, deps.wall())
            raise web.HttpProblem(409, access.SWITCHED_OFF)

    def still_in_service(connection: Connection, device_id: str) -> None:
        """With what is made for it: it may have been switched off meanwhile."""
        if not access.admits(connection, device_id):
            raise web.HttpProblem(409, access.SWITCHED_OFF)

    async def metering_token(request: Request) -> Response:
        device_id = request.path_params["device"]
        await require_in_service(request, device_id)

        def work(connection: Connection) -> str:
            still_in_service(connection, device_id)
            return readings.new_token(connection, device_id, deps.wall())

        token = await _write(deps, work)
        LOG.info("metering token issued for %s", device_id, extra={"event": "operator.token"})
        url = f"{deps.urls()['metering']}/v1/readings"
        return web.JsonAnswer({"device": device_id, "token": token, "url": url}, status_code=201)

    async def dm_account(request: Request) -> Response:
        document = await web.read_json(request)
        kind, push_url = document.get("auth", "HMAC"), document.get("push_url", "")
        accepts = document.get("accepts", accounts.MESSAGE)
        if kind not in SECRET_TYPES or not isinstance(push_url, str):
            raise web.HttpProblem(400, f"auth is one of {', '.join(SECRET_TYPES)}, push_url a URL")
        if accepts not in (accounts.MESSAGE, accounts.SESSION) or (accepts == accounts.SESSION and kind == "HMAC"):
            raise web.HttpProblem(400, "accepts: message, or session for DIGEST and BASIC")
        try:
            accounts.check_push_url(push_url)
        except AddressError as error:
            raise web.HttpProblem(400, f"push_url: an http or https URL is expected: it {error}") from error
        device_id = request.path_params["device"]
        await require_in_service(request, device_id)
        url = f"{deps.urls()['dm']}{dm_routes.PATH}"

        def work(connection: Connection) -> Account:
            still_in_service(connection, device_id)
            made = accounts.create(
                connection,
                device_id,
                server_id=deps.server_id,
                url=url,
                auth_type=kind,
                accepts=accepts,
                now=deps.wall(),
            )
            accounts.set_push_url(connection, device_id, push_url)
            return made

        account = await _write(deps, work)
        LOG.info("DM account with %s made for %s", kind, device_id, extra={"event": "operator.account"})
        return web.JsonAnswer(views.credentials(account), status_code=201, headers={"Cache-Control": "no-store"})

    return [
        Route("/v1/devices/{device}/metering-token", metering_token, methods=["POST"]),
        Route("/v1/devices/{device}/dm-account", dm_account, methods=["POST"]),
    ]


def _push_routes(deps: OperatorDeps) -> list[Route]:
    """Notifications, and where a device may be called with them."""

    async def push(request: Request) -> Response:
        try:
            device_id = request.path_params["device"]
            session_id = await run_in_threadpool(
                lifecycle.call, deps.engine, _actor(deps, request), device_id, deps.push
            )
        except accounts.UnknownDevice:
            raise web.HttpProblem(404, "this device has no DM account") from None
        except DeviceOffError as error:
            raise web.HttpProblem(409, str(error)) from None
        except PushForbiddenError as error:
            raise web.HttpProblem(403, str(error)) from None
        except PushError as error:
            raise web.HttpProblem(502, str(error)) from None
        return web.JsonAnswer({"session_id": session_id})

    async def set_push_policy(request: Request) -> Response:
        device_id = request.path_params["device"]
        policy = None if request.method == "DELETE" else await web.read_json(request)
        await _step(deps, request, lambda c, actor: lifecycle.set_push_policy(c, actor, device_id, policy))
        return web.JsonAnswer({"id": device_id, "push_policy": policy})

    return [
        Route("/v1/devices/{device}/push", push, methods=["POST"]),
        Route("/v1/devices/{device}/push-policy", set_push_policy, methods=["PUT", "DELETE"]),
    ]


# ---- device management


def _completed(deps: OperatorDeps, device_id: str, kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """Add to a job's parameters what this server knows: where packages are, the device's pass for them, and what a
    zone's name stands for."""
    packages_url = deps.urls()["software"]
    if kind == "firmware" and "url" not in params:
        with deps.engine.begin() as connection:
            shown = passes.download_pass(connection, device_id)
        return {"packages_url": packages_url, "pass": shown} | params
    url = params.get("url")
    if kind in ("firmware", "software") and isinstance(url, str) and url.startswith(f"{packages_url}/"):
        with deps.engine.begin() as connection:
            return params | {"url": passes.with_pass(connection, url, device_id)}
    if kind == "tasks" and isinstance(params.get("zone"), str):
        try:
            return params | {"zone": posix_zone(params["zone"])}
        except ZoneError as error:
            raise web.HttpProblem(400, f"zone: {error}") from None
    return params


def _job_routes(deps: OperatorDeps) -> list[Route]:
    async def enqueue(request: Request) -> Response:
        document = await web.read_json(request, size_max=1 << 20)
        kind, params = document.get("kind"), document.get("params", {})
        if not isinstance(kind, str) or not isinstance(params, dict):
            raise web.HttpProblem(400, "kind, and params as an object, are expected")
        device_id = request.path_params["device"]
        params = await run_in_threadpool(_completed, deps, device_id, kind, params)

        def work(connection: Connection) -> dict[str, Any] | None:
            number = queue.enqueue(connection, device_id, kind, params, now=deps.wall())
            return queue.show(connection, number)

        try:
            queued = await _write(deps, work)
        except JobError as error:
            raise web.HttpProblem(400, str(error)) from None
        except accounts.UnknownDevice:
            await _require_device(deps, device_id)
            raise web.HttpProblem(404, "this device has no DM account (it has not registered)") from None
        LOG.info("%s job queued for %s", kind, device_id, extra={"event": "operator.job"})
        return web.JsonAnswer(queued, status_code=201)

    async def list_jobs(request: Request) -> Response:
        device_id, limit = request.query_params.get("device"), _limit(request)
        return await _listing(deps, "jobs", lambda connection: queue.listing(connection, device_id, limit=limit))

    async def show_job(request: Request) -> Response:
        number = request.path_params["job"]
        job = await _read(deps, lambda connection: queue.show(connection, number))
        if job is None:
            raise web.HttpProblem(404, "there is no such job")
        return web.JsonAnswer(job)

    async def cancel_job(request: Request) -> Response:
        number = request.path_params["job"]

        def work(connection: Connection) -> tuple[bool, dict[str, Any] | None]:
            return queue.cancel(connection, number, now=deps.wall()), queue.show(connection, number)

        cancelled, job = await _write(deps, work)
        if job is None:
            raise web.HttpProblem(404, "there is no such job")
        if not cancelled:
            raise web.HttpProblem(409, f"the job is {job['state']}: only queued and waiting ones can be cancelled")
        LOG.info("job %d cancelled", number, extra={"event": "operator.job.cancelled"})
        return web.JsonAnswer(job)

    return [
        Route("/v1/devices/{device}/jobs", enqueue, methods=["POST"]),
        Route("/v1/jobs", list_jobs, methods=["GET"]),
        Route("/v1/jobs/{job:int}", show_job, methods=["GET"]),
        Route("/v1/jobs/{job:int}/cancel", cancel_job, methods=["POST"]),
    ]


def _order_routes(deps: OperatorDeps) -> list[Route]:
    """Orders to meters; each is a job, which is queued and cancelled as one."""

    async def list_orders(request: Request) -> Response:
        device_id, limit = request.query_params.get("device"), _limit(request)
        return await _listing(deps, "orders", lambda connection: orders.listing(connection, device_id, limit=limit))

    async def show_order(request: Request) -> Response:
        return web.JsonAnswer(await found(request.path_params["job"]))

    async def ask_progress(request: Request) -> Response:
        """Queue a job that reads how far the device is; the order has it then."""
        order = await found(request.path_params["job"])
        if order["state"] not in queue.OPEN_STATES:
            raise web.HttpProblem(409, f"the order is {order['state']}: its result has its meters")
        paths = {"paths": [orders.progress_path(order["id"])]}

        def work(connection: Connection) -> dict[str, Any] | None:
            return queue.show(connection, queue.enqueue(connection, order["device_id"], "get", paths, now=deps.wall()))

        return web.JsonAnswer(await _write(deps, work), status_code=201)

    async def found(number: int) -> dict[str, Any]:
        order: dict[str, Any] | None = await _read(deps, lambda connection: orders.show(connection, number))
        if order is None:
            raise web.HttpProblem(404, "there is no such order")
        return order

    return [
        Route("/v1/orders", list_orders, methods=["GET"]),
        Route("/v1/orders/{job:int}", show_order, methods=["GET"]),
        Route("/v1/orders/{job:int}/progress", ask_progress, methods=["POST"]),
    ]


def _report_routes(deps: OperatorDeps) -> list[Route]:
    """What devices have sent: values, alerts, sessions."""

    def lister(name: str, view: Callable[[Connection, str | None, int], list[dict[str, Any]]]) -> Handler:
        async def handle(request: Request) -> Response:
            device_id, limit = request.query_params.get("device"), _limit(request)
            return await _listing(deps, name, lambda connection: view(connection, device_id, limit))

        return handle

    async def list_tasks(request: Request) -> Response:
        device_id = request.path_params["device"]
        await _require_device(deps, device_id)
        return await _listing(deps, "tasks", lambda connection: views.tasks(connection, device_id, deps.wall()))

    return [
        Route("/v1/devices/{device}/tasks", list_tasks, methods=["GET"]),
        Route("/v1/alerts", lister("alerts", views.alerts), methods=["GET"]),
        Route("/v1/sessions", lister("sessions", views.sessions), methods=["GET"]),
        Route("/v1/values", lister("values", views.values), methods=["GET"]),
        Route("/v1/networks", lister("networks", _networks), methods=["GET"]),
        Route("/v1/registered", lister("registered", _registered), methods=["GET"]),
    ]


def _networks(connection: Connection, device: str | None, limit: int) -> list[dict[str, Any]]:
    return networks.networks(connection, device)[:limit]


def _registered(connection: Connection, device: str | None, limit: int) -> list[dict[str, Any]]:
    return networks.meters(connection, device)[:limit]


# ---- metering


def _resend_routes(deps: OperatorDeps) -> list[Route]:
    async def order_again(request: Request) -> Response:
        document = await web.read_json(request)
        device_id = request.path_params["device"]
        await _require_device(deps, device_id)
        try:
            (wanted,) = parse_orders([{**document, "request": 1}])
        except BatchError as error:
            raise web.HttpProblem(400, str(error)) from None
        number = await _write(deps, lambda connection: resend.order(connection, device_id, wanted, deps.wall()))
        LOG.info("%s is asked for readings once more", device_id, extra={"event": "operator.resend"})
        return web.JsonAnswer({"request": number}, status_code=201)

    async def list_orders(request: Request) -> Response:
        device_id = request.path_params["device"]
        return await _listing(deps, "orders", lambda connection: resend.listing(connection, device_id))

    return [
        Route("/v1/devices/{device}/resend", order_again, methods=["POST"]),
        Route("/v1/devices/{device}/resend", list_orders, methods=["GET"]),
    ]


def _reading_routes(deps: OperatorDeps) -> list[Route]:
    async def list_meters(request: Request) -> Response:
        device_id = request.query_params.get("device")
        return web.JsonAnswer({"meters": await run_in_threadpool(readings.list_meters, deps.engine, device_id)})

    async def list_readings(request: Request) -> Response:
        query = request.query_params

        def work() -> list[dict[str, object]]:
            return readings.list_readings(
                deps.engine,
                device=query.get("device"),
                meter=query.get("meter"),
                obis=query.get("obis"),
                run=_number(request, "run"),
                newest=query.get("order") == "newest",
                limit=_limit(request),
                offset=_number(request, "offset") or 0,
            )

        return web.JsonAnswer({"readings": await run_in_threadpool(work)})

    return [
        Route("/v1/meters", list_meters, methods=["GET"]),
        Route("/v1/readings", list_readings, methods=["GET"]),
    ]


def _gap_routes(deps: OperatorDeps) -> list[Route]:
    async def list_gaps(request: Request) -> Response:
        query = request.query_params
        state = _state(request, "open", "closed")

        def work() -> list[dict[str, Any]]:
            return missing.listing(
                deps.engine,
                device=query.get("device"),
                meter=query.get("meter"),
                state=state,
                limit=_limit(request),
                offset=_number(request, "offset") or 0,
            )

        return web.JsonAnswer({"gaps": await run_in_threadpool(work)})

    async def give_up_gaps(request: Request) -> Response:
        body = await web.read_json(request)
        device, meter, task, why = (body.get(name) for name in ("device", "meter", "task", "why"))
        if not (isinstance(device, str) and isinstance(meter, str) and isinstance(why, str) and 0 < len(why) <= 128):
            raise web.HttpProblem(400, "device, meter, and why (at most 128 characters) are expected")
        if task is not None and not isinstance(task, str):
            raise web.HttpProblem(400, "task: a text is expected")

        def work() -> int:
            return gaps.give_up(deps.engine, device, meter, why, deps.wall(), task=task)

        closed = await run_in_threadpool(work)
        LOG.info("%d gaps of %s given up: %s", closed, meter, why, extra={"event": "operator.gaps"})
        return web.JsonAnswer({"closed": closed})

    return [
        Route("/v1/gaps", list_gaps, methods=["GET"]),
        Route("/v1/gaps/give-up", give_up_gaps, methods=["POST"]),
    ]


def _event_routes(deps: OperatorDeps) -> list[Route]:
    async def list_events(request: Request) -> Response:
        query = request.query_params
        grave = query.get("grave")
        if grave not in (None, "true", "false"):
            raise web.HttpProblem(400, "grave: true or false is expected")
        state = _state(request, "open")

        def work() -> list[dict[str, Any]]:
            return events.listing(
                deps.engine,
                device=query.get("device"),
                meter=query.get("meter"),
                event=query.get("event"),
                code=_number(request, "code"),
                grave=None if grave is None else grave == "true",
                open_only=state == "open",
                since=_number(request, "since"),
                until=_number(request, "until"),
                limit=_limit(request),
                offset=_number(request, "offset") or 0,
            )

        return web.JsonAnswer({"events": await run_in_threadpool(work)})

    async def acknowledge_event(request: Request) -> Response:
        number = request.path_params["event"]
        if not await _write(deps, lambda connection: events.acknowledge(connection, number, deps.wall())):
            raise web.HttpProblem(404, "there is no such event")
        LOG.info("event %d acknowledged", number, extra={"event": "operator.event"})
        return web.JsonAnswer({"id": number})

    return [
        Route("/v1/events", list_events, methods=["GET"]),
        Route("/v1/events/{event:int}/acknowledge", acknowledge_event, methods=["POST"]),
    ]


# ---- packages


def _package_routes(deps: OperatorDeps) -> list[Route]:
    def shown(row: dict[str, Any]) -> dict[str, Any]:
        base = deps.urls()["software"]
        return row | {"url": f"{base}/packages/{row['name']}", "descriptor": f"{base}/descriptors/{row['name']}"}

    async def list_packages(_: Request) -> Response:
        rows = await run_in_threadpool(deps.packages.listing)
        return web.JsonAnswer({"packages": [shown(row) for row in rows]})

    async def upload(request: Request) -> Response:
        kind = request.headers.get("content-type", DEFAULT_TYPE).partition(";")[0].strip().lower()
        try:
            package = await deps.packages.add(request.path_params["name"], kind, request.stream(), deps.wall())
        except PackageStoreError as error:
            raise web.HttpProblem(400, str(error)) from None
        except OSError as error:
            raise web.HttpProblem(507, f"the package could not be stored: {error.strerror}") from None
        LOG.info("package %s: %d bytes", package.name, package.size, extra={"event": "operator.package"})
        row = {"name": package.name, "size": package.size, "sha256": package.sha256, "content_type": kind}
        release, _ = await run_in_threadpool(deps.packages.release, package.name)
        return web.JsonAnswer(shown(row | described(release)), status_code=201)

    async def remove(request: Request) -> Response:
        if not await run_in_threadpool(deps.packages.remove, request.path_params["name"]):
            raise web.HttpProblem(404, "there is no package of this name")
        LOG.info("package %s removed", request.path_params["name"], extra={"event": "operator.package.removed"})
        return Response(status_code=204)

    async def list_downloads(request: Request) -> Response:
        package, limit = request.query_params.get("package"), _limit(request)
        return web.JsonAnswer({"downloads": await run_in_threadpool(deps.packages.downloads, package, limit)})

    async def list_reports(request: Request) -> Response:
        return web.JsonAnswer({"reports": await run_in_threadpool(deps.packages.reports, _limit(request))})

    return [
        Route("/v1/packages", list_packages, methods=["GET"]),
        Route("/v1/packages/{name}", upload, methods=["PUT"]),
        Route("/v1/packages/{name}", remove, methods=["DELETE"]),
        Route("/v1/downloads", list_downloads, methods=["GET"]),
        Route("/v1/reports", list_reports, methods=["GET"]),
    ]


# ---- helpers


async def _read(deps: OperatorDeps, work: Callable[[Connection], Any]) -> Any:
    def run() -> Any:
        with db.reader(deps.engine).begin() as connection:
            return work(connection)

    return await run_in_threadpool(run)


async def _write(deps: OperatorDeps, work: Callable[[Connection], Any]) -> Any:
    def run() -> Any:
        with deps.engine.begin() as connection:
            return work(connection)

    return await run_in_threadpool(run)


async def _step(deps: OperatorDeps, request: Request, work: Callable[[Connection, Actor], Any]) -> Any:
    """One step of a device's life, with who asks for it. Raises `HttpProblem`."""
    actor = _actor(deps, request)
    with _told():
        return await _write(deps, lambda connection: work(connection, actor))


def _actor(deps: OperatorDeps, request: Request) -> Actor:
    return Actor(f"operator, API, {request.client.host if request.client else 'unknown'}", deps.wall())


@contextmanager
def _told() -> Iterator[None]:
    """Have what a step raises answered as an `HttpProblem`."""
    try:
        yield
    except lifecycle.UnknownDeviceError as error:
        raise web.HttpProblem(404, str(error)) from None
    except lifecycle.CsvError as error:
        raise web.HttpProblem(400, str(error)) from None
    except (lifecycle.LifecycleError, devices.AlreadyEnrolledError) as error:
        raise web.HttpProblem(409, str(error)) from None
    except (devices.DeviceError, JobError) as error:
        raise web.HttpProblem(400, str(error)) from None


async def _listing(deps: OperatorDeps, name: str, work: Callable[[Connection], list[dict[str, Any]]]) -> Response:
    return web.JsonAnswer({name: await _read(deps, work)})


async def _require_device(deps: OperatorDeps, device_id: str) -> None:
    if await _read(deps, lambda connection: devices.find(connection, device_id)) is None:
        raise web.HttpProblem(404, "there is no such device")


def _limit(request: Request) -> int:
    return max(1, min(_number(request, "limit") or LIST_DEFAULT, LIST_MAX))


def _state(request: Request, *states: str) -> str | None:
    """The state that is asked for; `None` for all. Another one would find nothing, which says that there is nothing."""
    state = request.query_params.get("state")
    if state not in (None, *states):
        raise web.HttpProblem(400, f"state: {' or '.join(states)} is expected")
    return state


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise web.HttpProblem(400, f"{name}: a number is expected")
    return int(text)
