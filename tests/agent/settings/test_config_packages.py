"""The agent's own check of a package believes what the Update Agent believes: roots, newer roots, floors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.clock_floor import CertificateTime
from agent.ota.verification import NEWER_ROOTS, verifier
from agent.settings.config import UpdateConfig
from tests.updateagent.package.signed import pem
from tests.updateagent.packages import HARDWARE, NOW, Workshop, other_root, party, release, root
from updateagent.disk import RealDisk
from updateagent.engine.journal import Journal, Record
from updateagent.errors import CERTIFICATE_TIME
from updateagent.package import roots
from updateagent.package.manifest import Manifest, PackageError


class Rig:
    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        (tmp_path / "roots.pem").write_bytes(pem(root()))
        (tmp_path / "update").mkdir()
        self.update = UpdateConfig(
            dir=tmp_path / "update",
            run_dir=tmp_path,
            boot_id_file=tmp_path / "boot_id",
            roots=tmp_path / "roots.pem",
            compatible=HARDWARE,
            command=("dcu-update",),
            software_dir=tmp_path / "software",
        )
        self.shop = Workshop(tmp_path)
        self.moment = CertificateTime(0.0, NOW)
        self.signed: list[float] = []

    def verify(self, package: bytes) -> Manifest:
        file = self.folder / "package.swu"
        file.write_bytes(package)
        check: Callable[[Path], Manifest] = verifier(
            self.update, RealDisk(), lambda: self.moment, "1", on_signed=self.signed.append
        )
        return check(file)

    def build(self, **options: object) -> bytes:
        return self.shop.build([self.shop.image("rootfs", b"x" * 10_000)], **options)  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_package_of_a_known_signer_is_good(rig: Rig) -> None:
    assert rig.verify(rig.build()).version == "2"


def test_without_a_believed_clock_a_signer_is_judged_by_the_earliest_time_that_it_can_be(rig: Rig) -> None:
    package = rig.build()
    rig.moment = CertificateTime(NOW, None)
    assert rig.verify(package).version == "2"
    rig.moment = CertificateTime(NOW - 10 * 365 * 86_400, None)  # before the certificate: it may have been made since
    assert rig.verify(package).version == "2"
    rig.moment = CertificateTime(NOW + 90 * 365 * 86_400, None)
    with pytest.raises(PackageError) as caught:
        rig.verify(package)
    assert caught.value.code == CERTIFICATE_TIME


def test_a_signature_from_the_future_is_refused_only_by_a_clock_that_is_believed(rig: Rig) -> None:
    package = rig.build(signed_at=int(NOW) + 9 * 365 * 86_400)
    rig.moment = CertificateTime(NOW, None)
    rig.verify(package)
    rig.moment = CertificateTime(NOW, NOW)
    with pytest.raises(PackageError, match="in the future"):
        rig.verify(package)


def test_a_signer_that_was_certified_since_the_image_was_built_is_good_to_a_clock_that_is_behind(rig: Rig) -> None:
    begin = datetime.fromtimestamp(NOW - 86_400, UTC)
    package = rig.build(by=party("new", root(), begin=begin))
    for moment in (CertificateTime(NOW - 100 * 86_400, None), CertificateTime(NOW - 100 * 86_400, NOW)):
        rig.moment = moment
        rig.verify(package)


def test_the_newest_signing_time_is_told_as_the_journal_has_it(rig: Rig) -> None:
    Journal(RealDisk(), rig.update.dir).store(replace(Record(), signed_time=int(NOW) - 5))
    rig.moment = CertificateTime(NOW, NOW)
    rig.verify(rig.build())
    assert rig.signed == [NOW - 5]


def test_a_flipped_bit_another_board_and_a_stranger_are_refused(rig: Rig) -> None:
    package = bytearray(rig.build())
    package[len(package) // 2] ^= 1
    with pytest.raises(PackageError):
        rig.verify(bytes(package))
    with pytest.raises(PackageError):
        rig.verify(rig.build(said=release(compatible=("another-board",))))
    with pytest.raises(PackageError):
        rig.verify(rig.build(by=party("stranger", other_root())))


def test_a_package_below_the_floor_of_the_update_agent_is_refused(rig: Rig) -> None:
    Journal(RealDisk(), rig.update.dir).store(replace(Record(), security_floor=3))
    with pytest.raises(PackageError):
        rig.verify(rig.build())


def test_after_a_rotation_of_roots_the_new_ones_are_believed_and_the_old_ones_are_not(rig: Rig) -> None:
    new = other_root()
    package = rig.build(by=party("new signer", new))
    with pytest.raises(PackageError):
        rig.verify(package)
    rotated = roots.make(version=1, threshold=1, issued=NOW, roots=(new.certificate,))
    rotated = roots.with_signature(rotated, new.certificate, new.sign(rotated.text))
    (rig.update.dir / NEWER_ROOTS).write_bytes(roots.emit(rotated))
    assert rig.verify(package).version == "2"
    with pytest.raises(PackageError):
        rig.verify(rig.build())
