"""How long to wait for an answer over a link that loses packets: learned in the manner of RFC 6298, sans-IO.

Each node behind a port has an estimate of its own, and the port has one over all of them. A node that was never heard
gets the port's timeout. One that was gets its own, and at least the time that answers of the port take at present: when
the line fills up, that of nodes which were asked while it was empty grows as well.

    SRTT    <- 7/8 SRTT + 1/8 R                     smoothed round trip, first SRTT = R
    RTTVAR  <- 3/4 RTTVAR + 1/4 |SRTT - R|          first RTTVAR = R / 2
    timeout =  SRTT + 4 RTTVAR, between `shortest_s` and `longest_s`, doubled per expiry in a row

Time is an argument: what goes in is seconds. An answer to a question that was asked twice teaches nothing where it may
belong to either (Karn's algorithm); that is the caller's to know.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

NODES_KEPT = 4096  # nodes with an estimate of their own: the address space of the 4-32 layer
DOUBLINGS_MAX = 6  # of a timeout; after them it is the longest, or 64 times what was learned


@dataclass(frozen=True, slots=True)
class Bounds:
    """`first_s` is the timeout while nothing is known; every timeout lies between `shortest_s` and `longest_s`."""

    first_s: float
    shortest_s: float
    longest_s: float

    def __post_init__(self) -> None:
        if not 0 < self.shortest_s <= self.first_s <= self.longest_s:
            raise ValueError(f"timeouts of {self.shortest_s}, {self.first_s} and {self.longest_s} s")


class RoundTrip:
    """One estimate."""

    __slots__ = ("_bounds", "_doublings", "_variation_s", "smoothed_s")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.smoothed_s: float | None = None
        self._variation_s = 0.0
        self._doublings = 0

    def measured(self, seconds: float) -> None:
        """A question was answered `seconds` after it was asked."""
        if self.smoothed_s is None:
            self.smoothed_s, self._variation_s = seconds, seconds / 2
        else:
            # The order is that of RFC 6298, 2.3: the variation is taken from the old mean.
            self._variation_s += (abs(self.smoothed_s - seconds) - self._variation_s) / 4
            self.smoothed_s += (seconds - self.smoothed_s) / 8
        self._doublings = 0

    def expired(self) -> None:
        """A timeout passed without an answer: the next one is twice as long."""
        self._doublings = min(self._doublings + 1, DOUBLINGS_MAX)

    def asked_anew(self) -> None:
        """What expired before says nothing any more: the next timeout is the learned one."""
        self._doublings = 0

    @property
    def learned_s(self) -> float | None:
        """Mean and four times the variation, without bounds and doublings; None while nothing was measured."""
        return None if self.smoothed_s is None else self.smoothed_s + 4 * self._variation_s

    def timeout_s(self, learned_s: float | None) -> float:
        """The timeout where `learned_s` was learned, within the bounds, doubled as often as it expired."""
        bounds = self._bounds
        once = bounds.first_s if learned_s is None else max(bounds.shortest_s, learned_s)
        return float(min(bounds.longest_s, once * (1 << self._doublings)))


class RoundTrips:
    """The estimates of one port and of the nodes behind it, of which the `NODES_KEPT` used last are kept."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._port = RoundTrip(bounds)
        self._nodes: OrderedDict[Hashable, RoundTrip] = OrderedDict()

    def measured(self, node: Hashable, seconds: float) -> None:
        """This node answered a question `seconds` after it was asked."""
        self._port.measured(seconds)
        self._of(node).measured(seconds)

    def expired(self, node: Hashable) -> None:
        """This node let its timeout pass. What the port has learned stays: one node that is gone says nothing of it."""
        self._of(node).expired()

    def asked_anew(self, node: Hashable) -> None:
        """This node has been left alone since it did not answer: how long it is waited for begins with what was
        learned."""
        if node in self._nodes:
            self._nodes[node].asked_anew()

    def timeout_s(self, node: Hashable) -> float:
        """How long to wait for this node, in seconds."""
        one = self._nodes.get(node, self._port)
        learned_s = self._port.learned_s
        if one.learned_s is not None and self._port.smoothed_s is not None:
            learned_s = max(one.learned_s, self._port.smoothed_s)
        return one.timeout_s(learned_s)

    @property
    def learned_s(self) -> float | None:
        """How long answers of the port take at present, with a margin, in seconds; None while there was none."""
        return self._port.learned_s

    def forget(self, node: Hashable) -> None:
        """This node is gone, or another one has its place."""
        self._nodes.pop(node, None)

    def _of(self, node: Hashable) -> RoundTrip:
        one = self._nodes.pop(node, None) or RoundTrip(self.bounds)
        self._nodes[node] = one
        while len(self._nodes) > NODES_KEPT:
            self._nodes.popitem(last=False)
        return one


class NodeRoundTrip:
    """The estimate of one node, as a session with it sees it. `repeats_max` bounds how often one question is asked
    again."""

    def __init__(self, of_port: RoundTrips, node: Hashable, repeats_max: int) -> None:
        self._of_port = of_port
        self._node = node
        self.repeats_max = repeats_max

    @property
    def timeout_s(self) -> float:
        """How long to wait for the next answer, in seconds."""
        return self._of_port.timeout_s(self._node)

    @property
    def longest_s(self) -> float:
        """How long an answer may take at most, in seconds."""
        return self._of_port.bounds.longest_s

    def measured(self, seconds: float) -> None:
        """A question was answered `seconds` after it was asked."""
        self._of_port.measured(self._node, seconds)

    def expired(self) -> None:
        """The timeout passed without an answer."""
        self._of_port.expired(self._node)
