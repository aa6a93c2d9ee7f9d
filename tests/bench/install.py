"""`dcu-update install` beside sha256sum + dd, RAUC and SWUpdate: time, memory, and the size of a delta.

One image of 64 MiB, signed packages, the same slot for all (a loop device where the machine has them, else a file): the
signature is checked, every block is checked before it is written, and what was written is read back. Medians of
five rounds in which everybody takes a turn.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from tests.bench.figure import Figure, absent, at_most, less_than, median, plain
from tests.bench.update import MIB, Bench
from tests.bench.update import run as run_program
from tests.bench.updaters import PeerError, Rauc, SwUpdate, Used

IMAGE_MIB = 64
LARGE_MIB = 192
ROUNDS = 5
CPU_MAX = 1.5
FULL_RSS_MIB_MAX, DELTA_RSS_MIB_MAX = 30, 32
DELTA_PERCENT_MAX = 5
CHANGED_FILES = 25
TREE_BYTES = 80 * MIB
YARDSTICK = "sha256sum + dd"

_OPENSSL_SWITCH, _NO_SHA = "OPENSSL_ia32cap", ":~0x20000000"

# As the installed program starts; at its end it says how much memory it had at most.
_PROGRAM = """
import atexit, sys
def say():
    with open("/proc/self/status") as status:
        print("peak", next(line for line in status if line.startswith("VmHWM")).split()[1], file=sys.stderr)
atexit.register(say)
from updateagent.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def run() -> list[Figure]:
    """Returns all figures of this module."""
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name, ExitStack() as stack:
        device = _Device(Path(name) / "device", stack)
        return [*_race(device), *_memory(device, Path(name)), *_again(device), *_squashfs_delta(Path(name), device)]


def images(mib: int) -> tuple[bytes, bytes]:
    """Two releases: half of it does not compress, and between them pieces were inserted in 25 places."""
    chance = Random(1)
    old = b"".join(chance.randbytes(MIB // 2) + (b"text %d " % part) * (MIB // 10) for part in range(mib))[: mib * MIB]
    new = bytearray(old)
    for _ in range(CHANGED_FILES):
        at = chance.randrange(len(new))
        new[at:at] = chance.randbytes(8000)
    return old, bytes(new[: mib * MIB])


class _Device(Bench):
    """A device that runs release "old", and the packages for it."""

    def __init__(self, folder: Path, stack: ExitStack, mib: int = IMAGE_MIB) -> None:
        folder.mkdir()
        super().__init__(folder, mib * MIB)
        old, new = images(mib)
        (folder / "old").write_bytes(old)
        (folder / "new").write_bytes(new)
        (folder / "release").write_text("VERSION=old\n")
        self.slots = {name: folder / f"slot-{name}" for name in "AB"}
        for path in self.slots.values():
            path.write_bytes(old)
        self.on_loop = stack.enter_context(self._loop_devices())

    @contextmanager
    def _loop_devices(self) -> Iterator[bool]:
        """Put loop devices under the slots, if this machine lets us."""
        made = {}
        for name, path in self.slots.items():
            done = subprocess.run(
                ["losetup", "--find", "--show", path], capture_output=True, text=True, check=False
            ) if shutil.which("losetup") else None  # fmt: skip
            if done is None or done.returncode:
                break
            made[name] = Path(done.stdout.strip())
        try:
            if len(made) == len(self.slots):
                text = self.config.read_text()
                for name, path in made.items():
                    text = text.replace(
                        f'type = "file"\npath = "{self.slots[name]}"', f'type = "block"\npath = "{path}"'
                    )
                self.config.write_text(text)
                self.slots = made
            yield self.slots is made
        finally:
            for path in made.values():
                subprocess.run(["losetup", "--detach", path], check=False, capture_output=True)

    def packed(self, how: str) -> Path:
        """The new release, packed in one way."""
        out = self.folder / f"{how}.swu"
        if out.exists():
            return out
        if how == "delta":
            before, after = self.build("old", self.folder / "old"), self.packed("none")
            given = ("--key", self.keys / "signer.key", "--cert", self.keys / "signer.crt")
            self._tool("updateagent.buildhost.pack", "delta", before, after, *given, "-o", out)
            return out
        return self.build(how, self.folder / "new", "--compress", how)

    def blank(self, content: bytes | None = None) -> None:
        """The device as before the update, slot B overwritten."""
        self.reset()
        with self.slots["B"].open("r+b") as slot:
            slot.write(b"\xff" * self.size if content is None else content)
        subprocess.run(["sync"], check=True)

    def install(self, how: str, content: bytes | None = None) -> tuple[Used, str]:
        """`dcu-update install`; also what it said. Raises `RuntimeError`."""
        package = self.packed(how)
        self.blank(content)
        done = run_program([sys.executable, "-c", _PROGRAM, "--config", self.config, "install", package])
        if done.code != 10:
            raise RuntimeError(done.stderr)
        return Used(done.wall, done.cpu, done.peak_mib), done.stderr

    def yardstick(self) -> Used:
        """The same bytes, hashed and copied by what every system has."""
        self.blank()
        package, slot = self.packed("none"), self.slots["B"]
        copy = f"dd if={package} of={slot} bs=1M count={self.size // MIB} conv=fsync,notrunc status=none"
        done = run_program(["sh", "-c", f"sha256sum {package} >/dev/null && {copy}"])
        return Used(done.wall, done.cpu, 0)


def _medians(runs: list[Used]) -> Used:
    return Used(
        median([one.wall for one in runs]), median([one.cpu for one in runs]), max(one.peak_mib for one in runs)
    )


def _race(device: _Device) -> list[Figure]:
    peers, figures = _peers(device)
    runs: dict[str, list[Used]] = {}
    for _ in range(ROUNDS):
        runs.setdefault(YARDSTICK, []).append(device.yardstick())
        runs.setdefault("dcu-update install", []).append(device.install("none")[0])
        for name, install in peers.items():
            device.blank()
            runs.setdefault(name, []).append(install())
    used = {name: _medians(found) for name, found in runs.items()}
    base, ours = used[YARDSTICK], used["dcu-update install"]
    where = "loop device" if device.on_loop else "file"
    seconds = [
        plain(f"{name}, {IMAGE_MIB} MiB, {where}", f"{one.wall:.2f} s, CPU {one.cpu:.2f} s")
        for name, one in used.items()
    ]
    ratios = [at_most(f"CPU, dcu-update : {YARDSTICK}", ours.cpu / base.cpu, CPU_MAX, "x")]
    for name in peers:
        theirs = used[name]
        if name == SwUpdate.name:
            ratios.append(less_than(f"wall, dcu-update : {name}", ours.wall / theirs.wall, 1, "x"))
        else:
            ratios.append(plain(f"wall, dcu-update : {name}", f"{ours.wall / theirs.wall:.2f} x"))
        ratios.append(plain(f"CPU, dcu-update : {name}", f"{ours.cpu / theirs.cpu:.2f} x"))
        ratios.append(plain(f"peak memory, {name}", f"{theirs.peak_mib:.1f} MiB"))
    return [*seconds, *ratios, *figures, *_without_sha(device)]


def _without_sha(device: _Device) -> list[Figure]:
    """As on the CPUs of small boards. Debian's sha256sum does without the instructions anyway."""
    if platform.machine() != "x86_64":
        return []
    before = os.environ.get(_OPENSSL_SWITCH)
    os.environ[_OPENSSL_SWITCH] = _NO_SHA
    try:
        runs = [(device.yardstick().cpu, device.install("none")[0].cpu) for _ in range(ROUNDS)]
    finally:
        del os.environ[_OPENSSL_SWITCH]
        if before is not None:
            os.environ[_OPENSSL_SWITCH] = before
    base, ours = (median(column) for column in zip(*runs, strict=True))
    return [plain(f"CPU, dcu-update : {YARDSTICK}, no SHA instructions", f"{ours / base:.2f} x")]


def _peers(device: _Device) -> tuple[dict[str, Callable[[], Used]], list[Figure]]:
    """The peers that are installed and work, and figures for those that are not."""
    folder, slots = device.folder, device.slots
    image, keys = folder / "new", device.keys
    found: dict[str, Callable[[], Used]] = {}
    figures = []
    for kind in (SwUpdate, Rauc):
        lacking = kind.missing() or ("a loop device" if kind is Rauc and not device.on_loop else "")
        if lacking:
            figures.append(absent(f"dcu-update : {kind.name}", f"needs {lacking}"))
            continue
        try:
            peer = SwUpdate(folder, image, keys, slots["B"]) if kind is SwUpdate else Rauc(
                folder, image, keys, slots["A"], slots["B"]
            )  # fmt: skip
            device.blank()
            peer.install()
        except (PeerError, subprocess.CalledProcessError) as error:
            figures.append(absent(f"dcu-update : {kind.name}", f"does not install here: {str(error)[:80]}"))
            continue
        found[kind.name] = peer.install
    return found, figures


def _memory(device: _Device, folder: Path) -> list[Figure]:
    figures = []
    for how, limit in (
        ("none", FULL_RSS_MIB_MAX),
        ("zlib", FULL_RSS_MIB_MAX),
        ("xz", FULL_RSS_MIB_MAX),
        ("delta", DELTA_RSS_MIB_MAX),
    ):
        used = _medians([device.install(how)[0] for _ in range(3)])
        name = "raw" if how == "none" else how
        figures.append(at_most(f"peak memory, {name}", used.peak_mib, limit, "MiB", 1))
        if how != "none":
            figures.append(plain(f"install, {name}", f"{used.wall:.2f} s, CPU {used.cpu:.2f} s"))
    with ExitStack() as stack:
        large = _Device(folder / "large", stack, LARGE_MIB)
        used, _ = large.install("none")
        figures.append(at_most(f"peak memory, raw, {LARGE_MIB} MiB", used.peak_mib, FULL_RSS_MIB_MAX, "MiB", 1))
    shutil.rmtree(folder / "large")
    return figures


def _again(device: _Device) -> list[Figure]:
    new = (device.folder / "new").read_bytes()
    words = device.install("none", new)[1].split(" bytes written")[0].split()
    return [at_most("the same image again, written", float(words[-1]), 0, "bytes", 0)]


def _squashfs_delta(folder: Path, device: _Device) -> list[Figure]:
    what = f"delta, {CHANGED_FILES} files of a squashfs"
    if shutil.which("mksquashfs") is None:
        return [absent(what, "needs mksquashfs")]
    tree = folder / "tree"
    texts = _fill(tree)
    releases = []
    for version in ("one", "two"):
        image = folder / version
        options = ["-noappend", "-no-progress", "-all-root", "-mkfs-time", "0", "-all-time", "0"]
        subprocess.run(["mksquashfs", tree, image, *options], check=True, capture_output=True)
        releases.append(device.build(version, image))
        for path in Random(2).sample(texts, CHANGED_FILES):
            lines = path.read_text().splitlines(keepends=True)
            lines.insert(len(lines) // 2, "# changed in the next release\n")
            path.write_text("".join(lines))
    out = folder / "squashfs.swu"
    given = ("--key", device.keys / "signer.key", "--cert", device.keys / "signer.crt")
    device._tool("updateagent.buildhost.pack", "delta", *releases, *given, "-o", out)
    size = (folder / "two").stat().st_size
    part = 100 * out.stat().st_size / size
    return [at_most(f"{what} of {size / MIB:.0f} MiB, whole package", part, DELTA_PERCENT_MAX, "%")]


def _fill(tree: Path) -> list[Path]:
    """A root file system out of what this machine has: Python's library and programs. Returns its text files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    left = TREE_BYTES
    texts = []
    for source in [*sorted(library.rglob("*")), *sorted(Path("/usr/bin").iterdir())]:
        unwanted = {"site-packages", "__pycache__", "test", "tests"} & set(source.parts)
        if unwanted or not source.is_file() or source.is_symlink() or source.stat().st_size > left:
            continue
        target = tree / source.relative_to(source.anchor)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        left -= source.stat().st_size
        if source.suffix == ".py" and source.stat().st_size > 1000:
            texts.append(target)
    return texts
