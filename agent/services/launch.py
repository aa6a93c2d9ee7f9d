"""Becomes a service: takes limits and another user upon itself, then executes the program. A program of its own, run by
`agent.services.program` as `python -I -S launch.py JSON`; it imports nothing of ours and little else.

A thread must not run Python between fork and exec, which the limits would need; hence this step in between. Whoever
it becomes, it ends with the thread that started it (PR_SET_PDEATHSIG), also when the agent is killed. The program's
environment is set by the same call that executes it, so that no library that it names is loaded by an interpreter
that is still root.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

EXIT_CANNOT = 126  # as the shell has it: found, and cannot be executed
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
NICE = 5  # below the agent, which reads meters


def main(text: str) -> int:
    """Execute the program; returns only when that fails."""
    wanted: dict[str, Any] = json.loads(text)
    prctl = _prctl()  # before the change of user, who may not read our libraries
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        if wanted["uid"] is not None:
            os.setgroups([])
            os.setresgid(wanted["gid"], wanted["gid"], wanted["gid"])
            os.setresuid(wanted["uid"], wanted["uid"], wanted["uid"])
            if 0 in os.getresuid():  # of no use to anybody, and never meant
                raise PermissionError("still root")
        # After the change of user, which clears the signal (prctl(2)).
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != wanted["parent"]:
            return EXIT_CANNOT  # the agent went away meanwhile, and the signal is for the next one who does
        os.umask(0o077)
        for name, value in wanted["limits"].items():
            number = getattr(resource, name)
            _, hard = resource.getrlimit(number)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (most, most))
        os.execve(wanted["program"], [wanted["program"], *wanted["arguments"]], wanted["environment"])  # noqa: S606
    except (OSError, ValueError, MemoryError) as error:
        sys.stderr.write(f"{wanted['program']}: cannot be started: {error}\n")
    return EXIT_CANNOT


def _prctl() -> Callable[..., object]:
    try:
        import ctypes

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        sys.stderr.write("no prctl here: if the agent is killed, this program is ended at the agent's next start\n")
        return lambda *_: None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
