"""A metering server that keeps what it acknowledges, and otherwise does what a line, a proxy or a bug may do.

    python -m tests.sim.world.hostile --config headend.yaml --port 10001 --seed 3

It is the head-end's own application over its own database, behind a layer that answers late or twice, refuses, sends
elsewhere, loses what it was about to say, and cuts connections in the middle of either body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headend import config, serve
from headend.metering import app as metering

KINDS = (
    "good", "good", "good", "good", "late", "busy", "refuses", "lost-answer", "cut-request", "cut-answer", "elsewhere",
    "twice", "no-answer", "part",
)  # fmt: skip
LATE_S = 1.5


class CutError(Exception):
    """The connection ends here: uvicorn closes it."""


class Hostile:
    """`app`, whose answers go through this."""

    def __init__(self, app: ASGIApp, pick: random.Random) -> None:
        self._app = app
        self._pick = pick

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        act: Callable[[Scope, Receive, Send], Awaitable[None]]
        act = getattr(self, "_" + self._pick.choice(KINDS).replace("-", "_"))
        await act(scope, receive, send)

    async def _good(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _late(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(self._pick.random() * LATE_S)
        await self._app(scope, receive, send)

    async def _busy(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(send, self._pick.choice((429, 503)), b"", (b"retry-after", b"1"))

    async def _refuses(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(send, 500, b"an error page")

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        where = b"https://127.0.0.1:1/v1/readings"
        await _answer(send, self._pick.choice((301, 302, 307, 308)), b"", (b"location", where))

    async def _no_answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Somebody who is no metering server at all says that all is well."""
        await _answer(send, 200, self._pick.choice((b"", b"{}", b"<html>", b'{"acknowledged": null}')))

    async def _cut_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await _half_an_answer(send)

    async def _lost_answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._kept(scope, receive)
        await _answer(send, 502, b"the answer was lost behind a proxy")

    async def _cut_answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._kept(scope, receive)
        await _half_an_answer(send)

    async def _twice(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages = await _whole(receive)
        await self._kept(scope, _again(messages))
        await self._app(scope, _again(messages), send)

    async def _part(self, scope: Scope, receive: Receive, send: Send) -> None:
        """It keeps all and acknowledges a part."""
        status, body = await self._kept(scope, receive)
        said = json.loads(body or b"{}")
        if status == 200 and isinstance(said.get("acknowledged"), int):
            said["acknowledged"] = max(1, said["acknowledged"] - self._pick.randrange(4))
        await _answer(send, status, json.dumps(said).encode())

    async def _kept(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """Let the application work; nobody hears its answer."""
        said: list[Message] = []

        async def listen(message: Message) -> None:
            said.append(message)

        await self._app(scope, receive, listen)
        return int(said[0]["status"]), b"".join(message.get("body", b"") for message in said[1:])


async def _whole(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _again(messages: list[Message]) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _half_an_answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"40")]})
    await send({"type": "http.response.body", "body": b'{"acknowl', "more_body": True})
    raise CutError


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.world.hostile", description="a hostile metering server")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = config.load(options.config)
    engine = serve.open_database(settings)
    app = Hostile(metering.create_app(engine), random.Random(options.seed))
    made = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=options.port,
        ssl_certfile=str(settings.certificate),
        ssl_keyfile=str(settings.certificate_key),
        http="h11",
        lifespan="off",
        log_config=None,
    )
    sys.stderr.write("hostile\n")
    uvicorn.Server(made).run()


if __name__ == "__main__":
    main()
