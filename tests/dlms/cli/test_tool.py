"""The `dlms` tool against its own simulated meter, in another process."""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dlms.__main__ import COMMANDS, main
from dlms.client.meter import Meter
from dlms.client.reading import ItemFailed
from dlms.errors import PeerError
from dlms.security.settings import Lls

ROOT = Path(__file__).parents[3]
LIST = ROOT / "etc" / "reading-lists" / "residential-108.csv"
KEYS = ("--ek", "00" * 16, "--ak", "11" * 16)
LIMIT_S = 20.0

pytestmark = pytest.mark.process


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="dlms")


def parsed(result: Result) -> dict[str, list[dict[str, object]]]:
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@contextmanager
def simulated(*options: str) -> Iterator[str]:
    """A simulated meter; the place it listens on, as the tool's URL."""
    command = [sys.executable, "-m", "dlms", "simulate", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        name, _, place = process.stdout.readline().strip().partition(" listening on ")
        assert name.startswith("DCU")
        yield place.replace("tcp://", "socket://")
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(LIMIT_S) == 0


@pytest.fixture(scope="module")
def hdlc() -> Iterator[str]:
    options = ("--listen", "tcp://127.0.0.1:0", "--auth", "low", "--password", "pw", "--serial", "7")
    with simulated(*options, "--codes", str(LIST), "--info-max", "512", "--window", "3") as url:
        yield url


def low(url: str) -> tuple[str, ...]:
    return ("--url", url, "--auth", "low", "--password", "pw", "--info-max", "512", "--window", "3")


def test_values_come_with_unit_scaler_and_raw_and_errors_one_by_one(hdlc: str) -> None:
    found = parsed(run("read", *low(hdlc), "1.0.32.7.0.255", "0.0.42.0.0.255", "3/1.0.99.99.0.255/2", "--json"))
    voltage, name, missing = found["results"]
    assert (voltage["class_id"], voltage["attribute"], voltage["obis"]) == (3, 2, "1.0.32.7.0.255")
    assert (voltage["unit"], voltage["scaler"], voltage["type"], voltage["error"]) == ("V", -1, "u16", None)
    assert isinstance(voltage["raw"], int)
    assert voltage["value"] == voltage["raw"] / 10
    assert bytes.fromhex(str(name["value"])) == b"DCU0000000000007"
    assert (missing["value"], missing["error"]) == (None, "object-undefined")


def test_a_whole_list_is_read(hdlc: str) -> None:
    results = parsed(run("read", *low(hdlc), "--codes", str(LIST), "--json"))["results"]
    assert len(results) == 108
    assert all(result["error"] is None for result in results)


def test_text_output_has_a_line_a_value(hdlc: str) -> None:
    result = run("read", *low(hdlc), "1.0.1.8.0.255", "3/1.0.99.99.0.255/2")
    assert result.exit_code == 0
    energy, missing = result.stdout.splitlines()
    assert energy.startswith("3/1.0.1.8.0.255/2")
    assert " Wh " in energy
    assert "object-undefined" in missing


def test_nothing_readable_at_all_is_a_refusal(hdlc: str) -> None:
    assert run("read", *low(hdlc), "3/1.0.99.99.0.255/2").exit_code == 1


def test_objects_are_listed_with_their_values(hdlc: str) -> None:
    objects = parsed(run("discover", *low(hdlc), "--values", "--json"))["objects"]
    (energy,) = [found for found in objects if found["obis"] == "1.0.1.8.0.255"]
    reading = energy["reading"]
    assert isinstance(reading, dict)
    assert reading["unit"] == "Wh"
    assert "1.0.1.8.0.255" in run("discover", *low(hdlc)).stdout


def test_profile_rows_come_by_entry_by_time_and_all(hdlc: str) -> None:
    def rows(*options: str) -> list[dict[str, object]]:
        return parsed(run("profile", *low(hdlc), "1.0.99.1.0.255", "--json", *options))["rows"]

    everything = rows()
    assert len(everything) == 192
    assert rows("--entries", "1-3") == everything[:3]
    third = str(everything[2][0])  # type: ignore[index]
    assert rows("--since", third.removesuffix("Z")) == everything[2:]
    lines = run("profile", *low(hdlc), "1.0.99.1.0.255", "--entries", "1-3").stdout.splitlines()
    assert len(lines) == 4
    assert "[Wh]" in lines[0]


def test_rows_are_printed_as_csv_and_times_may_be_so_long_ago(hdlc: str) -> None:
    result = run("profile", *low(hdlc), "1.0.99.1.0.255", "--since", "3h", "--csv")
    header, *rows = list(csv.reader(io.StringIO(result.stdout)))
    assert header == ["8/0.0.1.0.0.255/2", "3/1.0.1.8.0.255/2 [Wh]", "3/1.0.2.8.0.255/2 [Wh]"]
    assert len(rows) == 12
    assert all(len(row) == 3 for row in rows)
    assert run("profile", *low(hdlc), "1.0.99.1.0.255", "--since", "2126-01-01").stdout == ""


def test_nested_values_are_shown_with_names_and_as_json(hdlc: str) -> None:
    lines = run("read", *low(hdlc), "7/1.0.99.1.0.255/3", "70/0.0.96.3.10.255/3").stdout.splitlines()
    assert "    logical_name: 1.0.1.8.0.255" in lines
    assert "1 connected" in lines[-1]
    (captures,) = parsed(run("read", *low(hdlc), "7/1.0.99.1.0.255/3", "--json"))["results"]
    clock = {"class_id": 8, "logical_name": "0.0.1.0.0.255", "attribute_index": 2, "data_index": 0}
    assert captures["value"][0] == clock  # type: ignore[index]
    assert captures["raw"][0] == [8, "0000010000ff", 2, 0]  # type: ignore[index]


def test_rights_are_shown_attribute_by_attribute(hdlc: str) -> None:
    lines = run("discover", *low(hdlc), "--rights").stdout.splitlines()
    assert "        2  rw  time" in lines
    assert "       +6  x   shift_time" in lines
    assert "        7  -w  secret" in lines


def test_a_value_is_written_in_its_declared_type(hdlc: str) -> None:
    assert run("set", *low(hdlc), "0.0.1.0.0.255", "2026-05-02T12:00:00+02:00").exit_code == 0
    value = parsed(run("read", *low(hdlc), "0.0.1.0.0.255", "--json"))["results"][0]["value"]
    assert str(value).startswith("2026-05-02T10:00")
    wrong = run("set", *low(hdlc), "0.0.1.0.0.255", "soon")
    assert wrong.exit_code == 2
    assert "'soon' is no date" in wrong.stderr


def test_a_method_is_called_and_what_it_needs_is_asked_for(hdlc: str) -> None:
    def state() -> str:
        return run("read", *low(hdlc), "70/0.0.96.3.10.255/3").stdout

    assert run("action", *low(hdlc), "70/0.0.96.3.10.255/1").stdout == "70/0.0.96.3.10.255/1  done\n"
    assert "0 disconnected" in state()
    called = json.loads(run("action", *low(hdlc), "70/0.0.96.3.10.255/2", "--json").stdout)
    assert (called["method"], called["returned"], called["error"]) == (2, None, None)
    assert "1 connected" in state()
    assert run("action", *low(hdlc), "70/0.0.96.3.10.255/9").exit_code == 1
    assert run("action", *low(hdlc), "8/0.0.1.0.0.255/6", "soon").exit_code == 2


def test_firmware_is_brought_and_checked(hdlc: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"I" * 1000)
    result = run("image", *low(hdlc), str(file), "--identifier", "0x7632", "--activate", "--resume")
    assert result.stdout == "1000 bytes verified and activated\n"
    wrong = run("image", *low(hdlc), str(file), "--identifier", "v2", "--signature", "00")
    assert wrong.exit_code == 1
    assert "another signature" in wrong.stderr
    assert run("image", *low(hdlc), str(tmp_path / "none"), "--identifier", "v2").exit_code == 2


def test_a_list_needs_nothing_but_codes(hdlc: str, tmp_path: Path) -> None:
    codes = tmp_path / "codes.csv"
    codes.write_text("\ufeffobis,attr\n1.0.1.8.0.255,\n0.0.96.3.10.255,3\n")
    results = parsed(run("read", *low(hdlc), "--codes", str(codes), "--json"))["results"]
    assert [(found["class_id"], found["attribute"]) for found in results] == [(3, 2), (70, 3)]
    codes.write_text("code\n1.0.1.8.0.255\n")
    assert "line 2: no column obis" in run("read", *low(hdlc), "--codes", str(codes)).stderr
    codes.write_text("obis\n1.0.1.8\n")
    assert "line 2: '1.0.1.8' is not an OBIS code" in run("read", *low(hdlc), "--codes", str(codes)).stderr


def test_an_attribute_is_written_or_refused(hdlc: str) -> None:
    assert run("set", *low(hdlc), "8/0.0.1.0.0.255/2", "dt=2026-05-01T12:00:00+00:00").exit_code == 0
    assert str(parsed(run("read", *low(hdlc), "0.0.1.0.0.255", "--json"))["results"][0]["value"]).startswith(
        "2026-05-01"
    )
    refused = run("set", *low(hdlc), "1/0.0.42.0.0.255/2", "oct=00", "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"] == "read-write-denied"


def test_a_wrong_password_is_refused_and_not_repeated(hdlc: str) -> None:
    result = run("read", "--url", hdlc, "--auth", "low", "--password", "not-the-one", "1.0.1.8.0.255")
    assert result.exit_code == 1
    assert "authentication" in result.stderr
    assert "not-the-one" not in result.output


def test_the_bus_is_scanned(hdlc: str) -> None:
    result = run("discover", "--url", hdlc, "--scan", "1-3", "--timeout-s", "0.1", "--json")
    assert json.loads(result.stdout) == {"addresses": ["1"]}


def test_a_trace_is_private_decodes_and_plays_back_to_the_same_values(hdlc: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    first = run("read", *low(hdlc), "1.0.1.8.0.255", "1.0.32.7.0.255", "--json", "--trace", str(trace))
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    options = ("--replay", str(trace), "--auth", "low", "--password", "pw", "--info-max", "512", "--window", "3")
    again = run("read", *options, "1.0.1.8.0.255", "1.0.32.7.0.255", "--json")
    assert parsed(again) == parsed(first)
    tree = run("decode", str(trace)).stdout
    assert "aarq" in tree
    assert "voltage L1" in tree
    assert b"pw".hex() not in tree


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"])
def test_the_wrapper_is_spoken_over_streams_and_datagrams_with_ciphering(listen: str, tmp_path: Path) -> None:
    counters = tmp_path / "counters"
    ours = ("--system-title", b"CLIENT00".hex(), "--counter-file", str(counters))
    with simulated("--listen", listen, "--link", "wrapper", "--auth", "gmac", *KEYS) as url:
        options = ("--url", url, "--link", "wrapper", "--auth", "gmac", *KEYS, *ours)
        for _ in range(2):
            assert parsed(run("read", *options, "1.0.1.8.0.255", "--json"))["results"][0]["unit"] == "Wh"
        wrong = run("read", "--url", url, "--link", "wrapper", "--auth", "gmac", "--ek", "22" * 16, *KEYS[2:], *ours)
        assert wrong.exit_code != 0


def test_a_node_behind_a_base_node_is_read_over_its_llc() -> None:
    options = ("--listen", "tcp://127.0.0.1:0", "--link", "llc", "--server", "5", "--codes", str(LIST))
    with simulated(*options, "--auth", "low", "--password", "pw") as url:
        reach = ("--url", url, "--link", "llc", "--node", "5", "--auth", "low", "--password", "pw")
        results = parsed(run("read", *reach, "--json", "--codes", str(LIST)))["results"]
    assert len(results) == 108
    assert sum(result["error"] is None for result in results) == 108


def test_a_terminal_is_a_port_and_faults_are_survived(tmp_path: Path) -> None:
    with simulated(
        "--listen",
        f"pty:{tmp_path / 'tty'}",
        "--window",
        "7",
        "--info-max",
        "64",
        "--reorder",
        "0.2",
        "--bad-fcs",
        "0.1",
    ) as url:
        options = ("--url", url, "--window", "7", "--info-max", "64", "--timeout-s", "0.3")
        found = parsed(run("read", *options, "1.0.1.8.0.255", "1.0.32.7.0.255", "0.0.96.1.0.255", "--json"))
        assert [result["error"] for result in found["results"]] == [None, None, None]


def test_a_meter_is_greeted_at_300_baud_by_its_number(tmp_path: Path) -> None:
    with simulated("--listen", f"pty:{tmp_path / 'tty'}", "--mode-e", "--serial", "42") as url:
        reach = ("--url", url, "--mode-e", "--mode-e-address", "42", "--baudrate", "4800")
        found = parsed(run("read", *reach, "1.0.1.8.0.255", "--json"))
    assert [result["error"] for result in found["results"]] == [None]


@pytest.mark.parametrize(
    "arguments",
    [
        ("read", "1.0.1.8.0.255"),
        ("read", "--url", "socket://127.0.0.1:1"),
        ("read", "--url", "socket://127.0.0.1:1", "not-a-code"),
        ("read", "--url", "socket://127.0.0.1:1", "--auth", "gmac", "1.0.1.8.0.255"),
        ("read", "--url", "socket://127.0.0.1:1", "--ek", "zz", "--system-title", "00" * 8, "1.0.1.8.0.255"),
        ("read", "--url", "socket://127.0.0.1:1", "--ek", "00", "1.0.1.8.0.255"),
        ("read", "--url", "socket://127.0.0.1:1", "--auth", "low", "--password", "@/nonexistent", "1.0.1.8.0.255"),
        ("read", "--url", "socket://127.0.0.1:1", "--codes", "/nonexistent"),
        ("simulate", "--mode-e"),
        ("simulate", "--mode-e", "--listen", "pty:/tmp/x", "--link", "wrapper"),
        ("read", "--replay", "/nonexistent", "1.0.1.8.0.255"),
        ("read", "--url", "socket://127.0.0.1:1", "--auth", "ecdsa", "1.0.1.8.0.255"),
        ("profile", "--url", "socket://127.0.0.1:1", "1.0.99.1.0.255", "--entries", "x"),
        ("set", "--url", "socket://127.0.0.1:1", "1.0.1.8.0.255", "u99=1"),
        ("profile", "--url", "socket://127.0.0.1:1", "1.0.99.1.0.255", "--since", "yesterday"),
        ("action", "--url", "socket://127.0.0.1:1", "1.0.1.8.0.255"),
        ("action", "--url", "socket://127.0.0.1:1", "3/1.0.1.8.0.255/1", "u8=300"),
        ("read", "--url", "socket://127.0.0.1:1", "--deviation", "sideways", "1.0.1.8.0.255"),
        ("discover", "--url", "socket://127.0.0.1:1", "--scan", "x"),
        ("discover", "--url", "socket://127.0.0.1:1", "--scan", "1", "--link", "wrapper"),
        ("decode", "xyz"),
        ("decode", "00", "--ek", "zz"),
        ("simulate", "--listen", "smoke://x"),
        ("simulate", "--listen", "tcp://127.0.0.1:0", "--codes", "/nonexistent"),
        ("simulate", "--listen", "tcp://127.0.0.1:0", "--link", "wrapper", "--server", "1/17"),
        ("dance",),
    ],
)
def test_wrong_usage_is_exit_2_and_a_sentence(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error:" in result.stderr
    assert result.stdout == ""


def test_a_line_that_fails_is_exit_3() -> None:
    result = run("read", "--url", "socket://127.0.0.1:1", "1.0.1.8.0.255")
    assert result.exit_code == 3
    assert result.stderr.startswith("dlms: ")


def test_every_command_has_its_help() -> None:
    for name in COMMANDS:
        assert run(name, "--help").exit_code == 0
    assert all(name in run("--help").stdout for name in COMMANDS)


def test_decode_takes_hexadecimal_files_and_stdin(tmp_path: Path) -> None:
    get = "c0 01 c1 00:03 01-00-01-08-00-ff 02 00"
    binary, text = tmp_path / "binary", tmp_path / "text"
    binary.write_bytes(bytes.fromhex("c001c100030100010800ff0200"))
    text.write_text("7e a0 07 03 21 93 0f 01 7e\n")
    assert "register 1.0.1.8.0.255" in run("decode", get).stdout
    assert "register 1.0.1.8.0.255" in run("decode", str(binary)).stdout
    assert "SNRM" in run("decode", str(text)).stdout
    piped = CliRunner().invoke(main, ["decode", "-", "--json"], input=get)
    assert json.loads(piped.stdout)[0]["label"] == "get-request"
    text.write_text("# dlms trace 1\nnonsense\n")
    assert run("decode", str(text)).exit_code == 2


def test_clients_are_served_at_once_each_with_its_rights_and_the_profile_grows() -> None:
    options = ("--auth", "low", "--password", "pw", "--rights", "usual", "--speed", "3600", "--inactivity-s", "60")
    with simulated("--listen", "tcp://127.0.0.1:0", "--codes", str(LIST), "--duplicate", "0.2", *options) as url:
        manager = Meter(url, client=1, auth=Lls("pw"))
        reader = Meter(url, client=2, auth=Lls("pw"))
        public = Meter(url, client=16)
        with manager, reader, public:
            for _ in range(2):
                assert manager.read("1.0.1.8.0.255").unit == "Wh"
                assert reader.read("1.0.1.8.0.255").unit == "Wh"
                with pytest.raises(ItemFailed, match="object-undefined"):
                    public.read("1.0.1.8.0.255")
            with pytest.raises(ItemFailed, match="read-write-denied"):
                reader.disconnect()
            manager.disconnect()
            first = len(list(reader.profile("1.0.99.1.0.255", entries=(190, 0))))
            later = first
            while later == first:  # a quarter of an hour takes a quarter of a second
                later = len(list(reader.profile("1.0.99.1.0.255", entries=(190, 0))))
            assert later > first
        with pytest.raises(PeerError):
            Meter(url, client=3, auth=Lls("pw")).open()


def test_a_meter_hangs_up_on_a_client_that_says_nothing() -> None:
    with simulated("--listen", "tcp://127.0.0.1:0", "--link", "wrapper", "--inactivity-s", "1") as url:
        host, _, number = url.removeprefix("socket://").rpartition(":")
        with socket.create_connection((host, int(number)), LIMIT_S) as idle:
            assert idle.recv(1) == b""
