"""`dcuctl ping`, `read` and `order` from end to end: the program, the control socket, the order book, a port's part."""

from __future__ import annotations

import getpass
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.__main__ import EXIT_REFUSED, main
from agent.cli.client import RefusedError, ask
from agent.cli.order import progress
from agent.clock import SystemClock
from agent.daemon.control import ControlServer
from agent.daemon.views.orders import OrderViews
from agent.metering.orders.journal import Journal
from agent.metering.orders.order import OrderType, Permission
from agent.metering.orders.order_book import OrderBook
from agent.metering.orders.types.steps import Ended
from updateagent.disk import RealDisk

METERS = {"KEP1", "KEP2", "KEP3"}
ENERGY = "3/1.0.1.8.0.255/2"


class Daemon:
    """An order book behind the real control socket, and a thread that does what a port does: KEP1 carries everything
    out, KEP2 refuses, and from KEP3 no answer comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.orders = OrderBook(
            Journal(RealDisk(), folder / "orders"), SystemClock(), allowed=[Permission.CHANGE], known=lambda: METERS
        )
        self.socket = folder / "control.sock"
        self._stop = threading.Event()
        ready = threading.Event()
        self._server = server = ControlServer(self.socket, OrderViews(self.orders).handlers())
        self._threads = [
            threading.Thread(target=server.run, args=(self._stop, ready.set)),
            threading.Thread(target=self._port),
        ]
        for thread in self._threads:
            thread.start()
        assert ready.wait(10)

    def _port(self) -> None:
        while not self._stop.wait(0.02):
            for task in self.orders.due(METERS):
                self.orders.begun(task)
                if task.order.kind not in (OrderType.PING, OrderType.READ):
                    self.orders.sending(task)
                if task.meter_id == "KEP1":
                    value = [{"code": ENERGY, "tag": "u32", "raw": 5, "scaler": 1, "unit": 30, "error": None}]
                    self.orders.ended(task, Ended(value if task.order.kind is OrderType.READ else {"name": "KEP1"}))
                elif task.meter_id == "KEP2":
                    self.orders.ended(task, Ended(refused="read-write-denied"))
                else:
                    self.orders.lost(task, "no answer within 20 s", final=True)

    def end(self) -> None:
        self._stop.set()
        self._server.wake()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.end()


def dcuctl(daemon: Daemon, *arguments: str) -> int:
    try:
        return main(["--socket", str(daemon.socket), *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.slow
def test_read_shows_progress_and_the_values(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert dcuctl(daemon, "read", "KEP1", ENERGY) == 0
    shown = capsys.readouterr()
    assert "KEP1 done" in shown.err
    assert f"{ENERGY} = 5 e1" in shown.out
    assert f"by dcuctl: {getpass.getuser()}" in shown.out


@pytest.mark.slow
def test_a_refusal_is_in_the_meter_s_words_and_the_exit_code_says_so(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dcuctl(daemon, "order", "set", "KEP2", "1/0.0.96.1.0.255/2", '["u16",5]') == EXIT_REFUSED
    assert "read-write-denied" in capsys.readouterr().out


@pytest.mark.slow
def test_unknown_is_not_called_failed(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert dcuctl(daemon, "order", "action", "KEP3", "15/0.0.40.0.0.255/1") == EXIT_REFUSED
    assert "it is not known whether it was carried out: no answer within 20 s" in capsys.readouterr().out


@pytest.mark.slow
def test_ping_of_several_says_what_became_of_each(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert dcuctl(daemon, "ping", "KEP1", "KEP3", "--json") == EXIT_REFUSED
    found = json.loads(capsys.readouterr().out)
    assert [(meter["meter"], meter["state"]) for meter in found["meters"]] == [
        ("KEP1", "done"),
        ("KEP3", "not reached"),
    ]


def test_what_the_configuration_does_not_allow_is_refused(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("disconnect", "KEP1"), ("action", "KEP1", "70/0.0.96.3.10.255/1", '["i8",0]')):
        assert dcuctl(daemon, "order", *arguments) == EXIT_REFUSED
        assert "orders.supply is false in dcu.yaml" in capsys.readouterr().err
    assert daemon.orders.orders() == []


def test_a_value_that_is_no_value_is_not_sent(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    for value, said in (("u16 5", "is no JSON"), ('["u16",-5]', "does not fit long-unsigned")):
        assert dcuctl(daemon, "order", "set", "KEP1", "1/0.0.96.1.0.255/2", value) != 0
        assert said in capsys.readouterr().err
    assert daemon.orders.orders() == []


@pytest.mark.slow
def test_every_order_is_kept_with_who_and_when(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert dcuctl(daemon, "order", "list") == 0
    assert "no orders yet" in capsys.readouterr().out
    dcuctl(daemon, "ping", "KEP1")
    dcuctl(daemon, "order", "demand-reset", "KEP1", "KEP2")
    capsys.readouterr()
    assert dcuctl(daemon, "order", "list") == 0
    newest, oldest = capsys.readouterr().out.splitlines()[1:]
    assert "demand-reset" in newest
    assert "1 done, 1 refused" in newest
    assert f"dcuctl: {getpass.getuser()}" in newest
    assert "ping" in oldest
    assert dcuctl(daemon, "order", "show", newest.split()[0], "--follow") == EXIT_REFUSED


def test_who_asks_is_said_by_the_kernel_and_not_by_the_request(daemon: Daemon) -> None:
    found = ask(daemon.socket, "order", kind="ping", meters=["KEP1"], peer="the queen")
    assert found["asked_by"] == f"dcuctl: {getpass.getuser()}"


def test_asking_again_under_the_same_id_is_the_same_order(daemon: Daemon) -> None:
    for _ in range(2):
        ask(daemon.socket, "order", id="x1", kind="ping", meters=["KEP1"])
    assert len(daemon.orders.orders()) == 1


def test_cancel_takes_back_what_has_not_begun(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert dcuctl(daemon, "order", "cancel", "none") == EXIT_REFUSED
    assert "there is no order none" in capsys.readouterr().err


def test_a_clock_order_has_its_limits(daemon: Daemon) -> None:
    assert dcuctl(daemon, "order", "clock", "KEP1", "--set", "--min", "2", "--max", "60", "--no-wait") == 0
    (found,) = daemon.orders.orders()
    assert found["parameters"] == {"set": True, "min_s": 2.0, "max_s": 60.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"meters": "KEP1"},
        {"meters": [1]},
        {"meters": ["KEP1"], "parameters": []},
        {"meters": ["KEP1"], "priority": "x"},
        {"meters": ["KEP9"], "kind": "ping"},
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(daemon: Daemon, wrong: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        ask(daemon.socket, "order", **wrong)


@pytest.mark.parametrize(
    ("params", "said"),
    [("x", "no JSON"), ("[]", "an object is expected"), ('{"captures": ["1.8.0"]}', "display: captures[0]: ")],
)
def test_parameters_that_cannot_be_are_not_sent(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], params: str, said: str
) -> None:
    assert dcuctl(daemon, "order", "display", "KEP1", "--params", params) != 0
    assert said in capsys.readouterr().err
    assert daemon.orders.orders() == []


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (None, ""),
        ({"stage": "blocks", "blocks": 1799, "of": 3000}, "50 % of 3000 blocks"),
        ({"step": 2, "of": 5, "what": "set x"}, "step 2 of 5"),
        ({"stage": "verified"}, "verified"),
    ],
)
def test_progress_is_a_line_per_step_or_tenth(told: dict[str, object] | None, shown: str) -> None:
    meter = {"meter": "K", "state": "sent", "attempts": 1, "error": "", "progress": told}
    assert progress(meter) == ("K sent" if not shown else f"K sent, {shown}")
