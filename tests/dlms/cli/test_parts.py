"""The parts of the `dlms` tool that need no meter."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import termios
import threading
import tty
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import click
import pytest

from dlms import axdr
from dlms.__main__ import COMMANDS, main
from dlms.axdr import Data, Tag
from dlms.cli.base_node import ENABLE, NodePort
from dlms.cli.change import TYPES, parse_value, readings_of
from dlms.cli.keys import read_hex, read_secret
from dlms.cli.show import plain, tree, type_name
from dlms.cli.simulate import BUILT_IN_LIST
from dlms.cosem.obis import AttributeRef, Obis
from dlms.errors import DecodeError, LinkError, LocalError, PeerError
from dlms.link.hdlc.frames import CONTROLS, HdlcAddress, HdlcDecoder, HdlcFrame, HdlcNoise, information_control
from dlms.link.mode_e.opening import ModeEOpening, add_even_parity
from dlms.link.mode_e.port import ModeE, open_mode_e, run_opening
from dlms.link.wrapper import WrapperFrame
from dlms.simulator.line_faults import LineFaults, reorder_window, spoil_fcs
from dlms.simulator.meter import SimulatedMeter
from dlms.simulator.reading_list import rows_from_csv


class FakePort:
    """A `dlms.link.port.Port` that answers what the test put in."""

    def __init__(self, *incoming: bytes | None) -> None:
        self.incoming = list(incoming)
        self.written = b""

    def read(self, timeout_s: float | None) -> bytes | None:
        del timeout_s
        return self.incoming.pop(0) if self.incoming else b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.written += b"closed"


# ---- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", axdr.null()),
        ("bool=true", axdr.boolean(value=True)),
        ("u8=255", axdr.u8(255)),
        ("i16=-5", axdr.i16(-5)),
        ("u32=0x10", axdr.u32(16)),
        ("enum=1", axdr.enum(1)),
        ("f32=1.5", Data(Tag.FLOAT32, 1.5)),
        ("oct=00ff", axdr.octets(b"\x00\xff")),
        ("str=abc", axdr.visible("abc")),
        ("bits=0101", axdr.bits("0101")),
        ("axdr=0202110112000a", axdr.structure(axdr.u8(1), axdr.u16(10))),
        ("dt=2026-03-01T00:00:00+00:00", axdr.octets(bytes.fromhex("07ea0301070000000000000000")[:12])),
    ],
)
def test_values_are_written_as_type_and_value(text: str, value: Data) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["u8", "u8=", "u8=256", "u8=x", "bool=maybe", "oct=0", "x=1", "bits=2", "dt=today"])
def test_what_is_no_value_is_an_error(text: str) -> None:
    with pytest.raises((LocalError, DecodeError)):
        parse_value(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("u16=5", [axdr.u16(5)]),
        ("null", [axdr.null()]),
        ("5.10", [Decimal("5.10"), "5.10"]),
        ("3031", [3031, "3031"]),
        ("soon", ["soon"]),
        (
            '["u8=1", {"a": "oct=00"}, "x=y"]',
            [[axdr.u8(1), {"a": axdr.octets(bytes(1))}, "x=y"], '["u8=1", {"a": "oct=00"}, "x=y"]'],
        ),
    ],
)
def test_a_value_without_a_type_is_json_or_text(text: str, values: list[object]) -> None:
    assert readings_of(text) == values


def test_a_wrong_type_is_told() -> None:
    with pytest.raises(LocalError, match="u99"):
        readings_of("u99=1")


def test_nested_values_are_lines() -> None:
    value = {"name": b"W", "days": [{"id": 1, "times": []}, axdr.u8(5)], "when": Obis.parse("1.0.1.8.0.255")}
    assert tree(value) == [
        '  name: 57 "W"', "  days", "    1", "      id: 1", "      times: []", "    2: u8=5", "  when: 1.0.1.8.0.255",
    ]  # fmt: skip


def test_random_text_is_a_value_or_an_error() -> None:
    pick = random.Random(1)
    for _ in range(3000):
        rest = "".join(pick.choice("0123456789abcdefx.-T:+") for _ in range(pick.randrange(14)))
        try:
            assert parse_value(f"{pick.choice(TYPES)}={rest}").emit()
        except (LocalError, DecodeError):
            continue


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("230.1"), 230.1),
        (Decimal("230.0"), 230),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (b"\x01\xff", "01ff"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (axdr.structure(axdr.u8(1), axdr.octets(b"\x02")), [1, "02"]),
        (None, None),
    ],
)
def test_values_are_shown_as_json_has_them_without_losing_digits(value: object, shown: object) -> None:
    assert plain(value) == shown


def test_every_type_has_a_name() -> None:
    assert {type_name(tag) for tag in Tag} >= {"u32", "oct", "compact-array", "bcd"}


# ---- secrets


def test_secrets_come_from_the_argument_or_a_file_and_errors_do_not_repeat_them(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"from a file\r\n")
    assert read_secret("plain") == b"plain"
    assert read_secret(f"@{file}") == b"from a file"
    file.write_bytes(b"00ff\n")
    assert read_hex("ek", f"@{file}") == b"\x00\xff"
    assert read_hex("ek", None) == b""
    file.write_bytes(b"x" * 5000)
    with pytest.raises(click.UsageError):
        read_secret(f"@{file}")
    with pytest.raises(click.UsageError) as caught:
        read_hex("ek", "very-secret")
    assert "very-secret" not in str(caught.value)


# ---- ports


def test_a_node_behind_a_base_node_is_reached_packet_by_packet() -> None:
    answer = WrapperFrame(5, 16, b"answer").emit()
    news = WrapperFrame(0, 1, b"\x02\x00\x07").emit()
    other = WrapperFrame(6, 16, b"other").emit()
    below = FakePort(news + other + answer[:3], answer[3:] + answer, None)
    port = NodePort(below, 16, 5)
    port.write(b"request")
    assert below.written == ENABLE + WrapperFrame(16, 5, b"request").emit()
    assert [port.read(1.0), port.read(1.0), port.read(1.0)] == [b"answer", b"answer", None]
    port.close()
    assert below.written.endswith(b"closed")


def test_silence_and_another_protocol_behind_a_base_node_are_told_apart() -> None:
    assert NodePort(FakePort(b""), 16, 5).read(1.0) == b""
    with pytest.raises(LinkError):
        NodePort(FakePort(b"HTTP"), 16, 5).read(1.0)


def test_the_mode_e_opening_runs_over_a_port() -> None:
    identification = add_even_parity(rb"/ABC5\2METER" + b"\r\n")
    port = FakePort(identification[:4], identification[4:], add_even_parity(b"\x06252\r\n"))
    agreed = run_opening(port, ModeEOpening(), clock=lambda: 0.0)
    assert agreed.baudrate == 9600
    assert port.written == add_even_parity(b"/?!\r\n\x06252\r\n")


def test_a_mode_e_opening_that_fails_raises() -> None:
    with pytest.raises(PeerError):
        run_opening(FakePort(b"/ABCxMETER\r\n"), ModeEOpening(), clock=lambda: 0.0)
    with pytest.raises(LinkError):
        run_opening(FakePort(None), ModeEOpening(), clock=lambda: 0.0)


@pytest.mark.parametrize("babble", [b"\n", b"x", rb"/ABC", b"\x7e\xa0"])
def test_a_line_that_babbles_without_end_ends_the_opening(babble: bytes) -> None:
    now = 0.0

    class Babbling(FakePort):
        def read(self, timeout_s: float | None) -> bytes | None:
            nonlocal now
            now += 0.01
            assert now < 60.0
            return babble

    with pytest.raises(LinkError):
        run_opening(Babbling(), ModeEOpening(), clock=lambda: now)


@pytest.mark.process
def test_the_mode_e_opening_changes_the_speed_of_a_real_terminal() -> None:
    """The meter's side at 300 baud, then HDLC at the speed agreed to; the terminal tells at which speed it stands."""
    master, slave = os.openpty()
    tty.setraw(slave)
    speeds: list[int] = []

    def meter() -> None:
        for due, answer in ((b"/?!\r\n", rb"/ABC5\2METER" + b"\r\n"), (b"\x06252\r\n", b"\x06252\r\n")):
            heard = b""
            while heard != add_even_parity(due):
                heard += os.read(master, 64)
            speeds.append(termios.tcgetattr(master)[5])
            os.write(master, add_even_parity(answer))

    thread = threading.Thread(target=meter, daemon=True)
    thread.start()
    port = open_mode_e(os.ttyname(slave), 9600, ModeE())
    thread.join(10.0)
    assert speeds == [termios.B300, termios.B300]
    assert termios.tcgetattr(master)[5] == termios.B9600
    port.write(b"snrm")
    assert os.read(master, 64) == b"snrm"
    port.close()
    os.close(slave)
    os.close(master)


# ---- faults


def window(count: int) -> bytes:
    return b"".join(
        HdlcFrame(
            HdlcAddress(16), HdlcAddress(1), information_control(n, 0, poll_final=n == count - 1), bytes((n,))
        ).emit()
        for n in range(count)
    )


def decoded(burst: bytes) -> list[HdlcFrame | HdlcNoise]:
    decoder = HdlcDecoder()
    decoder.feed(burst)
    decoder.idle()
    found: list[HdlcFrame | HdlcNoise] = []
    while (item := decoder.next()) is not None:
        found.append(item)
    return found


def test_a_window_is_reordered_and_keeps_its_last_frame_and_its_content() -> None:
    pick = random.Random(1)
    burst = window(5)
    changed = reorder_window(burst, pick)
    before, after = decoded(burst), decoded(changed)
    assert changed != burst
    assert after[-1] == before[-1]
    assert sorted(map(str, after)) == sorted(map(str, before))
    for short in (b"", b"no frames", window(1), window(2)):
        assert reorder_window(short, pick) == short


def test_a_spoiled_checksum_is_wrong_and_ends_in_a_flag() -> None:
    for count in (1, 3):
        spoiled = spoil_fcs(window(count))
        assert spoiled.endswith(b"\x7e\x7e")
        frames = [item for item in decoded(spoiled) if isinstance(item, HdlcFrame)]
        assert [CONTROLS[frame.control].send_number for frame in frames] == list(range(count - 1))
    assert spoil_fcs(b"no frames") == b"no frames"


def test_faults_happen_as_often_as_asked_and_the_same_for_the_same_seed() -> None:
    def run() -> list[bytes]:
        faults = LineFaults(loss=0.2, flip=0.2, reorder=0.2, bad_fcs=0.2, rng=random.Random(3))
        return [faults.apply(window(3)) for _ in range(500)]

    results = run()
    assert results == run()
    assert 50 < results.count(b"") < 150
    assert LineFaults(silent=True).apply(b"x") == b""
    assert LineFaults().apply(b"x") == b"x"


# ---- the simulated meter


def test_a_simulated_meter_is_the_same_for_the_same_serial_number_and_moves_forward_only() -> None:
    rows = rows_from_csv(BUILT_IN_LIST)
    moment = datetime(2026, 6, 1, 12, 7, tzinfo=UTC)
    one, same, other = (SimulatedMeter(serial, rows, now=lambda: moment) for serial in (1, 1, 2))
    energy = AttributeRef.parse("3/1.0.1.8.0.255/2")
    assert one.get(energy) == same.get(energy) != other.get(energy)
    before = one.get(energy)
    one.advance(100)
    after = one.get(energy)
    assert isinstance(before, Data)
    assert isinstance(after, Data)
    assert after.integer() == before.integer() + 100
    profile = one.profiles[Obis.parse("1.0.99.1.0.255")]
    imported = [row[1].integer() for row in profile.rows]
    assert imported == sorted(imported)
    assert imported[-1] == before.integer()


def test_a_single_phase_meter_has_no_objects_for_the_other_phases() -> None:
    meter = SimulatedMeter(1, rows_from_csv(BUILT_IN_LIST), phases=1, now=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    assert not isinstance(meter.get(AttributeRef.parse("3/1.0.52.7.0.255/2")), Data)
    assert isinstance(meter.get(AttributeRef.parse("3/1.0.32.7.0.255/2")), Data)


def test_the_help_of_the_tool_loads_no_command() -> None:
    code = "import sys; from dlms.__main__ import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *help_lines, modules = found.splitlines()
    assert [line.split()[0] for line in help_lines[-len(COMMANDS) :]] == list(COMMANDS)
    assert [name for name in modules.split() if name.startswith("dlms.")] == ["dlms.__main__"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_list_is_there_and_explains_itself(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
