"""Who may import whom: what keeps the Update Agent small and the protocol cores testable."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
OURS = ("agent", "omadm", "updateagent", "dlms", "plc", "headend")
DEVICE = ("agent", "omadm", "updateagent", "dlms", "plc")
DEVICE_LIBRARIES = {"serial", "crcmod", "cryptography", "yaml", "click", "systemd"}
BUILD_HOST_ONLY = {"updateagent/buildhost/pack.py", "updateagent/buildhost/roots.py"}

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "plc": (),
    "dlms": (),
    "omadm": (),
    "updateagent": (),
    "agent": (
        "dlms",
        "plc",
        "omadm",
        "updateagent.__version__",
        "updateagent.package",
        "updateagent.disk",
        "updateagent.errors",
        "updateagent.engine.journal",
    ),
    "headend": ("omadm", "updateagent.package", "dlms.cosem"),
}

LIBRARIES: dict[str, set[str]] = {
    "plc": {"serial", "crcmod"},
    "dlms": {"serial", "crcmod", "cryptography", "click"},
    "omadm": {"cryptography"},
    "updateagent": {"cryptography"},
    "agent": DEVICE_LIBRARIES,
    "headend": {"starlette", "uvicorn", "sqlalchemy", "httpx", "cryptography", "click", "yaml", "jinja2"},
}

SANS_IO = (
    "plc/link.py",
    "plc/usi.py",
    "plc/prime.py",
    "dlms/link/hdlc/frames.py",
    "dlms/link/hdlc/primary.py",
    "dlms/link/wrapper.py",
    "dlms/link/llc.py",
    "dlms/client/association.py",
    "dlms/client/session.py",
    "dlms/server/server.py",
    "dlms/server/connection.py",
    "dlms/server/control.py",
    "dlms/server/image.py",
    "dlms/link/hdlc/bus.py",
    "dlms/simulator/line_faults.py",
    "dlms/simulator/meter.py",
    "dlms/simulator/objects.py",
    "agent/dm/session.py",
    "omadm/ssmp/wire.py",
    "agent/metering/schedule.py",
    "updateagent/engine/machine.py",
)
IO_MODULES = {"serial", "socket", "threading", "time", "os", "subprocess", "select", "http", "ssl", "asyncio"}


def sources(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and under TYPE_CHECKING, as a dotted name."""
    package = path.relative_to(REPO).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join((*package[: len(package) - node.level + 1], *([base] if base else [])))
            yield base
            if base.split(".")[0] in OURS:
                yield from (f"{base}.{alias.name}" for alias in node.names)


def allowed(name: str, package: str) -> bool:
    """`name` is, contains, or lies inside something that `package` may import."""
    if name.split(".", maxsplit=1)[0] == package:
        return True
    return any(
        name == target or name.startswith(f"{target}.") or target.startswith(f"{name}.")
        for target in MAY_IMPORT[package]
    )


@pytest.mark.parametrize("package", OURS)
def test_no_import_points_the_wrong_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(REPO)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.split(".")[0] in OURS and not allowed(name, package)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", OURS)
def test_only_the_agreed_libraries_are_used(package: str) -> None:
    wrong = [
        f"{path.relative_to(REPO)} imports {name}"
        for path in sources(package)
        if not (package == "updateagent" and _on_the_build_host(path))
        for name in imports(path)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names
        and top not in OURS
        and top not in LIBRARIES[package]
    ]
    assert wrong == []


def _on_the_build_host(path: Path) -> bool:
    return str(path.relative_to(REPO)) in BUILD_HOST_ONLY


def test_nothing_on_the_device_imports_the_tools_of_the_build_host() -> None:
    tools = {name.removesuffix(".py").replace("/", ".") for name in BUILD_HOST_ONLY}
    wrong = [
        f"{path.relative_to(REPO)} imports {name}"
        for package in DEVICE
        for path in sources(package)
        if not _on_the_build_host(path)
        for name in imports(path)
        if name in tools
    ]
    assert wrong == []


@pytest.mark.parametrize("file", SANS_IO)
def test_protocol_cores_do_no_input_or_output(file: str) -> None:
    found = {name.split(".")[0] for name in imports(REPO / file)} & IO_MODULES
    assert found == set()


def test_the_checks_see_relative_and_nested_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "REPO", tmp_path)
    file = tmp_path / "dlms" / "cosem" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text("from ..codes import A\n\ndef f():\n    import agent.clock\n")
    assert set(imports(file)) == {"dlms.codes", "dlms.codes.A", "agent.clock"}
    assert not allowed("agent.clock", "dlms")


def test_every_package_is_typed_and_distributed() -> None:
    for package in OURS:
        assert (REPO / package / "py.typed").exists()
    tool = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tool["mypy"]["strict"] is True
