"""What the board's maker and its operator do: keys, signed packages, the data partition, a package handed over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.board.image.build import REPO, BuiltBoard, make_disk
from tests.board.image.debian import BoardError
from tests.board.image.system import COMPATIBLE
from updateagent.handover import InstallRequest

DEVICE_KEY = "5a" * 32 + "\n"


class Factory:
    """Keys and packages in a folder, made once."""

    def __init__(self, board: BuiltBoard, folder: Path) -> None:
        self.board = board
        self.folder = folder
        self.keys = folder / "keys"
        _pack("keygen", "--out", self.keys)

    def package(self, version: str) -> Path:
        """The signed package of a version's root file system."""
        out = self.folder / f"firmware-{version}.swu"
        if not out.exists():
            _pack(
                *("build", "--key", self.keys / "signer.key", "--cert", self.keys / "signer.crt"),
                *("--version", version, "--security-version", "1", "--compatible", COMPATIBLE, "--compress", "zlib"),
                *("--image", f"rootfs={self.board.image(version)}", "-o", out),
            )
        return out

    def disk(self, folder: Path, *, update: str | None = None, environment: Mapping[str, str] | None = None) -> Path:
        """A board's disk, with the package of version `update` handed over as request `r<version>`."""
        data = folder / "data"
        (data / "factory").mkdir(parents=True)
        for name in ("inbox", "outbox"):
            (data / "dcu" / "update" / name).mkdir(parents=True)
        (data / "dcu" / "log").mkdir()
        (data / "factory" / "root.crt").write_bytes((self.keys / "root.crt").read_bytes())
        key = data / "factory" / "device.key"
        key.write_text(DEVICE_KEY)
        key.chmod(0o600)
        if update is not None:
            inbox = data / "dcu" / "update" / "inbox"
            (inbox / "package.swu").write_bytes(self.package(update).read_bytes())
            request = InstallRequest(f"r{update}", "package.swu", f"c{update}", requested=1.0)
            (inbox / "request.json").write_bytes(request.emit())
        disk = folder / "disk.img"
        make_disk(self.board, disk, data, dict(environment or {}))
        return disk


def _pack(*arguments: object) -> None:
    command = [sys.executable, "-m", "updateagent.buildhost.pack", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    if done.returncode != 0:
        raise BoardError(f"dcu-pack {arguments[0]}: {done.stderr}")
