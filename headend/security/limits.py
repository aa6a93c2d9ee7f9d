"""Rate limits: per network address and in all, before anybody has proven anything; per device afterwards."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from dataclasses import dataclass

REQUESTS_AT_ONCE = 10  # a registration takes one; a device in trouble retries with growing pauses
REFILL_EVERY_S = 6.0
CLIENTS_MAX = 10_000  # the least recently used are dropped first
IPV6_PREFIX = 64  # what one subscriber has; within it, addresses cost nothing
ALL = ""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """At most `burst` requests at once, and one per `refill_every_s` seconds, for each key."""

    def __init__(
        self, *, burst: int = REQUESTS_AT_ONCE, refill_every_s: float = REFILL_EVERY_S, clients_max: int = CLIENTS_MAX
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


class NetworkLimit:
    """A limit per network and one in all. A network that is over its own takes nothing from the others."""

    def __init__(self, *, network_burst: int, network_every_s: float, burst: int, every_s: float) -> None:
        self._networks = RateLimit(burst=network_burst, refill_every_s=network_every_s)
        self._all = RateLimit(burst=burst, refill_every_s=every_s, clients_max=1)

    def allow(self, network: str, now: float) -> bool:
        return self._networks.allow(network, now) and self._all.allow(ALL, now)


class Limits:
    """Those of the security server. Thread-safe.

    A HELLO costs a few hashes, so a network may say many: thousands of devices can come from the one address of a
    gateway. An AUTH costs a look into the database. What a proven device may do is counted for that device. A refusal
    is written down at the pace of one network's bucket; the others are counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hello = NetworkLimit(network_burst=300, network_every_s=1 / 300, burst=2000, every_s=1 / 1000)
        self._auth = NetworkLimit(network_burst=50, network_every_s=1 / 10, burst=200, every_s=1 / 100)
        self._device = RateLimit()
        self._noted = RateLimit()

    def hello(self, network: str, now: float) -> bool:
        """Whether a HELLO, or what is no message at all, may be answered."""
        with self._lock:
            return self._hello.allow(network, now)

    def auth(self, network: str, now: float) -> bool:
        """Whether an AUTH may be looked at, before its proof."""
        with self._lock:
            return self._auth.allow(network, now)

    def device(self, device_id: str, now: float) -> bool:
        """Whether a device that has proven itself may have another account made."""
        with self._lock:
            return self._device.allow(device_id, now)

    def note(self, network: str, now: float) -> bool:
        """Whether a refusal is worth another row of the log."""
        with self._lock:
            return self._noted.allow(network, now)


def network_of(peer: str) -> str:
    """The network that an address counts for: an IPv4 address, an IPv6 /64; anything else for itself."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
