"""The operator's web pages: the data of the JSON API for people, rendered by the server, without scripts. They
cancel jobs, acknowledge security alarms, call a device, and take it through the steps of its life.

A browser logs in with the operator's token and gets a session cookie: random, for this server's pages only, kept in
this process and forgotten with it. A form that changes something carries a token derived from the session, which
another site's page cannot know, however the browser treats `SameSite`.
"""

from __future__ import annotations

import datetime as dt
import hmac
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Connection, Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from headend import db, web
from headend.dm.accounts import UnknownDevice
from headend.dm.jobs import queue
from headend.dm.push import PushError
from headend.metering import events, missing, readings
from headend.operator import lifecycle, networks, orders, told, views
from headend.security import devices, records
from headend.security.limits import RateLimit
from headend.software.repository import PackageStore

LOG = logging.getLogger("headend.operator")

SESSION_S = 8 * 3600.0
SESSIONS_MAX = 100
COOKIE = "dcu_session"
FORM_BYTES_MAX = 2048
REFRESH_S = 10
ROWS = 100
ROWS_ON_OVERVIEW = 8
RUNS = 24
READINGS_PER_RUN_MAX = 1000
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_GOOD = frozenset({"done", "complete", "ok", "confirmed"})
_BAD = frozenset(
    {"failed", "aborted", "lost", "broken off", "refused", "not reached", "unknown", "incomplete", "taken back"}
)
_SERVICE_BAD = frozenset({"waiting", "over", "unusable"})
_PAGES = Path(__file__).parent / "pages"

Page = Callable[[Request], tuple[str, dict[str, Any]]]


class Console:
    """The pages of one head-end. `monotonic` returns seconds for sessions, `wall` seconds since the epoch."""

    def __init__(
        self,
        engine: Engine,
        packages: PackageStore,
        token_hash: str,
        push: lifecycle.Push,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._packages = packages
        self._token_hash = token_hash
        self._push = push
        self._monotonic = monotonic
        self._wall = wall
        self._sessions: dict[str, float] = {}
        self._logins = RateLimit()
        self._templates = _environment(wall)

    def routes(self) -> list[Route]:
        """The routes of the pages, which the operator server mounts beside its API."""
        pages: dict[str, Page] = {
            "/": self._overview,
            "/device": self._device,
            "/service": self._service,
            "/meters": self._meters,
            "/meter": self._meter,
            "/readings": self._readings,
            "/events": self._events,
            "/gaps": self._gaps,
            "/network": self._network,
            "/jobs": self._jobs,
            "/orders": self._orders,
            "/order": self._order,
            "/alerts": self._alerts,
            "/packages": self._packages_page,
            "/registrations": self._registrations,
            "/security": self._security,
        }
        return [
            *(Route(path, self._guarded(path, page), methods=["GET"]) for path, page in pages.items()),
            Route("/login", self._show_login, methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/jobs/cancel", self._cancel, methods=["POST"]),
            Route("/device/step", self._step, methods=["POST"]),
            Route("/security/acknowledge", self._acknowledge, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/style.css", self._style, methods=["GET"]),
        ]

    # ---- sessions

    def _guarded(self, path: str, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            if not self._logged_in(request):
                return RedirectResponse("/login", status_code=303, headers=HEADERS)
            try:
                template, content = await run_in_threadpool(page, request)
            except web.HttpProblem as problem:
                return self._problem(request, problem)
            return self._render(template, self._frame(request) | {"here": path} | content)

        return handle

    def _frame(self, request: Request) -> dict[str, Any]:
        """The template variables that every page of a session needs."""
        return {"here": "", "refresh_s": 0, "word": _form_token(request)}

    def _problem(self, request: Request, problem: web.HttpProblem) -> Response:
        return self._render("problem.html", self._frame(request) | {"text": problem.text}, problem.status)

    def _logged_in(self, request: Request) -> bool:
        ends = self._sessions.get(web.token_hash(request.cookies.get(COOKIE, "")))
        return ends is not None and self._monotonic() < ends

    async def _show_login(self, _: Request) -> Response:
        return self._render("login.html", {"error": ""})

    async def _login(self, request: Request) -> Response:
        form = await _form(request)
        peer = request.client.host if request.client else ""
        if not self._logins.allow(peer, self._monotonic()):
            return self._render("login.html", {"error": "Too many attempts. Wait a minute."}, 429)
        if not web.same_token(form.get("token", "").strip(), self._token_hash):
            return self._render("login.html", {"error": "This is not the operator's token."}, 401)
        answer = RedirectResponse("/", status_code=303, headers=HEADERS)
        answer.set_cookie(COOKIE, self._open_session(), httponly=True, secure=True, samesite="strict")
        return answer

    async def _logout(self, request: Request) -> Response:
        self._sessions.pop(web.token_hash(request.cookies.get(COOKIE, "")), None)
        answer = RedirectResponse("/login", status_code=303, headers=HEADERS)
        answer.delete_cookie(COOKIE, httponly=True, secure=True, samesite="strict")
        return answer

    async def _own_form(self, request: Request) -> dict[str, str] | Response:
        """The fields of a form of this session, or the answer to any other."""
        form = await _form(request)
        if not self._logged_in(request):
            return RedirectResponse("/login", status_code=303, headers=HEADERS)
        if not hmac.compare_digest(form.get("word", "").encode(), _form_token(request).encode()):
            return self._problem(request, web.HttpProblem(403, "This form is not of your session."))
        return form

    async def _step(self, request: Request) -> Response:
        """One step of a device's life."""
        form = await self._own_form(request)
        if isinstance(form, Response):
            return form
        device_id, actor = form.get("id", ""), self._actor(request)

        def work() -> None:
            if form.get("step") == "call":
                lifecycle.call(self._engine, actor, device_id, self._push)
                return
            with self._engine.begin() as connection:
                _take_step(connection, actor, device_id, form)

        try:
            await run_in_threadpool(work)
        except (lifecycle.LifecycleError, devices.DeviceError) as error:
            return self._problem(request, web.HttpProblem(409, f"{error}.".capitalize()))
        except UnknownDevice:
            return self._problem(request, web.HttpProblem(404, "This device has no DM account."))
        except PushError as error:
            return self._problem(request, web.HttpProblem(409, f"Not called: {error}."))
        LOG.info("%s: %s", device_id, form.get("step"), extra={"event": "operator.step"})
        gone = form.get("step") == "delete"
        return RedirectResponse("/" if gone else f"/device?id={quote(device_id)}", status_code=303, headers=HEADERS)

    async def _acknowledge(self, request: Request) -> Response:
        form = await self._own_form(request)
        if isinstance(form, Response):
            return form
        number, actor = form.get("alarm", ""), self._actor(request)

        def work() -> bool:
            with self._engine.begin() as connection:
                return records.acknowledge(connection, int(number), actor.who, actor.now)

        if not (number.isascii() and number.isdigit() and len(number) < 16) or not await run_in_threadpool(work):
            return self._problem(request, web.HttpProblem(409, "There is no open alarm of this number."))
        return RedirectResponse("/security", status_code=303, headers=HEADERS)

    def _actor(self, request: Request) -> lifecycle.Actor:
        peer = request.client.host if request.client else "unknown"
        return lifecycle.Actor(f"operator, console, {peer}", self._wall())

    async def _cancel(self, request: Request) -> Response:
        form = await self._own_form(request)
        if isinstance(form, Response):
            return form
        number = form.get("job", "")
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            return self._problem(request, web.HttpProblem(400, "There is no such job."))

        def work() -> bool:
            with self._engine.begin() as connection:
                return queue.cancel(connection, int(number), now=self._wall())

        if not await run_in_threadpool(work):
            text = f"Job {number} cannot be cancelled: it runs, is over, or does not exist."
            return self._problem(request, web.HttpProblem(409, text))
        LOG.info("job %s cancelled", number, extra={"event": "operator.job.cancelled"})
        return RedirectResponse("/jobs", status_code=303, headers=HEADERS)

    def _open_session(self) -> str:
        now = self._monotonic()
        self._sessions = {key: ends for key, ends in self._sessions.items() if now < ends}
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[web.token_hash(session)] = now + SESSION_S
        return session

    # ---- pages

    def _overview(self, _: Request) -> tuple[str, dict[str, Any]]:
        with db.reader(self._engine).begin() as connection:
            return "overview.html", {
                "refresh_s": REFRESH_S,
                "counts": views.counts(connection),
                "devices": views.devices(connection),
                "jobs": queue.listing(connection, limit=ROWS_ON_OVERVIEW),
                "alerts": views.alerts(connection, None, ROWS_ON_OVERVIEW),
            }

    def _device(self, request: Request) -> tuple[str, dict[str, Any]]:
        device_id = request.query_params.get("id", "")
        meters = readings.list_meters(self._engine, device_id)
        with db.reader(self._engine).begin() as connection:
            device = next((row for row in views.devices(connection) if row["id"] == device_id), None)
            if device is None:
                raise web.HttpProblem(404, "there is no such device")
            return "device.html", {
                "device": device,
                "meters": meters,
                "jobs": queue.listing(connection, device_id, limit=ROWS),
                "alerts": views.alerts(connection, device_id, ROWS),
                "sessions": views.sessions(connection, device_id, ROWS),
                "values": views.values(connection, device_id, READINGS_PER_RUN_MAX),
                "tasks": views.tasks(connection, device_id, self._wall()),
                "services": told.services(connection, device_id),
                "connectivity": told.connectivity(connection, device_id),
                "alarms": records.alarm_listing(connection, device_id, ROWS_ON_OVERVIEW, open_only=True),
                "audit": records.audit_listing(connection, device_id, ROWS),
            }

    def _service(self, request: Request) -> tuple[str, dict[str, Any]]:
        device_id, wanted = request.query_params.get("device", ""), request.query_params.get("id", "")
        with db.reader(self._engine).begin() as connection:
            service = next((row for row in told.services(connection, device_id) if row["id"] == wanted), None)
        if service is None:
            raise web.HttpProblem(404, "No such service has been told of.")
        return "service.html", {"device": device_id, "service": service}

    def _meters(self, _: Request) -> tuple[str, dict[str, Any]]:
        return "meters.html", {"meters": readings.list_meters(self._engine)}

    def _meter(self, request: Request) -> tuple[str, dict[str, Any]]:
        device, meter = request.query_params.get("device", ""), request.query_params.get("meter", "")
        runs = readings.list_runs(self._engine, device, meter, RUNS)
        wanted = request.query_params.get("run", "")
        run = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 13 else None
        if run is None and runs:
            run = int(str(runs[0]["run"]))
        rows = readings.list_readings(self._engine, device=device, meter=meter, run=run, limit=READINGS_PER_RUN_MAX)
        ranges = missing.listing(self._engine, device=device, meter=meter, limit=ROWS)
        happened = events.listing(self._engine, device=device, meter=meter, limit=ROWS)
        return "meter.html", {
            "device": device,
            "meter": meter,
            "runs": runs,
            "run": run,
            "readings": rows,
            "gaps": ranges,
            "events": happened,
        }

    def _readings(self, _: Request) -> tuple[str, dict[str, Any]]:
        rows = readings.list_readings(self._engine, newest=True, limit=2 * ROWS)
        return "readings.html", {"readings": rows, "refresh_s": REFRESH_S}

    def _gaps(self, request: Request) -> tuple[str, dict[str, Any]]:
        state = "all" if request.query_params.get("state") == "all" else "open"
        rows = missing.listing(self._engine, state=None if state == "all" else state, limit=2 * ROWS + 1)
        shown, more = rows[: 2 * ROWS], len(rows) > 2 * ROWS
        return "gaps.html", {"gaps": shown, "more": more, "state": state, "refresh_s": REFRESH_S}

    def _events(self, request: Request) -> tuple[str, dict[str, Any]]:
        state = request.query_params.get("state", "all")
        rows = events.listing(self._engine, open_only=state == "open", limit=2 * ROWS)
        return "events.html", {"events": rows, "state": state, "refresh_s": REFRESH_S}

    def _network(self, request: Request) -> tuple[str, dict[str, Any]]:
        device = request.query_params.get("device") or None
        with db.reader(self._engine).begin() as connection:
            return "network.html", {
                "device": device,
                "networks": networks.networks(connection, device),
                "meters": networks.meters(connection, device),
                "events": ROWS,
            }

    def _jobs(self, _: Request) -> tuple[str, dict[str, Any]]:
        with db.reader(self._engine).begin() as connection:
            return "jobs.html", {"jobs": queue.listing(connection, limit=ROWS), "refresh_s": REFRESH_S}

    def _orders(self, _: Request) -> tuple[str, dict[str, Any]]:
        with db.reader(self._engine).begin() as connection:
            return "orders.html", {"orders": orders.listing(connection, limit=ROWS), "refresh_s": REFRESH_S}

    def _order(self, request: Request) -> tuple[str, dict[str, Any]]:
        text = request.query_params.get("job", "")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
        with db.reader(self._engine).begin() as connection:
            order = orders.show(connection, number)
        if order is None:
            raise web.HttpProblem(404, "There is no such order.")
        return "order.html", {"order": order, "refresh_s": REFRESH_S if order["state"] in queue.OPEN_STATES else 0}

    def _alerts(self, _: Request) -> tuple[str, dict[str, Any]]:
        with db.reader(self._engine).begin() as connection:
            return "alerts.html", {"alerts": views.alerts(connection, None, ROWS), "refresh_s": REFRESH_S}

    def _packages_page(self, _: Request) -> tuple[str, dict[str, Any]]:
        return "packages.html", {
            "packages": self._packages.listing(),
            "downloads": self._packages.downloads(None, ROWS)[::-1],
            "reports": self._packages.reports(ROWS),
        }

    def _registrations(self, _: Request) -> tuple[str, dict[str, Any]]:
        with db.reader(self._engine).begin() as connection:
            return "registrations.html", {"registrations": devices.log_listing(connection, ROWS)}

    def _security(self, _: Request) -> tuple[str, dict[str, Any]]:
        with db.reader(self._engine).begin() as connection:
            return "security.html", {
                "alarms": records.alarm_listing(connection, None, ROWS),
                "audit": records.audit_listing(connection, None, ROWS),
            }

    async def _style(self, _: Request) -> Response:
        style = await run_in_threadpool((_PAGES / "style.css").read_text, "utf-8")
        return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=300"})

    def _render(self, template: str, content: dict[str, Any], status: int = 200) -> Response:
        page = self._templates.get_template(template).render(content)
        # A text of the database that UTF-8 cannot carry is shown escaped, and hides no other.
        return HTMLResponse(page.encode("utf-8", "backslashreplace"), status, headers=HEADERS)


def _take_step(connection: Connection, actor: lifecycle.Actor, device_id: str, form: Mapping[str, str]) -> None:
    """What a form of the device's page asks for. Raises `LifecycleError` and `devices.DeviceError`."""
    match form.get("step"):
        case "on" | "off" as wanted:
            lifecycle.switch(connection, actor, device_id, on=wanted == "on")
        case "decommission":
            lifecycle.decommission(connection, actor, device_id)
        case "key":
            key, end = form.get("key", "").strip(), form.get("end_account") == "yes"
            lifecycle.replace_key(connection, actor, device_id, devices.key_from(key), end_account=end)
        case "push":
            lifecycle.set_push_policy(connection, actor, device_id, _push_policy(form))
        case "push default":
            lifecycle.set_push_policy(connection, actor, device_id, None)
        case "delete" if form.get("again", "").strip() == device_id:
            lifecycle.remove(connection, actor, device_id)
        case "delete":
            raise lifecycle.LifecycleError("what you typed is not the device's id: nothing was deleted")
        case _:
            raise lifecycle.LifecycleError("there is no such step")


def _push_policy(form: Mapping[str, str]) -> dict[str, Any]:
    """What stands in the two fields; a port that is no number stays text, and is refused as that."""
    networks, ports = (form.get(name, "").replace(",", " ").split() for name in ("networks", "ports"))
    return {"networks": networks, "ports": [int(one) if re.fullmatch(r"[0-9]{1,5}", one) else one for one in ports]}


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form; the first value of a repeated field. Raises `HttpProblem` 408 or 413."""
    body = await web.read_body(request, FORM_BYTES_MAX)
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _form_token(request: Request) -> str:
    """The token that the forms of this session carry."""
    return web.token_hash(f"form {request.cookies.get(COOKIE, '')}")


def _environment(wall: Callable[[], float]) -> Environment:
    made = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[[Any], str]] = {
        "iso": _iso,
        "ago": lambda at: _ago(wall() - at),
        "mood": lambda text: "good" if text in _GOOD else "bad" if text in _BAD else "busy",
        "service_mood": lambda text: "good" if text == "running" else "bad" if text in _SERVICE_BAD else "busy",
        "result_mood": lambda code: "good" if code in (200, 1200) else "bad",
        "what": _what,
        "outcome": _outcome,
        "few": _few,
        "progress": _progress,
        "contents": _contents,
        "carried": _carried,
        "visible": _visible,
    }
    made.filters.update(filters)
    return made


def _visible(text: str) -> str:
    """Text of a device with what no page shows, or takes for an order, as in Python: `\\x1b`."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _iso(at: float) -> str:
    """Seconds since the epoch as UTC; a time outside the calendar stays a number."""
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(at)


def _ago(seconds: float) -> str:
    """A duration in its largest unit, as "3 h ago"."""
    if seconds < 0:
        return "in the future"
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count = int(seconds // size)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"


def _what(job: Mapping[str, Any]) -> str:
    """A job's parameters in one line."""
    params = job["params"]
    if "paths" in params:
        return _few(params["paths"])
    if "nodes" in params:
        return _few([node["path"] for node in params["nodes"]])
    if "tasks" in params:
        return ", ".join(name if wanted else f"{name} deleted" for name, wanted in params["tasks"].items())
    if "commands" in params:
        return _few([f"{one['command']} {one.get('path', '')}" for one in params["commands"]])
    shown = {key: urlsplit(value).path.rpartition("/")[2] if key == "url" else value for key, value in params.items()}
    if "delta" in params:
        shown = {"version": params["version"], "delta": "allowed" if params["delta"] else "not allowed"}
    return ", ".join(str(value) if key in ("id", "url") else f"{key} {value}" for key, value in shown.items())


def _contents(package: Mapping[str, Any]) -> str:
    """The contents of a package in one line."""
    if not package["kind"]:
        return "no update package"
    what = f"{package['kind']} {package['id']} {package['version']}".replace("  ", " ")
    made_from = ", ".join(package["from_versions"])
    if package["delta"]:
        return f"{what}, delta from {made_from}"
    return f"{what}, only from {made_from}" if made_from else what


def _carried(event: Mapping[str, Any]) -> str:
    """What came with an event, in one line."""
    if event["octets"]:
        return str(event["octets"])
    parts = [
        f"{value['obis']} {json.dumps(value['raw'])}" if "obis" in value else json.dumps(value["raw"])
        for value in event["values"]
    ]
    return ", ".join(parts)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _progress(told: object) -> str:
    """How far an order is on one meter, in words."""
    if not isinstance(told, dict):
        return ""
    if told.get("blocks") is not None and told.get("stage") in (None, "blocks"):
        return f"{told.get('stage')}, {told['blocks']} of {told.get('of')} blocks"
    if told.get("step") is not None:
        return f"step {told['step']} of {told.get('of')}: {told.get('what')}"
    return str(told.get("stage") or "")


def _outcome(job: Mapping[str, Any]) -> str:
    """A job's result in one line."""
    result = job["result"]
    if not result:
        sent = job.get("sent")
        return f"sent {sent['package']}, {sent['bytes']} bytes" if sent else ""
    if isinstance(result.get("replies"), list) and "error" not in result:
        return _few([f"{one['command']}: {one['status']}" for one in result["replies"]])
    told = {key: value for key, value in result.items() if isinstance(value, str | int | float)}
    error = told.pop("error", None)
    lines = [] if error is None else [str(error)]
    lines += [f"{key.replace('_', ' ')} {value}" for key, value in told.items()]
    return ", ".join(lines) or json.dumps(result)[:120]
