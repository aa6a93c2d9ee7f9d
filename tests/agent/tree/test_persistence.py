"""Package jobs over storage that fails: tried a bounded number of times, then reported, never for ever."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.jobs import software
from agent.jobs.firmware import State
from agent.ota.worker import STORAGE_RETRY_S_MAX, STORAGE_TRIES_MAX
from agent.tree import alerts
from tests.agent.dm.server import FakeDmServer, add, execute
from tests.agent.dm_device import UPDATE, Device, FakeManifest
from tests.agent.ota.test_worker import REQUEST, START, URL, device, leave_result, state_of
from updateagent.package.manifest import Kind


class Broken:
    """Makes writing operations on files whose name holds `word` fail, from now on until `mended`."""

    def __init__(self, one: Device, word: str) -> None:
        self._one = one
        self._word = word
        self.mended = False
        for name in ("write_durable", "rename_durable", "mkdir_durable"):
            setattr(one.disk, name, self._guarded(getattr(one.disk, name)))

    def _guarded(self, whole: Callable[..., None]) -> Callable[..., None]:
        def operation(*arguments: Any) -> None:
            if not self.mended and any(isinstance(each, Path) and self._word in str(each) for each in arguments):
                raise OSError(errno.ENOSPC, "no space left on device")
            whole(*arguments)

        return operation


def tries_until_reported(one: Device) -> int:
    for tries in range(1, 3 * STORAGE_TRIES_MAX):
        one.work()
        if alerts.pending(one.service.tree.view()):
            return tries
    raise AssertionError("never reported")


def reported(one: Device) -> list[str]:
    one.session()
    return [str(entry[2]) for entry in one.server.generic]


def test_a_package_that_cannot_be_handed_over_is_reported_502_after_a_bounded_number_of_tries() -> None:
    one = device()
    one.session(START)
    Broken(one, "inbox/")
    assert tries_until_reported(one) == STORAGE_TRIES_MAX
    assert reported(one) == ["<ResultCode>502</ResultCode>"]
    assert state_of(one) == State.FAILED
    assert not one.disk.exists(UPDATE / "download/firmware.swu")
    assert one.reboots == 0


def test_storage_that_recovers_in_time_fails_nothing() -> None:
    one = device()
    one.session(START)
    broken = Broken(one, "inbox/")
    for _ in range(STORAGE_TRIES_MAX - 1):
        one.work()
    broken.mended = True
    one.work()
    assert state_of(one) == State.UPDATING
    assert one.disk.exists(REQUEST)


def test_folders_that_cannot_be_made_are_reported_501() -> None:
    one = device()
    one.restart()
    one.session(START)
    Broken(one, "download")
    assert tries_until_reported(one) == STORAGE_TRIES_MAX
    assert reported(one) == ["<ResultCode>501</ResultCode>"]
    assert state_of(one) == State.DOWNLOAD_FAILED


def test_a_job_is_given_up_once_its_end_can_be_stored() -> None:
    one = device()
    one.session(START)
    inbox, tree = Broken(one, "inbox/"), Broken(one, "tree")
    for _ in range(STORAGE_TRIES_MAX + 3):
        one.work()
    assert alerts.pending(one.service.tree.view()) == ()
    tree.mended = True
    assert tries_until_reported(one) <= 2
    assert not inbox.mended


def test_a_package_that_the_update_agent_has_is_not_given_up() -> None:
    one = device()
    one.session(START)
    one.work()
    one.disk.remove_durable(UPDATE / "status.json")
    one.restart(boot_id="boot 2")
    leave_result(one, 200)
    tree = Broken(one, "tree")
    for _ in range(2 * STORAGE_TRIES_MAX):
        one.work()
    assert state_of(one) == State.UPDATING
    tree.mended = True
    one.work()
    assert reported(one) == ["<ResultCode>200</ResultCode>"]


def test_a_reboot_is_asked_for_even_when_results_cannot_be_looked_for() -> None:
    one = device()
    one.session(START)
    one.work()
    one.restart()

    def unreadable(path: Path) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    one.disk.read_bytes = unreadable  # type: ignore[method-assign]
    for _ in range(STORAGE_TRIES_MAX):
        one.work()
    one.turn()
    assert one.reboots == 1
    assert state_of(one) == State.UPDATING


SOFTWARE = "./SCOMO/Download/x"


@pytest.mark.parametrize(
    ("operation", "word", "code", "status"),
    [
        ("Download", "delivered-", 1404, 20),
        ("DownloadInstall", "download", 1404, 20),
        ("DownloadInstall", "installed", 1406, 60),
    ],
)
def test_software_that_cannot_be_kept_is_reported(operation: str, word: str, code: int, status: int) -> None:
    one = Device(FakeDmServer()).registered()
    one.manifest = FakeManifest(Kind.SOFTWARE, "lists", "1")
    one.session([add(f"{SOFTWARE}/PkgURL", URL), execute(f"{SOFTWARE}/Operations/{operation}", "corr-s")])
    Broken(one, word)
    if word == "installed":  # the installer's own trouble reaches us as an OSError
        one.software.install = _no_room  # type: ignore[method-assign]
    assert tries_until_reported(one) == STORAGE_TRIES_MAX
    assert software.status_of(one.service.tree.view(), "x") == status
    assert reported(one) == [f"<ResultCode>{code}</ResultCode><Identifier>x</Identifier>"]
    assert software.jobs(one.service.tree.view()) == ()


def _no_room(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, "no space left on device")


class StopAfterOneWait(threading.Event):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        self.set()
        return True


def test_the_wait_between_tries_stays_bounded_for_ever() -> None:
    one = device()
    one.restart()
    Broken(one, str(UPDATE))
    one.packages._failures = 100_000
    stop = StopAfterOneWait()
    one.packages.run(stop, one.beat)
    assert stop.waits == [STORAGE_RETRY_S_MAX]
