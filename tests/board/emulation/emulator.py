"""The emulator: one QEMU process is one board that is switched on.

The guest talks on its serial port. Lines that start with `@@ ` carry one JSON object each; everything is kept in a
file, which a failed test names. Its disk can go through QEMU's `blklogwrites`, so that what was written, in which
order, and what was flushed is known afterwards (`writelog`).
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlms.link.readable import readable
from tests.board.image.build import WITHOUT, BuiltBoard, machine
from tests.board.image.debian import UBOOT

PREFIX = "@@ "
STARTING = "starting slot "
TICK_S = 0.1
PIECE_BYTES = 4096
LINE_BYTES_MAX = 64 << 10


class GuestError(AssertionError):
    """The board did not do what the test waited for; the text has the end of its console."""


@dataclass
class Board:
    """A board that is on."""

    process: subprocess.Popen[bytes]
    console: Path

    def follow(self, patience_s: float, *, ticks: bool = False) -> Iterator[dict[str, Any] | None]:
        """Events as they come, until the board goes off. Raises `GuestError` when that takes longer than `patience_s`.

        With `ticks` there is a None now and then, for those who wait for something that the board does not say.
        """
        deadline = time.monotonic() + patience_s
        for line in self._lines(deadline, TICK_S if ticks else patience_s):
            if line is None:
                yield None
                continue
            found = self._event(line.decode("utf-8", "replace").strip())
            if found is not None:
                yield found

    def _event(self, text: str) -> dict[str, Any] | None:
        if text.startswith(STARTING):
            return {"event": "starting", "slot": text.removeprefix(STARTING)}  # said by boot.cmd itself
        if not text.startswith(PREFIX):
            return None
        try:
            found: dict[str, Any] = json.loads(text.removeprefix(PREFIX))
        except ValueError:
            raise GuestError(f"not JSON: {text}; {self.tail()}") from None
        return found

    def _lines(self, deadline: float, tick_s: float) -> Iterator[bytes | None]:
        stdout = self.process.stdout
        assert stdout is not None
        rest = b""
        with self.console.open("ab") as kept:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GuestError(f"the board is not done in time; {self.tail()}")
                if not readable([stdout], min(left, tick_s)):
                    yield None
                    continue
                piece = os.read(stdout.fileno(), PIECE_BYTES)
                if not piece:
                    return
                kept.write(piece)
                kept.flush()
                *whole, rest = (rest + piece).split(b"\n")
                rest = rest[-LINE_BYTES_MAX:]
                yield from whole

    def tail(self) -> str:
        """The end of the console, for messages."""
        return end_of(self.console)

    def unplug(self) -> None:
        """Cut the power: nothing in the guest is told."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def end_of(console: Path) -> str:
    """What a board said last on the console that is kept in this file, for messages."""
    text = console.read_bytes()[-3000:].decode("utf-8", "replace") if console.exists() else ""
    return f"console {console}, which ends:\n{text}"


@contextmanager
def power_on(
    built: BuiltBoard,
    disk: Path | None,
    console: Path,
    *,
    job: Path | None = None,
    log: Path | None = None,
    flash: Path | None = None,
) -> Iterator[Board]:
    """Switch the board on.

    `log` gets a record of all writes to the disk. U-Boot's own NOR flash is that of the built board and cannot be
    written, unless `flash` names another. `job` is a disk made by `make_job`.
    """
    kept = "" if flash else ",readonly=on"
    command = ["qemu-system-arm", *machine(), "-bios", str(UBOOT), "-serial", "stdio"]
    command += ["-drive", f"if=pflash,unit=1,format=raw,file={flash or built.flash}{kept}"]
    if disk is not None:
        command += _disk(disk, job, log)
    with _running(command, console) as board:
        yield board


@contextmanager
def _running(command: list[str], console: Path) -> Iterator[Board]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    board = Board(process, console)
    try:
        yield board
    finally:
        board.unplug()


def make_job(out: Path, script: str, files: Mapping[str, bytes] | None = None) -> Path:
    """A disk with a job for the board: the script `job`, run when the system is up, and files beside it."""
    with tarfile.open(out, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in {"job": script.encode(), **(files or {})}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755
            tar.addfile(info, io.BytesIO(data))
    with out.open("ab") as file:
        file.truncate(max(1 << 20, -(-out.stat().st_size // 512) * 512))
    return out


@contextmanager
def power_on_with_nor(built: BuiltBoard, nor: Path, console: Path, job: Path) -> Iterator[Board]:
    """Switch on the machine with an SPI NOR flash (2 MiB), which has no disk: system and job are in its memory.

    It cannot switch itself off. `job` is a folder.
    """
    system = console.with_suffix(".cpio")
    packed = subprocess.run(
        ["sh", "-c", "find job | cpio --quiet -o -H newc"], cwd=job.parent, capture_output=True, check=True
    ).stdout
    whole = built.nor_system.read_bytes()
    system.write_bytes(whole + bytes(-len(whole) % 4) + packed)
    command = ["qemu-system-arm", "-M", "sabrelite", "-m", "512", *WITHOUT]
    command += ["-serial", "null", "-serial", "stdio", "-drive", f"if=mtd,format=raw,file={nor}"]
    command += ["-kernel", str(built.kernel), "-dtb", str(built.nor_tree), "-initrd", str(system)]
    command += ["-append", "console=ttymxc1 quiet loglevel=3 cryptomgr.notests"]
    with _running(command, console) as board:
        yield board
    system.unlink()


def _disk(disk: Path, job: Path | None, log: Path | None) -> list[str]:
    words: list[str] = []
    source = f"driver=raw,node-name=d0,file.driver=file,file.filename={disk}"
    if log is not None:
        log.write_bytes(b"")
        source = (
            f"driver=blklogwrites,node-name=d0,file.driver=file,file.filename={disk},"
            f"log.driver=file,log.filename={log},log-super-update-interval=1"
        )
    # The last device is the first disk, for U-Boot and for Linux.
    if job is not None:
        words = ["-drive", f"if=none,id=d1,format=raw,readonly=on,file={job}", "-device", "virtio-blk-device,drive=d1"]
    return [*words, "-blockdev", source, "-device", "virtio-blk-device,drive=d0"]
