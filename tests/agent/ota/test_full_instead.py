"""A delta that cannot be used: found out early, replaced by the full package only where allowed, reported once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from agent.jobs import firmware
from agent.jobs.firmware import Job, State
from agent.ota.errors import DeltaUnfit
from agent.ota.worker import PackageWorker
from agent.tree import alerts
from omadm.descriptor import DeltaFacts, DeltaSource, Descriptor
from tests.agent.dm.server import FakeDmServer, execute, get, put
from tests.agent.dm_device import UPDATE, Device, FakeManifest
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival
from updateagent.errors import DELTA_SOURCE, DOWNGRADE, PATCH, TRIAL_FAILED, VERSION_REQUIRED, Code, PackageError

DELTA_URL = "https://packages.example/descriptors/delta.swu"
FULL_URL = "https://packages.example/descriptors/full.swu"
BOTH = "./FUMO/Firmware/DownloadAndUpdate"
START = [put(f"{BOTH}/PkgURL", DELTA_URL), execute(BOTH, "corr-1")]
RESULT = UPDATE / "outbox/result.json"
REQUEST = UPDATE / "inbox/request.json"
PACKAGE = UPDATE / "inbox/package.swu"
ROOT = "5f" * 32
SOURCE = DeltaSource("rootfs", "1", 4096, ROOT)
FULL_BYTES = 70_000
LATE = "found at the boot"
EXT = "./FUMO/Firmware/Ext"


@dataclass(frozen=True, slots=True)
class Signed:
    version: str = "1"
    size: int = 4096
    root: bytes = bytes.fromhex(ROOT)


def offer(**changes: Any) -> Descriptor:
    facts: dict[str, Any] = {
        "from_versions": ("1",),
        "sources": (SOURCE,),
        "full_uri": FULL_URL,
        "full_size": FULL_BYTES,
    } | changes
    return Descriptor(("a/b",), 900, "https://packages.example/delta.swu", delta=DeltaFacts(**facts))


def full() -> Descriptor:
    return Descriptor(("a/b",), FULL_BYTES, "https://packages.example/full.swu")


def unfit(_: object) -> None:
    raise DeltaUnfit(DELTA_SOURCE, "the slot that runs is not version 1 as it was released")


class Case:
    """A device that was told to fetch a delta; `where` it turns out to be of no use."""

    def __init__(
        self,
        where: str,
        *,
        allowed: bool,
        bytes_max: int = 1 << 30,
        worker: type[PackageWorker] = PackageWorker,
        start: Sequence[object] = START,
    ) -> None:
        self.where = where
        self.worker = worker
        self.one = Device(FakeDmServer(), full_instead_of_delta=allowed, full_bytes_max=bytes_max)
        self.one.registered()
        self.descriptors = {DELTA_URL: offer(), FULL_URL: full()}
        if where == "version":
            self.descriptors[DELTA_URL] = offer(from_versions=("7", "8"), sources=())
        elif where == "verified":
            self.descriptors[DELTA_URL] = offer(from_versions=(), sources=())
        self.boots = 1
        self.requests: list[str] = []
        self.fetched: list[str] = []
        self.wire()
        self.one.session(start)
        self.one.server.new_session()

    def wire(self) -> None:
        """What the world around a device that was just made says."""
        one = self.one
        one.packages.__class__ = self.worker
        one.fetcher.descriptors = self.descriptors
        one.fetcher.urls = self.fetched
        one.fetcher.during = lambda: setattr(one.fetcher, "content", self._content())
        one.check_sources = unfit if self.where in ("source", "verified") else lambda _: None
        one.manifest = self.manifest()

    def _content(self) -> bytes:
        return b"delta" if self.one.fetcher.urls[-1] == DELTA_URL else b"full"

    def manifest(self) -> FakeManifest | Exception:
        """Of whatever lies there: asked for when it is verified."""
        case = self

        class OfTheFile(FakeManifest):
            __slots__ = ()

            @property
            def deltas(self) -> dict[str, Signed]:
                return {"rootfs": Signed()} if case.package() == b"delta" else {}

        found = object.__new__(OfTheFile)
        for name, value in (("kind", FakeManifest().kind), ("software_id", ""), ("version", "2")):
            object.__setattr__(found, name, value)
        return found

    def package(self) -> bytes:
        for existing in (UPDATE / "download/firmware.swu", PACKAGE):
            if self.one.disk.exists(existing):
                return self.one.disk.read_bytes(existing)
        return b""

    def job(self) -> Job:
        return firmware.load(self.one.service.tree.view())

    def boot(self, disk: FaultyDisk | None = None) -> None:
        """Power on: the Update Agent first, then the agent."""
        self.boots += 1
        disk = disk or self.one.disk
        if disk.exists(REQUEST) and not disk.exists(PACKAGE):
            disk.remove_durable(REQUEST)  # answered already, before the power went
        elif disk.exists(REQUEST):
            request = json.loads(disk.read_bytes(REQUEST))
            if request["id"] in self.requests:  # it has answered this one
                disk.remove_durable(PACKAGE)
                disk.remove_durable(REQUEST)
                return self._start(disk)
            bad = disk.read_bytes(PACKAGE) == b"delta" and self.where == LATE
            code = DELTA_SOURCE if bad else Code(0, "ok", 200, 1200)
            result = {"id": request["id"], "correlator": request["correlator"], "code": code.number, "name": code.name}
            disk.write_durable(RESULT, json.dumps(result | {"fumo": code.fumo, "message": "as found"}).encode())
            self.requests.append(request["id"])
            disk.remove_durable(PACKAGE)
            disk.remove_durable(REQUEST)
        return self._start(disk)

    def _start(self, disk: FaultyDisk) -> None:
        self.one.restart(boot_id=f"boot {self.boots}", disk=disk)
        self.wire()
        self.one.service.session_now("boot")

    def run(self) -> None:
        """Until nothing moves any more."""
        self.one.settle(self.boot, 12)

    def told(self) -> list[tuple[str, str | None]]:
        """Every different alert that the server heard: data and correlator."""
        return list(dict.fromkeys((str(data), correlator) for _, _, data, correlator in self.one.server.generic))


WHERE = ("version", "source", "verified", LATE)


@pytest.mark.parametrize("where", WHERE)
def test_the_full_package_comes_under_the_same_correlator_when_the_policy_allows(where: str) -> None:
    case = Case(where, allowed=True)
    case.run()
    assert case.fetched == [DELTA_URL, FULL_URL]
    assert case.told() == [("<ResultCode>200</ResultCode>", "corr-1")]
    assert case.job().state == State.SUCCEEDED
    assert case.job().instead.startswith("38 delta-source: ")
    assert len(case.requests) == (2 if where == LATE else 1)
    assert len(set(case.requests)) == len(case.requests), "the Update Agent would not do the same request again"


@pytest.mark.parametrize("where", WHERE)
def test_no_full_package_is_fetched_unless_the_policy_allows_and_the_report_says_so(where: str) -> None:
    case = Case(where, allowed=False)
    case.run()
    assert case.fetched == [DELTA_URL]
    assert case.told() == [("<ResultCode>451</ResultCode>", "corr-1")]
    assert case.job().error.startswith("46 full-refused: this device may not fetch a full package")
    assert "38 delta-source: " in case.job().error
    assert len(case.requests) == (1 if where == LATE else 0)


def test_a_full_package_larger_than_the_policy_allows_is_not_fetched() -> None:
    case = Case("version", allowed=True, bytes_max=FULL_BYTES - 1)
    case.run()
    assert case.fetched == [DELTA_URL]
    assert case.told() == [("<ResultCode>451</ResultCode>", "corr-1")]
    assert f"has {FULL_BYTES} bytes" in case.job().error


@pytest.mark.parametrize(
    "described",
    [Descriptor(("a/b",), 1 << 20, "https://packages.example/larger"), offer()],
    ids=["larger than announced", "a delta again"],
)
def test_a_full_package_that_is_none_ends_the_job_and_is_not_replaced_again(described: Descriptor) -> None:
    case = Case("version", allowed=True, bytes_max=FULL_BYTES)
    case.descriptors[FULL_URL] = described
    case.run()
    assert case.fetched == [DELTA_URL, FULL_URL]
    assert len(case.told()) == 1
    assert case.told()[0][0] in ("<ResultCode>451</ResultCode>", "<ResultCode>450</ResultCode>")
    assert case.requests == []


def test_without_an_offer_the_delta_s_own_number_is_reported() -> None:
    case = Case("version", allowed=True)
    case.descriptors[DELTA_URL] = offer(from_versions=("7",), full_uri=None, full_size=0)
    case.run()
    assert case.told() == [("<ResultCode>450</ResultCode>", "corr-1")]
    assert case.job().error == "38 delta-source: the delta is made from version 7, this device runs 1"


@pytest.mark.parametrize("code", [DOWNGRADE, VERSION_REQUIRED])
def test_a_package_refused_for_another_reason_is_not_replaced(code: Code) -> None:
    case = Case("", allowed=True)
    case.one.manifest = PackageError(code, "no")
    case.run()
    assert case.fetched == [DELTA_URL]
    assert case.told() == [(f"<ResultCode>{code.fumo}</ResultCode>", "corr-1")]


def test_a_patch_that_turns_out_bad_at_the_boot_is_replaced_too() -> None:
    case = Case("", allowed=True)
    case.one.work()
    job = case.job()
    result = {"id": job.id, "correlator": "corr-1", "code": PATCH.number, "name": PATCH.name, "fumo": PATCH.fumo}
    case.one.disk.remove_durable(REQUEST)
    case.one.disk.write_durable(RESULT, json.dumps(result).encode())
    case.run()
    assert case.fetched == [DELTA_URL, FULL_URL]
    assert case.told() == [("<ResultCode>200</ResultCode>", "corr-1")]


def test_a_policy_that_was_taken_back_stops_the_full_package() -> None:
    case = Case("version", allowed=True)
    case.one.work()
    assert case.job().instead
    case.one.full_instead_of_delta = False
    case.boot()
    case.run()
    assert case.fetched == [DELTA_URL]
    assert case.told() == [("<ResultCode>451</ResultCode>", "corr-1")]


def test_the_bytes_of_both_downloads_are_counted() -> None:
    case = Case("verified", allowed=True)
    case.run()
    assert case.job().bytes_fetched == len(b"delta") + len(b"full")


def test_a_delta_that_was_kept_can_be_replaced_when_it_is_to_be_installed() -> None:
    download = "./FUMO/Firmware/Download"
    case = Case(LATE, allowed=True, start=[put(f"{download}/PkgURL", DELTA_URL), execute(download, "d")])
    case.one.work()
    case.one.session([execute("./FUMO/Firmware/Update", "u")])
    case.one.server.new_session()
    case.run()
    assert case.fetched == [DELTA_URL, FULL_URL]
    assert case.told() == [("<ResultCode>200</ResultCode>", "u")]


def test_the_exec_again_while_the_full_package_is_fetched_starts_nothing() -> None:
    case = Case("version", allowed=True)
    case.one.work()
    case.one.session([execute(BOTH, "corr-1")])
    assert case.one.server.codes == [202]


def test_why_it_failed_and_the_last_lines_of_the_log_are_in_the_tree() -> None:
    case = Case("", allowed=False)
    case.one.work()
    job = case.job()
    result = {"id": job.id, "correlator": "corr-1", "code": TRIAL_FAILED.number, "name": TRIAL_FAILED.name, "fumo": 410}
    why = {"message": "health check meter_port was not good in time", "failed_check": "meter_port", "log": ["a", "b"]}
    case.one.disk.remove_durable(REQUEST)
    case.one.disk.write_durable(RESULT, json.dumps(result | why).encode())
    case.one.work()
    case.one.turn()  # the reboot
    names = ("LastError", "FailedCheck", "LastLog", "FullInstead", "Compatible")
    case.one.session([get(*(f"{EXT}/{name}" for name in names))])
    assert [case.one.server.values[f"{EXT}/{name}"] for name in names] == [
        "72 trial-failed: health check meter_port was not good in time",
        "meter_port",
        "a\nb",
        "",
        "dcu-a1",
    ]


# -- power cuts --------------------------------------------------------------------------------------------------


def operations(make: Callable[[], Case]) -> int:
    case = make()
    before = case.one.disk.operations
    case.run()
    return case.one.disk.operations - before


def cut(make: Callable[[], Case], number: int, tear: float, survival: Survival) -> Case:
    """A life in which the power goes at the given operation, and comes back. Fails when it did not go."""
    case = make()
    disk = case.one.disk
    last = disk.operations + number
    disk.on_operation = lambda operation: tear if operation.number == last else None
    with pytest.raises(PowerCut):
        case.run()
    case.boot(disk.after_power_cut(survival, Random(number)))
    case.run()
    return case


def wrong(make: Callable[[], Case], code: int, *, allowed: bool) -> list[str]:
    """The cuts after which the decision or the report is another one than without."""
    found = []
    for number in range(1, operations(make) + 1):
        survival, tear = list(Survival)[number % len(Survival)], (0.5, 1.0)[number % 2]
        case = cut(make, number, tear, survival)
        good = (
            case.told() == [(f"<ResultCode>{code}</ResultCode>", "corr-1")]
            and (FULL_URL in case.fetched) == allowed
            and alerts.pending(case.one.service.tree.view()) == ()
            and not case.one.disk.exists(RESULT)
            and not case.job().active
        )
        found += [] if good else [f"operation {number}, {tear}, {survival.value}: {case.told()}"]
    return found


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "forbidden"])
def test_a_power_cut_anywhere_changes_neither_decision_nor_report(where: str, *, allowed: bool) -> None:
    assert wrong(lambda: Case(where, allowed=allowed), 200 if allowed else 451, allowed=allowed) == []


class ForgetsBeforeItDecides(PackageWorker):
    """A planted bug: the Update Agent's result is gone before the decision that follows from it is durable."""

    def _full_instead(self, job: Job, code: Code, message: str, **changes: str) -> Code | None:
        self._handover.forget_result(job.id)
        return super()._full_instead(job, code, message, **changes)


class KeepsTheRequestsName(PackageWorker):
    """A planted bug: the full package is handed over under the id that the Update Agent has answered already."""

    def _full_instead(self, job: Job, code: Code, message: str, **changes: str) -> Code | None:
        return super()._full_instead(job, code, message)


@pytest.mark.parametrize("bug", [ForgetsBeforeItDecides, KeepsTheRequestsName])
def test_a_planted_bug_is_found(bug: type[PackageWorker]) -> None:
    def make() -> Case:
        return Case(LATE, allowed=True, worker=bug)

    try:
        found = wrong(make, 200, allowed=True)
    except AssertionError:
        return  # it fails even without a cut
    assert found != []
