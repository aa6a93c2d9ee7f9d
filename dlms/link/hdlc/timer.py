"""How long the client waits for the beginning of an answer: the full timeout at first, less once the meter is known.

A meter that has always answered within 50 ms is not worth a wait of three seconds. The wait is `TURNAROUND_FACTOR`
times the slowest answer of this connection, at least `SHORTEST_S` and at most the full timeout. A wait that ends in
vain doubles the next one, until a question is answered the first time it is asked. (An answer to a repeated question
may belong to either, so it teaches nothing; TCP calls this Karn's algorithm.) A meter that becomes slow, for a
signature or a long profile, is therefore asked once or twice too early, which HDLC tolerates, and then gets the full
timeout. Waits shorter than the full timeout do not count as failures.

This applies only where the time of an octet is known: behind a socket a long command may still be on its way.
"""

from __future__ import annotations

SHORTEST_S = 1.0
TURNAROUND_FACTOR = 3.0
TURNAROUNDS_MIN = 2  # UA is made by the link alone; the AARE has been through the meter's application


class ResponseTimer:
    """The wait for one connection. `longest_s` is the full timeout, `octet_s` the time of an octet (0 for unknown)."""

    def __init__(self, longest_s: float, octet_s: float) -> None:
        self._longest_s = longest_s
        self._octet_s = octet_s
        self._left_at = 0.0  # when the last octet of the question is on the line
        self._heard_at: float | None = None  # the first octet behind the question
        self._first_asking = False
        self._turnarounds = 0
        self._slowest_s = 0.0
        self._in_vain = 0

    def asked(self, octets: int, now: float, *, again: bool) -> float:
        """A question of `octets` goes out, `again` because it was not answered; when its last octet has gone."""
        self._left_at = now + octets * self._octet_s
        self._heard_at = None
        self._first_asking = not again
        return self._left_at

    def heard(self, octets: int, now: float) -> None:
        """`octets` have come, with the last of them now. The echo of the question comes before it has gone."""
        if self._heard_at is None and now >= self._left_at:
            self._heard_at = now - octets * self._octet_s

    def was_echo(self) -> None:
        """What came was the question itself."""
        self._heard_at = None

    def answered(self) -> None:
        """What came is a frame of the meter's."""
        if self._first_asking and self._heard_at is not None:
            self._turnarounds += 1
            self._slowest_s = max(self._slowest_s, self._heard_at - self._left_at)
            self._in_vain = 0
        self._first_asking = False

    @property
    def wait_s(self) -> float:
        """How long to wait for the first octet of the answer."""
        if not self._octet_s or self._turnarounds < TURNAROUNDS_MIN:
            return self._longest_s
        return min(self._longest_s, max(SHORTEST_S, TURNAROUND_FACTOR * self._slowest_s) * 2.0**self._in_vain)

    @property
    def silent(self) -> bool:
        """Whether not one octet has come since the question."""
        return self._heard_at is None

    @property
    def learned(self) -> bool:
        """Whether an answer to a question that was not repeated has come."""
        return self._turnarounds > 0

    @property
    def turnaround_s(self) -> float:
        """The slowest answer so far, from the last octet of the question to the first of the answer."""
        return self._slowest_s

    def expired(self) -> bool:
        """The wait was in vain; whether it was the full one."""
        full = self.wait_s >= self._longest_s
        if not full:
            self._in_vain += 1
        return full
