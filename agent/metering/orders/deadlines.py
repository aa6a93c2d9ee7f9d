"""How long an order may still go out. Sans-IO: time is an argument.

While the process runs that took the order, and in the same boot after it, the monotonic clock says so, whatever is done
to civil time. Over a power cut civil time alone can say it, and only if it was trusted when the order was taken and is
trusted now. Until it is, the order waits: a supply that is cut off days after its order is worse than one that is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from agent.metering.orders.order import Order

UNTRUSTED = "the power failed before its end, and no clock that can be trusted has said whether its time was over"


class Verdict(Enum):
    """What is to be done with an order at some moment."""

    OPEN = auto()  # meters may be asked
    WAITS = auto()  # nobody knows whether it is over
    OVER = auto()


@dataclass(frozen=True, slots=True)
class Deadline:
    """`until`: monotonic seconds at which it is over at the latest. `civil`: seconds since the epoch at which it is
    over as well; `None` where `until` alone says it. `known`: whether anything can still say when it is over."""

    until: float
    civil: float | None = None
    known: bool = True

    @classmethod
    def of_new(cls, order: Order, monotonic: float) -> Deadline:
        """Return the deadline of an order that is taken now."""
        return cls(monotonic + order.deadline_s)

    @classmethod
    def of_kept(cls, order: Order, boot: str, monotonic: float) -> Deadline:
        """Return that of an order that an earlier process took. `boot`: the id of this boot, empty for none."""
        if boot and order.boot == boot:
            return cls(order.asked_monotonic + order.deadline_s)
        until = monotonic + order.deadline_s
        return cls(until, order.asked_at + order.deadline_s, known=order.asked_trusted)

    def judge(self, monotonic: float, wall: float, *, trusted: bool) -> Verdict:
        """Say what holds now."""
        if not self.known or monotonic >= self.until:
            return Verdict.OVER
        if self.civil is None:
            return Verdict.OPEN
        if not trusted:
            return Verdict.WAITS
        return Verdict.OPEN if wall < self.civil else Verdict.OVER

    def settled(self, monotonic: float, wall: float) -> Deadline:
        """The deadline once trusted civil time has said when it is: from then on the monotonic clock counts alone, and
        a clock that is set back does not make it longer."""
        if not self.known or self.civil is None:
            return self
        return replace(self, until=min(self.until, monotonic + self.civil - wall), civil=None)
