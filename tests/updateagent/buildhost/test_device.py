"""What devices would refuse is not built, signed or listed; what is odd is said."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.updateagent.packages import BEGIN, DAY, NOW, Party, other_root, party, root, signer
from updateagent.buildhost import assemble, device, pack, signing
from updateagent.errors import (
    CERTIFICATE_CHAIN,
    CERTIFICATE_PURPOSE,
    CERTIFICATE_REVOKED,
    CERTIFICATE_TIME,
    ROOTS,
    Code,
    PackageError,
)
from updateagent.package import roots, trust
from updateagent.package.manifest import read_unverified

YEAR = 365 * DAY
FUTURE = NOW + trust.AHEAD_S + 1


def run(*arguments: object) -> Result:
    return CliRunner().invoke(pack.cli, [str(argument) for argument in arguments])


class Bench:
    """A folder with an image of yesterday, keys, and an older package in the place of the output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image, self.out = folder / "image", folder / "out.swu"
        self.image.write_bytes(b"image" * 999)
        os.utime(self.image, (NOW - DAY, NOW - DAY))
        self.out.write_bytes(b"older")
        self.keys("signer", signer())
        self.roots = self.keys("root", root())

    def keys(self, name: str, one: Party, *along: Party) -> Path:
        path = self.folder / f"{name}.crt"
        path.write_bytes(signing.pem(one.x509, *(other.x509 for other in along)))
        if not (self.folder / f"{name}.key").exists():
            signing.write_key(self.folder / f"{name}.key", one.key)
        return path

    def by(self, name: str) -> tuple[object, ...]:
        return ("--key", self.folder / f"{name}.key", "--cert", self.folder / f"{name}.crt")

    def build(self, *more: object, by: str = "signer", clock: float = NOW) -> Result:
        said = ("--version", 2, "--security-version", 2, "--compatible", "dcu-a1", "--image", f"rootfs={self.image}")
        return run("build", *self.by(by), *said, "--clock", clock, *more, "-o", self.out)

    def listed(self, version: int, of: Party, *by: Party, issued: int = NOW) -> Path:
        made = roots.make(version, 1, issued, [of.certificate])
        for one in by:
            made = roots.with_signature(made, one.certificate, one.sign(made.text))
        path = self.folder / f"roots-{version}.json"
        path.write_bytes(roots.emit(made))
        return path

    def check_nothing_made(self) -> None:
        assert self.out.read_bytes() == b"older"
        assert not [path for path in self.folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Bench(tmp_path)


def code(done: Result) -> Code:
    assert isinstance(done.exception, PackageError), done.output
    return done.exception.code


def test_what_devices_take_is_made_without_a_word(bench: Bench) -> None:
    done = bench.build("--device-roots", bench.roots)
    assert done.exit_code == 0
    assert "warning" not in done.output
    assert read_unverified(bench.out).signed_at == NOW - DAY


def test_a_package_is_verified_by_the_clock_of_a_device_that_has_none(bench: Bench) -> None:
    assert bench.build("--device-roots", bench.roots).exit_code == 0
    known = ("--roots", bench.roots, "--compatible", "dcu-a1")
    assert run("verify", bench.out, *known, "--clock", 0).exit_code == 0
    assert code(run("verify", bench.out, *known, "--clock", NOW - 2 * DAY - 1)) is CERTIFICATE_TIME


def test_without_the_roots_of_devices_it_says_that_they_were_not_asked(bench: Bench) -> None:
    done = bench.build()
    assert done.exit_code == 0
    assert "not verified as devices do" in done.output
    assert "--device-roots" in done.output


def test_a_package_from_the_future_is_not_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(bench.image, (FUTURE, FUTURE))
    assert code(bench.build()) is CERTIFICATE_TIME
    assert code(bench.build("--device-roots", bench.roots)) is CERTIFICATE_TIME
    os.utime(bench.image, (NOW, NOW))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FUTURE))
    assert code(bench.build()) is CERTIFICATE_TIME
    bench.check_nothing_made()


def test_an_expired_signer_signs_nothing_although_its_signature_could_be_dated_back(bench: Bench) -> None:
    end = signer().certificate.not_after
    assert code(bench.build(clock=end + 1)) is CERTIFICATE_TIME
    os.utime(bench.image, (end + 1, end + 1))
    assert code(bench.build(clock=end)) is CERTIFICATE_TIME
    early = bench.build(clock=int(BEGIN.timestamp()) - trust.AHEAD_S - 1)
    assert code(early) is CERTIFICATE_TIME
    bench.check_nothing_made()


def test_a_signer_without_the_purpose_signs_nothing(bench: Bench) -> None:
    assert code(bench.build(by="root")) is CERTIFICATE_PURPOSE
    bench.check_nothing_made()


def test_what_devices_with_these_roots_would_refuse_is_not_made(bench: Bench) -> None:
    other = bench.keys("other", other_root())
    assert code(bench.build("--device-roots", other)) is CERTIFICATE_CHAIN
    brief = party("brief", authority=True, days=100)
    short = bench.keys("brief", brief)
    bench.keys("leaf", party("leaf", brief))
    assert bench.build(by="leaf").exit_code == 0  # who does not say whom devices trust is not told
    bench.out.write_bytes(b"older")
    assert code(bench.build("--device-roots", short, by="leaf")) is CERTIFICATE_TIME
    gone = roots.make(1, 1, NOW, [root().certificate], [signer().certificate.fingerprint])
    gone = roots.with_signature(gone, root().certificate, root().sign(gone.text))
    (bench.folder / "gone.json").write_bytes(roots.emit(gone))
    assert code(bench.build("--device-roots", bench.folder / "gone.json")) is CERTIFICATE_REVOKED
    bench.check_nothing_made()


def test_lists_that_devices_would_not_follow_are_not_carried(bench: Bench) -> None:
    one = bench.listed(1, other_root(), other_root(), root())
    bench.keys("leaf", party("leaf", other_root()))
    done = bench.build("--roots", one, "--device-roots", bench.roots, by="leaf")
    assert done.exit_code == 0, done.output
    bench.out.write_bytes(b"older")
    assert code(bench.build("--roots", one, "--device-roots", bench.roots)) is CERTIFICATE_CHAIN
    three = bench.listed(3, other_root(), other_root())
    assert code(bench.build("--roots", one, "--roots", three, by="leaf")) is ROOTS
    assert code(bench.build("--roots", three, "--device-roots", bench.roots, by="leaf")) is ROOTS
    unsigned = bench.listed(1, other_root())
    assert code(bench.build("--roots", unsigned, by="leaf")) is ROOTS
    late = bench.listed(1, other_root(), other_root(), root(), issued=FUTURE)
    assert code(bench.build("--roots", late, by="leaf")) is ROOTS
    bench.check_nothing_made()


def test_what_is_odd_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ends at" in bench.build(clock=signer().certificate.not_after - device.ENDS_SOON_S + 1).output
    assert "dated back" in bench.build(clock=NOW + YEAR + 1).output
    assert "dated back" not in bench.build(clock=NOW + YEAR).output
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert "before the validity of the signer" in bench.build().output
    assert read_unverified(bench.out).signed_at == signer().certificate.not_before


@pytest.mark.parametrize("when", [FUTURE, signer().certificate.not_after + 1, signer().certificate.not_before - 1])
def test_a_package_is_not_signed_later_with_a_time_that_devices_refuse(bench: Bench, when: int) -> None:
    assert bench.build("--device-roots", bench.roots).exit_code == 0
    before = bench.out.read_bytes()
    here = ("--clock", NOW, "--signed-at", when)
    assert code(run("sign", bench.out, *bench.by("signer"), *here)) is CERTIFICATE_TIME
    to_sign = bench.folder / "to-sign"
    offline = ("--cert", bench.folder / "signer.crt", "--to-sign", to_sign)
    assert code(run("sign", bench.out, *offline, *here)) is CERTIFICATE_TIME
    assert not to_sign.exists()
    made = bench.folder / "cms"
    made.write_bytes(signer().cms(assemble.read_description(bench.out), signed_at=when))
    assert code(run("sign", bench.out, "--cms", made, "--clock", NOW)) is CERTIFICATE_TIME
    assert bench.out.read_bytes() == before


def test_a_package_that_is_signed_later_is_verified_as_devices_do(bench: Bench) -> None:
    assert bench.build("--device-roots", bench.roots).exit_code == 0
    before = bench.out.read_bytes()
    bench.keys("leaf", party("leaf", other_root()))
    here = ("--clock", NOW, "--device-roots", bench.roots)
    assert code(run("sign", bench.out, *bench.by("leaf"), *here)) is CERTIFICATE_CHAIN
    assert bench.out.read_bytes() == before
    done = run("sign", bench.out, *bench.by("signer"), *here)
    assert done.exit_code == 0, done.output
    assert read_unverified(bench.out).signed_at == NOW


def new_list(bench: Bench, *more: object, version: int = 1, of: str = "root", issued: int = NOW) -> Result:
    said = ("--version", version, "--threshold", 1, "--root", bench.folder / f"{of}.crt", "--issued", issued)
    return run("roots", "new", *said, "--clock", NOW, *more, "-o", bench.folder / "new.json")


def test_a_list_that_devices_would_not_follow_is_not_made(bench: Bench) -> None:
    assert code(new_list(bench, issued=FUTURE)) is ROOTS
    assert code(new_list(bench, "--from", bench.roots, version=2)) is ROOTS
    bench.keys("brief", party("brief", authority=True, days=100))
    assert code(new_list(bench, of="brief")) is ROOTS
    assert code(new_list(bench, "--revoke", bench.roots)) is ROOTS
    assert not (bench.folder / "new.json").exists()
    done = new_list(bench, "--from", bench.roots)
    assert done.exit_code == 0
    assert "warning" not in done.output


def test_a_list_that_forgets_a_revocation_is_not_made(bench: Bench) -> None:
    gone = "ab" * 32
    assert new_list(bench, "--from", bench.roots, "--revoke", gone).exit_code == 0
    first = bench.folder / "new.json"
    assert run("roots", "sign", first, *bench.by("root")).exit_code == 0
    first = first.rename(bench.folder / "first.json")
    assert code(new_list(bench, "--from", first, version=2)) is ROOTS
    assert new_list(bench, "--from", first, "--revoke", gone, version=2).exit_code == 0


def test_what_is_odd_of_a_list_is_said(bench: Bench) -> None:
    assert "--from" in new_list(bench).output
    assert "dated back" in new_list(bench, issued=NOW - device.OLD_S - 1).output
    soon = party("soon", authority=True, days=250)
    bench.keys("soon", soon)
    end = f"{datetime.fromtimestamp(soon.certificate.not_after, UTC):%Y-%m-%d}"
    assert f"ends at {end}" in new_list(bench, of="soon").output
