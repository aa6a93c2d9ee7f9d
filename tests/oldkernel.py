"""A kernel as old as Linux 2.6.32, as far as system calls go: every newer one answers ENOSYS.

`make_interpreter` writes a program that behaves like this interpreter under such a kernel: it sets a seccomp filter,
which its children keep, and becomes Python. Numbers of system calls are given in the order of their making, so "newer"
is one comparison; the first of 2.6.33 is `recvmmsg` on every architecture. The kernel is also asked to call itself 2.6
(personality UNAME26): OpenSSL reads /dev/urandom in place of `getrandom` only where the kernel says it is old.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

# AUDIT_ARCH of include/uapi/linux/audit.h, number of recvmmsg
FIRST_NEWER = {"x86_64": (0xC000003E, 299), "aarch64": (0xC00000B7, 243), "armv7l": (0x40000028, 365)}

SCRIPT = """#!{python} -IS
import ctypes, os, struct, sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ENOSYS = 38, 22, 2, 38
UNAME26 = 0x0020000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
program = [
    (LOAD, 0, 0, 4),  # the architecture
    (EQUAL, 1, 0, {architecture}),
    (RETURN, 0, 0, KILL),
    (LOAD, 0, 0, 0),  # the number
    (AT_LEAST, 0, 1, {first}),
    (RETURN, 0, 0, ERRNO | ENOSYS),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.personality(UNAME26) == -1:
    sys.exit(f"no personality: {{os.strerror(ctypes.get_errno())}}")
for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0)):
    if libc.prctl(*arguments) != 0:
        sys.exit(f"no filter: {{os.strerror(ctypes.get_errno())}}")
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


def why_not() -> str:
    """Why there is no such kernel here, as a sentence; empty when there is."""
    if sys.platform != "linux" or platform.machine() not in FIRST_NEWER:
        return f"the numbers of system calls of {sys.platform} on {platform.machine()} are not known here"
    return ""


def make_interpreter(path: Path) -> Path:
    """Write the program to `path`."""
    architecture, first = FIRST_NEWER[platform.machine()]
    path.write_text(SCRIPT.format(python=sys.executable, architecture=architecture, first=first))
    path.chmod(0o755)
    return path
