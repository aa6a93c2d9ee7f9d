"""The package server as ASGI.

`GET|HEAD /packages/NAME`: the package, with ranges. `GET /descriptors/NAME`: its download descriptor (OMA Download OTA
1.0), which for a delta names what it was made from and where the full package is. `POST /install-notify/NAME`: a report
on it. `?device=ID&pass=PASS`, as the URLs of jobs have it, says who downloads, so that a device that is switched off is
refused. Packages are signed, not secret: unless the server is told otherwise, whoever names no device is served too. A
report counts as the device's, so it needs the device's own pass in any case.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO
from urllib.parse import quote

from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headend import access, db, passes, web
from headend.software import ranges
from headend.software.ranges import Slice
from headend.software.repository import Package, PackageStore
from omadm import descriptor as dd

LOG = logging.getLogger("headend.software")

NEEDS_PASS = "the URL of a device's own job is needed, and that it is switched on"
CHUNK_BYTES = 64 * 1024
REPORT_BYTES_MAX = 256
_REPORT = re.compile(rb"(\d{3})(?:[ \t]+([ -~]*))?\s*", re.ASCII)


class PackageAnswer(Response):
    """Sends a slice of a file, and logs how much of it was passed to the network. `admit` is asked before each piece,
    and ends the answer where it raises `HttpProblem`."""

    def __init__(
        self,
        package: Package,
        part: Slice,
        headers: dict[str, str],
        admit: Callable[[], object],
        done: Callable[[int], None],
    ) -> None:
        super().__init__(status_code=part.status, media_type=None, headers=headers)
        self._package = package
        self._part = part
        self._admit = admit
        self._done = done
        self._sent = 0

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        watcher = asyncio.create_task(_watch(receive, gone))
        try:
            await self._send(send, gone)
        except OSError as error:
            event = {"event": "software.broken"}
            LOG.info("%s: the answer broke after %d bytes: %s", self._package.name, self._sent, error, extra=event)
        except web.HttpProblem as problem:
            event = {"event": "software.cut"}
            LOG.info("%s: cut off after %d bytes: %s", self._package.name, self._sent, problem, extra=event)
        except asyncio.CancelledError:
            self._done(self._sent)  # not in a thread: when the server ends, its threads are gone
            raise
        finally:
            watcher.cancel()
        await asyncio.to_thread(self._done, self._sent)

    async def _send(self, send: Send, gone: asyncio.Event) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with await asyncio.to_thread(self._package.path.open, "rb") as file:
            file.seek(self._part.start)
            while self._sent < self._part.size and not gone.is_set():
                piece = await asyncio.to_thread(self._piece, file)
                if not piece:
                    break  # the file is shorter than its row says: the client notices the wrong length
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sent += len(piece)
        if self._sent == self._part.size:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _piece(self, file: BinaryIO) -> bytes:
        if self._sent:  # the first one follows on the look at the request
            self._admit()
        return file.read(min(CHUNK_BYTES, self._part.size - self._sent))


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


class _Admission:
    """Decides who may download: a device by its pass, and others where the server is open to all. A report is taken
    from a device only."""

    def __init__(self, engine: Engine, open_to_all: bool, wall: Callable[[], float]) -> None:
        self._engine = engine
        self._open_to_all = open_to_all
        self._wall = wall
        self._refusals = access.RefusalLog(engine)

    def admit(self, device: str, shown: str, peer: str) -> bool:
        """Let a client pass, or write down that a device was refused. Returns whether it has proven to be the device.
        Raises `HttpProblem` 403 for one that was refused, and for who shows no pass where one is needed."""
        with db.reader(self._engine).begin() as connection:
            proven = passes.shows_pass(connection, device, shown) and access.knows(connection, device)
            admitted = access.admits(connection, device)
        if proven and not admitted:
            self._refusals.note(device, access.Door.DOWNLOADS, peer, self._wall())
        if not admitted or not (proven or self._open_to_all):
            raise web.HttpProblem(403, NEEDS_PASS)
        return proven

    def admit_report(self, device: str, shown: str, peer: str) -> None:
        """Take a report of a device that shows its own pass, and is switched on. Raises `HttpProblem` 403 otherwise,
        and writes that down under the name of a device that is enrolled."""
        with db.reader(self._engine).begin() as connection:
            known = access.knows(connection, device)
            proven = known and passes.shows_pass(connection, device, shown)
            admitted = access.admits(connection, device)
        if proven and admitted:
            return
        if known:
            door = access.Door.DOWNLOADS if proven else access.Door.REPORT
            self._refusals.note(device, door, peer, self._wall())
        event = {"event": "software.report.refused"}
        LOG.info("a report from %s in the name of %r: refused", peer, device, extra=event)
        raise web.HttpProblem(403, NEEDS_PASS)


class _Endpoints:
    """What the server does with the requests that may be made of it."""

    def __init__(
        self, store: PackageStore, public_url: Callable[[], str], admission: _Admission, wall: Callable[[], float]
    ) -> None:
        self._store = store
        self._public_url = public_url
        self._admission = admission
        self._wall = wall

    def _admit(self, request: Request) -> bool:
        return self._admission.admit(*_claim(request))

    async def _find(self, request: Request) -> Package:
        await run_in_threadpool(self._admit, request)
        return await self._package(request)

    async def _package(self, request: Request) -> Package:
        package = await run_in_threadpool(self._store.find, request.path_params["name"])
        if package is None:
            raise web.HttpProblem(404, "there is no package of this name")
        return package

    async def get_package(self, request: Request) -> Response:
        package = await self._find(request)
        head = {"ETag": package.etag, "Accept-Ranges": "bytes", "Cache-Control": "no-cache"}
        if ranges.unchanged(request.headers, package.etag):
            return Response(status_code=304, headers=head)
        wanted = request.headers if request.method == "GET" else {}
        part = ranges.choose(wanted, package.size, package.etag)
        if part is None:
            head["Content-Range"] = f"bytes */{package.size}"
            return Response(status_code=416, headers=head)
        head |= {"Content-Type": package.content_type, "Content-Length": str(part.size)}
        if part.status == 206:
            head["Content-Range"] = f"bytes {part.start}-{part.start + part.size - 1}/{package.size}"
        if request.method == "HEAD":
            return _without_body(head)
        return PackageAnswer(package, part, head, partial(self._admit, request), self._note(request, package, part))

    def _note(self, request: Request, package: Package, part: Slice) -> Callable[[int], None]:
        """Return what is called with the octets that were sent, once the answer is over."""
        began, device, peer = self._wall(), _device(request), request.client.host if request.client else ""

        def done(sent: int) -> None:
            self._store.note_download(
                {
                    "at": began,
                    "ended": self._wall(),
                    "package": package.name,
                    "device": device,
                    "peer": peer,
                    "status": part.status,
                    "start": part.start,
                    "wanted": part.size,
                    "sent": sent,
                }
            )

        return done

    async def get_descriptor(self, request: Request) -> Response:
        proven = await run_in_threadpool(self._admit, request)
        package = await self._package(request)
        release, full = await run_in_threadpool(self._store.release, package.name)
        base, query = self._public_url(), _again(request)
        delta = None
        if release is not None and release.is_delta:
            offered = None if full is None else f"{base}/descriptors/{full.name}{query}"
            delta = dd.DeltaFacts(release.from_versions, release.sources, offered, full.size if full else 0)
        body = dd.Descriptor(
            types=(package.content_type,),
            size=package.size,
            object_uri=f"{base}/packages/{package.name}{query}",
            install_notify_uri=f"{base}/install-notify/{package.name}{query}" if proven else None,
            name=package.name,
            delta=delta,
        ).emit()
        return Response(body, media_type=dd.CONTENT_TYPE, headers={"Cache-Control": "no-cache"})

    async def post_report(self, request: Request) -> Response:
        await run_in_threadpool(self._admission.admit_report, *_claim(request))
        package = await self._package(request)
        match = _REPORT.fullmatch(await web.read_body(request, REPORT_BYTES_MAX))
        if match is None:
            raise web.HttpProblem(400, "three digits and a text are expected")
        await run_in_threadpool(self._admission.admit_report, *_claim(request))  # again: the body took its time
        code, text = int(match[1]), (match[2] or b"").decode("ascii").strip()
        await run_in_threadpool(self._store.note_report, package.name, _device(request), code, text, self._wall())
        return Response(status_code=200)


def create_app(
    store: PackageStore,
    public_url: Callable[[], str],
    *,
    open_to_all: bool = True,
    wall: Callable[[], float] = time.time,
) -> Starlette:
    """The package server's application. `public_url()` is its base URL as devices see it; without `open_to_all` only
    devices that show their pass are served."""
    endpoints = _Endpoints(store, public_url, _Admission(store.engine, open_to_all, wall), wall)
    return Starlette(
        routes=[
            Route("/packages/{name}", endpoints.get_package, methods=["GET"]),  # HEAD comes with it
            Route("/descriptors/{name}", endpoints.get_descriptor, methods=["GET"]),
            Route("/install-notify/{name}", endpoints.post_report, methods=["POST"]),
            web.health_route(),
        ],
        exception_handlers={web.HttpProblem: web.on_problem},
    )


def _device(request: Request) -> str:
    return request.query_params.get("device", "").replace("\0", "")[:128]


def _claim(request: Request) -> tuple[str, str, str]:
    """The device that the request names, the pass that it shows for it, and where it comes from."""
    return _device(request), request.query_params.get("pass", ""), request.client.host if request.client else "unknown"


def _again(request: Request) -> str:
    """The query that names the device, for the URLs in a descriptor."""
    if not _device(request):
        return ""
    shown = request.query_params.get("pass", "")[: 2 * passes.PASS_BYTES]
    return f"?device={quote(_device(request))}" + (f"&pass={quote(shown)}" if shown else "")


def _without_body(headers: dict[str, str]) -> Response:
    """The answer to HEAD: Content-Length is the package's, although there is no body."""
    answer = Response(status_code=200)
    answer.init_headers(headers)
    return answer
