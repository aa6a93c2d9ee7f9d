"""The device's secret works inside its module and is in nothing that the module shows."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.clock_floor import CertificateTime
from agent.daemon.network import SystemNetwork
from agent.https import HttpsClient
from agent.mo.connectivity.trial import Values
from agent.settings.config import Config, ConnectivityConfig, load
from agent.settings.identity import SecretError
from agent.ssmp.security_module import open_module
from omadm.ssmp import certificates
from omadm.ssmp.errors import SsmpError
from omadm.ssmp.identity import CertificateModule, KeyModule
from tests.agent import certificates as made
from tests.agent.certificates import Key, Made
from tests.agent.settings.test_config import MINIMAL
from updateagent.disk import RealDisk

KEY = bytes(range(32))
DEVICE = "urn:dcu:KR-000042"
VALID = (1000.0, 2000.0)
NOW = CertificateTime(0.0, 1500.0)
AUTHORITY = made.authority(VALID)
OTHER = made.authority(VALID, name="Other")


def issued(
    name: str = DEVICE, by: Made = AUTHORITY, purpose: object = ExtendedKeyUsageOID.CLIENT_AUTH, key: Key | None = None
) -> Made:
    return by.issue(VALID, name=name, purpose=purpose, key=key)  # type: ignore[arg-type]


def pem(one: Made) -> tuple[bytes, bytes]:
    """Certificate and key."""
    both = one.pem()
    at = both.index(b"-----BEGIN PRIVATE")
    return both[:at], both[at:]


def configured(tmp_path: Path, one: Made | None = None, mode: int = 0o600) -> Config:
    """Settings of a device with a key, or with a certificate."""
    text = MINIMAL
    certificate, key = (b"", KEY.hex().encode()) if one is None else pem(one)
    (tmp_path / "device.key").write_bytes(key)
    (tmp_path / "device.key").chmod(mode)
    (tmp_path / "device.pem").write_bytes(certificate)
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.ca_pem())
    if one is not None:
        text += "security_module: {key_file: device.key, certificate_file: device.pem}\n"
    (tmp_path / "dcu.yaml").write_text(text)
    return load(tmp_path / "dcu.yaml")


def certified(tmp_path: Path, one: Made | None = None, time: CertificateTime = NOW) -> CertificateModule:
    module = open_module(configured(tmp_path, one or issued()), lambda: time)
    assert isinstance(module, CertificateModule)
    return module


def test_a_key_in_a_file_does_what_is_asked_of_it_and_is_not_shown(tmp_path: Path) -> None:
    module = open_module(configured(tmp_path), lambda: NOW)
    assert isinstance(module, KeyModule)
    assert module.mac(b"data") == hmac.new(KEY, b"data", hashlib.sha256).digest()
    assert module.extract(b"salt") == hmac.new(b"salt", KEY, hashlib.sha256).digest()
    assert KEY.hex() not in repr(module)


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o602])
@pytest.mark.parametrize("one", [None, issued()], ids=["key", "certificate"])
def test_a_key_file_that_others_may_use_opens_no_module(tmp_path: Path, one: Made | None, mode: int) -> None:
    with pytest.raises(SecretError, match="chmod it to 0600") as caught:
        open_module(configured(tmp_path, one, mode), lambda: NOW)
    assert KEY.hex() not in str(caught.value)


def test_the_section_stands_for_the_key_file_of_the_device(tmp_path: Path) -> None:
    text = MINIMAL.replace("  key_file: device.key\n", "") + "security_module: {key_file: other.key}\n"
    (tmp_path / "dcu.yaml").write_text(text)
    assert load(tmp_path / "dcu.yaml").security_module.secret == tmp_path / "other.key"
    assert configured(tmp_path).security_module.named_by == "device.key_file"


def test_the_key_of_a_certificate_signs_and_is_not_shown(tmp_path: Path) -> None:
    one = issued()
    module = certified(tmp_path, one)
    shown = certificates.read(module.certificate)
    assert shown.parsed == one.certificate
    certificates.check_signature(shown, module.sign(b"data"), b"data")
    with pytest.raises(SsmpError, match="not by the certificate's key"):
        certificates.check_signature(shown, module.sign(b"data"), b"other")
    assert repr(module) == "CertificateFile(...)"


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (issued("urn:dcu:other"), "is for urn:dcu:other, not for urn:dcu:KR-000042"),
        (issued(purpose=ExtendedKeyUsageOID.SERVER_AUTH), "another purpose"),
        (issued(key=ec.generate_private_key(ec.SECP384R1())), "no certificate of a P-256 key"),
    ],
)
def test_a_certificate_that_is_not_this_devices_opens_no_module(tmp_path: Path, one: Made, why: str) -> None:
    with pytest.raises(SecretError, match=why):
        certified(tmp_path, one)


def test_a_key_that_does_not_go_with_the_certificate_opens_no_module(tmp_path: Path) -> None:
    config = configured(tmp_path, issued())
    for key, why in (
        (pem(issued())[1], "is not the key of the certificate"),
        (pem(issued(key=ec.generate_private_key(ec.SECP384R1())))[1], "is not a key of P-256"),
        (b"nonsense", "holds no private key"),
    ):
        (tmp_path / "device.key").write_bytes(key)
        with pytest.raises(SecretError, match=why):
            open_module(config, lambda: NOW)
    (tmp_path / "device.pem").unlink()
    with pytest.raises(SecretError, match="cannot be read"):
        open_module(config, lambda: NOW)


SERVER = issued("127.0.0.1", purpose=ExtendedKeyUsageOID.SERVER_AUTH)


def signed(one: Made, data: bytes = b"data") -> tuple[bytes, bytes, bytes]:
    """What a server with that certificate shows: certificate, signature, and what it signed."""
    assert isinstance(one.key, ec.EllipticCurvePrivateKey)
    found, *_ = certificates.read_all(pem(one)[0])
    return found.der, certificates.sign(one.key, data), b"data"


def test_the_server_is_believed_by_its_certificate(tmp_path: Path) -> None:
    certified(tmp_path).check_server(*signed(SERVER))


@pytest.mark.parametrize(
    ("one", "data", "why"),
    [
        (SERVER, b"other", "not by the certificate's key"),
        (issued("192.0.2.1", purpose=ExtendedKeyUsageOID.SERVER_AUTH), b"data", "is not for 127.0.0.1"),
        (issued("127.0.0.1"), b"data", "another purpose"),
        (issued("127.0.0.1", OTHER, ExtendedKeyUsageOID.SERVER_AUTH), b"data", "no authority that is trusted"),
        (SERVER.issue(VALID, name="127.0.0.1"), b"data", "no authority that is trusted"),
    ],
)
def test_a_server_with_another_certificate_is_not_believed(tmp_path: Path, one: Made, data: bytes, why: str) -> None:
    """Not with one that a device has, not of another host, not signed by a certificate that is no authority's."""
    with pytest.raises(SsmpError, match=why):
        certified(tmp_path).check_server(*signed(one, data))


@pytest.mark.parametrize(
    ("time", "good"),
    [
        (CertificateTime(0.0, None), True),  # nothing is known
        (CertificateTime(1999.0, None), True),
        (CertificateTime(2001.0, None), False),
        (CertificateTime(0.0, 2001.0), False),
        (CertificateTime(0.0, 1000.0), True),
        (CertificateTime(0.0, 1.0), False),
    ],
)
def test_the_servers_certificate_is_judged_by_the_time_that_is_known(
    tmp_path: Path, time: CertificateTime, good: bool
) -> None:
    module = certified(tmp_path, time=time)
    if good:
        module.check_server(*signed(SERVER))
    else:
        with pytest.raises(SsmpError, match="not valid now"):
            module.check_server(*signed(SERVER))


def test_authorities_that_the_head_end_has_set_judge_the_security_server_too_until_they_are_taken_back(
    tmp_path: Path,
) -> None:
    """By the file that `SystemNetwork` says is trusted now; one that cannot be used changes nothing."""
    settings = configured(tmp_path, issued())
    ca = tmp_path / "ca.pem"
    network = SystemNetwork(ConnectivityConfig((), None, ()), HttpsClient(ca), RealDisk(), tmp_path / "state", ca)
    module = open_module(settings, lambda: NOW, anchors=network.anchors)
    assert isinstance(module, CertificateModule)
    other = issued("127.0.0.1", OTHER, ExtendedKeyUsageOID.SERVER_AUTH)

    def believed() -> list[bool]:
        found = []
        for one in (SERVER, other):
            try:
                module.check_server(*signed(one))
                found.append(True)
            except SsmpError:
                found.append(False)
        return found

    assert (network.anchors(), believed()) == (None, [True, False])
    assert network.apply(Values(anchors=OTHER.ca_pem().decode()), outdated=True) == ""
    assert (network.anchors(), believed()) == (tmp_path / "state" / "connectivity" / "anchors.pem", [False, True])
    both = AUTHORITY.ca_pem() + OTHER.ca_pem()  # a rotation with overlap
    assert network.apply(Values(anchors=both.decode()), outdated=True) == ""
    assert believed() == [True, True]
    assert network.apply(Values(anchors="nonsense"), outdated=True).startswith("the authorities cannot be used")
    assert believed() == [True, True]
    assert network.apply(Values(), outdated=True) == ""
    assert (network.anchors(), believed()) == (None, [True, False])


def test_the_host_that_is_looked_for_is_the_one_where_the_device_registers(tmp_path: Path) -> None:
    """The head-end may set another address: its certificate counts there, and that of the configured host no more."""
    settings = configured(tmp_path, issued())
    ca = tmp_path / "ca.pem"
    network = SystemNetwork(ConnectivityConfig((), None, ()), HttpsClient(ca), RealDisk(), tmp_path / "state", ca)
    module = open_module(settings, lambda: NOW, anchors=network.anchors, moved=lambda: network.registration)
    assert isinstance(module, CertificateModule)
    moved = issued("new.example", purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    module.check_server(*signed(SERVER))
    assert network.apply(Values(registration="https://new.example:8443/ssmp"), outdated=True) == ""
    module.check_server(*signed(moved))
    with pytest.raises(SsmpError, match=r"is not for new\.example"):
        module.check_server(*signed(SERVER))
    assert network.apply(Values(), outdated=True) == ""  # taken back
    with pytest.raises(SsmpError, match=r"is not for 127\.0\.0\.1"):
        module.check_server(*signed(moved))


def test_authorities_that_cannot_be_read_believe_nobody(tmp_path: Path) -> None:
    module = certified(tmp_path)
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(SsmpError, match="cannot be read"):
        module.check_server(*signed(SERVER))
