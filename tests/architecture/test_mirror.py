"""Tests mirror the rooms: who changes `omadm/ssmp` finds its tests in `tests/omadm/ssmp`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "dlms", "headend", "omadm", "plc", "updateagent")


def rooms(root: Path) -> set[str]:
    """Folders with modules; an `__init__.py` alone, beside pages say, is none."""
    modules = (file for package in PACKAGES for file in (root / package).rglob("*.py") if file.name != "__init__.py")
    return {str(file.parent.relative_to(root)) for file in modules}


def without_tests(root: Path) -> set[str]:
    return {room for room in rooms(root) if not list((root / "tests" / room).glob("test_*.py"))}


def test_every_room_has_tests_in_its_mirror() -> None:
    assert without_tests(ROOT) == set()


def test_a_room_without_tests_is_seen(tmp_path: Path) -> None:
    for file in ("omadm/auth.py", "omadm/ssmp/wire.py", "tests/omadm/test_auth.py", "tests/omadm/test_wire.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("NUMBER = 1")
    (tmp_path / "omadm/pages").mkdir()
    (tmp_path / "omadm/pages/__init__.py").touch()
    assert without_tests(tmp_path) == {"omadm/ssmp"}
