"""The thread of services: what others ask of it, over a back end that only remembers."""

from __future__ import annotations

import pwd
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from agent.services.active import ActiveService, Components, user_of
from agent.services.worker import ServiceWorker
from agent.status import ServiceStatus, Status, StatusBoard
from tests.agent.services.packages import Installed
from tests.agent.virtual import VirtualClock


class Remembering:
    """A back end whose services do what the test says."""

    def __init__(self) -> None:
        self.wanted: Mapping[str, ActiveService] = {}
        self.shown: dict[str, ServiceStatus] = {}
        self.forgotten: list[str] = []
        self.closed = False

    def begin(self) -> None:
        """Nothing was left."""

    def apply(self, wanted: Mapping[str, ActiveService]) -> None:
        self.wanted = wanted
        self.shown = {name: ServiceStatus(name, one.version, "starting") for name, one in wanted.items()}

    def step(self) -> float:
        return 10.0

    def descriptors(self) -> Sequence[int]:
        return ()

    def statuses(self) -> Sequence[ServiceStatus]:
        return tuple(self.shown.values())

    def log(self, service_id: str, lines: int) -> list[str]:
        return [f"{service_id} {lines}"]

    def forget(self, service_id: str) -> None:
        self.forgotten.append(service_id)

    def close(self) -> None:
        self.closed = True


class Rig:
    def __init__(self, folder: Path) -> None:
        self.installed = Installed(folder)
        self.backend = Remembering()
        self.board = StatusBoard(Status())
        self.clock = VirtualClock()
        self.worker = ServiceWorker(Components(folder), lambda: self.backend, self.board, self.clock)

    def settle(self, software_id: str, version: str, *states: ServiceStatus) -> str | None:
        """The answer, when the service shows these states, one for each look of the thread."""
        left = list(states)

        def beat() -> None:
            self.clock.advance(1.0)
            if left:
                self.backend.shown[software_id] = left.pop(0)
            self.worker.step()

        self.worker.reload()
        self.worker.step()
        return self.worker.settle(software_id, version, beat)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr("agent.services.worker.SETTLE_BEAT_S", 0.0)  # the test's own thread is the other one
    made = Rig(tmp_path / "software")
    made.installed.service("watch", "1", "")
    made.installed.activate("watch", "1")
    return made


def status(state: str, version: str = "1", detail: str = "", failed_starts: int = 0) -> ServiceStatus:
    return ServiceStatus("watch", version, state, detail=detail, failed_starts=failed_starts)


@pytest.mark.parametrize(
    ("states", "outcome"),
    [
        ([status("starting"), status("running")], ""),
        ([status("stopping", "0"), status("starting"), status("running")], ""),
        ([status("running", "0"), status("stopping", "0"), status("waiting", "1", "signal 11", 1)], "signal 11"),
        ([status("ending", "1", "not ready"), status("waiting", "1", "not ready", 1)], "not ready"),
        ([status("over", "1", "ended with exit code 0", 1)], "ended with exit code 0"),
    ],
)
def test_a_start_is_settled_when_it_is_ready_or_has_failed(rig: Rig, states: list[ServiceStatus], outcome: str) -> None:
    def apply(wanted: Mapping[str, ActiveService]) -> None:
        """The states come by themselves."""

    rig.backend.apply = apply  # type: ignore[method-assign]
    rig.backend.shown["watch"] = states[0]
    assert rig.settle("watch", "1", *states) == outcome


def test_a_wait_has_an_end(rig: Rig) -> None:
    assert "no end after" in (rig.settle("watch", "1", *[status("starting")] * 200) or "")


def test_files_without_a_service_are_settled_at_once(rig: Rig) -> None:
    rig.installed.put("lists", "1", {"format": 1, "kind": "configuration"}, {})
    rig.installed.activate("lists", "1")
    assert rig.settle("lists", "1", *[status("starting")]) == ""


def test_a_deactivated_service_is_settled_when_it_is_gone(rig: Rig) -> None:
    rig.worker.step()
    rig.installed.activate("watch", None)
    assert rig.settle("watch", "") == ""
    assert rig.backend.wanted == {}


def test_a_component_that_cannot_be_read_is_shown_and_costs_no_other(rig: Rig) -> None:
    rig.installed.put("bad", "1", {"format": 7}, {})
    rig.installed.activate("bad", "1")
    rig.worker.step()
    assert set(rig.backend.wanted) == {"watch"}
    shown = {one.id: one.state for one in rig.board.current.services}
    assert shown == {"watch": "starting", "bad": "unusable"}
    assert "format" in (rig.settle("bad", "1", *[status("running")]) or "")
    assert [line for line in rig.worker.warnings() if line.startswith("service bad")]


def test_state_is_removed_with_the_component_and_not_with_its_deactivation(rig: Rig) -> None:
    rig.worker.step()
    rig.installed.activate("watch", None)
    rig.worker.reload()
    rig.worker.step()
    assert rig.backend.forgotten == []
    for path in sorted((rig.installed.folder / "watch").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (rig.installed.folder / "watch").rmdir()
    rig.worker.reload()
    rig.worker.step()
    assert rig.backend.forgotten == ["watch"]


def test_the_thread_ends_its_services(rig: Rig) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=rig.worker.run, args=(stop, lambda: None))
    thread.start()
    assert rig.worker.settle("lists", "1", lambda: None) == ""
    stop.set()
    rig.worker.wake()
    thread.join(30)
    assert rig.backend.closed
    assert rig.worker.settle("watch", "1", lambda: None) is None


def test_the_log_is_asked_of_the_back_end(rig: Rig) -> None:
    assert rig.worker.log("watch", 7) == []
    rig.worker.step()
    assert rig.worker.log("watch", 7) == ["watch 7"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"format": 1, "kind": "service", "service": {"program": "run", "user": "nobody-of-here"}}, "no user"),
        ({"format": 1, "kind": "trust-anchor", "certificates": ["ca.pem"]}, "no certificate"),
        ({"format": 2}, "format"),
        ({"format": 1, "kind": "service", "service": {"program": "run"}}, ""),
        ({"format": 1, "kind": "configuration"}, ""),
    ],
)
def test_what_must_not_become_active(rig: Rig, said: object, why: str) -> None:
    rig.installed.put("new", "1", said, {"run": "", "ca.pem": "none"})
    problem = Components(rig.installed.folder).problem_of("new", "1")
    assert (why in problem) if why else (problem == "")


def test_root_is_refused_by_whatever_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pwd.getpwuid(0)
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: found)
    with pytest.raises(ValueError, match="toor is root"):
        user_of("toor")
