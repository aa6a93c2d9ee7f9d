"""Every core that takes a stream tells the same, and says the same, however the stream is cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import pytest

from dlms.link.hdlc.bus import HdlcServerBus
from dlms.link.mode_e.opening import ModeEOpening
from dlms.link.wrapper import WrapperFrame, WrapperServerLink
from tests.fuzz.targets.serial_links import GET, client, frames, server, wrapper
from tests.sim.pipes import all_splits, random_splits


class Core(Protocol):
    """What the cores have in common."""

    def receive(self, data: bytes, now: float) -> None: ...

    def next_event(self) -> object: ...

    def take_output(self) -> bytes: ...


def mode_e() -> ModeEOpening:
    opening = ModeEOpening()
    opening.start(0.0)
    return opening


def wrapper_server() -> WrapperServerLink:
    link = WrapperServerLink(1)
    link.connect(0.0)
    return link


def damaged(stream: bytes) -> bytes:
    """Noise before it, one bit wrong in its middle, and all of it once more."""
    broken = bytearray(stream)
    broken[len(broken) // 2] ^= 0x10
    return b"\x00\x7e\xa0\x05" + bytes(broken) + stream


STREAMS: dict[str, tuple[Callable[[], Core], bytes]] = {
    "hdlc client": (client, frames(to_client=True)),
    "hdlc client, damaged": (client, damaged(frames(to_client=True)[:150])),
    "hdlc server": (server, frames(to_client=False)),
    "hdlc server, damaged": (server, damaged(frames(to_client=False)[:150])),
    "hdlc bus": (lambda: HdlcServerBus(1), frames(to_client=False)),
    "wrapper client": (wrapper, WrapperFrame(1, 16, GET).emit() + WrapperFrame(2, 16, b"x").emit() + b"\x00\x02"),
    "wrapper server": (wrapper_server, WrapperFrame(16, 1, GET).emit() + WrapperFrame(2, 1, b"x").emit() + b"\x01"),
    "mode E": (mode_e, b"\xff/?!\r\n/ABC5\\2METER\r\n\x06252\r\n"),
}


def run(core: Core, pieces: list[bytes]) -> tuple[list[str], bytes]:
    """What happened, as text, and what was said; output is taken at the end, as a driver with one burst would."""
    for piece in pieces:
        core.receive(piece, 1.0)
    happened: list[str] = []
    while (event := core.next_event()) is not None:
        happened.append(repr(event))
    return happened, core.take_output()


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_every_split_of_the_stream_gives_the_same(name: str) -> None:
    make, stream = STREAMS[name]
    whole = run(make(), [stream])
    assert whole[0] or whole[1]
    for pieces in [*all_splits(stream), *random_splits(stream, random.Random(name), 40)]:
        assert run(make(), pieces) == whole, [len(piece) for piece in pieces]
