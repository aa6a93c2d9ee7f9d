"""Key-encryption keys in a PKCS#11 token, with SoftHSM as the token."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from headend import db
from headend.dm import accounts
from headend.sealing import rotation
from headend.sealing.errors import KeyFileModeError, KeyMissingError, KeySourceError, WrongKeyError
from headend.sealing.keyring import KeyRing
from headend.sealing.sources import KeyFile, Sources
from headend.sealing.token import TokenKeys, TokenSettings

DATA_KEY = bytes(range(32))
LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
             "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so")  # fmt: skip
PIN = "246810"

pytestmark = pytest.mark.slow  # a token's key generation is not quick


@pytest.fixture(scope="module")
def library() -> Path:
    found = next((Path(each) for each in LIBRARIES if Path(each).exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed (apt-packages-test.txt)")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (setup.py, dev)")
    return found


@pytest.fixture(scope="module")
def token(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenSettings]:
    """A token of its own; SoftHSM reads its environment once per process."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        command = ("softhsm2-util", "--init-token", "--free", "--label", "headend", "--pin", PIN, "--so-pin", "1357911")
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        pin = folder / "pin"
        pin.touch(mode=0o600)
        pin.write_text(f"{PIN}\n")
        yield TokenSettings(library, "headend", "dcu", pin)
        importlib.import_module("pkcs11").lib(str(library)).finalize()


def other(settings: TokenSettings, **changes: Any) -> TokenSettings:
    values = {name: getattr(settings, name) for name in ("module", "token", "key", "pin_file")}
    return TokenSettings(**(values | changes))


def test_a_key_of_the_token_wraps_and_cannot_be_read(token: TokenSettings) -> None:
    source = TokenKeys(other(token, key="wraps"))
    with pytest.raises(KeyMissingError):
        source.unwrap("00" * 16, bytes(60), "one")
    made = source.make()
    assert source.ids() == [made]
    wrapped = source.wrap(made, DATA_KEY, "one")
    assert DATA_KEY not in wrapped
    assert source.unwrap(made, wrapped, "one") == DATA_KEY
    import pkcs11

    with pkcs11.lib(str(token.module)).get_token(token_label="headend").open(user_pin=PIN) as session:
        key = session.get_key(label="wraps")
        assert not key[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.exceptions.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_what_was_changed_or_is_of_another_key_does_not_open(token: TokenSettings) -> None:
    source = TokenKeys(other(token, key="changed"))
    made = source.make()
    wrapped = source.wrap(made, DATA_KEY, "one")
    for wrong, associated in ((wrapped[:-1] + bytes([wrapped[-1] ^ 1]), "one"), (wrapped, "two"), (b"", "one")):
        with pytest.raises(WrongKeyError):
            source.unwrap(made, wrong, associated)


def test_keys_are_told_apart_and_old_ones_destroyed_when_they_are_retired(token: TokenSettings) -> None:
    now = [1000.0]
    source = TokenKeys(other(token, key="retired"), wall=lambda: now[0])
    made = []
    for _ in range(3):
        made.append(source.make())
        now[0] += 1
    assert source.ids() == made
    assert source.retire(made[:1]) == [made[1]]
    assert source.ids() == [made[0], made[2]]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"token": "nobody"}, KeySourceError, "NoSuchToken"),
        ({"module": Path("/nowhere/lib.so")}, KeySourceError, "/nowhere/lib.so"),
        ({"pin_file": Path("/nowhere/pin")}, KeyMissingError, "/nowhere/pin"),
    ],
)
def test_a_token_that_cannot_be_used_is_named(
    token: TokenSettings, changes: dict[str, Any], error: type[KeySourceError], said: str
) -> None:
    with pytest.raises(error, match=said):
        TokenKeys(other(token, **changes)).ids()


def test_a_wrong_pin_and_one_that_others_may_read_are_refused(token: TokenSettings, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("999999")
    with pytest.raises(KeySourceError, match="PinIncorrect"):
        TokenKeys(other(token, pin_file=pin)).ids()
    pin.chmod(0o640)
    with pytest.raises(KeyFileModeError):
        TokenKeys(other(token, pin_file=pin)).ids()


def test_a_database_moves_from_a_file_to_the_token(token: TokenSettings, tmp_path: Path) -> None:
    """Both are configured, then the keys are rotated; afterwards the file is not needed."""
    file, source = KeyFile(tmp_path / "sealing.key"), TokenKeys(other(token, key="moved"))
    file.make()
    url = f"sqlite:///{tmp_path / 'headend.db'}"

    def opened(ring: KeyRing) -> Engine:
        engine = db.open_engine(url, ring)
        db.create_tables(engine)
        return engine

    engine = opened(KeyRing(file))
    with engine.begin() as connection:
        account = accounts.create(connection, "urn:dcu:1", server_id="s", url="https://s/dm")
    engine.dispose()
    engine = opened(KeyRing(Sources(source, file)))
    list(rotation.rotate(engine, db.metadata))
    engine.dispose()
    (tmp_path / "sealing.key").unlink()
    engine = opened(KeyRing(source))
    with db.reader(engine).begin() as connection:
        row = accounts.load(connection, "urn:dcu:1")
    engine.dispose()
    assert row is not None
    assert accounts.from_row(row) == account
