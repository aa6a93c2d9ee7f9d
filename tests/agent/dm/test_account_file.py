"""An account in a file, in the place of a registration: its mode, its MAC, and what `dcu-agent --check` says of it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import pytest

from agent.daemon.check import problems as found_by_check
from agent.dm.account_file import account_document
from agent.settings.config import AccountConfig
from omadm.bootstrap import BootstrapError, emit_profile
from tests.agent.dm.other_server import XML, OtherServer
from tests.agent.dm.server import ACCOUNT, FakeDmServer
from tests.agent.dm_device import Device
from tests.agent.settings.test_config import MINIMAL, read
from tests.omadm.test_client_provisioning import ADDRESS, CLIENT, SERVER, WANTED, WBXML, document

PIN = "1234"


def written(folder: Path, content: bytes, *, mac: str = "", secret: str = PIN, mode: int = 0o600) -> AccountConfig:
    file, secret_file = folder / "account", folder / "secret"
    for path, data in ((file, content), (secret_file, secret.encode() + b"\n")):
        path.write_bytes(data)
        path.chmod(mode)
    return AccountConfig(file, "USERPIN", mac, secret_file) if mac else AccountConfig(file)


def mac_of(content: bytes) -> str:
    return hmac.new(PIN.encode(), content, hashlib.sha1).hexdigest()


@pytest.mark.parametrize("content", [WBXML, document(), emit_profile(ACCOUNT)], ids=["WBXML", "XML", "DM profile"])
def test_a_file_is_read_with_or_without_a_mac(tmp_path: Path, content: bytes) -> None:
    assert account_document(written(tmp_path, content)) == content
    assert account_document(written(tmp_path, content, mac=mac_of(content))) == content


@pytest.mark.parametrize(
    ("content", "more", "why"),
    [
        (WBXML, {"mac": mac_of(WBXML + b" ")}, "does not match"),
        (WBXML, {"mac": mac_of(WBXML), "secret": "4321"}, "does not match"),
        (WBXML, {"mac": mac_of(WBXML), "secret": ""}, "holds no password"),
        (WBXML, {"mode": 0o640}, "others may use it"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_not_read(
    tmp_path: Path, content: bytes, more: dict[str, object], why: str
) -> None:
    with pytest.raises(BootstrapError, match=why):
        account_document(written(tmp_path, content, **more))  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BootstrapError, match="cannot be read"):
        account_document(AccountConfig(tmp_path / "absent"))


def test_a_device_lives_by_an_account_from_a_file(tmp_path: Path) -> None:
    content = document(ADDRESS, CLIENT.replace("urn:dcu:1", "me"), SERVER.replace("BASIC", "DIGEST"))
    config = written(tmp_path, content, mac=mac_of(content))
    account = replace(WANTED, client_name="me", server_auth_type="")
    made = OtherServer(account, [("Get", "./DevInfo/Man", None)], once=True)
    device = Device(
        FakeDmServer(), profile=account_document(config), content_type=XML, auth_types=("DIGEST",), other=made
    )
    device.turn()
    device.turn()
    assert device.last_result == "ok"
    assert made.values() == {"./DevInfo/Man": "Maker"}
    assert device.tree.view().text(("DMAcc", "main", "ServerID")) == "dm.other"


@pytest.mark.parametrize(
    ("allowed", "content", "said"),
    [
        ("[DIGEST, BASIC]", WBXML, []),
        ("[HMAC]", WBXML, ["dm.account: the account wants DIGEST, which dm.auth_types does not allow"]),
        ("[HMAC]", b"nothing", ["dm.account: the profile cannot be read"]),
    ],
)
def test_the_check_looks_into_the_file(tmp_path: Path, allowed: str, content: bytes, said: list[str]) -> None:
    config = written(tmp_path, content)
    text = MINIMAL + f"dm: {{auth_types: {allowed}, account: {{file: {config.file}}}}}\n"
    found = [problem for problem in found_by_check(read(tmp_path, text)) if problem.startswith("dm.")]
    assert [problem[: len(wanted)] for problem, wanted in zip(found, said, strict=True)] == said
