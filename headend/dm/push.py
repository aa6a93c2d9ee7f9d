"""Package #0 to a device's push URL: asks it to start a session now.

The URL is the device's own word, and a stolen device says what its thief wants. So it is called only where the policy
of that device says, or where devices are by the configuration (`push`) if it has none of its own; a name is resolved
once, and the address that was checked is the one that is called; redirects are not followed, and nothing of the answer
but its status is read. Each call has one deadline, however busily the other end drips.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import Connection, Engine, select, update

from headend import access
from headend.access import devices
from headend.config import PORT_MAX
from headend.dm import accounts
from omadm.notification import MIME, RESYNC_NONCE, Notification, emit

LOG = logging.getLogger("headend.dm")

TIMEOUT_S = 5.0  # for each address that is tried, from the connection to the status of the answer
NETWORKS_MAX = 32  # of one policy; so many ports, too
ADDRESSES_MAX = 4  # of one name that are tried
REFUSED = 403  # the digest was wrong: the nonce has moved on, so try the one that both sides always know

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], list[str]]


class PushError(Exception):
    """The device could not be reached, or would not take the notification."""


class PushForbiddenError(PushError):
    """The policy does not allow the address that the device gave. Nothing was sent."""


class DeviceOffError(PushError):
    """The device is switched off: it would be called to a session that is refused. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """Where devices may be called: in one of `networks`, at one of `ports` (all where that is empty).

    A network that holds more than such addresses, as 0.0.0.0/0 does, does not allow loopback, link-local, multicast
    and reserved ones: they need a network of their own.
    """

    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()

    source: str = "push.networks and push.ports"  # who says so, for people

    @classmethod
    def of(cls, networks: Iterable[str], ports: Iterable[int] = ()) -> PushPolicy:
        """Make one of the configuration's values. Raises `ValueError` for what is no network."""
        return cls(tuple(ipaddress.ip_network(one) for one in networks), frozenset(ports))

    @classmethod
    def of_device(cls, document: dict[str, Any]) -> PushPolicy:
        """Make one of a device's own. Raises `ValueError` for what is none."""
        if document.keys() - {"networks", "ports"} or "networks" not in document:
            raise ValueError("networks is expected, and ports where only some are allowed")
        networks, ports = document["networks"], document.get("ports", [])
        for name, values in (("networks", networks), ("ports", ports)):
            if not isinstance(values, list) or len(values) > NETWORKS_MAX:
                raise ValueError(f"{name}: a list of at most {NETWORKS_MAX} is expected")
        if not all(isinstance(one, str) for one in networks):
            raise ValueError("networks: texts such as 10.20.0.0/16 are expected")
        if not all(isinstance(one, int) and not isinstance(one, bool) and 1 <= one <= PORT_MAX for one in ports):
            raise ValueError(f"ports: 1 to {PORT_MAX} is expected")
        made = cls.of(networks, ports)
        return cls(made.networks, made.ports, "the device's own push policy")

    def __str__(self) -> str:
        networks = ", ".join(map(str, self.networks)) or "no network"
        return f"{networks}; port {', '.join(map(str, sorted(self.ports)))}" if self.ports else networks

    def document(self) -> dict[str, Any]:
        """What `of_device` makes the same of."""
        return {"networks": [str(one) for one in self.networks], "ports": sorted(self.ports)}

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


def set_policy(connection: Connection, device_id: str, policy: PushPolicy | None) -> None:
    """Give an enrolled device a policy of its own; `None` takes it away again."""
    value = None if policy is None else policy.document()
    connection.execute(update(devices).where(devices.c.id == device_id).values(push_policy=value))


def policy_of(connection: Connection, device_id: str, default: PushPolicy) -> PushPolicy:
    """Where a device may be called. One of its own that cannot be read allows nothing."""
    found = connection.scalars(select(devices.c.push_policy).where(devices.c.id == device_id)).one_or_none()
    if found is None:
        return default
    try:
        return PushPolicy.of_device(found)
    except (ValueError, AttributeError):
        return PushPolicy(source="the device's own push policy, which is damaged")


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host. Raises `OSError`, `UnicodeError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def notify(
    engine: Engine,
    device_id: str,
    policy: PushPolicy,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    resolver: Resolve = resolve,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """Send the notification and return the session id in it. `policy` is for devices that have none of their own.
    Blocks up to `timeout_s` for each of at most two tries and `ADDRESSES_MAX` addresses, and for the name's resolution.

    Raises `accounts.UnknownDevice`, `DeviceOffError`, `PushForbiddenError` and `PushError`.
    """
    session_id = 1 + secrets.randbelow(0xFFFF)
    status = 0
    target: _Target | None = None
    for resync in (False, True):
        with engine.begin() as conn:  # committed before it is sent: no counter is ever used twice
            if not access.admits(conn, device_id):
                raise DeviceOffError(f"{device_id}: {access.SWITCHED_OFF}")
            account, push_url, counter = accounts.next_push(conn, device_id)
            allowed = policy_of(conn, device_id, policy)
        if not push_url:
            raise PushError(f"{device_id} has no push URL")
        if target is None or target.url != push_url:
            target = _checked(device_id, push_url, allowed, resolver)
        nonce = RESYNC_NONCE if resync else account.server_nonce
        body = emit(Notification(session_id, account.server_id), account.server_secret, nonce, counter=counter)
        status = asyncio.run(_post(target, body, device_id, transport, timeout_s))
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
            "%s wants to be called at %s, which is not allowed by %s", device_id, url, policy.source,
            extra={"event": "dm.push.forbidden", "device": device_id},
        )  # fmt: skip
        shown = ", ".join(f"{address}" for address in found[:ADDRESSES_MAX]) or "no address"
        raise PushForbiddenError(f"{device_id} at {url} ({shown}): not allowed by {policy.source}")
    return _Target(url, tuple(allowed[:ADDRESSES_MAX]))


async def _post(
    target: _Target, body: bytes, device_id: str, transport: httpx.AsyncBaseTransport | None, timeout_s: float
) -> int:
    """Send it to the first address that takes a connection; return the status. Raises `PushError`."""
    failure: Exception | None = None
    async with httpx.AsyncClient(
        transport=transport, timeout=timeout_s, trust_env=False, follow_redirects=False
    ) as client:
        for address in target.addresses:
            try:
                # The client's own timeout begins anew with every octet that comes.
                async with asyncio.timeout(timeout_s), _called(client, target, address, body) as response:
                    return response.status_code
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                failure = error
            except TimeoutError:
                failure = TimeoutError(f"no answer within {timeout_s:g} s")
    raise PushError(f"{device_id} at {target.url}: {failure or type(failure).__name__}") from failure


@asynccontextmanager
async def _called(
    client: httpx.AsyncClient, target: _Target, address: Address, body: bytes
) -> AsyncIterator[httpx.Response]:
    """The answer of one address; what it says after its head is not read."""
    parts = urlsplit(target.url)
    request = client.build_request(
        "POST",
        httpx.URL(target.url).copy_with(host=str(address)),
        content=body,
        headers={"content-type": MIME, "host": parts.netloc},
        extensions={"sni_hostname": parts.hostname},
    )
    response = await client.send(request, stream=True, follow_redirects=False)
    try:
        yield response
    finally:
        await response.aclose()
