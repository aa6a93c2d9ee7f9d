"""The board's process: `python -m tests.sim.board DIR`.

    DIR/flash/uboot.env, slot-a.img, slot-b.img     what survives everything
    DIR/data/                                       the data partition
    DIR/ram/                                        wiped at every power-on: mounted root, /run, kernel's own files

Power-on: the boot loader (uboot.py) picks a slot from the environment's bytes; the slot's image is unpacked (the
mount); then init runs the Update Agent and the agent *from that image*, isolated from every other Python package of
the machine. Init also is the hardware watchdog: an agent that stops feeding it resets the board.

One JSON object per line on standard output tells what happens; SIGUSR1 is the `reboot` command, SIGTERM ends it all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.sim.board.uboot import Environment, choose

WATCHDOG_S = 30.0
READY_S = 60.0
TERM_S = 10.0
TICK_S = 0.05
UPDATE_REBOOT = 10
UPDATE_TRIAL = 11


def tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "at": time.time(), **fields}), flush=True)


@dataclass
class Wires:
    """Signals, as the loop sees them."""

    reboot: bool = False
    off: bool = False


class Board:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.ram = root / "ram"
        self.environment = Environment(root / "flash" / "uboot.env")
        self.wires = Wires()
        self.boots = 0
        self.logs = root / "console"
        self.logs.mkdir(exist_ok=True)

    def run(self) -> int:
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self.wires, "reboot", True))
        signal.signal(signal.SIGTERM, lambda *_: setattr(self.wires, "off", True))
        while not self.wires.off:
            self.wires.reboot = False
            self.boots += 1
            reason = self.power_on()
            tell("reset", boot=self.boots, reason=reason)
        tell("off")
        return 0

    def power_on(self) -> str:
        """One life between two resets; returns why it ended."""
        choice = choose(self.environment)
        self.mount(choice.slot, choice.boots)
        tell("boot", boot=self.boots, slot=choice.slot, left=choice.left, recovered=choice.recovered)
        life = Life(self)
        try:
            return life.run()
        finally:
            life.end()

    def mount(self, slot: str, boots: str | None) -> None:
        shutil.rmtree(self.ram, ignore_errors=True)
        rootfs = self.ram / "rootfs"
        rootfs.mkdir(parents=True)
        (self.ram / "run").mkdir()
        words = f"console=ttyS0 root=/dev/slot-{slot.lower()} rauc.slot={slot} dcu.boots={boots} quiet"
        (self.ram / "cmdline").write_text(f"{words}\n")
        (self.ram / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.ram / "board.pid").write_text(f"{os.getpid()}\n")
        image = self.root / "flash" / f"slot-{slot.lower()}.img"
        with tarfile.open(image, "r:") as tar:
            # Named this way because Debian 12's own Python 3.11.2 has neither the filter nor the argument for it.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(rootfs)


class Life:
    """Init of one boot: its processes, its watchdog."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.notify_path = board.ram / "notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.notify_path))
        self.notify.settimeout(0)
        self.ready = False

    def run(self) -> str:
        boot = self.start("dcu-update", "boot")
        code = self.wait(boot)
        tell("update-boot", boot=self.board.boots, code=code)
        if code == UPDATE_REBOOT:
            return "update agent asked for it"
        if code is None or code not in (0, UPDATE_TRIAL):
            return f"update agent failed with {code}"
        guard = self.start("dcu-update", "guard") if code == UPDATE_TRIAL else None
        agent = self.start("dcu-agent")
        return self.watch(agent, guard)

    def watch(self, agent: subprocess.Popen[bytes], guard: subprocess.Popen[bytes] | None) -> str:
        fed = time.monotonic() + READY_S - WATCHDOG_S
        while True:
            if self.board.wires.off:
                return "power switch"
            if self.board.wires.reboot:
                return "reboot command"
            if agent.poll() is not None:
                tell("agent-exit", boot=self.board.boots, code=agent.returncode)
                return f"agent ended with {agent.returncode}"
            if guard is not None and guard.poll() is not None:
                tell("guard-exit", boot=self.board.boots, code=guard.returncode)
                if guard.returncode != 0:
                    return f"guard ended with {guard.returncode}"
                guard = None
            if self.fed():
                fed = time.monotonic()
            if time.monotonic() - fed > WATCHDOG_S:
                tell("watchdog", boot=self.board.boots)
                return "watchdog"
            time.sleep(TICK_S)

    def fed(self) -> bool:
        fed = False
        while True:
            try:
                message = self.notify.recv(4096)
            except BlockingIOError:
                return fed
            fed = True
            if b"READY=1" in message and not self.ready:
                self.ready = True
                tell("ready", boot=self.board.boots)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a program of the mounted image with nothing but that image on its path."""
        board = self.board
        rootfs = board.ram / "rootfs"
        config = "dcu.yaml" if program == "dcu-agent" else "dcu-update.toml"
        name = "-".join([program, *arguments])
        log = (board.logs / f"{name}.log").open("ab")
        child = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(rootfs / "usr/bin" / program),
                "--config",
                str(board.root / "data" / "etc" / config),
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=rootfs,
            env={
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "NOTIFY_SOCKET": str(self.notify_path),
                "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
            },
        )
        log.close()
        self.children[name] = child
        tell("start", boot=board.boots, program=name, pid=child.pid)
        return child

    def wait(self, child: subprocess.Popen[bytes]) -> int | None:
        while child.poll() is None and not self.board.wires.off:
            time.sleep(TICK_S)
        return child.poll()

    def end(self) -> None:
        """Orderly shutdown: TERM, a while, KILL."""
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        until = time.monotonic() + TERM_S
        for child in self.children.values():
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.notify.close()
        self.notify_path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dir", type=Path)
    arguments = parser.parse_args()
    os.umask(0o077)
    return Board(arguments.dir.resolve()).run()


if __name__ == "__main__":
    sys.exit(main())
