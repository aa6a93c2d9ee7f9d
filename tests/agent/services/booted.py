"""A real systemd as PID 1 of a container made here: namespaces, and a view of this machine's files that keeps nothing.

It needs root, `unshare` and `nsenter` (util-linux) and systemd itself; no systemd on the machine around. None of that
machine's own units are started: the target is journald and what a test starts. Its control groups are below ones made
for it, in every hierarchy that there is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.agent.services.packages import until

SYSTEMD = Path("/lib/systemd/systemd")
GROUPS = Path("/sys/fs/cgroup")
COMMAND_S = 60.0

# $1: the folder that both sides share, $2: the name of the control groups.
OUTSIDE = r"""
set -e
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do
  [ -f "$hierarchy/cgroup.procs" ] || continue
  mkdir "$hierarchy/$2"
  for name in cpuset.cpus cpuset.mems; do
    if [ -f "$hierarchy/$name" ] && [ ! -f "$hierarchy/cgroup.controllers" ]; then
      cat "$hierarchy/$name" > "$hierarchy/$2/$name"
    fi
  done
  echo 0 > "$hierarchy/$2/cgroup.procs"
done
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child sh -c "$3" inside "$1"
"""
INSIDE = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1/root"
root="$1/root/all"
mkdir "$1/root/changed" "$1/root/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$1/root/changed,workdir=$1/root/work" overlay "$root"
mkdir -p "$root$1"
mount --bind "$1" "$root$1"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
  mknod -m 666 "$root/dev/${device% *}" c 1 "${device#* }"
done
mknod -m 666 "$root/dev/tty" c 5 0
mkdir "$root/dev/shm" "$root/dev/pts" "$root/dev/mqueue" "$root/dev/hugepages"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  while IFS=: read -r _ name _; do
    case "$name" in
      "") folder=unified; kind=cgroup2; options=rw;;
      name=*) folder="${name#name=}"; kind=cgroup; options="none,$name";;
      *) folder="$name"; kind=cgroup; options="$name";;
    esac
    mkdir "$root/sys/fs/cgroup/$folder"
    mount -t "$kind" -o "$options" cgroup "$root/sys/fs/cgroup/$folder"
  done < /proc/self/cgroup
fi
units="$root/etc/systemd/system"
rm -rf "$units" "$root/lib/systemd/system/sysinit.target.wants" "$root/lib/systemd/system-generators"
mkdir "$units"
printf '[Unit]\nDefaultDependencies=no\n' > "$units/sysinit.target"
printf '[Unit]\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n' > "$units/test.target"
printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
cd "$root"
mkdir -p mnt/before
pivot_root . mnt/before
umount -l /mnt/before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=test.target \
  --log-target=journal --show-status=no
"""


def why_not() -> str:
    """Why there can be no such container here; empty where there can."""
    if os.geteuid() != 0:
        return "makes a container, as root"
    if not SYSTEMD.exists() or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "no systemd, or no unshare and nsenter"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--cgroup", "--net", "--fork", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "namespaces are not allowed here"


class Booted:
    """A running systemd. `folder` is seen at the same place on both sides. Call `close`."""

    def __init__(self, folder: Path) -> None:
        self._groups = f"dcu-test-{os.getpid()}"
        (folder / "root").mkdir()
        self._log = (folder / "console").open("w+b")
        self._process = subprocess.Popen(
            ["sh", "-c", OUTSIDE, "outside", str(folder), self._groups, INSIDE],
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        until(lambda: self._over() or self.run(["systemctl", "is-active", "test.target"])[1].strip() == "active")

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """As `agent.services.systemd.run_command`, inside."""
        first = self._first()
        if first is None:
            return 127, "there is no first process yet"
        enter = ["nsenter", f"--target={first}", *("--mount", "--pid", "--uts", "--ipc", "--net", "--root", "--wd=/")]
        done = subprocess.run(
            [*enter, *command], capture_output=True, text=True, check=False, timeout=COMMAND_S, stdin=subprocess.DEVNULL
        )
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr.strip()

    def close(self) -> None:
        first = self._first()
        if first is not None:
            os.kill(first, signal.SIGKILL)  # and with it everything in there
        self._process.kill()
        self._process.wait()
        self._log.close()
        for made in [*GROUPS.glob(f"*/{self._groups}"), *GROUPS.glob(self._groups)]:
            until(lambda made=made: _removed(made))  # type: ignore[misc]

    def _first(self) -> int | None:
        pid = self._process.pid
        try:
            below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return None
        return int(below[0]) if below else None

    def _over(self) -> bool:
        if self._process.poll() is None:
            return False
        self._log.seek(0)
        raise AssertionError(f"systemd did not start: {self._log.read().decode(errors='replace')[-2000:]}")


def _removed(group: Path) -> bool:
    """Remove a control group with those below it; whether it is gone. One whose last process ends stays a while."""
    try:
        for one in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)):
            one.rmdir()
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
