"""`dcu-headend keys`, and a head-end that starts without its key, with another one, or with a database of before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from headend import config, serve
from headend.cli import main
from headend.dm import accounts
from headend.sealing.errors import KeyMissingError
from headend.sealing.sources import KeyFile
from headend.security import devices
from tests.headend.database import back_to_schema_3

DEVICE = "urn:dcu:KR-000001"
KEY = bytes(range(100, 132))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The configuration of a head-end with a device."""
    assert run("init", "--dir", str(tmp_path / "headend")).exit_code == 0
    path = tmp_path / "headend" / config.CONFIG_NAME
    engine = serve.open_database(config.load(path))
    with engine.begin() as connection:
        devices.enrol(connection, DEVICE, KEY, 1.0)
        accounts.create(connection, DEVICE, server_id="s", url="https://s/dm", now=1.0)
    engine.dispose()
    return path


def key_of_the_device(path: Path) -> bytes:
    engine = serve.open_database(config.load(path))
    with engine.begin() as connection:
        found = devices.find(connection, DEVICE)
    engine.dispose()
    assert found is not None
    return found.key


def test_init_makes_the_key_and_says_where(tmp_path: Path) -> None:
    said = run("init", "--dir", str(tmp_path / "headend"))
    assert str(tmp_path / "headend" / "sealing.key") in said.stdout
    assert len(KeyFile(tmp_path / "headend" / "sealing.key").ids()) == 1


def test_a_second_first_key_is_refused(path: Path) -> None:
    before = path.with_name("sealing.key").read_bytes()
    said = run("keys", "new", "--config", str(path))
    assert said.exit_code == 1
    assert "there is a key already" in said.stderr
    assert path.with_name("sealing.key").read_bytes() == before


def test_keys_are_rotated_and_listed(path: Path) -> None:
    source = KeyFile(path.with_name("sealing.key"))
    (old,) = source.ids()
    said = run("keys", "rotate", "--config", str(path))
    assert said.exit_code == 0, said.output
    assert "devices.key: 1 sealed anew" in said.stdout
    assert f"key-encryption key {old} destroyed" in said.stdout
    (new,) = source.ids()
    assert new != old
    listed = run("keys", "list", "--config", str(path)).stdout
    assert new in listed
    assert "active" in listed
    assert key_of_the_device(path) == KEY


@pytest.mark.parametrize("command", [("serve",), ("keys", "rotate"), ("keys", "list")])
def test_a_head_end_without_its_key_does_not_start_and_says_which(path: Path, command: tuple[str, ...]) -> None:
    key_file = path.with_name("sealing.key")
    (needed,) = KeyFile(key_file).ids()
    kept = key_file.read_bytes()
    key_file.unlink()
    said = run(*command, "--config", str(path))
    assert said.exit_code == 2
    assert str(key_file) in said.stderr
    assert not key_file.exists()
    KeyFile(key_file).make()
    said = run(*command, "--config", str(path))
    assert said.exit_code == 2
    assert needed in said.stderr
    key_file.write_bytes(kept)
    key_file.chmod(0o640)
    said = run(*command, "--config", str(path))
    assert said.exit_code == 2
    assert "0640" in said.stderr
    key_file.chmod(0o600)
    assert key_of_the_device(path) == KEY


def test_a_database_of_before_waits_for_its_first_key(path: Path) -> None:
    """The person who runs it has to know of the key, and to keep a copy: it is not made behind his back."""
    key_file = path.with_name("sealing.key")
    engine = serve.open_database(config.load(path))
    back_to_schema_3(engine)
    engine.dispose()
    key_file.unlink()
    document = yaml.safe_load(path.read_text())
    del document["sealing"]
    path.write_text(yaml.safe_dump(document))
    said = run("serve", "--config", str(path))
    assert said.exit_code == 2
    assert "dcu-headend keys new" in said.stderr
    with pytest.raises(KeyMissingError):
        KeyFile(key_file).ids()
    assert run("keys", "new", "--config", str(path)).exit_code == 0
    assert key_of_the_device(path) == KEY
    assert KEY not in b"".join(file.read_bytes() for file in path.parent.glob("headend.db*"))
