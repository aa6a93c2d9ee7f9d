"""When a question to the base node is asked again: one frame that is lost must not cost the whole time that an answer
may take. Sans-IO.

The base node itself answers at once, so a question that is late is taken to be lost, on its way there or back. How late
that is, is learned (`dlms.link.roundtrip`), is never less than what the line takes at present, and doubles with each
asking. Only what changes nothing is asked twice. An order that changes something is never given again by itself, and
its answer does not even say what it answers.
"""

from __future__ import annotations

from dlms.link.roundtrip import Bounds, RoundTrip

REPEAT_FIRST_S = 2.0  # before anything was answered
REPEAT_SHORTEST_S = 1.0  # an answer may stand behind several of the longest frames on the serial line
REPEATS_MAX = 2  # of one question: with 3 % of all frames lost, two in ten thousand would need one more


class Repeats:
    """One question at a time. It is over `longest_s` after it was asked first, however often it was asked since."""

    def __init__(self, longest_s: float, *, repeats_max: int = REPEATS_MAX) -> None:
        self._longest_s = longest_s
        self._repeats_max = repeats_max
        self._learned = RoundTrip(Bounds(min(REPEAT_FIRST_S, longest_s), min(REPEAT_SHORTEST_S, longest_s), longest_s))
        self._asked_at = self._until = self._again_at = 0.0
        self._repeats_left = 0
        self._line_s = 0.0
        self._asked_once = True

    def asked(self, now: float, *, line_s: float = 0.0, may_repeat: bool = True) -> None:
        """A new question was asked, in place of the one before. `line_s` is what the line takes to bring an answer at
        present, as far as others tell: where it is full, an answer that is not there yet is not lost."""
        self._line_s = line_s
        self._asked_at, self._until = now, now + self._longest_s
        self._repeats_left = self._repeats_max if may_repeat else 0
        self._asked_once = True
        self._again_at = now + self._timeout_s()

    def answered(self, now: float) -> None:
        """It was answered. Where it was asked twice, nobody knows which asking was, and nothing is learned."""
        if self._asked_once:
            self._learned.measured(now - self._asked_at)

    def deadline(self) -> float:
        """When to ask again, or when it is over."""
        return min(self._again_at, self._until) if self._repeats_left else self._until

    def is_over(self, now: float) -> bool:
        """Whether there is nothing more to wait for."""
        return now >= self._until

    def again(self, now: float) -> bool:
        """Whether it is to be asked again now; then it counts as asked."""
        if not self._repeats_left or now < self._again_at or self.is_over(now):
            return False
        self._repeats_left -= 1
        self._asked_once = False
        self._learned.expired()
        self._again_at = now + self._timeout_s()
        return True

    def _timeout_s(self) -> float:
        return max(self._learned.timeout_s(self._learned.learned_s), self._line_s)
