"""Figures of the Update Agent: `python -m tests.bench.update [MIB]`.

An install of a 64 MiB image (signature, every block checked twice, written, synced, read back) beside
`sha256sum` + `dd conv=fsync` of the same package on the same file system, and beside Debian's swupdate when it is
installed; memory; what a second install of the same image writes, and one after a power cut; a boot with nothing to do
beside a bare interpreter. Medians of `ROUNDS`, seconds of wall clock and CPU; all numbers are measured in this run.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS, Environment

REPO = Path(__file__).parents[2]
PACK = "updateagent.buildhost.pack"
ROUNDS = 5
MIB = 1 << 20
SWUPDATE_ROUNDS = 5

_MEMORY = """
import atexit, sys
def say():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    print("peak", line.split()[1], file=sys.stderr)
atexit.register(say)
from updateagent.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Run:
    """One finished program. Seconds; `peak_mib` is 0 when it was not asked."""

    wall: float
    cpu: float
    code: int
    stderr: str
    peak_mib: float = 0.0


def run(command: Sequence[str | Path]) -> Run:
    """Run a program to its end and measure it with its children."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        [str(word) for word in command], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    peak = [line.split()[1] for line in said.splitlines() if line.startswith("peak ")]
    return Run(
        time.perf_counter() - begin,
        usage.ru_utime + usage.ru_stime,
        child.returncode,
        said,
        int(peak[-1]) / 1024 if peak else 0.0,
    )


class Bench:
    """A device on files, with keys and packages."""

    def __init__(self, folder: Path, image_bytes: int) -> None:
        self.folder = folder
        self.size = image_bytes
        self.config = folder / "dcu-update.toml"
        self.keys = folder / "keys"
        self._tool(PACK, "keygen", "--out", self.keys)
        self.image = folder / "image"
        self.image.write_bytes(Random(1).randbytes(image_bytes))
        self.package = self.build("2", self.image)
        (folder / "cmdline").write_text("rauc.slot=A")
        (folder / "release").write_text("VERSION=1\n")
        env = folder / "uboot.env"
        (folder / "fw_env.config").write_text("".join(f"{env} {at:#x} {ENV_BYTES:#x}\n" for at in ENV_OFFSETS))
        slots = "".join(
            f'[[slot]]\nname = "{name}"\ntype = "file"\npath = "{folder}/slot-{name}"\nsize = {image_bytes}\n'
            for name in ("A", "B")
        )
        self.config.write_text(
            f'update_dir = "{folder}/update"\nrun_dir = "{folder}"\nroots = "{self.keys}/root.crt"\n'
            f'compatible = "HW"\ncmdline = "{folder}/cmdline"\nrelease_file = "{folder}/release"\n'
            f'[bootenv]\ntype = "uboot"\nconfig = "{folder}/fw_env.config"\nlock = ""\n'
            '[health]\nchecks = ["well"]\nboot_checks = ["well"]\n'
            f'[[health.command]]\nname = "well"\ncommand = ["true"]\n{slots}'
        )

    def _tool(self, module: str, *arguments: str | Path) -> None:
        subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)], cwd=REPO, check=True, stdout=subprocess.DEVNULL
        )

    def build(self, version: str, image: Path, *more: str | Path) -> Path:
        out = self.folder / f"{version}.swu"
        signing = ("--key", self.keys / "signer.key", "--cert", self.keys / "signer.crt")
        about = ("--version", version, "--security-version", "1", "--compatible", "HW")
        self._tool(PACK, "build", *signing, *about, *more, "--image", f"rootfs={image}", "-o", out)
        return out

    def reset(self, slot_b: bytes | None = None) -> None:
        """The device as delivered, version 1 running."""
        shutil.rmtree(self.folder / "update", ignore_errors=True)
        (self.folder / "slot-A").touch()
        with (self.folder / "slot-B").open("wb") as file:
            file.write(b"\xff" * self.size if slot_b is None else slot_b)
        Environment(self.folder / "uboot.env").create({"BOOT_ORDER": "A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0"})
        os.sync()

    def hand_over(self, package: Path) -> None:
        inbox = self.folder / "update" / "inbox"
        inbox.mkdir(parents=True)
        shutil.copyfile(package, inbox / "package.swu")
        request = {"version": 1, "id": "r", "package": "package.swu", "kind": "firmware", "requested": 1}
        (inbox / "request.json").write_text(json.dumps(request))
        os.sync()

    def guard(self) -> None:
        """The board is commissioned: it is well, and has its attempts."""
        subprocess.run(
            [sys.executable, "-m", "updateagent", "--config", self.config, "guard"],
            cwd=REPO,
            check=True,
            capture_output=True,
        )

    def boot(self) -> Run:
        return run([sys.executable, "-c", _MEMORY, "--config", self.config, "boot"])


def median(runs: Sequence[Run]) -> Run:
    """The medians of wall and CPU, the largest memory."""
    return Run(
        statistics.median(one.wall for one in runs),
        statistics.median(one.cpu for one in runs),
        runs[0].code,
        runs[0].stderr,
        max(one.peak_mib for one in runs),
    )


def row(what: str, value: str, wanted: str = "", good: bool | None = None) -> bool:
    mark = "" if good is None else "ok" if good else "MISSED"
    print(f"{what:<52}{value:>22}   {wanted:<24}{mark}", flush=True)
    return good is not False


def main() -> int:
    """Measure and print; 1 when a wanted figure was missed."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        bench = Bench(Path(name), mib * MIB)
        good = _installs(bench, mib) & _repeats(bench) & _starts(bench)
    return 0 if good else 1


def _installs(bench: Bench, mib: int) -> bool:
    baseline, ours = [], []
    target = bench.folder / "baseline"
    for _ in range(ROUNDS):
        bench.reset()
        target.write_bytes(b"\xff" * bench.size)
        os.sync()
        words = f"sha256sum {bench.package} && dd if={bench.package} of={target} bs=1M conv=fsync,notrunc status=none"
        baseline.append(run(["sh", "-c", words]))
        bench.hand_over(bench.package)
        ours.append(bench.boot())
        assert ours[-1].code == 10, ours[-1].stderr
    target.unlink()
    base, mine = median(baseline), median(ours)
    row(f"sha256sum + dd, {mib} MiB", f"{base.wall:.2f} s, CPU {base.cpu:.2f} s")
    row(f"install, {mib} MiB", f"{mine.wall:.2f} s, CPU {mine.cpu:.2f} s")
    factor = mine.cpu / base.cpu
    good = row("  CPU beside sha256sum + dd", f"{factor:.2f} x", "at most 1.5 x", factor <= 1.5)
    good &= row("  peak memory", f"{mine.peak_mib:.1f} MiB", "at most 30 MiB", mine.peak_mib <= 30)
    return good & _swupdate(bench, mine)


def _swupdate(bench: Bench, ours: Run) -> bool:
    """Debian's swupdate: the same image raw, the description signed by the same key (CMS), written as it comes."""
    if shutil.which("swupdate") is None:
        return row("swupdate", "not installed")
    target = bench.folder / "theirs"
    package = _swupdate_package(bench, target)
    runs = []
    for _ in range(SWUPDATE_ROUNDS):
        target.write_bytes(b"\xff" * bench.size)
        os.sync()
        one = run(["swupdate", "-H", "HW:1.0", "-k", bench.keys / "root.crt", "-i", package])
        # Its processes race: now and then it exits with 1 for a good package.
        if one.code == 0:
            runs.append(one)
    if not runs:
        return row("swupdate", f"failed: {one.stderr[-300:]}")
    theirs = median(runs)
    row("swupdate (Debian), the same image, signed, direct", f"{theirs.wall:.2f} s, CPU {theirs.cpu:.2f} s")
    factor = ours.wall / theirs.wall
    return row("  install beside swupdate, wall", f"{factor:.2f} x", "less than 1 x", factor < 1)


def _swupdate_package(bench: Bench, target: Path) -> Path:
    folder = bench.folder / "swu"
    folder.mkdir()
    shutil.copyfile(bench.image, folder / "image")
    digest = sha256((folder / "image").read_bytes()).hexdigest()
    (folder / "sw-description").write_text(
        'software = { version = "2"; hardware-compatibility: [ "1.0" ]; images: ( { filename = "image"; '
        f'device = "{target}"; type = "raw"; installed-directly = true; sha256 = "{digest}"; }} ); }}\n'
    )
    sign = ["openssl", "cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER", "-md", "sha256"]
    keys: list[str | Path] = ["-signer", bench.keys / "signer.crt", "-inkey", bench.keys / "signer.key"]
    names: list[str | Path] = ["-in", folder / "sw-description", "-out", folder / "sw-description.sig"]
    subprocess.run([*sign, *keys, *names], check=True, capture_output=True)
    out = bench.folder / "theirs.swu"
    with out.open("wb") as file:
        members = b"sw-description\nsw-description.sig\nimage\n"
        subprocess.run(["cpio", "-o", "-H", "crc", "--quiet"], input=members, stdout=file, cwd=folder, check=True)
    return out


def _repeats(bench: Bench) -> bool:
    image = bench.image.read_bytes()
    bench.reset(slot_b=image)
    bench.hand_over(bench.package)
    good = row("install of what is there already, written", f"{_written(bench.boot())} bytes", "0 bytes")
    half = len(image) // 2
    torn = image[: half - MIB] + b"\xff" * (len(image) - half + MIB)
    bench.reset(slot_b=torn)
    bench.hand_over(bench.package)
    again = _written(bench.boot()) - (len(image) - half)
    return good & row("install after a cut, written again", f"{again / MIB:.2f} MiB", "at most 1 MiB", again <= MIB)


def _written(done: Run) -> int:
    line = next(line for line in done.stderr.splitlines() if "bytes written" in line)
    return int(line.split(" bytes written")[0].split()[-1])


def _starts(bench: Bench) -> bool:
    bench.reset()
    bench.boot()
    bench.guard()
    bare, idle = [], []
    program = ["-c", "import sys; from updateagent.__main__ import main; sys.exit(main(sys.argv[1:]))"]
    for _ in range(4 * ROUNDS):
        bare.append(run([sys.executable, "-c", "pass"]))
        idle.append(run([sys.executable, *program, "--config", bench.config, "boot"]))
    assert idle[-1].code == 0, idle[-1]
    factor = median(idle).wall / median(bare).wall
    row("a bare interpreter", f"{median(bare).wall * 1000:.1f} ms")
    row("dcu-update boot with nothing to do", f"{median(idle).wall * 1000:.1f} ms")
    return row("  beside a bare interpreter", f"{factor:.2f} x", "at most 3 x", factor <= 3)


if __name__ == "__main__":
    sys.exit(main())
