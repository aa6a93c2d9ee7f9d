"""The DM server and the notification over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette

from headend import web
from headend.dm import accounts
from headend.dm.push import PushError, PushPolicy, notify
from headend.dm.routes import routes
from headend.dm.server import Answer, DmServer, Request, ServerConfig
from omadm.auth import HMAC_HEADER
from omadm.bootstrap import Account
from omadm.notification import MIME, RESYNC_NONCE, Notification, verify
from tests.headend.dm_device import Device

DEVICE = "urn:dcu:KR-000001"
CONFIG = ServerConfig("headend", "https://headend/dm")


def account(engine: Engine, push_url: str = "") -> Account:
    with engine.begin() as conn:
        return accounts.create(conn, DEVICE, server_id=CONFIG.server_id, url=CONFIG.url, push_url=push_url)


class OverHttp:
    """Stands for the server: every message goes through the ASGI application."""

    def __init__(self, engine: Engine) -> None:
        self._app = Starlette(routes=routes(DmServer(engine, CONFIG)))

    async def post(self, request: Request) -> httpx.Response:
        headers = {"content-type": request.content_type}
        if request.mac is not None:
            headers[HMAC_HEADER] = request.mac
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://dm") as client:
            return await client.post("/dm", content=request.body, headers=headers)

    def handle(self, request: Request) -> Answer:
        import asyncio

        got = asyncio.run(self.post(request))
        return Answer(got.status_code, got.content, got.headers.get("content-type", ""), got.headers.get(HMAC_HEADER))


def test_a_session_works_through_the_application(engine: Engine) -> None:
    device = Device(OverHttp(engine), account(engine))  # type: ignore[arg-type]
    (answer,) = device.session()
    assert answer.final


def test_a_body_that_is_too_large_is_refused_while_it_arrives(engine: Engine) -> None:
    answer = OverHttp(engine).handle(Request(bytes((1 << 20) + 1), "application/vnd.syncml.dm+wbxml", None))
    assert answer.status == 413


def test_a_sender_that_takes_for_ever_is_cut_off(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    from collections.abc import AsyncIterator

    monkeypatch.setattr(web, "BODY_TIMEOUT_S", 0.01)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def post() -> httpx.Response:
        app = Starlette(routes=routes(DmServer(engine, CONFIG)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dm") as client:
            return await client.post("/dm", content=slow(), headers={"content-type": "application/vnd.syncml.dm+xml"})

    assert asyncio.run(post()).status_code == 408


def test_a_content_type_that_is_not_syncml_is_refused(engine: Engine) -> None:
    assert OverHttp(engine).handle(Request(b"x", "text/plain", None)).status == 415


HERE = PushPolicy.of(["127.0.0.0/8"])


@dataclass
class Listener:
    """A device's push listener that answers with the given statuses and keeps what it got."""

    statuses: list[int]
    got: list[bytes] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener([])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            listener.got.append(self.rfile.read(int(self.headers["content-length"])))
            listener.types.append(self.headers["content-type"])
            self.send_response(listener.statuses.pop(0))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    listener.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield listener
    server.shutdown()
    thread.join()
    server.server_close()


def believed(data: bytes, of: Account, last: int | None) -> Notification:
    return verify(data, server_id=of.server_id, secret=of.server_secret, nonce=of.server_nonce, last_counter=last)


def test_a_notification_is_signed_for_the_device_and_newer_each_time(engine: Engine, listener: Listener) -> None:
    listener.statuses = [202, 202]
    of = account(engine, f"http://127.0.0.1:{listener.port}/push")
    sessions = [notify(engine, DEVICE, HERE), notify(engine, DEVICE, HERE)]
    first = believed(listener.got[0], of, None)
    second = believed(listener.got[1], of, first.counter)
    assert [first.session_id, second.session_id] == sessions
    assert listener.types == [MIME, MIME]


def test_a_refused_notification_is_sent_once_more_with_the_resync_nonce(engine: Engine, listener: Listener) -> None:
    listener.statuses = [403, 202]
    of = account(engine, f"http://127.0.0.1:{listener.port}/push")
    notify(engine, DEVICE, HERE)
    moved_on = Account(**{**{n: getattr(of, n) for n in of.__dataclass_fields__}, "server_nonce": b"later"})
    assert believed(listener.got[1], moved_on, 1).counter == 2
    assert len({data[:16] for data in listener.got}) == 2
    assert RESYNC_NONCE == b"\0\0\0\0"


@pytest.mark.parametrize(("statuses", "tries"), [([404], 1), ([403, 403], 2)])
def test_a_device_that_will_not_take_it_is_an_error(
    engine: Engine, listener: Listener, statuses: list[int], tries: int
) -> None:
    listener.statuses = list(statuses)
    account(engine, f"http://127.0.0.1:{listener.port}/push")
    with pytest.raises(PushError, match=str(statuses[-1])):
        notify(engine, DEVICE, HERE)
    assert len(listener.got) == tries


def test_a_device_that_cannot_be_reached_is_an_error(engine: Engine) -> None:
    account(engine, "http://127.0.0.1:1/push")
    with pytest.raises(PushError):
        notify(engine, DEVICE, HERE)


def test_a_device_without_push_url_or_account_is_an_error(engine: Engine) -> None:
    with pytest.raises(accounts.UnknownDevice):
        notify(engine, DEVICE, HERE)
    account(engine)
    with pytest.raises(PushError, match="no push URL"):
        notify(engine, DEVICE, HERE)


def test_counters_go_on_after_a_new_registration(engine: Engine, listener: Listener) -> None:
    listener.statuses = [202, 202]
    url = f"http://127.0.0.1:{listener.port}/push"
    account(engine, url)
    notify(engine, DEVICE, HERE)
    again = account(engine, url)
    notify(engine, DEVICE, HERE)
    assert believed(listener.got[1], again, 1).counter == 2
