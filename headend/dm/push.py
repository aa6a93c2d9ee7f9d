"""Package #0 to a device's push URL: asks it to start a session now.

The URL is the device's own word, and a stolen device says what its thief wants. So it is called only where the policy
has devices (`push` of the configuration); a name is resolved once, and the address that was checked is the one that is
called; redirects are not followed, and nothing of the answer but its status is read.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from sqlalchemy import Engine

from headend.dm import accounts
from omadm.notification import MIME, RESYNC_NONCE, Notification, emit

LOG = logging.getLogger("headend.dm")

TIMEOUT_S = 5.0
ADDRESSES_MAX = 4  # of one name that are tried
REFUSED = 403  # the digest was wrong: the nonce has moved on, so try the one that both sides always know

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], list[str]]


class PushError(Exception):
    """The device could not be reached, or would not take the notification."""


class PushForbiddenError(PushError):
    """The policy does not allow the address that the device gave. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """Where devices may be called: in one of `networks`, at one of `ports` (all where that is empty).

    A network that holds more than such addresses, as 0.0.0.0/0 does, does not allow loopback, link-local, multicast
    and reserved ones: they need a network of their own.
    """

    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()

    @classmethod
    def of(cls, networks: Iterable[str], ports: Iterable[int] = ()) -> PushPolicy:
        """Make one of the configuration's values. Raises `ValueError` for what is no network."""
        return cls(tuple(ipaddress.ip_network(one) for one in networks), frozenset(ports))

    def allows(self, address: Address, port: int) -> bool:
        """Return whether this may be called."""
        if self.ports and port not in self.ports:
            return False
        address = _plain(address)
        return any(
            address in network and (not _is_special(address) or _is_special(network))
            for network in self.networks
            if network.version == address.version
        )


def _plain(address: Address) -> Address:
    """An IPv4 address in the clothes of an IPv6 one is that IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


_CARRYING_IPV4 = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052)
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # RFC 8215
    ipaddress.IPv6Network("2002::/16"),  # 6to4
    ipaddress.IPv6Network("2001::/32"),  # Teredo
)


def _is_special(where: Address | Network) -> bool:
    """Whether an address, or all of a network, has a meaning of its own."""
    if where.is_loopback or where.is_link_local or where.is_multicast or where.is_unspecified or where.is_reserved:
        return True
    network = ipaddress.ip_network(where) if isinstance(where, Address) else where
    return any(isinstance(network, ipaddress.IPv6Network) and network.subnet_of(one) for one in _CARRYING_IPV4)


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host. Raises `OSError`, `UnicodeError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def notify(
    engine: Engine,
    device_id: str,
    policy: PushPolicy,
    *,
    client: httpx.Client | None = None,
    resolver: Resolve = resolve,
) -> int:
    """Send the notification and return the session id in it. Blocks up to `TIMEOUT_S` for each of at most two tries,
    and for the name's resolution.

    Raises `accounts.UnknownDevice`, `PushForbiddenError` and `PushError`.
    """
    if client is None:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as own:
            return notify(engine, device_id, policy, client=own, resolver=resolver)
    session_id = 1 + secrets.randbelow(0xFFFF)
    status = 0
    target: _Target | None = None
    for resync in (False, True):
        with engine.begin() as conn:  # committed before it is sent: no counter is ever used twice
            account, push_url, counter = accounts.next_push(conn, device_id)
        if not push_url:
            raise PushError(f"{device_id} has no push URL")
        if target is None or target.url != push_url:
            target = _checked(device_id, push_url, policy, resolver)
        nonce = RESYNC_NONCE if resync else account.server_nonce
        body = emit(Notification(session_id, account.server_id), account.server_secret, nonce, counter=counter)
        status = _post(client, target, body, device_id)
        if 200 <= status < 300:
            LOG.info("%s: notified", device_id, extra={"event": "dm.push", "device": device_id})
            return session_id
        if status != REFUSED:
            break
    raise PushError(f"{device_id} at {push_url}: HTTP status {status}")


@dataclass(frozen=True, slots=True)
class _Target:
    """What is called: the URL as the device gave it, and the addresses of its host that were checked."""

    url: str
    addresses: tuple[Address, ...]


def _checked(device_id: str, url: str, policy: PushPolicy, resolver: Resolve) -> _Target:
    """Return what may be called. Raises `PushForbiddenError` when no address of the host may be, `PushError` when it
    has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise PushForbiddenError(f"{device_id} at {url}: not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise PushForbiddenError(f"{device_id} at {url}: an http or https URL without a user is expected")
    try:
        found = [ipaddress.ip_address(one.partition("%")[0]) for one in resolver(host, port)]
    except (OSError, UnicodeError) as error:
        raise PushError(f"{device_id} at {url}: {error}") from error
    allowed = [address for address in dict.fromkeys(found) if policy.allows(address, port)]
    if not allowed:
        LOG.warning(
            "%s wants to be called at %s, which push.networks and push.ports do not allow", device_id, url,
            extra={"event": "dm.push.forbidden", "device": device_id},
        )  # fmt: skip
        shown = ", ".join(f"{address}" for address in found[:ADDRESSES_MAX]) or "no address"
        raise PushForbiddenError(f"{device_id} at {url} ({shown}): not allowed by push.networks and push.ports")
    return _Target(url, tuple(allowed[:ADDRESSES_MAX]))


def _post(client: httpx.Client, target: _Target, body: bytes, device_id: str) -> int:
    """Send it to the first address that takes a connection; return the status. Raises `PushError`."""
    parts = urlsplit(target.url)
    failure: Exception | None = None
    for address in target.addresses:
        try:
            url = httpx.URL(target.url).copy_with(host=str(address))
            headers = {"content-type": MIME, "host": parts.netloc}
            request = client.build_request(
                "POST", url, content=body, headers=headers, extensions={"sni_hostname": parts.hostname}
            )
            response = client.send(request, stream=True, follow_redirects=False)  # what it says is not read
            response.close()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            failure = error
            continue
        return response.status_code
    raise PushError(f"{device_id} at {target.url}: {failure or type(failure).__name__}") from failure
