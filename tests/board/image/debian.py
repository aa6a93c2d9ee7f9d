"""The base system of the board: Debian's packages for armhf, unpacked and reduced to what a device would carry.

Where packages come from is the business of this machine's apt configuration; nothing here names a server. No program
of the other architecture is run while building, so what maintainer scripts would have done (links of the linker, byte
code, module lists) is done here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGES_FILE = Path(__file__).resolve().parents[3] / "apt-packages-board.txt"
ARCHITECTURE = "armhf"
PACKAGES = (
    "python3",
    "python3-click",
    "python3-crcmod",
    "python3-cryptography",
    "python3-serial",
    "python3-yaml",
    "busybox-static",
    "e2fsprogs",
    "kmod",
    "libubootenv-tool",
    "linux-image-armmp",
    "mtd-utils",
)
MODULES = (
    "ext4",
    "gpio-mxc",
    "loop",
    "nandsim",
    "softdog",
    "spi-imx",
    "spi-nor",
    "ubi",
    "virtio_blk",
    "virtio_mmio",
    "virtio_net",
)
"""What the board loads; modules that these need come along."""
NOR_TREE = "imx6q-sabrelite.dtb"
"""The device tree of the machine with a NOR flash."""
PROGRAMS = ("e2fsck", "fw_printenv", "fw_setenv", "flash_erase", "mtdinfo", "nanddump", "nandwrite",
            "python3*", "ubiattach", "ubidetach", "ubiformat",
            "ubimkvol", "ubirmvol")  # fmt: skip
LIBRARY_JUNK = ("gconv", "perl*", "libdb-*", "krb5", "audit", "security")
STDLIB_JUNK = ("asyncio", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "turtle*", "unittest",
               "venv", "wsgiref", "xmlrpc")  # fmt: skip
NEEDED_TOOLS = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "fw_printenv": "libubootenv-tool",
    "mcopy": "mtools",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mkimage": "u-boot-tools",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-arm": "qemu-system-arm",
}
UBOOT = Path("/usr/lib/u-boot/qemu_arm/u-boot.bin")


class BoardError(Exception):
    """The board cannot be built or run here; the text says why."""


class NoPackagesError(BoardError):
    """Debian's packages cannot be fetched, which is no fault of ours."""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a tool to its end and return what it printed. Raises `BoardError` with the end of what it complained."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "PATH": _search_path(), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip()[-1500:]
        raise BoardError(f"{words[0]} failed with {done.returncode}: {said}")
    return done.stdout.decode("utf-8", "replace")


def missing() -> str:
    """Why the board cannot be had on this machine, as a sentence; empty when it can."""
    if os.geteuid() != 0:
        return "the emulated board is built by root: a root file system needs owners and links of its own"
    absent = sorted({package for tool, package in NEEDED_TOOLS.items() if _which(tool) is None})
    if not UBOOT.exists():
        absent.append("u-boot-qemu")
    if absent:
        return f"the emulated board needs the packages of {PACKAGES_FILE.name}; missing: {', '.join(absent)}"
    return ""


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=_search_path())


@dataclass(frozen=True)
class Sources:
    """One release of Debian, as this machine's apt knows it."""

    codename: str
    lines: str


def sources() -> Sources:
    """Debian's main and updates suites in this machine's apt configuration, in apt's one-line format.

    Security updates are left out: their list for another architecture is often out of step, and nothing here is in
    reach of anybody. Raises `NoPackagesError` when there is no such suite.
    """
    wanted = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)|$(LABEL)"
    found = run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages").splitlines()
    lines, codenames = set(), set()
    for uri, release, codename, component, origin, label in (line.split("|") for line in found):
        if (origin, label, component) == ("Debian", "Debian", "main"):
            lines.add(f"deb {uri} {release} {component}")
            codenames.add(codename.partition("-")[0])
    if len(codenames) != 1:
        raise NoPackagesError(f"apt knows {len(codenames)} releases of Debian here; one is needed (apt-get update?)")
    return Sources(codenames.pop(), "".join(line + "\n" for line in sorted(lines)))


def unpack(found: Sources, root: Path, scratch: Path) -> None:
    """Fetch the packages and unpack them to `root`. Raises `NoPackagesError`."""
    listing = scratch / "debian.list"
    listing.write_text(found.lines)
    archive = scratch / "debian.tar"
    try:
        run(
            *("mmdebstrap", f"--architectures={ARCHITECTURE}", "--variant=extract", "--mode=root"),
            *(f"--include={','.join(PACKAGES)}", found.codename, archive, listing),
        )
    except BoardError as error:
        raise NoPackagesError(f"Debian's {ARCHITECTURE} packages cannot be had: {error}") from error
    root.mkdir(parents=True)
    run("tar", "-C", root, "-xf", archive)
    archive.unlink()


@dataclass(frozen=True)
class Kernel:
    """What the boot loader needs, taken out of the unpacked packages."""

    version: str
    image: Path
    nor_tree: Path


def take_kernel(root: Path, kept: Path) -> Kernel:
    """Move kernel and device tree of `root` to `kept`, and leave only the modules that the board loads."""
    kept.mkdir(parents=True)
    (image,) = (root / "boot").glob("vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    shutil.move(image, kept / "zImage")
    trees = root / "usr" / "lib" / f"linux-image-{version}"
    shutil.move(trees / NOR_TREE, kept / NOR_TREE)
    shutil.rmtree(trees)
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    _keep_modules(root, version)
    return Kernel(version, kept / "zImage", kept / NOR_TREE)


def module_files(root: Path, version: str, names: tuple[str, ...]) -> list[Path]:
    """The files of these modules and of all that they need, in the order in which they are to be loaded."""
    folder = root / "lib" / "modules" / version
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.removesuffix(".ko").replace("-", "_"): path for path in needs}
    ordered: list[str] = []
    for name in names:
        path = by_name[name.replace("-", "_")]
        # What is needed first stands last in the list.
        ordered += [one for one in (*reversed(needs[path]), path) if one not in ordered]
    return [folder / path for path in ordered]


def _keep_modules(root: Path, version: str) -> None:
    run("depmod", "-b", root, version)
    folder = root / "lib" / "modules" / version
    # ext4 names its checksum by an alias, which depmod does not follow.
    kept = set(module_files(root, version, (*MODULES, "crc32c_generic")))
    for path in folder.rglob("*.ko"):
        if path not in kept:
            path.unlink()
    run("find", folder, "-type", "d", "-empty", "-delete")
    run("depmod", "-b", root, version)


def reduce(root: Path) -> None:
    """Remove what a device would not carry: documentation, translations, and programs that BusyBox has."""
    for folder in ("usr/share", "usr/lib/udev", "lib/udev", "lib/systemd", "usr/libexec", "usr/include", "var/lib/dpkg",
                   "var/cache", "usr/games", "usr/lib/valgrind"):  # fmt: skip
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin"):
        keep = {path for pattern in PROGRAMS for path in (root / folder).glob(pattern)}
        for path in (root / folder).iterdir():
            if path not in keep and path.name != "busybox":
                path.unlink()
    for library in (root / "usr/lib", root / "usr/lib/arm-linux-gnueabihf", root / "lib/arm-linux-gnueabihf"):
        _remove(library, LIBRARY_JUNK)
    for stdlib in (root / "usr/lib").glob("python3.*"):
        _remove(stdlib, STDLIB_JUNK)


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def finish(root: Path) -> None:
    """What maintainer scripts would have done: BusyBox's links, the linker's links, users, mount points."""
    for applet in run(root_busybox(), "--list-full").split():
        link = root / applet
        if not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")
    run("ldconfig", "-r", root)
    for folder in ("proc", "sys", "dev", "run", "tmp", "data", "root", "var/lib", "mnt"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hostname").write_text("board\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost board\n")


def root_busybox() -> str:
    """This machine's BusyBox is built from the same source as the board's, and can say its applets here."""
    found = _which("busybox")
    if found is None:
        raise BoardError("busybox-static is missing")
    return found


def compile_python(root: Path) -> None:
    """Byte code in place of sources, as firmware images have it. Needs an interpreter of the board's version here."""
    (stdlib,) = (root / "usr/lib").glob("python3.*")
    version = stdlib.name
    interpreter = next(
        (path for path in (f"/usr/bin/{version}", _which(version)) if path and Path(path).exists()), None
    )
    if interpreter is None:
        raise BoardError(f"the board has {version}; its byte code can only be made by {version}, which is not here")
    for folder in (stdlib, root / "usr/lib/python3/dist-packages"):
        run(interpreter, "-I", "-m", "compileall", "-q", "-b", "-s", root, "-p", "/", folder)
        for path in folder.rglob("*.py"):
            if path.with_suffix(".pyc").exists():
                path.unlink()
