"""docs/update-quickstart.md is what it says: its commands, as they stand there, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "update-quickstart.md"
NEEDED = ("mkenvimage", "fw_printenv", "swupdate", "openssl", "cpio", "veritysetup")


def commands() -> list[str]:
    return [textwrap.dedent(block) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE.read_text(), re.S | re.M)]


def run(script: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_takes_ten_commands() -> None:
    assert len(commands()) == 11  # and one with the tools of others


@pytest.mark.process
@pytest.mark.skipif(
    any(shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None for tool in NEEDED),
    reason="needs u-boot-tools, libubootenv-tool, swupdate, openssl, cpio and cryptsetup-bin",
)
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    *ten, others = commands()
    run(ten[0], tmp_path)
    board = tmp_path / "board"
    said = [run(command, board) for command in ten[1:]]
    assert "slot A   version 1  good  running" in said[4]
    assert "slot B   version 2  good  running" in said[8]
    assert "BOOT_ORDER=B A" in said[8]
    assert (board / "slot-b").read_bytes()[: 6 << 20] == (board / "rootfs.img").read_bytes()
    first, *rest = others.splitlines()
    for _ in range(20):  # swupdate's own processes race on a busy machine
        try:
            run(first, board)
            break
        except AssertionError as error:
            last = error
    else:
        raise last
    run("\n".join(rest), board)
