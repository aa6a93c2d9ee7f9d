"""What a URL of a port leads to, as far as it can be told without opening it: so that two spellings of one place are
known for one.

A device has several names: links by id and by path lead to the same one, and so do two nodes with one number. Hosts are
written in any case, with a dot behind them, and addresses in several forms. Names are not looked up: what a name leads
to is known when the port is opened (`plc.peers`).
"""

from __future__ import annotations

import os
import stat

from plc.endpoint import Endpoint

Place = tuple[object, ...]
LOCALHOST = "127.0.0.1"


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
