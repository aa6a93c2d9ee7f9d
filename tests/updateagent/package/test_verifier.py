"""What this device has accepted bounds what it accepts next: over the journal, with the clock that it has."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.sim.faulty_disk import FaultyDisk
from tests.updateagent.package.signed import no_hooks, pem
from tests.updateagent.packages import DAY, HARDWARE, NOW, Workshop, party, release, root
from updateagent.compose import UpdateAgent
from updateagent.config import Config
from updateagent.disk import RawFile
from updateagent.engine.journal import Journal
from updateagent.errors import CERTIFICATE_TIME, PackageError
from updateagent.package.description import Kind
from updateagent.package.payload import Role
from updateagent.package.verifier import SignedPackages, VerifierDeps
from updateagent.software.install import install_software
from updateagent.software.store import SoftwareStore

IN_2036 = int(datetime(2036, 3, 1, tzinfo=UTC).timestamp())
HOME, FILE = Path("/data"), Path("/data/package.swu")


class Place:
    """Where an image is written."""

    def capacity(self) -> int:
        return 1 << 20

    def open(self) -> RawFile:
        raise AssertionError("no package here is a delta")


class Device:
    """A device that installs software; `clock` and `vouched` are what it knows of the time."""

    def __init__(self, folder: Path) -> None:
        self.disk = FaultyDisk()
        self.disk.mkdir_durable(HOME / "update")
        self.shop = Workshop(folder)
        self.pem = folder / "root.pem"
        self.pem.write_bytes(pem(root()))
        self.journal = Journal(self.disk, HOME / "update")
        self.clock, self.vouched = float(NOW), True

    @property
    def newest(self) -> int:
        return self.journal.load().signed_time

    def packages(self) -> SignedPackages:
        return SignedPackages(
            VerifierDeps(
                disk=self.disk,
                roots=self.pem,
                newer_roots=HOME / "update" / "roots.json",
                compatible=HARDWARE,
                partitions={"B": {"rootfs": Place()}},
                running_version="1",
                clock=lambda: self.clock,
                run_hook=no_hooks,
                built=NOW - 100.0 * DAY,
                clock_vouched=lambda: self.vouched,
            )
        )

    def install(self, signed_at: int = NOW, days: int = 365) -> str:
        """Install a package of a signer that is valid for `days`; why it is refused, empty if it is not."""
        said = release(kind=Kind.SOFTWARE, software_id="lists", security_version=1)
        image = self.shop.image("list.csv", b"x" * 999, Role.FILE)
        self.disk.write_durable(
            FILE, self.shop.build([image], said, by=party("signer", root(), days=days), signed_at=signed_at)
        )
        store = SoftwareStore(self.disk, HOME / "software")
        try:
            install_software(store, self.journal, self.packages(), FILE, activate=True)
        except PackageError as error:
            return error.message if error.code is CERTIFICATE_TIME else str(error.code)
        return ""


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.mark.parametrize("clock", [0, NOW - 99 * DAY, NOW, IN_2036])
def test_a_package_from_2036_moves_nothing_where_nothing_vouches_for_the_clock(device: Device, clock: int) -> None:
    device.clock, device.vouched = clock, False
    assert device.install(IN_2036, days=7000) == ""
    assert device.newest == 0
    device.clock = NOW
    assert device.install() == ""


def test_a_package_from_2036_is_refused_by_a_clock_that_is_vouched_for(device: Device) -> None:
    assert "in the future" in device.install(IN_2036, days=7000)
    assert device.newest == 0


def test_a_time_that_was_confirmed_counts_after_the_clock_was_lost(device: Device) -> None:
    brief = 150  # days from March on: it has ended by September
    device.clock, device.vouched = 0, False
    assert device.install(NOW - 90 * DAY, days=brief) == ""
    device.clock, device.vouched = NOW, True
    assert device.install(NOW - DAY) == ""
    assert device.newest == NOW - DAY
    device.clock, device.vouched = 0, False
    assert "expired" in device.install(NOW - 90 * DAY, days=brief)
    assert device.install(NOW - 2 * DAY) == ""
    assert device.newest == NOW - DAY


def test_a_wrong_time_that_was_accepted_counts_for_nothing_once_a_clock_is_vouched_for(device: Device) -> None:
    device.journal.store(replace(device.journal.load(), signed_time=IN_2036))
    device.vouched = False
    assert "when a package was signed that this device has accepted" in device.install()
    device.vouched = True
    assert device.install() == ""


@pytest.mark.parametrize(("vouched", "confirmed"), [(True, NOW), (False, 0)])
def test_of_firmware_the_confirmed_time_is_kept_too(device: Device, vouched: bool, confirmed: int) -> None:
    device.disk.write_durable(FILE, device.shop.build([device.shop.image("rootfs", b"x" * 999)]))
    device.vouched = vouched
    package = device.packages().verify(FILE, device.journal.load(), "B", "A")
    assert package.signed_time == confirmed


@pytest.mark.parametrize("vouched", [True, False])
def test_the_program_asks_the_kernel_whether_something_vouches_for_its_clock(device: Device, vouched: bool) -> None:
    device.disk.write_durable(HOME / "release", b"VERSION=1\nBUILT=5\n")
    config = SimpleNamespace(
        roots=device.pem, update_dir=HOME / "update", compatible=HARDWARE, slots=(), release_file=HOME / "release"
    )
    agent = UpdateAgent(cast("Config", config), device.disk, wall=lambda: 9.0, vouched=lambda: vouched)
    here = agent.packages().trust(device.journal.load())
    assert (here.clock, here.now, here.built) == (9.0, 9.0 if vouched else None, 5.0)
