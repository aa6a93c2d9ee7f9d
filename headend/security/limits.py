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
IPV6_SITE_PREFIX = 48  # what one site has at most (RFC 6177)
STRANGERS_POINTS = 6.0  # three devices of a site from which none has registered yet
POINT_EVERY_S = 10.0
EARNED = 4.0
CREDIT_MAX, DEBT_MAX = 200.0, 60.0
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


class Standing:
    """What each site owes. A HELLO and an AUTH cost a point each, and a registration brings `EARNED`. Points come back
    with time, to what a stranger has; what many registrations have earned is kept beyond that."""

    def __init__(self) -> None:
        self._points: OrderedDict[str, _Bucket] = OrderedDict()

    def cost(self, site: str, now: float) -> bool:
        """Take a point; returns whether the site had one."""
        account = self._account(site, now)
        account.tokens = max(-DEBT_MAX, account.tokens - 1)
        return account.tokens >= 0

    def earn(self, site: str, now: float) -> None:
        account = self._account(site, now)
        account.tokens = min(CREDIT_MAX, account.tokens + EARNED)

    def _account(self, site: str, now: float) -> _Bucket:
        account = self._points.pop(site, None) or _Bucket(STRANGERS_POINTS, now)
        if account.tokens < STRANGERS_POINTS:
            account.tokens = min(STRANGERS_POINTS, account.tokens + (now - account.at) / POINT_EVERY_S)
        account.at = now
        self._points[site] = account
        if len(self._points) > CLIENTS_MAX:
            self._points.popitem(last=False)
        return account


@dataclass(frozen=True, slots=True)
class _Bound:
    """So many at once, then so many per second."""

    burst: int
    per_s: float

    def limit(self, clients_max: int = CLIENTS_MAX) -> RateLimit:
        return RateLimit(burst=self.burst, refill_every_s=1 / self.per_s, clients_max=clients_max)


class NetworkLimit:
    """A limit per network and two in all: one for who is in good standing, one for everybody else. So a network that is
    over its own limit takes nothing from the others, and many networks that only ask take nothing from devices."""

    def __init__(self, network: _Bound, good: _Bound, others: _Bound) -> None:
        self._networks = network.limit()
        self._good, self._others = good.limit(1), others.limit(1)

    def allow(self, network: str, now: float, *, good: bool) -> bool:
        return self._networks.allow(network, now) and (self._good if good else self._others).allow(ALL, now)


class Limits:
    """Those of the security server. Thread-safe.

    A HELLO costs a few hashes, so a network may say many: thousands of devices can come from the one address of a
    gateway. An AUTH that answers a challenge costs a look into the database, a millisecond; one that answers none costs
    a hash, less than the request that it came in, and takes from no limit that devices need. What a proven device may
    do is counted for that device.

    `Standing` says whose HELLOs and AUTHs come from a budget that strangers cannot use up: the devices of a gateway pay
    with each registration for the next, and those who only ask are soon in debt, however many networks they have.

    A refusal is written down at the pace of one network's bucket and of one in all; the others are counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hello = NetworkLimit(_Bound(300, 300), good=_Bound(2000, 1000), others=_Bound(2000, 1000))
        self._auth = NetworkLimit(_Bound(100, 50), good=_Bound(200, 100), others=_Bound(400, 200))
        self._standing = Standing()
        self._device = RateLimit()
        self._noted = NetworkLimit(_Bound(10, 1 / 6), good=_Bound(100, 10), others=_Bound(100, 10))

    def hello(self, network: str, now: float) -> bool:
        """Whether a HELLO, or what is no message at all, may be answered."""
        with self._lock:
            return self._hello.allow(network, now, good=self._standing.cost(site_of(network), now))

    def auth(self, network: str, now: float) -> bool:
        """Whether an AUTH that answers a challenge may be looked at, before its proof."""
        with self._lock:
            return self._auth.allow(network, now, good=self._standing.cost(site_of(network), now))

    def junk(self, network: str, now: float) -> None:
        """An AUTH has come that answers no challenge, or one that was answered before."""
        with self._lock:
            self._standing.cost(site_of(network), now)

    def registers(self, network: str, now: float) -> None:
        """A device has proven itself, and may have an account: its HELLO and its AUTH are no debt."""
        with self._lock:
            self._standing.earn(site_of(network), now)

    def device(self, device_id: str, now: float) -> bool:
        """Whether a device that has proven itself may have another account made."""
        with self._lock:
            return self._device.allow(device_id, now)

    def note(self, network: str, now: float) -> bool:
        """Whether a refusal is worth another row of the log."""
        with self._lock:
            return self._noted.allow(network, now, good=True)


def site_of(network: str) -> str:
    """Whose standing counts for a network (`network_of`): an IPv6 /48, as one site has; an IPv4 address itself."""
    try:
        found = ipaddress.ip_network(network)
    except ValueError:
        return network
    return str(found.supernet(new_prefix=IPV6_SITE_PREFIX)) if found.version == 6 else network


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
