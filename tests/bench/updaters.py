"""RAUC and SWUpdate as Debian ships them, installing the same image from packages signed with the same keys.

Both are run as their manuals say, each into the slot that the Update Agent is measured with. RAUC works as a service on
D-Bus: it gets a private bus, and its time is that of `rauc install` alone, without the start of bus and service.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

HARDWARE = "HW"
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Used:
    """What a run took: seconds, seconds, MiB at the peak of its largest process."""

    wall: float
    cpu: float
    peak_mib: float


class PeerError(RuntimeError):
    """A peer did not install; the text is its last word."""


def watched(command: list[str]) -> tuple[Used, str]:
    """Run a command and sample the memory of the processes it starts. Raises `PeerError`."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peaks: dict[str, int] = {}
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(child.pid, peaks, ended))
    watcher.start()
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - begin
    ended.set()
    watcher.join()
    child.stdout.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise PeerError(f"{command[0]} ended with {child.returncode}: {said.strip().rpartition(chr(10))[2]}")
    return Used(wall, usage.ru_utime + usage.ru_stime, max(peaks.values(), default=0) / 1024), said


def _watch(pid: int, peaks: dict[str, int], ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        family = [str(pid)]
        for one in family:
            try:
                family += Path(f"/proc/{one}/task/{one}/children").read_text().split()
                lines = Path(f"/proc/{one}/status").read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                if line.startswith("VmHWM"):
                    peaks[one] = max(peaks.get(one, 0), int(line.split()[1]))


class SwUpdate:
    """Writes the image as it comes; its signature and then the hash of the image are checked."""

    name = "swupdate"

    def __init__(self, folder: Path, image: Path, keys: Path, target: Path) -> None:
        self._keys = keys
        self._package = folder / "swupdate.swu"
        work = folder / "swupdate"
        work.mkdir()
        shutil.copyfile(image, work / "image")
        digest = sha256((work / "image").read_bytes()).hexdigest()
        (work / "sw-description").write_text(
            'software = { version = "2"; hardware-compatibility: [ "1.0" ]; images: ( { filename = "image"; '
            f'device = "{target}"; type = "raw"; installed-directly = true; sha256 = "{digest}"; }} ); }}\n'
        )
        keys_given = ["-signer", f"{keys}/signer.crt", "-inkey", f"{keys}/signer.key"]
        files = ["-in", f"{work}/sw-description", "-out", f"{work}/sw-description.sig"]
        form = ["-binary", "-nosmimecap", "-outform", "DER", "-md", "sha256"]
        subprocess.run(["openssl", "cms", "-sign", *form, *keys_given, *files], check=True, capture_output=True)
        with self._package.open("wb") as out:
            names = b"sw-description\nsw-description.sig\nimage\n"
            subprocess.run(["cpio", "-o", "-H", "crc", "--quiet"], input=names, stdout=out, cwd=work, check=True)

    @staticmethod
    def missing() -> str:
        """The first program it needs that is not installed, or nothing."""
        return next((name for name in ("swupdate", "openssl", "cpio") if shutil.which(name) is None), "")

    def install(self) -> Used:
        """Install once. Its processes race, and sometimes it exits with 1 for a good package: then it is run again."""
        for attempt in range(3):
            try:
                return watched(
                    ["swupdate", "-H", f"{HARDWARE}:1.0", "-k", f"{self._keys}/root.crt", "-i", str(self._package)]
                )[0]
            except PeerError:
                if attempt == 2:
                    raise
        raise AssertionError


_RAUC_SCRIPT = """
export DBUS_STARTER_BUS_TYPE=session
rauc -c "$1" --override-boot-slot=A service >/dev/null 2>&1 & service=$!
tries=0
until gdbus call --session -d de.pengutronix.rauc -o / -m org.freedesktop.DBus.Peer.Ping >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || break; sleep 0.05
done
begin=$(date +%s%N)
rauc install "$2"; code=$?
echo "took $(($(date +%s%N) - begin))"
kill $service; wait $service
exit $code
"""


class Rauc:
    """A bundle of the format "plain"; slots must be block devices."""

    name = "rauc"

    def __init__(self, folder: Path, image: Path, keys: Path, other: Path, target: Path) -> None:
        self._bundle = folder / "rauc.raucb"
        self._config = folder / "rauc.conf"
        work = folder / "rauc"
        work.mkdir()
        shutil.copyfile(image, work / "image.img")
        (work / "manifest.raucm").write_text(
            f"[update]\ncompatible={HARDWARE}\nversion=2\n[image.rootfs]\nfilename=image.img\n"
        )
        given = ["--cert", f"{keys}/signer.crt", "--key", f"{keys}/signer.key", "--keyring", f"{keys}/root.crt"]
        subprocess.run(["rauc", *given, "bundle", str(work), str(self._bundle)], check=True, capture_output=True)
        (folder / "mount").mkdir()
        slots = "".join(
            f"[slot.rootfs.{index}]\ndevice={path}\ntype=raw\nbootname={name}\n"
            for index, (name, path) in enumerate((("A", other), ("B", target)))
        )
        self._config.write_text(
            f"[system]\ncompatible={HARDWARE}\nbootloader=noop\nmountprefix={folder}/mount\n"
            f"statusfile={folder}/rauc.status\n[keyring]\npath={keys}/root.crt\n{slots}"
        )

    @staticmethod
    def missing() -> str:
        """The first program it needs that is not installed, or nothing."""
        needed = ("rauc", "dbus-run-session", "gdbus", "mksquashfs")
        return next((name for name in needed if shutil.which(name) is None), "")

    def install(self) -> Used:
        """Install once."""
        command = ["dbus-run-session", "--", "sh", "-c", _RAUC_SCRIPT, "rauc", str(self._config), str(self._bundle)]
        used, said = watched(command)
        took = [line.split()[1] for line in said.splitlines() if line.startswith("took ")]
        return Used(int(took[-1]) / 1e9, used.cpu, used.peak_mib)
