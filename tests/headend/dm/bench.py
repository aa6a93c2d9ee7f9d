"""A device with an account, its jobs, and what became of them: through the real server and its database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from headend.dm import accounts
from headend.dm.jobs import queue
from headend.dm.server import DmServer, ServerConfig
from tests.headend.dm_device import Device, Tree

DEVICE = "urn:dcu:KR-000001"
CONFIG = ServerConfig("headend", "https://headend/dm")


def connected(engine: Engine, tree: Tree | Mapping[str, Any] | None = None) -> Device:
    """The device, with an account of its own. `tree`: what it has, by URI."""
    with engine.begin() as conn:
        account = accounts.create(conn, DEVICE, server_id=CONFIG.server_id, url=CONFIG.url)
    nodes = tree if isinstance(tree, Tree | None) else Tree(dict(tree))
    return Device(DmServer(engine, CONFIG), account, nodes)


def enqueue(engine: Engine, kind: str, **params: Any) -> int:
    with engine.begin() as conn:
        return queue.enqueue(conn, DEVICE, kind, params)


def job(engine: Engine, number: int) -> dict[str, Any]:
    with engine.begin() as conn:
        shown = queue.show(conn, number)
    assert shown is not None
    return shown
