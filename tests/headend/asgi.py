"""Requests to an ASGI application without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.types import ASGIApp

BASE = "https://headend.test"


def call(app: ASGIApp, method: str, path: str, **arguments: Any) -> httpx.Response:
    """One request; arguments as `httpx.AsyncClient.request` takes them."""

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, client=("192.0.2.1", 4711))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(run())


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """`data` as a body whose length is not announced."""
    for at in range(0, len(data), size):
        yield data[at : at + size]
