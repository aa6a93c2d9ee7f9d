"""Builds the root file system images that the demo's board boots: the device's own packages and dependencies, and
nothing else, as an uncompressed tar.

The interpreter and its standard library stay the machine's: they stand for the base system. Everything the image
runs beyond that comes from inside it (`-I -S`), so a module that an image lacks cannot be found by accident.
"""

from __future__ import annotations

import compileall
import io
import py_compile
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("agent", "omadm", "dlms", "plc", "updateagent")
DEPENDENCIES = ("pyserial", "crcmod", "cryptography", "PyYAML", "click")
PROGRAMS = {
    "dcu-agent": "agent.__main__",
    "dcu-update": "updateagent.__main__",
    "dcuctl": "agent.cli.__main__",
}
BUILT_AT = 1767225600  # images of equal content are equal bytes

PROGRAM = """#!/usr/bin/python3 -IS
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib" / "dcu"))
from {module} import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Defect:
    """A line of the image's own code that a careless release would have changed."""

    path: str
    old: str
    new: str


def build(version: str, out: Path, work: Path, defect: Defect | None = None) -> None:
    """Write the image of firmware `version` to `out`; `work` is scratch space."""
    root = work / f"rootfs-{version}"
    shutil.rmtree(root, ignore_errors=True)
    library = root / "usr" / "lib" / "dcu"
    library.mkdir(parents=True)
    for package in PACKAGES:
        shutil.copytree(REPO / package, library / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path, source in dependency_files():
        target = library / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if defect is not None:
        _spoil(library / defect.path, defect)
    for program, module in PROGRAMS.items():
        script = root / "usr" / "bin" / program
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(PROGRAM.format(module=module))
        script.chmod(0o755)
    shutil.copytree(REPO / "etc", root / "etc" / "dcu")
    (root / "etc" / "dcu-release").write_text(f'NAME="dcu-agent demo system"\nVERSION={version}\nBUILT={BUILT_AT}\n')
    compileall.compile_dir(
        library, quiet=2, stripdir=str(root), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    _pack(root, out)
    shutil.rmtree(root)


def dependency_files() -> Iterator[tuple[str, Path]]:
    """(path below the library folder, file) of every module of the device's dependencies and of what they need."""
    wanted, seen = list(DEPENDENCIES), set()
    while wanted:
        name = re.split(r"[^A-Za-z0-9._-]", wanted.pop(), maxsplit=1)[0].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        for requirement in distribution.requires or ():
            head, _, marker = requirement.partition(";")
            if "extra" not in marker and not _for_another_machine(marker):
                wanted.append(head.strip())
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts and file.suffix in {".py", ".so"}:
                yield str(file), Path(str(file.locate()))


def _for_another_machine(marker: str) -> bool:
    return any(word in marker for word in ("win32", "Windows", "emscripten", "python_version < ", "PyPy' and"))


def _spoil(path: Path, defect: Defect) -> None:
    text = path.read_text()
    if text.count(defect.old) != 1:
        raise RuntimeError(f"{defect.path}: the line to spoil stands {text.count(defect.old)} times, not once")
    path.write_text(text.replace(defect.old, defect.new))


def _pack(root: Path, out: Path) -> None:
    with tarfile.open(out, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            info = tar.gettarinfo(path, arcname=str(path.relative_to(root)))
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = 0
            if path.is_file():
                tar.addfile(info, io.BytesIO(path.read_bytes()))
            else:
                tar.addfile(info)


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
