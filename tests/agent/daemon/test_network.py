"""What a change of the network does to the system: files, commands, trusted authorities."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.daemon.network import SystemNetwork, run_command
from agent.dm.trial import Reached
from agent.https import HttpsClient, HttpsRefused, KeptConnection
from agent.mo.connectivity.trial import Values
from agent.settings.config import ConnectivityConfig
from tests.agent.certificates import Made, TlsServer, authority
from updateagent.disk import RealDisk

YEARS = (1e9, 4e9)


class System:
    """The programs of a board, which say that they fail where `fails` does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.fails = ""

    def run(self, command: Sequence[str], told: bytes) -> str:
        self.calls.append((command[0], json.loads(told) if told else None))
        return self.fails


def network(folder: Path, system: System, ca: Made) -> tuple[SystemNetwork, HttpsClient]:
    file = folder / "ca.pem"
    file.write_bytes(ca.ca_pem())
    https = HttpsClient(file)
    config = ConnectivityConfig(("hook",), folder / "timesyncd.conf.d/50-dcu.conf", ("restart",))
    return SystemNetwork(config, https, RealDisk(), folder / "state", file, system.run), https


def test_a_device_on_which_nothing_was_set_is_left_alone(tmp_path: Path) -> None:
    system = System()
    one, _ = network(tmp_path, system, authority(YEARS))
    assert one.apply(Values("https://dm.example/"), outdated=False) == ""
    assert system.calls == []
    assert not (tmp_path / "timesyncd.conf.d").exists()


def test_settings_reach_the_system_once_and_again_after_a_start(tmp_path: Path) -> None:
    values = Values(time_servers="ntp1.example ntp2.example", access="apn=x")
    told = {"version": 1, "time_servers": ["ntp1.example", "ntp2.example"], "access": "apn=x"}
    for _ in range(2):
        system = System()
        one, _ = network(tmp_path, system, authority(YEARS))
        assert one.apply(values, outdated=False) == ""
        assert one.apply(values, outdated=True) == ""
        assert system.calls == [("restart", None), ("hook", told)]
    assert (tmp_path / "timesyncd.conf.d/50-dcu.conf").read_text() == "[Time]\nNTP=ntp1.example ntp2.example\n"


def test_what_may_be_in_effect_from_before_a_power_cut_is_undone(tmp_path: Path) -> None:
    network(tmp_path, System(), authority(YEARS))[0].apply(Values(time_servers="a", access="b"), outdated=False)
    system = System()
    one, _ = network(tmp_path, system, authority(YEARS))
    assert one.apply(Values(), outdated=True) == ""
    assert system.calls == [("restart", None), ("hook", {"version": 1, "time_servers": [], "access": ""})]
    assert list((tmp_path / "timesyncd.conf.d").iterdir()) == []


def test_what_failed_is_said_and_tried_again(tmp_path: Path) -> None:
    system = System()
    system.fails = "no"
    one, _ = network(tmp_path, system, authority(YEARS))
    assert one.apply(Values(access="b"), outdated=False) == "no; no"
    system.fails = ""
    assert one.apply(Values(access="b"), outdated=False) == ""
    assert len(system.calls) == 4


def test_other_authorities_count_at_once_for_kept_connections_too_and_the_old_ones_again(tmp_path: Path) -> None:
    old, new = authority(YEARS, name="old"), authority(YEARS, name="new")
    one, https = network(tmp_path, System(), old)
    kept = KeptConnection(https)
    with contextlib.closing(TlsServer(tmp_path, old.issue(YEARS))) as server:
        assert kept.request("GET", server.url).status == 200
        assert one.reach(server.url) == (Reached.YES, "")
        assert one.apply(Values(anchors=new.ca_pem().decode()), outdated=True) == ""
        with pytest.raises(HttpsRefused):
            kept.request("GET", server.url)
        reached, why = one.reach(server.url)
        assert reached is Reached.REFUSED
        assert "not from an authority that this device knows" in why
        assert one.apply(Values(), outdated=True) == ""
        assert kept.request("GET", server.url).status == 200
        url = server.url
    assert one.reach(url)[0] is Reached.UNREACHABLE


def test_authorities_that_cannot_be_used_change_nothing(tmp_path: Path) -> None:
    old = authority(YEARS)
    one, _ = network(tmp_path, System(), old)
    assert one.apply(Values(anchors="nonsense"), outdated=True).startswith("the authorities cannot be used")
    with contextlib.closing(TlsServer(tmp_path, old.issue(YEARS))) as server:
        assert one.reach(server.url) == (Reached.YES, "")


def test_a_program_that_fails_is_quoted_with_its_last_line() -> None:
    assert run_command([sys.executable, "-c", "import sys; sys.stdin.read()"], b"x") == ""
    failing = "import sys; print('first\\nmodem is busy', file=sys.stderr); sys.exit(3)"
    assert run_command([sys.executable, "-c", failing], b"").endswith("ended with 3: modem is busy")
    assert run_command(["/nonexistent/hook"], b"") == "/nonexistent/hook: No such file or directory"
