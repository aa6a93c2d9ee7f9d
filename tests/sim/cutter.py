"""A TCP relay that breaks connections: what a bad line does to a download.

`python -m tests.sim.cutter --listen 127.0.0.1:0 --target host:port --cut-after BYTES [--cut-after BYTES]`

Each `--cut-after` is used up by one connection: the first that brings more than so many bytes from the target is reset
(RST) at that byte. Smaller connections pass and use nothing up. When all are used, everything passes.

Prints `READY {"port": N}` when it listens, and `CUT n` for the n-th cut. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import struct
from collections.abc import Callable, Sequence

PIECE_BYTES = 16 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST, not FIN


class Cutter:
    """The plan of cuts, and the connections that carry it out."""

    def __init__(self, host: str, port: int, cuts: Sequence[int], report: Callable[[int], None]) -> None:
        """`cuts`: bytes from the target after which the next large connections break. `report(n)` is called after
        the n-th cut."""
        self._target = (host, port)
        self._cuts = list(cuts)
        self._report = report
        self.fired = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until one side ends it or its cut is due."""
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        up = asyncio.create_task(_copy(reader, far_writer))
        try:
            await self._down(far_reader, writer)
        finally:
            up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await up
            for each in (far_writer, writer):
                each.transport.abort()

    async def _down(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while piece := await source.read(PIECE_BYTES):
                limit = self._cuts[0] if self._cuts else None
                if limit is not None and passed + len(piece) > limit:
                    self._cuts.pop(0)
                    sink.write(piece[: limit - passed] if limit > passed else b"")
                    await sink.drain()
                    _reset(sink)
                    self.fired += 1
                    self._report(self.fired)
                    return
                sink.write(piece)
                await sink.drain()
                passed += len(piece)
            await _flush(sink)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE_BYTES):
            sink.write(piece)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


async def _flush(sink: asyncio.StreamWriter) -> None:
    """The target ended well: so does our side, after everything was delivered."""
    sink.close()
    await sink.wait_closed()


def _reset(sink: asyncio.StreamWriter) -> None:
    raw = sink.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sink.transport.abort()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"HOST:PORT is expected, not {text!r}")
    return host, int(port)


async def _run(listen: tuple[str, int], target: tuple[str, int], cuts: Sequence[int]) -> None:
    cutter = Cutter(*target, cuts, lambda number: print(f"CUT {number}", flush=True))
    server = await asyncio.start_server(cutter.serve, *listen)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"READY {json.dumps({'port': server.sockets[0].getsockname()[1]})}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A TCP relay that breaks large connections.")
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--target", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--cut-after", type=int, action="append", default=[], metavar="BYTES")
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.listen, arguments.target, arguments.cut_after))


if __name__ == "__main__":
    main()
