"""When to hold the next session. Monotonic seconds are arguments; asking is thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Callable

URGENT = frozenset({"push", "user", "bootstrap", "trial", "time"})  # these do not wait for a back-off to end
DOUBLINGS_MAX = 16


class Timing:
    """Wishes, the poll, and the wait after failures. `rng()` gives numbers in [0, 1)."""

    def __init__(
        self, poll_every_s: float, backoff_min_s: float, backoff_max_s: float, rng: Callable[[], float]
    ) -> None:
        self._poll_every_s = poll_every_s
        self._backoff_min_s = backoff_min_s
        self._backoff_max_s = backoff_max_s
        self._rng = rng
        self._lock = threading.Lock()
        self._wishes: dict[str, str] = {}
        self._not_before = float("-inf")
        self._alerts_not_before = float("-inf")
        self._poll_at: float | None = None
        self._failures = 0
        self._unanswered = 0

    def ask(self, trigger: str, session_id: str = "") -> None:
        """Wish for a session. The same wish twice is one; the newest session id counts."""
        with self._lock:
            self._wishes[trigger] = session_id
            if trigger in URGENT:
                self._not_before = float("-inf")

    def again(self, trigger: str, session_id: str = "") -> None:
        """What failed is still wanted, but not before the wait is over."""
        with self._lock:
            self._wishes.setdefault(trigger, session_id)

    def due(self, now: float) -> tuple[str, str] | None:
        """The trigger and session id of a session to hold now; one session serves all wishes."""
        with self._lock:
            if now < self._not_before:
                return None
            if self._poll_at is None:
                self._poll_at = now + self._poll_every_s
            if now >= self._poll_at:
                self._wishes.setdefault("poll", "")
            ready = [wish for wish in self._wishes if wish != "alert" or now >= self._alerts_not_before]
            if not ready:
                return None
            first = min(ready, key=lambda wish: (wish not in URGENT, wish == "poll"))
            session_id = self._wishes[first]
            self._wishes.clear()
            self._poll_at = now + self._poll_every_s
            return first, session_id

    def may_register(self, now: float) -> bool:
        return now >= self._not_before

    def succeeded(self, now: float, *, unanswered: bool = False) -> None:
        """A session went well. `unanswered`: alerts are left that the server did not answer; they are reported again,
        ever more rarely."""
        with self._lock:
            self._failures = 0
            self._not_before = now
            self._poll_at = now + self._poll_every_s
            if unanswered:
                self._alerts_not_before = now + self._jittered(self._unanswered)
                self._unanswered = min(self._unanswered + 1, DOUBLINGS_MAX)
                self._wishes["alert"] = ""
            else:
                self._unanswered = 0
                self._alerts_not_before = now

    def failed(self, now: float, *, slow: bool = False) -> None:
        """Wait: doubling from the shortest to the longest, half of it random; `slow` waits the longest at once."""
        with self._lock:
            self._failures = min(self._failures + 1, DOUBLINGS_MAX)
            self._not_before = now + (self._jittered(DOUBLINGS_MAX) if slow else self._jittered(self._failures - 1))

    def wait(self, now: float, most: float) -> float:
        """Seconds until something may be due, at most `most`."""
        with self._lock:
            if now < self._not_before:
                return min(most, self._not_before - now)
            if any(wish != "alert" for wish in self._wishes):
                return 0.0
            ends = [most if self._poll_at is None else self._poll_at - now]
            if self._wishes:
                ends.append(self._alerts_not_before - now)
            return max(0.0, min(most, *ends))

    def _jittered(self, doublings: int) -> float:
        wait = min(self._backoff_max_s, self._backoff_min_s * 2.0**doublings)
        return wait * (0.5 + self._rng() / 2)
