"""Rate limits per client: a bounded number of token buckets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BURST = 10  # a registration takes one; a device in trouble retries with growing pauses
REFILL_EVERY_S = 6.0
CLIENTS_MAX = 10_000  # the least recently used are dropped first


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """At most `burst` requests at once, and one per `refill_every_s` seconds, for each key."""

    def __init__(
        self, *, burst: int = BURST, refill_every_s: float = REFILL_EVERY_S, clients_max: int = CLIENTS_MAX
    ) -> None:
        self._burst = burst
        self._refill_every_s = refill_every_s
        self._clients_max = clients_max
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allow(self, key: str, now: float) -> bool:
        """Take a token of `key`; returns False when there is none, and the request must be refused."""
        bucket = self._buckets.pop(key, None) or _Bucket(float(self._burst), now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) / self._refill_every_s)
        bucket.at = now
        self._buckets[key] = bucket
        if len(self._buckets) > self._clients_max:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
