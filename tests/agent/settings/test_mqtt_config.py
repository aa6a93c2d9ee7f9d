"""The section `mqtt`: off by default, checked whole, secrets in files of their own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from agent.daemon.check import problems as found_by_check
from agent.settings.identity import SecretError, read_password
from headend import pki
from tests.agent.settings.test_config import MINIMAL, problems, read


def test_without_the_section_there_is_no_broker(tmp_path: Path) -> None:
    assert read(tmp_path, MINIMAL).mqtt is None


def test_a_short_section_gets_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, MINIMAL + "mqtt: {host: 'fd00::1', ca_file: /ca.pem}\n").mqtt is not None
    config = read(tmp_path, MINIMAL + "mqtt: {host: broker.local, ca_file: /ca.pem}\n").mqtt
    assert config is not None
    assert (config.host, config.port, config.ca_file) == ("broker.local", 8883, Path("/ca.pem"))
    assert (config.user, config.password_file, config.certificate_file) == ("", None, None)
    assert (config.topic, config.keepalive_s) == ("dcu", 60)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("{ca_file: /c}", "host"),
        ("{host: b}", "ca_file"),
        ("{host: 'b c', ca_file: /c}", "host"),
        ("{host: 'b:8883', ca_file: /c}", "host"),
        ("{host: b, ca_file: /c, topic: 'a/#'}", "topic"),
        ("{host: b, ca_file: /c, topic: '$SYS'}", "topic"),
        ("{host: b, ca_file: /c, keepalive_s: 600}", "keepalive_s"),
        ("{host: b, ca_file: /c, certificate_file: /x}", "certificate_file"),
        ("{host: b, ca_file: /c, password_file: /x}", "password_file"),
        ("{host: b, ca_file: /c, tls: false}", "tls"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, section: str, key: str) -> None:
    (problem,) = problems(tmp_path, MINIMAL + f"mqtt: {section}\n")
    assert f"mqtt.{key}" in problem


def test_the_check_looks_into_the_files(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o644)
    text = MINIMAL + f"mqtt: {{host: b, ca_file: {tmp_path}/ca.pem, user: u, password_file: {password}}}\n"
    found = [problem for problem in found_by_check(read(tmp_path, text)) if problem.startswith("mqtt")]
    assert [problem.partition(":")[0] for problem in found] == [
        "mqtt.ca_file or mqtt.certificate_file",
        "mqtt.password_file",
    ]
    made = pki.make(tmp_path, ["b"])
    password.chmod(0o600)
    text = text.replace("ca.pem", made["ca"])
    assert not [problem for problem in found_by_check(read(tmp_path, text)) if problem.startswith("mqtt")]
    config = read(tmp_path, text).mqtt
    assert config is not None
    assert config.context().verify_mode == ssl.CERT_REQUIRED
    assert config.context().check_hostname


def test_a_password_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim é\nmore\n", encoding="utf-8")
    file.chmod(0o600)
    assert read_password(file) == "geheim é"
    file.write_bytes(b"\n")
    with pytest.raises(SecretError, match="no password"):
        read_password(file)
    file.write_bytes(b"\xff")
    with pytest.raises(SecretError, match="no text"):
        read_password(file)
