"""Runs on the board: tells the host what has started, waits for the end of the update, tells that, and switches off."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.board.guest.console import say

UPDATE = Path("/data/dcu/update")
PARTS = {"A": Path("/dev/vda2"), "B": Path("/dev/vda3")}
POLL_S = 0.5


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def guard_runs() -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if b"guard" in words:
            return True
    return False


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tell_image(slot: str) -> None:
    digest = hashlib.sha256()
    with PARTS[slot].open("rb") as device:
        while piece := device.read(1 << 20):
            digest.update(piece)
    say(event="image", slot=slot, sha256=digest.hexdigest())


def outbox() -> list[str]:
    """What lies there for the agent; the room that is kept for a result does not."""
    return sorted(path.name for path in (UPDATE / "outbox").iterdir() if path.name != ".spare")


def main(patience_s: float) -> None:
    words = Path("/proc/cmdline").read_text().split()
    slot = next(word.removeprefix("rauc.slot=") for word in words if word.startswith("rauc.slot="))
    tell_image(slot)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        waits = (UPDATE / "inbox" / "request.json").exists()
        if not guard_runs() and not waits and outbox():
            break
        time.sleep(POLL_S)
    variables = dict(line.split("=", 1) for line in output("fw_printenv").splitlines() if line.startswith("BOOT_"))
    say(
        event="end",
        slot=slot,
        result=read_json(UPDATE / "outbox" / "result.json"),
        outbox=outbox(),
        inbox=sorted(path.name for path in (UPDATE / "inbox").iterdir()),
        environment=variables,
        status=json.loads(output("dcu-update", "status", "--json")),
    )
    subprocess.run(["poweroff"], check=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
