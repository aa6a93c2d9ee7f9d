"""Runs on the board: everything that the device's programs import, and what that costs."""

import importlib
import os
import pkgutil
import platform
import subprocess
import sys
from pathlib import Path

from tests.board.guest.console import check, say

PACKAGES = ("agent", "omadm", "dlms", "plc", "updateagent")


def modules() -> list[str]:
    names = []
    for package in PACKAGES:
        found = importlib.import_module(package)
        names += [package, *(one.name for one in pkgutil.walk_packages(found.__path__, f"{package}."))]
    # A program's module runs when it is imported as __main__ only, so it may be imported as well.
    return names


def import_all() -> int:
    names = modules()
    for name in names:
        importlib.import_module(name)
    return len(names)


def status_kib(pid: str, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def peak_of(*command: str) -> int:
    """Peak resident memory of a program in KiB."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return os.wait4(child.pid, 0)[2].ru_maxrss


def agent_kib() -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if b"/usr/bin/dcu-agent" in words and words[0].endswith(b"python3"):
            return status_kib(path.parent.name, "VmRSS")
    raise ProcessLookupError("dcu-agent")


if __name__ == "__main__":
    check("python", platform.python_version)
    check("machine", lambda: [platform.machine(), platform.release()])
    # First, because a child begins with the size of its parent.
    check("boot-kib", lambda: peak_of("dcu-update", "boot"))
    check("status-kib", lambda: peak_of("dcu-update", "status"))
    check("imports", import_all)
    check("imports-kib", lambda: status_kib("self", "VmHWM"))
    check("agent-kib", agent_kib)
    say(event="done")
    sys.exit(subprocess.run(["poweroff"], check=False).returncode)
