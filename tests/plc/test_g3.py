"""Where meters of a G3 network are: the worked example of the text, its limits, and places that are given as URLs."""

from __future__ import annotations

import ipaddress

import pytest

from plc.endpoint import Endpoint, OptionValue
from plc.errors import PlcLocalError
from plc.g3 import SHORT_UNASSIGNED, datagram_endpoint, interface_identifier, node_address
from plc.protocols import WRAPPER_UDP


def options(**given: OptionValue) -> dict[str, OptionValue]:
    return WRAPPER_UDP.with_defaults(given)


def test_an_address_is_made_of_pan_and_short_address() -> None:
    # RFC 9354, 4.1: 16_bit_PAN:00FF:FE00:16_bit_short_address
    assert interface_identifier(0x781D, 0x0001) == 0x781D_00FF_FE00_0001
    assert node_address("fe80::/64", 0x781D, 1) == ipaddress.ip_address("fe80::781d:ff:fe00:1")
    assert node_address("fd12:3456:789a:1::", 0xFCFF, 0xFFFD) == ipaddress.ip_address(
        "fd12:3456:789a:1:fcff:ff:fe00:fffd"
    )


@pytest.mark.parametrize("pan_id", [-1, 0x0100, 0x0200, 0x7B1D, 0x10000])
def test_a_pan_id_leaves_the_universal_and_the_group_bit_alone(pan_id: int) -> None:
    with pytest.raises(PlcLocalError):
        interface_identifier(pan_id, 1)


@pytest.mark.parametrize("short", [-1, SHORT_UNASSIGNED, 0xFFFF, 0x10000])
def test_a_short_address_is_one_that_a_node_can_have(short: int) -> None:
    with pytest.raises(PlcLocalError):
        interface_identifier(0x781D, short)


@pytest.mark.parametrize("prefix", ["", "fe80", "fe80::1/64", "fe80::/48", "10.0.0.0/8", "fd00::/128"])
def test_a_prefix_has_64_bits(prefix: str) -> None:
    with pytest.raises(PlcLocalError):
        node_address(prefix, 0x781D, 1)


@pytest.mark.parametrize(
    ("address", "url", "given", "place"),
    [
        (1, "", {"pan_id": 0x781D, "interface": "plc0"}, Endpoint("fe80::781d:ff:fe00:1%plc0", 4059, datagrams=True)),
        (1, "", {"pan_id": 0x781D, "prefix": "fd00::/64"}, Endpoint("fd00::781d:ff:fe00:1", 4059, datagrams=True)),
        (1, "", {"pan_id": 1, "prefix": "fd00::/64", "udp_port": 5}, Endpoint("fd00::1:ff:fe00:1", 5, datagrams=True)),
        (1, "udp://[fe80::1%Plc0]:4059", {}, Endpoint("fe80::1%Plc0", 4059, datagrams=True)),
        (1, "udp://[::1]:7", {"pan_id": 0x781D}, Endpoint("::1", 7, datagrams=True)),
        (1, "udp://127.0.0.1:7", {}, Endpoint("127.0.0.1", 7, datagrams=True)),
    ],
)
def test_a_place_is_a_url_or_made_of_the_options(
    address: int, url: str, given: dict[str, OptionValue], place: Endpoint
) -> None:
    assert datagram_endpoint(address, url, options(**given)) == place


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("", {}),
        ("", {"pan_id": 0x781D}),  # link-local without an interface
        ("udp://[fe80::1]:4059", {}),
        ("socket://[::1]:4059", {}),
        ("udp://[::1]", {}),
        ("udp://meter.example:4059", {}),
        ("udp://[::1]:99999", {}),
        ("udp://[", {}),
    ],
)
def test_a_place_that_cannot_be_is_refused(url: str, given: dict[str, OptionValue]) -> None:
    with pytest.raises(PlcLocalError):
        datagram_endpoint(1, url, options(**given))
