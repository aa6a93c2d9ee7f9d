"""Two ports that lead to one place under two names: the second one is not opened, and says why."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.metering.ports.opening import bridge_to
from agent.metering.registry.added import PortMeters
from agent.settings.config import PortConfig, PortMeterConfig
from plc.errors import PlcPortError
from plc.events import DataFailed
from plc.peers import Peer, Peers
from plc.protocols import DLMS_OVER_TCP, HDLC, WRAPPER


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def port(name: str, url: str) -> PortConfig:
    return PortConfig(name, DLMS_OVER_TCP, url, 0)


def test_a_second_port_to_one_place_is_not_opened_until_the_first_is_closed(server: int) -> None:
    peers = Peers()
    first = bridge_to(port("a", f"socket://127.0.0.1:{server}"), peers)
    with pytest.raises(PlcPortError) as caught:
        bridge_to(port("b", f"socket://localhost:{server}"), peers)
    assert str(caught.value) == (
        f"socket://localhost:{server}: leads to 127.0.0.1:{server}, to which port a is connected"
    )
    first.close()
    second = bridge_to(port("b", f"socket://localhost:{server}"), peers)
    second.close()
    bridge_to(port("b", f"socket://localhost:{server}"), peers).close()


def test_a_meter_at_the_place_of_another_one_is_not_connected_to_as_long_as_that_is_known(server: int) -> None:
    peers = Peers()
    configured = [
        PortMeterConfig(address, url, 0, "none")
        for address, url in [(1, f"socket://127.0.0.1:{server}"), (2, f"socket://localhost:{server}")]
    ]
    meters = PortMeters(configured)
    bridge = bridge_to(PortConfig("lan", WRAPPER, "", 0, meters=meters), peers)
    first = bridge.channel(1)
    refused = f"localhost:{server} leads to 127.0.0.1:{server}, which is meter 1 of port lan"

    def asked() -> str:
        channel = bridge.channel(2)
        failed = channel.next_event()
        channel.close()
        return failed.detail if isinstance(failed, DataFailed) else ""

    assert asked() == refused
    first.close()
    assert asked() == refused, "one after the other it would be read twice all the same"
    bridge.channel(1).close()
    meters.configured = tuple(configured[1:])
    meters.added([])
    assert asked() == ""
    bridge.close()
    second = bridge_to(PortConfig("other", WRAPPER, "", 0, meters=configured), peers)
    assert second.channel(1).next_event() is None, "a port that is closed holds no place"
    second.close()


def test_a_device_under_two_names_is_opened_once(tmp_path: Path) -> None:
    main, end = pty.openpty()
    device = os.ttyname(end)
    (tmp_path / "by-id").symlink_to(device)
    first = bridge_to(PortConfig("a", HDLC, device, 9600), Peers())
    with pytest.raises(PlcPortError, match="by-id: in use by this process: another port has it under another name"):
        bridge_to(PortConfig("b", HDLC, str(tmp_path / "by-id"), 9600), Peers())
    first.close()
    os.close(main)
    os.close(end)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("10.0.0.1", 4059), "10.0.0.1:4059"),
        (("::ffff:10.0.0.1", 4059, 0, 0), "10.0.0.1:4059"),
        (("fe80:0::1", 4059, 0, 3), "[fe80::1%3]:4059"),
        (("fe80::1%3", 4059, 0, 3), "[fe80::1%3]:4059"),
        (("name", 4059), "name:4059"),
    ],
)
def test_a_peer_is_its_address_in_the_shortest_form(address: tuple[object, ...], shown: str) -> None:
    assert str(Peer.of(address, datagrams=False)) == shown
    assert str(Peer.of(address, datagrams=True)) == f"{shown} (UDP)"


def test_a_socket_that_is_not_connected_has_no_peer() -> None:
    with socket.socket() as alone:
        assert Peer.of_socket(alone) is None
    with socket.socket(socket.AF_UNIX) as one:
        assert Peer.of_socket(one) is None


def test_a_claim_ends_when_its_holder_is_closed() -> None:
    peers, open_ones = Peers(), {"a"}
    here = Peer("10.0.0.1", 1)
    assert peers.claim(here, "a", lambda: "a" in open_ones) == ""
    assert peers.claim(here, "b", lambda: True) == "a"
    assert peers.claim(Peer("10.0.0.1", 1, datagrams=True), "b", lambda: True) == ""
    open_ones.clear()
    assert peers.claim(here, "b", lambda: True) == ""
    assert peers.claim(here, "a", lambda: True) == "b"
