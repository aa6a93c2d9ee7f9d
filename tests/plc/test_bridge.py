"""The bridge driver over a fake port, over a loop port, and over a real terminal."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlms.link.port import open_port
from plc.bridge import Bridge, open_bridge
from plc.errors import PlcDefectError, PlcLocalError, PlcPortError, PlcSilentError
from plc.events import DataConfirmed, DataFailed, DataReceived, FailReason, NodeJoined, NodesListed
from plc.prime.link import CONFIRM_TIMEOUT_S, PlcLink
from plc.prime.messages import DataConfirm, DataIndication, DataRequest, JoinIndication, PrimePayload
from plc.prime.usi import ProtocolId, UsiFrame
from plc.protocols import DLMS_OVER_TCP, HDLC, PRIME_USI
from plc.transparent import TransparentLink
from tests.sim.terminal_server import terminal_server

EUI = bytes.fromhex("02dc00000001")


def wire(payload: PrimePayload) -> bytes:
    return UsiFrame(ProtocolId.PRIME_API, payload.emit(), payload.command).emit()


class FakePort:
    """A port whose other end is the test; waiting moves the clock."""

    def __init__(self) -> None:
        self.incoming: list[bytes] = []
        self.written = b""
        self.waits: list[float] = []
        self.now = 0.0
        self.closed = False

    def read(self, wait_s: float) -> bytes:
        self.waits.append(wait_s)
        if self.incoming:
            return self.incoming.pop(0)
        self.now += wait_s
        return b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def clock(self) -> float:
        return self.now


def prime_bridge() -> tuple[FakePort, Bridge]:
    port = FakePort()
    return port, Bridge(port, PlcLink(), port.clock)


def test_the_first_poll_asks_for_the_node_list() -> None:
    port, bridge = prime_bridge()
    assert bridge.poll(0.0, 1.0) == []
    assert port.written.hex().startswith("7e01860e8250")


def test_data_events_go_to_the_open_channel_and_the_others_come_out_of_poll() -> None:
    port, bridge = prime_bridge()
    channel = bridge.channel(5, dst_lsap=1, src_lsap=16)
    ticket = channel.send(b"get", 0.0)
    joined, confirm = JoinIndication(b"A", 5, EUI), DataConfirm(1, 16, 5, 0)
    port.incoming = [wire(joined) + wire(confirm) + wire(DataIndication(16, 1, 0, 5, b"answer"))]
    assert bridge.poll(0.0, 1.0) == [NodeJoined(5, EUI, b"A")]
    assert wire(DataRequest(1, 16, 5, b"get")) in port.written
    assert channel.next_event() == DataConfirmed(5, 1, 16, ticket)
    assert channel.next_event() == DataReceived(5, 16, 1, b"answer")
    assert channel.next_event() is None
    channel.close()
    port.incoming = [wire(DataIndication(16, 1, 0, 5, b"late"))]
    assert bridge.poll(0.0, 1.0) == [DataReceived(5, 16, 1, b"late")]


def test_poll_wakes_up_for_a_deadline_and_reports_what_expired() -> None:
    port, bridge = prime_bridge()
    port.incoming = [b""]
    channel = bridge.channel(5)
    ticket = channel.send(b"get", 0.0)
    while port.now < CONFIRM_TIMEOUT_S:
        bridge.poll(port.now, 100.0)
    assert channel.next_event() == DataFailed(5, 1, 16, ticket, FailReason.NO_CONFIRM)
    assert max(port.waits) < 100.0


def test_what_an_event_makes_the_core_send_goes_out_in_the_same_poll() -> None:
    port, bridge = prime_bridge()
    for index in range(6):
        bridge.core.send(index, b"get", 1, 16, 0.0)
    port.incoming = [wire(DataConfirm(1, 16, 0, 0))]
    bridge.poll(0.0, 1.0)
    assert wire(DataRequest(1, 16, 5, b"get")) in port.written


def test_a_channel_is_opened_once_and_not_used_after_its_end() -> None:
    _, bridge = prime_bridge()
    channel = bridge.channel(5)
    with pytest.raises(PlcLocalError):
        bridge.channel(5)
    channel.close()
    channel.close()
    with pytest.raises(PlcLocalError):
        channel.send(b"x", 0.0)
    assert bridge.channel(5) is not channel


def test_a_shared_bus_gives_one_channel_at_a_time_and_bytes_belong_to_it() -> None:
    port = FakePort()
    bridge = Bridge(port, TransparentLink(), port.clock)
    assert bridge.shared_bus
    channel = bridge.channel(17)
    with pytest.raises(PlcLocalError):
        bridge.channel(18)
    channel.send(b"~snrm~", 0.0)
    port.incoming = [b"~ua~"]
    assert bridge.poll(0.0, 1.0) == []
    assert port.written == b"~snrm~"
    assert channel.next_event() == DataReceived(17, 0, 0, b"~ua~")
    channel.close()
    bridge.channel(18)


def test_closing_the_bridge_closes_channels_and_port() -> None:
    port, bridge = prime_bridge()
    channel = bridge.channel(5)
    bridge.close()
    assert port.closed
    with pytest.raises(PlcLocalError):
        channel.send(b"x", 0.0)


def test_a_broken_protocol_is_a_port_error() -> None:
    port = FakePort()
    bridge = Bridge(port, DLMS_OVER_TCP.make_core(), port.clock)
    port.incoming = [b"SSH-2.0"]
    with pytest.raises(PlcPortError):
        bridge.poll(0.0, 1.0)


class DefectiveLink(PlcLink):
    """A protocol of somebody who did not expect these octets, or this moment."""

    def receive(self, data: bytes, now: float) -> None:
        raise ValueError(f"not enough values to unpack from {data!r}")

    def on_deadline(self, now: float) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize(("octets", "cause"), [(b"\x00", ValueError), (b"", ZeroDivisionError)])
def test_whatever_a_protocol_raises_costs_its_port_alone(octets: bytes, cause: type[Exception]) -> None:
    port = FakePort()
    bridge = Bridge(port, DefectiveLink(), port.clock)
    port.incoming = [octets] if octets else []
    with pytest.raises(PlcDefectError, match=f"defect: {cause.__name__}") as raised:
        bridge.poll(0.0, 3600.0)
    assert isinstance(raised.value.__cause__, cause)


def test_a_port_that_is_not_there_is_a_port_error(tmp_path: Path) -> None:
    with pytest.raises(PlcPortError, match="ttyNONE"):
        open_bridge(HDLC, str(tmp_path / "ttyNONE"))
    with pytest.raises(PlcPortError):
        open_bridge(HDLC, "nosuch://x")
    with pytest.raises(PlcPortError):
        open_bridge(HDLC, "socket://127.0.0.1:1")


def test_a_loop_port_gives_back_what_was_written_in_one_piece() -> None:
    port = open_port("loop://", 9600)
    port.write(b"0123456789")
    assert port.read(1.0) == b"0123456789"
    assert port.read(0.0) == b""
    port.close()


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_a_terminal_server_is_a_port() -> None:
    with terminal_server() as server:
        port = open_port(server.url, 115200)
        port.write(bytes(range(256)))
        found = b""
        while len(found) < 256 and (data := port.read(5.0)):
            found += data
        assert found == bytes(range(256))
        assert server.plug.baudrate == 115200
        port.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Master descriptor and the slave's name; the slave is kept open so that the host may come and go."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


def test_a_terminal_is_opened_read_written_closed_and_opened_again(terminal: tuple[int, str]) -> None:
    master, name = terminal
    answer = UsiFrame(ProtocolId.MNGP_GETRSP_ENHANCED, bytes.fromhex("0f82500000")).emit()
    for _ in range(2):
        bridge = open_bridge(PRIME_USI, name, 115200, clock=lambda: 0.0)
        assert bridge.poll(0.0, 0.0) == []
        assert os.read(master, 100).startswith(b"\x7e\x01\x86")
        os.write(master, answer)
        assert bridge.poll(0.0, 5.0) == [NodesListed(0)]
        bridge.close()


def test_a_terminal_that_hangs_up_is_a_port_error_and_never_silence() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    bridge = open_bridge(HDLC, os.ttyname(slave))
    os.close(slave)
    os.close(master)
    with pytest.raises(PlcPortError):
        bridge.poll(0.0, 1.0)
    bridge.close()


def test_a_poll_ends_early_while_the_descriptor_to_wake_it_is_readable(terminal: tuple[int, str]) -> None:
    master, name = terminal
    bridge = open_bridge(HDLC, name)
    wake = os.eventfd(1)
    bridge.wake_by(wake)
    channel = bridge.channel(1)
    channel.send(b"?", 0.0)
    assert bridge.poll(0.0, 60.0) == []
    os.read(wake, 8)
    os.write(master, b"x")
    bridge.poll(0.0, 60.0)
    assert channel.next_event() == DataReceived(1, 0, 0, b"x")
    bridge.close()
    os.close(wake)


@pytest.mark.parametrize(
    ("requests", "every_s", "silence_s", "gives_up"),
    [
        (8, 10.0, 60.0, True),
        (8, 1.0, 60.0, False),  # not for long enough
        (3, 100.0, 60.0, False),  # too few to say so
        (50, 10.0, 0.0, False),  # for ever
    ],
)
def test_a_port_that_gives_nothing_is_given_up_after_requests_and_time(
    requests: int, every_s: float, silence_s: float, gives_up: bool
) -> None:
    port = FakePort()
    bridge = Bridge(port, TransparentLink(), port.clock, silence_s=silence_s)
    channel = bridge.channel(17)

    def ask() -> None:
        for _ in range(requests):
            channel.send(b"~snrm~", port.now)
            bridge.poll(port.now, every_s)

    if gives_up:
        with pytest.raises(PlcSilentError, match="nothing was heard in 80 s, in answer to 8 requests"):
            ask()
    else:
        ask()


def test_one_byte_is_enough_to_be_alive_and_nothing_is_expected_where_nothing_was_asked() -> None:
    port = FakePort()
    bridge = Bridge(port, TransparentLink(), port.clock, silence_s=60.0)
    channel = bridge.channel(17)
    bridge.poll(port.now, 86_400.0)
    for number in range(40):
        channel.send(b"~snrm~", port.now)
        if number % 7 == 0:
            port.incoming = [b"\0"]
        bridge.poll(port.now, 20.0)
    assert bridge.octets_heard == 6
