"""What verifying and unpacking a package costs, beside sha256sum and dd in the same run.

    python -m tests.bench.package [--mib 64] [--rounds 5]

Each figure is the median of some rounds, each round a process of its own. Memory is the highest resident size that
the process itself saw (VmHWM), which is exact where ru_maxrss also counts what the parent had.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.updateagent.packages import NOW, Workshop, root, rsa_signer
from updateagent import assemble, bsdiff, signing, verity
from updateagent.payload import DeltaSource, Encoding
from updateagent.readable import Buffer

MIB = 1 << 20
CHANGED_PLACES = 25

CHILD = """
import json, os, sys
from pathlib import Path
from updateagent.disk import RealDisk
from updateagent.manifest import Trust, verify_description, verify_package
from updateagent.trust import load_roots
task, package, roots, out, source = sys.argv[1:6]
trust = Trust(load_roots(Path(roots)), "dcu-a1", {now})
check = verify_description if task == "description" else verify_package
image = check(Path(package), trust).images[0]
if task == "write":
    old = RealDisk().open_raw(Path(source)) if source else None
    if old is not None:
        image.check_source(old)
    with RealDisk().open_raw(Path(out), write=True, create=True) as file:
        for run in image.blocks(Path(package), 0, old):
            file.pwrite(run.data, run.block * 4096)
        file.sync()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
print(json.dumps(int(status["VmHWM"].split()[0]) / 1024))
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians: seconds, seconds, MiB (0: not measured)."""

    wall: float
    cpu: float
    rss: float


def measure(command: Sequence[str], rounds: int) -> Figures:
    """Run a command some times."""
    walls, cpus, sizes = [], [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}")
        walls.append(time.perf_counter() - begin)
        cpus.append(used.ru_utime + used.ru_stime)
        sizes.append(json.loads(output) if output.strip().replace(b".", b"").isdigit() else 0.0)
    return Figures(*(statistics.median(values) for values in (walls, cpus, sizes)))


class Bench:
    """The files, and the commands that use them."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        self.shop = Workshop(folder)
        chance = random.Random(1)
        # Half of it compresses well, as file systems do.
        self.old = b"".join(chance.randbytes(MIB // 2) + b"text " * (MIB // 10) + bytes(3) for _ in range(mib))[
            : mib * MIB
        ]
        new = bytearray(self.old)
        for _ in range(CHANGED_PLACES):
            at = chance.randrange(len(new))
            new[at:at] = chance.randbytes(8000)
        self.new = bytes(new[: mib * MIB])
        (folder / "old").write_bytes(self.old)
        (folder / "root.crt").write_bytes(signing.pem(root().x509))

    def package(self, encoding: Encoding) -> Path:
        path = self.folder / f"{encoding.value}.swu"
        one = self.shop.image("rootfs", self.new, encoding=encoding)
        if encoding is Encoding.BSDIFF:
            patch = self.folder / "patch"
            with patch.open("wb") as file:
                bsdiff.make(self.folder / "old", one.path, file)
            source = DeltaSource("1", len(self.old), verity.root_of(Buffer(self.old), len(self.old)))
            one = assemble.Input(one.role, one.name, one.path, encoding, delta=source, patch=patch)
        path.write_bytes(self.shop.build([one], by=rsa_signer()))
        return path

    def child(self, task: str, package: Path, source: str = "") -> list[str]:
        code = CHILD.replace("{now}", str(NOW))
        out = self.folder / "out"
        return [sys.executable, "-c", code, task, str(package), str(self.folder / "root.crt"), str(out), source]

    def yardstick(self) -> list[str]:
        image, out = self.folder / "image-rootfs", self.folder / "out"
        return ["sh", "-c", f"sha256sum {image} >/dev/null && dd if={image} of={out} bs=1M conv=fsync 2>/dev/null"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), arguments.mib)
        raw = bench.package(Encoding.RAW)
        base = measure(bench.yardstick(), arguments.rounds)
        rows = [("sha256sum + dd conv=fsync", base, 0)]
        rows.append(
            ("dcu-update: signature and description", measure(bench.child("description", raw), arguments.rounds), 0)
        )
        rows.append(("dcu-update: verify the whole package", measure(bench.child("verify", raw), arguments.rounds), 0))
        for encoding in Encoding:
            package = bench.package(encoding)
            source = str(bench.folder / "old") if encoding is Encoding.BSDIFF else ""
            figures = measure(bench.child("write", package, source), arguments.rounds)
            rows.append((f"verify, check each block and write: {encoding.value}", figures, package.stat().st_size))
    print(f"{arguments.mib} MiB image, median of {arguments.rounds}")
    print(f"{'':<46}{'wall s':>8}{'x':>6}{'CPU s':>8}{'x':>6}{'RSS MiB':>9}{'package %':>11}")
    for label, figures, size in rows:
        rss = f"{figures.rss:.1f}" if figures.rss else "-"
        part = f"{100 * size / (arguments.mib * MIB):.1f}" if size else "-"
        times = f"{figures.wall:>8.3f}{figures.wall / base.wall:>6.2f}{figures.cpu:>8.3f}{figures.cpu / base.cpu:>6.2f}"
        print(f"{label:<46}{times}{rss:>9}{part:>11}")


if __name__ == "__main__":
    main()
