"""Where a meter of a G3-PLC network is: an IPv6 address made of its PAN and its short address. Sans-IO.

A G3 coordinator that gives its host an IPv6 interface makes the network a link: every node has a link-local address,
and one below each prefix of the network, with this interface identifier (RFC 9354, 4.1, as in RFC 4944, 6, and RFC
6282, 3.2.2):

    PAN id (16 bits) : 00ff : fe00 : short address (16 bits)

The two lowest bits of the first octet are the "universal" and the "group" bit of an identifier and stay zero, which is
why G3 itself makes PAN ids with 0xFCFF over them (ITU-T G.9903). Behind that address a meter speaks the COSEM wrapper
over UDP, port 4059 (IEC 62056-4-7; the port is IANA's `dlms-cosem`).

No G3 coordinator or modem was tried: this follows the texts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from plc.endpoint import Endpoint, OptionValue
from plc.errors import PlcLocalError

PAN_BITS = 0xFCFF
SHORT_UNASSIGNED = 0xFFFE  # of a node that has not joined (IEEE 802.15.4); 0 is the coordinator's own
PREFIX_BITS = 64
SCHEME = "udp"


def interface_identifier(pan_id: int, short: int) -> int:
    """The lower 64 bits of the address of a node. Raises `PlcLocalError` for numbers that no node has."""
    if not 0 <= pan_id <= 0xFFFF or pan_id & ~PAN_BITS:
        raise PlcLocalError(f"PAN id 0x{pan_id:04x}: sixteen bits, of which 0x0300 are zero")
    if not 0 <= short < SHORT_UNASSIGNED:
        raise PlcLocalError(f"short address 0x{short:04x}: 0x0000 to 0x{SHORT_UNASSIGNED - 1:04x}")
    return pan_id << 48 | 0x00FF_FE00 << 16 | short


def node_address(prefix: str, pan_id: int, short: int) -> ipaddress.IPv6Address:
    """The address of a node below a prefix of 64 bits, such as `fe80::/64`. Raises `PlcLocalError`."""
    try:
        network = ipaddress.IPv6Network(prefix if "/" in prefix else f"{prefix}/{PREFIX_BITS}")
    except ValueError as error:
        raise PlcLocalError(f"prefix {prefix!r}: {error}") from error
    if network.prefixlen != PREFIX_BITS:
        raise PlcLocalError(f"prefix {prefix!r}: of {PREFIX_BITS} bits")
    return ipaddress.IPv6Address(int(network.network_address) | interface_identifier(pan_id, short))


def datagram_endpoint(address: int, url: str, options: Mapping[str, OptionValue]) -> Endpoint:
    """Where the meter with this number is: at `url` (`udp://ADDRESS:PORT`), else at the address made of the options
    `prefix`, `pan_id`, `interface`, `udp_port` and its number as the short address. Raises `PlcLocalError`."""
    if url:
        return _of_url(url)
    pan_id = int(options["pan_id"])
    if not pan_id:
        raise PlcLocalError("a url, or a pan_id of the port, is due")
    made = node_address(str(options["prefix"]), pan_id, address)
    return _scoped(made, str(options["interface"]), int(options["udp_port"]))


def _of_url(url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        name, _, interface = (host or "").partition("%")
        found = ipaddress.ip_address(name)  # no host names: nobody waits for a name server while meters answer
    except ValueError as error:
        raise PlcLocalError(f"{url}: {error}") from error
    if parts.scheme != SCHEME or not port:
        raise PlcLocalError(f"{url}: wanted {SCHEME}://address:port")
    return _scoped(found, interface, port)


def _scoped(address: ipaddress.IPv4Address | ipaddress.IPv6Address, interface: str, port: int) -> Endpoint:
    if address.is_link_local and address.version == 6:
        if not interface:
            raise PlcLocalError(f"{address} is link-local: it needs an interface, as in [{address}%plc0]")
        return Endpoint(f"{address}%{interface}", port, datagrams=True)
    return Endpoint(str(address), port, datagrams=True)
