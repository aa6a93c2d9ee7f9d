"""Hooks: programs inside a signed firmware package that run at certain steps of its installation.

    pre-install     on the running system, when the package is verified and nothing is written yet; failing refuses it
    post-install    on the running system, when the images are written and read back; failing ends the update, and so
                    does changing a byte of them
    adapt           after that, for a slot that is not to stay as it was signed: what it holds is from then on not
                    claimed to be the signed image, and no delta can be made from it
    migrate         on the new system, before its agent is started for the first time; failing rolls the update back

A hook gets a few variables (`DCU_HOOK`, `DCU_SLOT`, `DCU_FROM_VERSION`, `DCU_TO_VERSION`, `DCU_UPDATE_DIR`; `migrate`
also `DCU_STATE`, the copies of the state folders to change, separated by colons), no arguments, no input, and
`TIMEOUT_S` seconds. It may run again after a power cut, and must be able to. It is copied to the run directory (which
must allow execution), every block checked against the signed hash tree, and removed afterwards. Processes that it left
running are killed, in whatever session they are (`child`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from updateagent.engine import child
from updateagent.errors import HOOK, PackageError, storage_error

TIMEOUT_S = 120.0
SAID_BYTES_MAX = 300

LOG = logging.getLogger("update.hook")


def run_hook(
    step: str, content: Iterable[bytes], folder: Path, variables: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> None:
    """Run the verified `content` as a program. Raises `PackageError` (hook), `DeviceError` (storage)."""
    program = folder / f"hook-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not durable on purpose: a hook that was interrupted is copied and run again.
        fd = os.open(program, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
        with os.fdopen(fd, "wb") as file:
            for piece in content:
                file.write(piece)
    except OSError as error:
        raise storage_error(error, str(program)) from error
    try:
        _run(step, program, variables, timeout_s)
    finally:
        program.unlink(missing_ok=True)


def _run(step: str, program: Path, variables: Mapping[str, str], timeout_s: float) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DCU_HOOK": step, **variables}
    try:
        status, said = child.run([program], timeout_s, SAID_BYTES_MAX, environment=environment)
    except OSError as error:
        raise PackageError(HOOK, f"hook {step} cannot be run: {error.strerror or error}") from error
    if status is None:
        raise PackageError(HOOK, f"hook {step} did not end in {timeout_s:g} s: {said}")
    if status != 0:
        raise PackageError(HOOK, f"hook {step} ended with {status}: {said}")
    LOG.info("hook %s: done %s", step, said, extra={"event": "update.hook"})
