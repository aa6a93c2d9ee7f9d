"""The file with key-encryption keys, and several sources as one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from headend.sealing.errors import KeyFileModeError, KeyMissingError, KeySourceError, WrongKeyError
from headend.sealing.sources import KEYS_MAX, KeyFile, Sources
from tests.headend.database import KeyInMemory

DATA_KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sealing.key"


def test_a_key_is_made_for_its_owner_alone_and_unwraps_what_it_wrapped(path: Path) -> None:
    source = KeyFile(path)
    made = source.make()
    assert source.ids() == [made]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    wrapped = source.wrap(made, DATA_KEY, "one")
    assert KeyFile(path).unwrap(made, wrapped, "one") == DATA_KEY
    assert DATA_KEY not in wrapped


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700, 0o644])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    KeyFile(path).make()
    path.chmod(mode)
    with pytest.raises(KeyFileModeError, match=f"{mode:04o}"):
        KeyFile(path).ids()


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(KeyMissingError, match=str(path)):
        KeyFile(path).ids()


@pytest.mark.parametrize(
    "content",
    [b"", b"# nothing\n", b"dcu-headend-key 1 00\n", b"dcu-headend-key 2 " + b"00" * 32, b"\xff\xfe", b"#" * 5000],
)
def test_what_is_no_key_file_is_an_error_that_repeats_nothing_of_it(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeySourceError) as error:
        KeyFile(path).ids()
    assert "00" * 32 not in str(error.value)


def test_another_key_says_so_by_name(path: Path, tmp_path: Path) -> None:
    source = KeyFile(path)
    made = source.make()
    wrapped = source.wrap(made, DATA_KEY, "one")
    with pytest.raises(WrongKeyError, match=made):
        source.unwrap(made, wrapped, "another data key")
    other = KeyFile(tmp_path / "other.key")
    other.make()
    with pytest.raises(KeyMissingError, match=made):
        other.unwrap(made, wrapped, "one")


def test_old_keys_stay_until_they_are_retired(path: Path) -> None:
    source = KeyFile(path)
    made = [source.make() for _ in range(3)]
    wrapped = source.wrap(made[0], DATA_KEY, "one")
    assert source.retire(made[:1]) == [made[1]]
    assert source.unwrap(made[0], wrapped, "one") == DATA_KEY
    assert source.ids() == [made[0], made[2]]
    assert source.retire([]) == [made[0]]
    with pytest.raises(KeyMissingError):
        source.unwrap(made[0], wrapped, "one")


def test_the_number_of_keys_is_bounded(path: Path) -> None:
    source = KeyFile(path)
    for _ in range(KEYS_MAX):
        source.make()
    with pytest.raises(KeySourceError, match=str(KEYS_MAX)):
        source.make()


def test_a_folder_that_is_gone_is_an_error_of_the_source(tmp_path: Path) -> None:
    with pytest.raises(KeySourceError):
        KeyFile(tmp_path / "gone" / "sealing.key").make()


def test_the_first_source_wraps_and_the_second_still_opens(path: Path) -> None:
    first, second = KeyInMemory(), KeyFile(path)
    old = second.make()
    wrapped = second.wrap(old, DATA_KEY, "one")
    both = Sources(first, second)
    assert both.ids() == [old, *first.ids()]
    assert both.unwrap(old, wrapped, "one") == DATA_KEY
    newest = both.ids()[-1]
    assert both.unwrap(newest, both.wrap(newest, DATA_KEY, "two"), "two") == DATA_KEY
    with pytest.raises(KeyMissingError):
        both.unwrap("ff" * 8, wrapped, "one")
    assert Sources(KeyInMemory(), KeyFile(path.with_name("none"))).ids() == first.ids()
