"""What a URL of a port leads to, as far as it can be told without opening it: so that two spellings of one place are
known for one.

A device has several names: links by id and by path lead to the same one, and so do two nodes with one number. Hosts are
written in any case, with a dot behind them, and addresses in several forms. Names are not looked up: what a name leads
to is known when the port is opened (`plc.peers`).
"""

from __future__ import annotations

import os
import stat

from omadm.addresses import AddressError, check_address
from plc.endpoint import Endpoint

Place = tuple[object, ...]
LOCALHOST = "127.0.0.1"
NETWORK_SCHEMES = ("socket", "rfc2217", "udp")  # those that lead to a host; pyserial has others, such as loop://


def check_url(url: str) -> None:
    """Check that the URL of a port on the network is one that every program reads alike (`omadm.addresses`). A device,
    and a scheme without a host, is none of its business. Raises `AddressError`."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in NETWORK_SCHEMES:
        check_address(url, (scheme,), user=False)


def check_meter_url(url: str) -> None:
    """Check the same of the URL of a meter, which is a host and a port and no more; an empty one is none. Raises
    `AddressError`."""
    if not url:
        return
    check_address(url, ("socket", "udp"), user=False)
    if url.partition("://")[2].rstrip("/").partition("/")[1] or "?" in url:
        raise AddressError("has more than a host and a port")


def place_of(url: str) -> Place:
    """Return what the URL of a port, or the path of a device, leads to: equal for equal places."""
    if "://" not in url:
        return _device(url)
    from urllib.parse import urlsplit  # not at the top: a device with serial ports only has no use for these

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ("url", url)
    if not host or not port:
        return ("url", url)  # loop:// and the like
    return _network(host, port, datagrams=parts.scheme == "udp")


def place_of_endpoint(endpoint: Endpoint) -> Place:
    """Return the same of a meter with an address of its own."""
    return _network(endpoint.host, endpoint.port, datagrams=endpoint.datagrams)


def _device(path: str) -> Place:
    real = os.path.realpath(path)
    try:
        found = os.stat(real)  # noqa: PTH116 - beside realpath, which says what is not there too
    except OSError:
        return ("path", real)
    return ("device", found.st_rdev) if stat.S_ISCHR(found.st_mode) else ("path", real)


def _network(host: str, port: int, *, datagrams: bool) -> Place:
    import ipaddress

    name = host.lower().rstrip(".")
    name = LOCALHOST if name == "localhost" else name
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return ("udp" if datagrams else "tcp", name, port)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return ("udp" if datagrams else "tcp", str(address), port)
