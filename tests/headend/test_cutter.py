"""The relay that breaks connections does so where it is told to, and nowhere else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from tests.sim.cutter import Cutter

DATA = bytes(range(256)) * 400


async def serving(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    return await asyncio.start_server(handler, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def echo_then_data(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one line with so many bytes as it says."""
    size = int(await reader.readline())
    writer.write(DATA[:size])
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def fetch(port: int, size: int) -> tuple[int, bool]:
    """How many bytes came, and whether the connection was reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{size}\n".encode())
    await writer.drain()
    got = b""
    try:
        while piece := await reader.read(4096):
            got += piece
    except ConnectionResetError:
        return len(got), True
    finally:
        writer.transport.abort()
    assert got == DATA[:size]
    return len(got), False


async def through(cuts: list[int], sizes: list[int]) -> tuple[list[tuple[int, bool]], list[int]]:
    reported: list[int] = []
    origin = await serving(echo_then_data)
    cutter = Cutter("127.0.0.1", port_of(origin), cuts, reported.append)
    relay = await serving(cutter.serve)
    found = [await fetch(port_of(relay), size) for size in sizes]
    assert cutter.fired == len(reported)
    relay.close()
    origin.close()
    return found, reported


def test_large_connections_are_reset_in_turn_and_small_ones_pass() -> None:
    found, reported = asyncio.run(through([50_000, 20_000], [1000, 90_000, 1000, 90_000, 90_000]))
    assert [reset for _, reset in found] == [False, True, False, True, False]
    assert [size for size, reset in found if not reset] == [1000, 1000, 90_000]
    assert all(size <= limit for (size, reset), limit in zip(found, [0, 50_000, 0, 20_000, 0], strict=True) if reset)
    assert reported == [1, 2]


def test_without_cuts_everything_passes() -> None:
    assert asyncio.run(through([], [102_400])) == ([(102_400, False)], [])


def test_a_target_that_is_not_there_closes_the_connection() -> None:
    async def run() -> bytes:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            relay = await serving(Cutter("127.0.0.1", port, [], lambda _: None).serve)
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(relay))
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.transport.abort()
                relay.close()

    assert asyncio.run(run()) == b""
