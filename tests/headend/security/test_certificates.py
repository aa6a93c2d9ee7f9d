"""Devices that prove themselves with a certificate at the security server."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import Engine

from headend.operator import lifecycle
from headend.operator.lifecycle import Actor
from headend.security import app, certificates, devices
from headend.security.certificates import CertificateFilesError, Identity
from headend.security.service import SecurityService
from omadm.ssmp import certificates as x509
from omadm.ssmp import wire
from omadm.ssmp.client_core import Registered, SsmpClient
from omadm.ssmp.identity import SecurityModule, SharedKey
from tests.omadm.ssmp.certified import DeviceModule, Pair, authority, issue

DEVICE = "urn:dcu:T-1"
INFO = wire.RegistrationInfo("", "", "", "", "", "")
AUTHORITY = authority()
HOST = issue(AUTHORITY, "headend.example", x509.SERVER)
OWN = issue(AUTHORITY, DEVICE)
ACTOR = Actor("test", 1500.0)


class Bench:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = 1500.0
        self.rng = random.Random(3)
        self.service = SecurityService(
            engine,
            app.dm_accounts("headend", "https://dm.example/dm"),
            monotonic=lambda: self.now,
            wall=lambda: self.now,
            random_bytes=self.rng.randbytes,
            identity=Identity(HOST.certificate, HOST.key, (AUTHORITY.certificate,)),
        )

    def enrol(self, pinned: Pair | None = None, *, replace: bool = False) -> None:
        with self.engine.begin() as connection:
            der = None if pinned is None else pinned.certificate.der
            lifecycle.enrol_certificate(connection, ACTOR, DEVICE, der, replace=replace)

    def client(self, module: SecurityModule) -> SsmpClient:
        self.now += 7.0  # so that no limit of the device is reached
        client = SsmpClient(DEVICE, module, INFO, self.rng.randbytes)
        client.start(0.0)
        return client

    def register(self, module: Pair | SecurityModule) -> bool:
        client = self.client(DeviceModule(module, AUTHORITY) if isinstance(module, Pair) else module)
        while message := client.take_output():
            client.receive(self.service.handle(message, "192.0.2.1")[1], 0.0)
        return isinstance(client.next_event(), Registered)


@pytest.fixture
def bench(database: Engine) -> Bench:
    return Bench(database)


def test_a_device_is_let_in_by_any_certificate_of_an_authority_for_its_name(bench: Bench) -> None:
    bench.enrol()
    assert bench.register(OWN)
    assert bench.register(issue(AUTHORITY, DEVICE))
    assert not bench.register(issue(AUTHORITY, "urn:dcu:T-2"))
    assert not bench.register(issue(authority(), DEVICE))
    assert not bench.register(issue(AUTHORITY, DEVICE, x509.SERVER))
    assert not bench.register(Pair(OWN.certificate, HOST.key))


def test_a_device_is_let_in_by_the_certificate_that_was_pinned(bench: Bench) -> None:
    """Whoever signed it, and whatever name is in it."""
    own = issue(authority("A maker"), "box-17")
    bench.enrol(own)
    assert bench.register(own)
    assert not bench.register(issue(authority("A maker"), "box-17"))
    bench.now = 2001.0
    assert not bench.register(own)


def test_a_device_that_nobody_enrolled_so_is_not_let_in_by_a_certificate(bench: Bench) -> None:
    assert not bench.register(OWN)
    with bench.engine.begin() as connection:
        devices.enrol(connection, DEVICE, bytes(32), 1.0)
    assert not bench.register(OWN)
    assert bench.register(SharedKey(bytes(32)))


def test_whoever_has_shown_a_newer_certificate_is_not_let_in_by_an_older_one(bench: Bench) -> None:
    bench.enrol()
    newer = issue(AUTHORITY, DEVICE, period=(1100.0, 2000.0))
    assert bench.register(OWN)
    assert bench.register(newer)
    assert not bench.register(OWN)
    assert bench.register(newer)


def test_a_device_that_is_switched_off_is_refused_with_its_certificate(bench: Bench) -> None:
    bench.enrol()
    with bench.engine.begin() as connection:
        lifecycle.switch(connection, ACTOR, DEVICE, on=False)
    assert not bench.register(OWN)
    with bench.engine.begin() as connection:
        lifecycle.switch(connection, ACTOR, DEVICE, on=True)
    assert bench.register(OWN)


def test_another_way_of_proof_ends_the_one_before(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        lifecycle.enrol(connection, ACTOR, DEVICE, bytes(32))
    bench.enrol(replace=True)
    assert bench.register(OWN)
    assert not bench.register(SharedKey(bytes(32)))
    with bench.engine.begin() as connection:
        lifecycle.replace_key(connection, ACTOR, DEVICE, bytes(32), end_account=False)
    assert not bench.register(OWN)
    assert bench.register(SharedKey(bytes(32)))


def test_an_identity_that_is_replaced_between_auth_and_confirm_gets_no_account(bench: Bench) -> None:
    bench.enrol(OWN)
    client = bench.client(DeviceModule(OWN, AUTHORITY))
    for _ in range(2):
        client.receive(bench.service.handle(client.take_output(), "192.0.2.1")[1], 0.0)
    bench.enrol(issue(AUTHORITY, DEVICE), replace=True)
    client.receive(bench.service.handle(client.take_output(), "192.0.2.1")[1], 0.0)
    assert not isinstance(client.next_event(), Registered)


def test_a_device_that_is_deleted_has_no_certificate_left(bench: Bench) -> None:
    bench.enrol()
    with bench.engine.begin() as connection:
        lifecycle.switch(connection, ACTOR, DEVICE, on=False)
        lifecycle.remove(connection, ACTOR, DEVICE)
        lifecycle.enrol(connection, ACTOR, DEVICE, bytes(32))
    assert not bench.register(OWN)


def test_a_stolen_database_lets_nobody_register_for_a_device_with_a_certificate(bench: Bench, tmp_path: Path) -> None:
    """Not even by the key in its row, which nothing is proven with."""
    bench.enrol(OWN)
    with bench.engine.begin() as connection:
        found = devices.find(connection, DEVICE)
    assert found is not None
    private = OWN.key.private_numbers().private_value.to_bytes(32, "big")
    assert private not in b"".join(file.read_bytes() for file in tmp_path.glob("headend.db*"))
    assert not bench.register(SharedKey(found.key))


def test_what_is_no_certificate_is_not_enrolled(bench: Bench) -> None:
    for text in ("", "x", OWN.pem().decode() * 2):
        with pytest.raises(devices.DeviceError):
            certificates.pinned_from(text)
    assert certificates.pinned_from(OWN.pem().decode()) == OWN.certificate.der
    with bench.engine.begin() as connection, pytest.raises(devices.DeviceError):
        certificates.enrol(connection, DEVICE, b"x", 1.0)


# ---- files


def files(folder: Path, pair: Pair, ca: bytes) -> tuple[Path, Path, Path]:
    (folder / "own.pem").write_bytes(pair.pem())
    key = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "own.key").write_bytes(key)
    (folder / "devices.pem").write_bytes(ca)
    return folder / "own.pem", folder / "own.key", folder / "devices.pem"


def test_the_servers_identity_comes_from_files(tmp_path: Path) -> None:
    own, key, ca = files(tmp_path, HOST, AUTHORITY.pem())
    found = certificates.load(own, key, ca)
    assert (found.own.der, [each.der for each in found.authorities]) == (
        HOST.certificate.der,
        [AUTHORITY.certificate.der],
    )
    assert certificates.load(own, key, None).authorities == ()


@pytest.mark.parametrize(
    ("pair", "ca", "why"),
    [
        (Pair(HOST.certificate, OWN.key), AUTHORITY.pem(), "is not the key of"),
        (HOST, OWN.pem(), "holds no authority"),
        (HOST, b"", "holds no authority"),
    ],
    ids=["another key", "no authority", "nothing"],
)
def test_files_that_do_not_go_together_are_named(tmp_path: Path, pair: Pair, ca: bytes, why: str) -> None:
    with pytest.raises(CertificateFilesError, match=why):
        certificates.load(*files(tmp_path, pair, ca))
    (tmp_path / "own.key").unlink()
    with pytest.raises(CertificateFilesError, match=r"own\.key"):
        certificates.load(tmp_path / "own.pem", tmp_path / "own.key", None)


def test_the_authority_that_issues_comes_from_files_and_is_one_that_is_believed(tmp_path: Path) -> None:
    other = authority()
    certificate, key, _ = files(tmp_path, AUTHORITY, b"")
    issuer, private = certificates.load_issuer(certificate, key, [other.certificate, AUTHORITY.certificate])
    assert (issuer.der, private.private_numbers()) == (AUTHORITY.certificate.der, AUTHORITY.key.private_numbers())
    for believed in ([], [other.certificate]):
        with pytest.raises(CertificateFilesError, match="is not in device_ca"):
            certificates.load_issuer(certificate, key, believed)
    certificate, key, _ = files(tmp_path, HOST, b"")
    with pytest.raises(CertificateFilesError, match="is no authority's"):
        certificates.load_issuer(certificate, key, [HOST.certificate])
    certificate, key, _ = files(tmp_path, Pair(AUTHORITY.certificate, HOST.key), b"")
    with pytest.raises(CertificateFilesError, match="is not the key of"):
        certificates.load_issuer(certificate, key, [AUTHORITY.certificate])
