"""What verifying and unpacking a package costs without the rest of an install, as ratios to sha256sum + dd.

Each figure is the median of some rounds, each round a process of its own. Memory is the highest resident size that
the process itself saw (VmHWM), which is exact where ru_maxrss also counts what the parent had.
"""

from __future__ import annotations

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

from tests.bench.figure import Figure, plain
from tests.updateagent.package.buffer import Buffer
from tests.updateagent.packages import NOW, Workshop, root, rsa_signer
from updateagent.buildhost import assemble, bsdiff, signing
from updateagent.package import verity
from updateagent.package.payload import DeltaSource, Encoding

MIB = 1 << 20
CHANGED_PLACES = 25

CHILD = """
import json, os, sys
from pathlib import Path
from updateagent.disk import RealDisk
from updateagent.package.manifest import Trust, verify_description, verify_package
from updateagent.package.trust import load_roots
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


def run(mib: int = 64, rounds: int = 3) -> list[Figure]:
    """Returns the figures."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="dcu-bench-") as name:
        bench = Bench(Path(name), mib)
        raw = bench.package(Encoding.RAW)
        base = measure(bench.yardstick(), rounds)
        figures.append(plain(f"sha256sum + dd, {mib} MiB", f"{base.wall:.2f} s, CPU {base.cpu:.2f} s"))
        works = [("signature and description", raw, "description", ""), ("the whole package", raw, "verify", "")]
        for encoding in Encoding:
            source = str(bench.folder / "old") if encoding is Encoding.BSDIFF else ""
            package = bench.package(encoding)
            works.append((f"and each block, written: {encoding.value}", package, "write", source))
        for what, package, task, source in works:
            used = measure(bench.child(task, package, source), rounds)
            part = 100 * package.stat().st_size / (mib * MIB)
            value = f"wall {used.wall / base.wall:.2f} x, CPU {used.cpu / base.cpu:.2f} x, {used.rss:.1f} MiB"
            figures.append(plain(f"verify {what} ({part:.0f} % of the image)", value))
    return figures
