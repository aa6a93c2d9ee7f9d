"""`dcuctl gaps` from end to end: the ledger in the store, the control socket, the program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.__main__ import EXIT_REFUSED, main
from agent.cli.client import RefusedError, ask
from agent.metering.ledger.keeper import LedgerKeeper
from agent.metering.ledger.ledger import Reason
from omadm.schedule import Periodic
from tests.agent.cli.test_refused import Daemon

RUN = 1_800_000_000


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path)
    keeper = LedgerKeeper(running.store)
    keeper.load({})
    for meter, task in (("m1", "t1"), ("m1", "t2"), ("m2", "t1")):
        keeper.expect(meter, task, Periodic(900), RUN)
        keeper.settle(meter, task, RUN + 24 * 900, Reason.OFF)
    keeper.read("m1", "t1", RUN + 24 * 900)
    keeper.flush(RUN + 24 * 900.0 + 5, alive=True)
    yield running
    running.end()


def test_what_is_missing_is_listed_and_given_up(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(daemon.socket), "gaps", "--meter", "m1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"] == 2
    ended, going_on = found["gaps"]
    assert (ended["task"], ended["slots"], ended["going_on"], ended["reason"]) == ("t1", 24, False, "concentrator-off")
    assert (going_on["task"], going_on["slots"], going_on["going_on"]) == ("t2", 24, True)
    assert ask(daemon.socket, "status")["gaps"] == {"open": 3, "going_on": 2}
    assert main(["--socket", str(daemon.socket), "gaps", "give-up", "m1", "--task", "t1", "--why", "dark house"]) == 0
    assert capsys.readouterr().out == "1 gaps closed\n"
    assert ask(daemon.socket, "gaps", meter="m1")["total"] == 1
    batch = daemon.store.batch(100)
    assert batch is not None
    assert (batch.records[-1]["gap"], batch.records[-1]["how"]) == ("closed", "dark house")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("gaps", {"meter": 5}),
        ("gaps", {"limit": 0}),
        ("gaps", {"limit": True}),
        ("give-up", {"meter": "m1"}),
        ("give-up", {"meter": "m1", "why": "w" * 129}),
        ("give-up", {"meter": "", "why": "w"}),
    ],
)
def test_what_is_no_request_is_refused(daemon: Daemon, command: str, arguments: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        ask(daemon.socket, command, **arguments)


def test_a_meter_is_named_by_its_place_too_and_one_that_is_not_known_misses_not_nothing(daemon: Daemon) -> None:
    daemon.registry.name(daemon.registry.join("bus", 17).key, "m1")
    assert ask(daemon.socket, "gaps", meter="bus/17")["total"] == 2
    assert ask(daemon.socket, "give-up", meter="bus/17", task="t1", why="dark house") == {"closed": 1}
    assert ask(daemon.socket, "forget-meter", meter="bus/17") == {"forgotten": ["m1"], "provisioned": []}
    for command in ("gaps", "give-up"):
        with pytest.raises(RefusedError, match="no meter m1"):
            ask(daemon.socket, command, meter="m1", why="it was forgotten, with its gaps")
        with pytest.raises(RefusedError, match="no meter KEP0404"):
            ask(daemon.socket, command, meter="KEP0404", why="no such meter")


def test_a_store_that_fails_is_said(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.store.close()
    (tmp_path / "readings.db").rename(tmp_path / "away.db")
    (tmp_path / "readings.db").mkdir()
    assert main(["--socket", str(daemon.socket), "gaps"]) == EXIT_REFUSED
    assert "the store" in capsys.readouterr().err
    assert ask(daemon.socket, "status")["gaps"] is None
