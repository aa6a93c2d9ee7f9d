"""Files to and from the Update Agent, and its command line as a child process."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from random import Random

import pytest

from agent.ota.errors import DeltaUnfit
from agent.ota.handover import HandOver
from agent.ota.update_command import SoftwareCommand, SourceCheck
from omadm.descriptor import DeltaSource
from tests.sim.faulty_disk import FaultyDisk, PowerCut, Survival
from updateagent.errors import DELTA_SOURCE
from updateagent.handover import PACKAGE as PACKAGE_NAME
from updateagent.handover import InstallRequest

UPDATE = Path("/update")
PACKAGE = UPDATE / "download/firmware.swu"
REQUEST = InstallRequest("id-1", PACKAGE_NAME, "corr", 1700000000)


def ready(content: bytes = b"package") -> tuple[FaultyDisk, HandOver]:
    disk = FaultyDisk()
    hand = HandOver(disk, UPDATE)
    hand.prepare()
    disk.write_durable(PACKAGE, content)
    return disk, hand


def test_the_request_is_written_after_the_package_has_its_place() -> None:
    disk, hand = ready()
    hand.submit(PACKAGE, REQUEST)
    assert json.loads(disk.read_bytes(UPDATE / "inbox/request.json")) == {
        "version": 1,
        "id": "id-1",
        "package": "package.swu",
        "kind": "firmware",
        "correlator": "corr",
        "requested": 1700000000,
    }
    assert disk.read_bytes(hand.package) == b"package"
    assert not disk.exists(PACKAGE)


def test_the_same_request_again_does_nothing() -> None:
    disk, hand = ready()
    hand.submit(PACKAGE, REQUEST)
    before = disk.operations
    hand.submit(PACKAGE, REQUEST)
    assert disk.operations == before


def test_a_package_that_is_nowhere_is_an_error() -> None:
    disk, hand = ready()
    disk.remove_durable(PACKAGE)
    with pytest.raises(FileNotFoundError):
        hand.submit(PACKAGE, REQUEST)


@pytest.mark.parametrize("survival", list(Survival))
def test_after_a_power_cut_at_any_operation_no_request_meets_another_package(survival: Survival) -> None:
    for number in itertools.count(1):
        disk, hand = ready(b"old")
        hand.submit(PACKAGE, InstallRequest("id-0", PACKAGE_NAME, "old", 0))
        disk.write_durable(PACKAGE, b"new")
        last = disk.operations + number
        disk.on_operation = lambda operation, last=last: 0.5 if operation.number == last else None
        try:
            hand.submit(PACKAGE, REQUEST)
        except PowerCut:
            found = disk.after_power_cut(survival, Random(number))
            again = HandOver(found, UPDATE)
            wanted = {"id-0": b"old", "id-1": b"new", "": None}[again.requested()]
            assert wanted is None or found.read_bytes(again.package) == wanted
            again.submit(PACKAGE, REQUEST)
            assert (again.requested(), found.read_bytes(again.package)) == ("id-1", b"new")
        else:
            return


RESULT = {
    "version": 1,
    "id": "id-1",
    "correlator": "corr",
    "code": 72,
    "name": "trial-failed",
    "fumo": 410,
    "scomo": 1405,
    "message": "meter_port",
    "from_version": "2",
    "to_version": "3",
    "attempts": 3,
    "failed_check": "meter_port",
    "log": ["a", "b"],
    "finished": 1700000000.0,
}


def test_a_result_is_read_and_forgotten_only_under_its_own_id() -> None:
    disk, hand = ready()
    assert hand.result() is None
    disk.write_durable(UPDATE / "outbox/result.json", json.dumps(RESULT).encode())
    found = hand.result()
    assert found is not None
    assert (found.id, found.fumo, found.failed_check, found.log) == ("id-1", 410, "meter_port", ("a", "b"))
    hand.forget_result("id-0")
    assert hand.result() is not None
    hand.forget_result("id-1")
    assert hand.result() is None


def test_random_damage_to_the_files_is_never_more_than_no_result() -> None:
    random = Random(4)
    text = json.dumps(RESULT).encode()
    for _ in range(500):
        disk, hand = ready()
        damaged = bytearray(text)
        for _ in range(random.randint(1, 5)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        for name in ("outbox/result.json", "status.json", "inbox/request.json"):
            disk.write_durable(UPDATE / name, bytes(damaged))
        hand.requested()
        hand.status()
        found = hand.result()
        assert found is None or isinstance(found.fumo, int)


def test_a_status_with_nonsense_in_it_is_the_default() -> None:
    disk, hand = ready()
    disk.write_durable(UPDATE / "status.json", b'{"state":5,"progress":"x","slots":[1,{"name":2}],"booted":[]}')
    shown = hand.status()
    assert (shown.state, shown.progress) == ("idle", 0)
    assert [(slot.name, slot.booted) for slot in shown.slots] == [("", True)]


# -- the command -------------------------------------------------------------------------------------------------

PROGRAM = """
import json, signal, sys
arguments = sys.argv[1:]
assert arguments[0] == "software" and arguments[-1] == "--json", arguments
verb = arguments[1]
if verb == "list":
    entries = [{"id": "a", "version": "1", "active": True}, {"id": "a", "version": "2", "active": False},
               {"id": "b", "version": "1", "active": False}, 5,
               *({"id": "c", "version": version, "active": False} for version in ("10.0", "11.0", "9.0"))]
    print(json.dumps({"code": 0, "software": entries}))
elif verb == "install" and "bad.swu" in arguments[2]:
    print(json.dumps({"code": 25, "scomo": 1407, "message": "signature"}))
    sys.exit(25)
elif verb == "install":
    print(json.dumps({"code": 0, "scomo": 1200, "id": "a", "version": "1", "inactive": "--inactive" in arguments}))
elif verb == "activate":
    print("no json")
    sys.exit(3)
elif verb == "deactivate":
    print("also none")
else:
    signal.pause()
"""


def beat() -> None:
    """Nobody watches."""


@pytest.fixture
def command(tmp_path: Path) -> SoftwareCommand:
    program = tmp_path / "installer.py"
    program.write_text(PROGRAM)
    return SoftwareCommand([sys.executable, str(program)], timeout_s=20.0)


@pytest.mark.process
def test_an_installation_is_reported_with_its_identity(command: SoftwareCommand) -> None:
    result = command.install(Path("/x/good.swu"), activate=True, beat=beat)
    assert (result.scomo, result.software_id, result.version) == (1200, "a", "1")


@pytest.mark.process
def test_failure_has_the_code_of_the_installer_or_that_of_the_operation(command: SoftwareCommand) -> None:
    assert command.install(Path("bad.swu"), activate=True, beat=beat).scomo == 1407
    assert command.activate("a", beat).scomo == 1409
    assert command.deactivate("a", beat).scomo == 1200


@pytest.mark.process
def test_the_list_has_one_entry_a_component(command: SoftwareCommand) -> None:
    assert [(one.software_id, one.version, one.active) for one in command.deployed() or ()] == [
        ("a", "1", True),
        ("b", "1", False),
        ("c", "11.0", False),
    ]


@pytest.mark.process
def test_a_version_that_was_taken_back_counts_only_where_there_is_no_other(command: SoftwareCommand) -> None:
    found = {one.software_id: one.version for one in command.deployed({"a": "1", "b": "1", "c": "11.0"}) or ()}
    assert found == {"a": "1", "b": "1", "c": "10.0"}  # an active one is what there is
    assert [command.newest("c"), command.newest("c", "11.0"), command.newest("b", "1")] == ["11.0", "10.0", "1"]


@pytest.mark.process
def test_a_child_that_does_not_end_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "installer.py"
    program.write_text(PROGRAM)
    command = SoftwareCommand([sys.executable, str(program)], timeout_s=0.2)
    beats: list[int] = []
    result = command.remove("a", lambda: beats.append(1))
    assert result.scomo == 1408
    assert "no end" in result.message
    assert beats


def test_a_program_that_is_not_there_is_a_failed_operation() -> None:
    command = SoftwareCommand(["/nonexistent/dcu-update"])
    assert command.install(Path("x"), activate=True, beat=beat).scomo == 1405
    assert command.deployed() is None


SOURCE = DeltaSource("rootfs", "1", 5, "5f" * 32)


def answering(tmp_path: Path, answer: str, status: int) -> SourceCheck:
    program = tmp_path / "update.py"
    asked = ["source", "--json", f"rootfs=1:5:{SOURCE.root}"]
    program.write_text(f"import sys\nassert sys.argv[1:] == {asked}\nprint({answer!r})\nsys.exit({status})\n")
    return SourceCheck([sys.executable, str(program)])


@pytest.mark.process
def test_a_slot_that_is_not_the_source_of_a_delta_is_known_before_the_reboot(tmp_path: Path) -> None:
    check = answering(tmp_path, '{"code": 38, "name": "delta-source", "scomo": 1413, "message": "no"}', 38)
    with pytest.raises(DeltaUnfit, match="no") as unfit:
        check([SOURCE], beat)
    assert (unfit.value.code, unfit.value.code_fumo) == (DELTA_SOURCE, 450)


@pytest.mark.process
@pytest.mark.parametrize(
    ("answer", "status"), [('{"code": 0}', 0), ('{"code": 60, "message": "EIO"}', 60), ("usage:", 2)]
)
def test_what_cannot_be_told_before_the_reboot_is_left_to_the_update_agent(
    tmp_path: Path, answer: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    answering(tmp_path, answer, status)([SOURCE], beat)
    assert ("not known before the boot" in caplog.text) == (status != 0)
    SourceCheck(["/nonexistent/dcu-update"])([SOURCE], beat)
