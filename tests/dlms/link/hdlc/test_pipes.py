"""Both HDLC stations against each other over every kind of line, on virtual time.

What must hold on all of them: each request reaches the meter once and in order, each answer reaches the client once and
in order, and the link goes down by request and not by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from dlms.errors import LinkError
from dlms.link.datalink import ApduReceived, LinkDown
from dlms.link.hdlc.primary import HdlcClientLink, HdlcServerLink, State
from tests.sim.pipes import ByteAtATime, Chopped, Delayed, Flipping, Line, Loop, Lossy, Perfect, Repeating, Slow

EXCHANGES = 25


class Talk:
    """An application on both sides: requests and answers of random sizes, the answer derived from the request."""

    def __init__(self, client: HdlcClientLink, server: HdlcServerLink, seed: int, exchanges: int = EXCHANGES) -> None:
        pick = random.Random(seed)
        sizes = (1, 5, 60, 125, 126, 300, 900)
        self.client, self.server = client, server
        self.requests = [bytes((n,)) + pick.randbytes(pick.choice(sizes)) for n in range(exchanges)]
        self.answers = [bytes((n,)) + pick.randbytes(pick.choice(sizes)) for n in range(exchanges)]
        self.heard: list[bytes] = []
        self.answered: list[bytes] = []
        self.down: list[LinkDown] = []
        client.connect(0.0)

    def turn(self, now: float) -> bool:
        while (event := self.server.next_event()) is not None:
            if isinstance(event, ApduReceived):
                self.heard.append(event.apdu)
                self.server.send(self.answers[event.apdu[0]], now)
        while (event := self.client.next_event()) is not None:
            if isinstance(event, LinkDown):
                self.down.append(event)
                continue
            if isinstance(event, ApduReceived):
                self.answered.append(event.apdu)
            if len(self.answered) < len(self.requests):
                self.client.send(self.requests[len(self.answered)], now)
            else:
                self.client.disconnect(now)
        return bool(self.down)

    def check(self) -> None:
        assert self.heard == self.requests
        assert self.answered == self.answers
        assert self.down == [LinkDown(None)]
        assert self.client.state is State.CLOSED


def links(info_max: int, window: int, octet_s: float = 0.0) -> tuple[HdlcClientLink, HdlcServerLink]:
    client = HdlcClientLink(17, "1/17", info_max=info_max, window=window, retries=8, octet_s=octet_s)
    return client, HdlcServerLink("1/17", info_max=info_max, window=window)


LINES: dict[str, Callable[[], tuple[Line, Line]]] = {
    "perfect": lambda: (Perfect(), Perfect()),
    "byte at a time": lambda: (ByteAtATime(), ByteAtATime()),
    "slow bytes": lambda: (ByteAtATime(0.02), ByteAtATime(0.02)),
    "chopped": lambda: (Chopped(1), Chopped(2)),
    "lossy to the meter": lambda: (Lossy(0.1, 1), Perfect()),
    "lossy from the meter": lambda: (Perfect(), Lossy(0.1, 2)),
    "lossy": lambda: (Lossy(0.08, 3), Lossy(0.08, 4)),
    "flipping": lambda: (Flipping(0.1, 5), Flipping(0.1, 6)),
    "repeating": lambda: (Repeating(0.3, 7), Repeating(0.3, 8)),
    "late": lambda: (Delayed(0.0, 1.0, 9), Delayed(0.0, 1.0, 10)),
    "later than the timeout": lambda: (Delayed(0.0, 4.0, 11), Delayed(0.0, 4.0, 12)),
    "lossy, flipping and chopped": lambda: (
        Lossy(0.05, 13, Flipping(0.05, 14, Chopped(15))),
        Flipping(0.05, 16, Chopped(17)),
    ),
    "slow": lambda: (Slow(9600, 0.02), Slow(9600, 0.02)),
}


OCTET_S = {"slow": 10 / 9600, "slow bytes": 0.02}


@pytest.mark.parametrize(("info_max", "window"), [(128, 1), (32, 1), (128, 7), (64, 3), (1024, 1), (2030, 7)])
@pytest.mark.parametrize("line", LINES)
def test_every_request_and_answer_arrives_once_over(line: str, info_max: int, window: int) -> None:
    for seed in range(2):
        there, back = LINES[line]()
        client, server = links(info_max, window, octet_s=OCTET_S.get(line, 0.0))
        talk = Talk(client, server, seed)
        Loop(client, server, there, back, talk.turn).run(limit_s=3600.0)
        talk.check()


@pytest.mark.parametrize("window", [1, 3, 7])
def test_three_percent_of_bursts_lost_and_one_percent_damaged_never_break_a_session(window: int) -> None:
    for seed in range(30):
        client, server = links(128, window)
        talk = Talk(client, server, seed, exchanges=10)
        there = Lossy(0.03, 1000 + seed, Flipping(0.01, 2000 + seed))
        back = Lossy(0.03, 3000 + seed, Flipping(0.01, 4000 + seed))
        Loop(client, server, there, back, talk.turn).run(limit_s=600.0)
        talk.check()


@pytest.mark.parametrize("theirs", range(1, 8))
@pytest.mark.parametrize("ours", range(1, 8))
def test_windows_of_every_size_on_both_sides_bear_loss_and_damage(ours: int, theirs: int) -> None:
    client = HdlcClientLink(17, "1/17", info_max=48, window=ours, retries=8)
    server = HdlcServerLink("1/17", info_max=80, window=theirs)
    talk = Talk(client, server, 10 * ours + theirs, exchanges=8)
    there = Lossy(0.05, ours, Flipping(0.05, 10 + ours))
    back = Lossy(0.05, 20 + theirs, Flipping(0.05, 30 + theirs))
    Loop(client, server, there, back, talk.turn).run(limit_s=600.0)
    talk.check()
    assert client.parameters.window_sent == client.parameters.window_taken == min(ours, theirs)


@pytest.mark.parametrize("after", range(12))
def test_a_line_that_goes_dead_at_any_burst_ends_the_link_in_bounded_time(after: int) -> None:
    class Dying:
        def __init__(self) -> None:
            self.left = after

        def carry(self, burst: bytes, now: float) -> list[tuple[float, bytes]]:
            self.left -= 1
            return [(now, burst)] if self.left >= 0 else []

    client, server = HdlcClientLink(17, 1), HdlcServerLink(1)
    talk = Talk(client, server, 1)
    loop = Loop(client, server, Perfect(), Dying(), talk.turn)
    loop.run(limit_s=60.0)
    assert [type(event.error) for event in talk.down] == [LinkError]


def test_a_line_that_only_babbles_ends_the_link_in_bounded_time() -> None:
    client = HdlcClientLink(17, 1)
    client.connect(0.0)
    pick = random.Random(3)
    now = 0.0
    while (event := client.next_event()) is None:
        now += 0.05
        assert now < 120.0
        client.receive(b"\x7e\xa0" + pick.randbytes(20), now)
        deadline = client.next_deadline()
        if deadline is not None and deadline <= now:
            client.on_deadline(now)
        client.take_output()
    assert isinstance(event, LinkDown)
    assert isinstance(event.error, LinkError)
