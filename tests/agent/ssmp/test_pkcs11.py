"""The device's secret in a token of SoftHSM, by the C interface."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Engine

from agent.clock_floor import CertificateTime
from agent.settings.config import ConfigError, TokenConfig, load
from agent.ssmp.key_store import DeviceKeys
from agent.ssmp.pkcs11 import ECDSA, PRIVATE_KEY, SECRET_KEY, SHA256_HMAC, Library, Token, TokenCallError, TokenError
from agent.ssmp.security_module import open_module
from agent.ssmp.token_modules import TokenKey, TokenKeys
from headend.security import app, devices
from headend.security.certificates import Identity
from headend.security.certificates import enrol as enrol_certificate
from headend.security.service import SecurityService
from omadm.ssmp import certificates, wire
from omadm.ssmp.client_core import Registered, RegistrationFailed, SsmpClient
from omadm.ssmp.errors import SsmpError, SsmpRefused
from omadm.ssmp.identity import CertificateModule, KeyModule, SecurityModule
from tests.agent.settings.test_config import MINIMAL
from tests.agent.ssmp import softhsm
from tests.agent.ssmp.softhsm import PIN, SoftHsm
from tests.headend.database import empty_database
from tests.omadm.ssmp.certified import NOW, authority, issue

pytestmark = pytest.mark.process

DEVICE = "urn:dcu:KR-000042"
KEY = bytes(range(32))
INFO = wire.RegistrationInfo("", "", "", "", "", "")
AUTHORITY = authority()
HOST = issue(AUTHORITY, "127.0.0.1.example", certificates.SERVER)
OWN = issue(AUTHORITY, DEVICE)


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """The library is initialised once in a process, so all tests share its tokens."""
    before = os.environ.get("SOFTHSM2_CONF")
    made = softhsm.make(tmp_path_factory.mktemp("hsm"))
    made.import_key("device", KEY)
    made.import_private("box", OWN.key)
    made.import_private("other", HOST.key)
    yield made
    softhsm.finalize(made.library)
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


def settings(folder: Path, hsm: SoftHsm, label: str, extra: str = "") -> Path:
    (folder / "device.pem").write_bytes(OWN.pem())
    (folder / "ca.pem").write_bytes(AUTHORITY.pem())
    place = f"library: {hsm.library}, token: dcu, object: {label}, pin_file: {hsm.folder}/pin{extra}"
    text = MINIMAL.replace("127.0.0.1", "127.0.0.1.example").replace("  key_file: device.key\n", "")
    (folder / "dcu.yaml").write_text(f"{text}security_module: {{type: pkcs11, {place}}}\n")
    return folder / "dcu.yaml"


def module_of(folder: Path, hsm: SoftHsm, label: str, extra: str = "") -> SecurityModule:
    time = CertificateTime(0.0, NOW.earliest)
    module = open_module(load(settings(folder, hsm, label, extra)), lambda: time, trial=True)
    if isinstance(module, DeviceKeys):
        return cast("KeyModule", module.candidates()[0])
    assert isinstance(module, CertificateModule)
    return module


def service(engine: Engine) -> SecurityService:
    return SecurityService(
        engine,
        app.dm_accounts("headend", "https://dm.example/dm"),
        monotonic=lambda: 1.0,
        wall=lambda: NOW.earliest,
        random_bytes=random.Random(1).randbytes,
        identity=Identity(HOST.certificate, HOST.key, (AUTHORITY.certificate,)),
    )


def registered(engine: Engine, module: SecurityModule) -> object:
    server = service(engine)
    client = SsmpClient(DEVICE, module, INFO, random.Random(2).randbytes)
    client.start(0.0)
    while message := client.take_output():
        client.receive(server.handle(message, "192.0.2.1")[1], 0.0)
    return client.next_event()


def test_a_device_registers_with_a_key_that_is_in_a_token(tmp_path: Path, hsm: SoftHsm) -> None:
    engine = empty_database(tmp_path / "headend.db")
    with engine.begin() as connection:
        devices.enrol(connection, DEVICE, KEY, 1.0)
    module = module_of(tmp_path, hsm, "device")
    assert isinstance(module, TokenKey)
    assert module.mac(b"data") == hmac.new(KEY, b"data", hashlib.sha256).digest()
    assert isinstance(registered(engine, module), Registered)
    engine.dispose()


def test_a_device_registers_with_a_certificate_whose_key_is_in_a_token(tmp_path: Path, hsm: SoftHsm) -> None:
    engine = empty_database(tmp_path / "headend.db")
    with engine.begin() as connection:
        enrol_certificate(connection, DEVICE, None, 1.0)
    module = module_of(tmp_path, hsm, "box", ", certificate_file: device.pem")
    assert isinstance(registered(engine, module), Registered)
    engine.dispose()


def test_a_token_proves_itself_in_version_3_only(tmp_path: Path, hsm: SoftHsm) -> None:
    client = SsmpClient(DEVICE, module_of(tmp_path, hsm, "device"), INFO, random.Random(2).randbytes)
    client.start(0.0)
    client.take_output()
    client.receive(wire.Error(505, "", 1).emit(), 0.0)
    event = client.next_event()
    assert isinstance(event, RegistrationFailed)
    assert isinstance(event.error, SsmpRefused)


def test_the_key_of_another_certificate_is_named(tmp_path: Path, hsm: SoftHsm) -> None:
    with pytest.raises(TokenError, match="is not the key of the certificate"):
        module_of(tmp_path, hsm, "other", ", certificate_file: device.pem")


def test_a_key_that_the_token_gives_away_is_refused(hsm: SoftHsm) -> None:
    hsm.import_key("loose", KEY, given_away=True)
    with pytest.raises(TokenError, match="gives this key away"):
        Token(hsm.place("loose"), SECRET_KEY).check()


def test_what_is_not_there_is_named(hsm: SoftHsm, tmp_path: Path) -> None:
    hsm.import_key("twice", KEY)
    hsm.import_key("twice", KEY)
    for place, kind, why in (
        (hsm.place("none"), SECRET_KEY, "no such key is in the token"),
        (hsm.place("device"), PRIVATE_KEY, "no such key is in the token"),
        (hsm.place("twice"), SECRET_KEY, "more than one such key"),
        (hsm.place("device", "elsewhere"), SECRET_KEY, "0 tokens have the label 'elsewhere'"),
        (
            TokenConfig(tmp_path / "none.so", "dcu", "device", hsm.folder / "pin"),
            SECRET_KEY,
            r"none\.so: is no PKCS#11",
        ),
        (TokenConfig(hsm.library, "dcu", "device", tmp_path / "none"), SECRET_KEY, "cannot be read"),
    ):
        with pytest.raises(TokenError, match=why):
            Token(place, kind).sign(b"data", SHA256_HMAC)


def test_a_library_that_is_no_pkcs11_library_is_named() -> None:
    with pytest.raises(TokenError, match="is no PKCS#11 library"):
        Library(Path("libc.so.6"))


def test_a_call_that_fails_is_named_with_its_code(hsm: SoftHsm) -> None:
    """It is an error of SSMP too: a registration fails by it, and is tried again later."""
    for mechanism, why in ((0x7FFF0000, "C_SignInit: CKR_MECHANISM_INVALID"), (ECDSA, "C_Sign: CKR_GENERAL_ERROR")):
        with pytest.raises(TokenCallError, match=why) as caught:
            Token(hsm.place("device"), SECRET_KEY).sign(bytes(32), mechanism)
        assert isinstance(caught.value, SsmpError)


def test_a_wrong_pin_is_tried_once_and_not_shown(
    hsm: SoftHsm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A token counts wrong tries and locks itself; a device tries for months."""
    file = tmp_path / "pin"
    file.touch(0o600)
    file.write_text("00000000\n")
    token = Token(TokenConfig(hsm.library, "dcu", "device", file), SECRET_KEY)
    texts = []
    with caplog.at_level(logging.DEBUG):
        for why in ("CKR_PIN_INCORRECT", "not tried again", "not tried again"):
            with pytest.raises(TokenError, match=why) as caught:
                token.sign(b"data", SHA256_HMAC)
            texts.append(str(caught.value) + repr(token))
    assert "00000000" not in "".join(texts) + caplog.text
    file.write_text(f"{PIN}\n")
    assert len(token.sign(b"data", SHA256_HMAC)) == 32


def test_a_pin_file_that_others_may_read_is_refused(hsm: SoftHsm, tmp_path: Path) -> None:
    file = tmp_path / "pin"
    file.write_text(PIN)
    file.chmod(0o644)
    with pytest.raises(SsmpError, match="chmod it to 0600"):
        Token(TokenConfig(hsm.library, "dcu", "device", file), SECRET_KEY).sign(b"", SHA256_HMAC)


def test_a_start_does_not_wait_for_the_token(tmp_path: Path, hsm: SoftHsm) -> None:
    """Meters are read also while it is not there; the check names it."""
    config = load(settings(tmp_path, hsm, "none"))
    module = open_module(config, lambda: CertificateTime(0.0, None))
    assert isinstance(module, TokenKeys)
    with pytest.raises(TokenError, match="no such key"):
        module.candidates()[0].mac(b"")
    with pytest.raises(TokenError, match="no such key"):
        open_module(config, lambda: CertificateTime(0.0, None), trial=True)


def test_settings_of_a_token_are_complete(tmp_path: Path) -> None:
    (tmp_path / "dcu.yaml").write_text(MINIMAL + "security_module: {type: pkcs11, token: t, key_file: device.key}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "dcu.yaml")
    text = str(caught.value)
    for key in ("library: is missing", "object: is missing", "pin_file: is missing", "key_file: unknown key"):
        assert f"security_module.{key}" in text
