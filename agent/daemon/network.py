"""Puts changes of how the head-end is reached into effect: trusted authorities, time servers, and what the hook knows.

The file of authorities and the drop-in of systemd-timesyncd are replaced whole and durably. The hook is a program of
the board's maker. It is given a JSON object on its standard input,

    {"version": 1, "time_servers": ["ntp.example"], "access": "apn=meters.example"}

where an empty list or text means what the system has without us, and exits with 0 once that is in effect. It may be run
again with the same object.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.dm.trial import Reached
from agent.https import HttpsClient, HttpsError, HttpsRefused
from agent.log import SECRETS, hide
from agent.tls import check_anchors

if TYPE_CHECKING:
    from agent.mo.connectivity.trial import Values
    from agent.settings.config import ConnectivityConfig
    from updateagent.disk import Disk

FOLDER, ANCHORS_FILE = "connectivity", "anchors.pem"
COMMAND_S = 40.0  # two of them within the DM worker's watchdog budget; a modem that needs longer goes on by itself
SAID_CHARS_MAX = 200
HOOK_VERSION = 1


class SystemNetwork:
    """`ca_file` has the authorities of the device's own configuration. One thread, but for `registration`
    and `anchors`."""

    def __init__(
        self,
        config: ConnectivityConfig,
        https: HttpsClient,
        disk: Disk,
        state_dir: Path,
        ca_file: Path,
        run: Callable[[Sequence[str], bytes], str] | None = None,
    ) -> None:
        self._config = config
        self._https = https
        self._disk = disk
        self._file = state_dir / FOLDER / ANCHORS_FILE
        self._ca_file = ca_file
        self._run = run or run_command
        self._trusted = ca_file
        self._given: tuple[str, str] | None = None  # time servers and access, as the system has them
        self.registration = ""  # the security server's address, where it is not the configured one

    def prepare(self, values: Values) -> None:
        """Before anything is asked of a server: have nobody trust the authorities of before. What goes wrong here is
        said by `apply`."""
        self.registration = values.registration
        self._trust(values.anchors)

    def apply(self, values: Values, *, outdated: bool) -> str:
        """Trust the authorities, set the time servers and call the hook; a part that fails keeps none of the others
        from being tried. Values that the system has already are not set again. Empty, or what failed and why."""
        self.registration = values.registration
        hide(values.access)
        problems = [self._trust(values.anchors)]
        given = (values.time_servers, values.access)
        # A device on which nobody ever set these is as its maker made it.
        if self._given != given and (outdated or any(given)):
            problems += [self._set_time_servers(values.time_servers), self._call_hook(values)]
            self._given = None if any(problems[1:]) else given
        return "; ".join(problem for problem in problems if problem)

    def anchors(self) -> Path | None:
        """The file of the authorities that are trusted in the place of the configured ones; None for none."""
        return None if self._trusted == self._ca_file else self._trusted

    def reach(self, url: str) -> tuple[Reached, str]:
        """Connect to the server of an https URL and judge its certificate by the authorities trusted now."""
        try:
            self._https.reach(url)
        except HttpsRefused as error:
            return Reached.REFUSED, str(error)
        except HttpsError as error:
            return Reached.UNREACHABLE, str(error)
        return Reached.YES, ""

    # -- inside -----------------------------------------------------------------------------------------------

    def _trust(self, anchors: str) -> str:
        try:
            if anchors:
                check_anchors(anchors)  # first: the file of before is what the security server is judged by
                content = anchors.encode()
                self._disk.mkdir_durable(self._file.parent)
                if not self._disk.exists(self._file) or self._disk.read_bytes(self._file) != content:
                    self._disk.write_durable(self._file, content)
                self._https.trust(self._file)
            elif self._trusted != self._ca_file:
                self._https.trust(self._ca_file)
        except OSError as error:  # ssl.SSLError is one
            return f"the authorities cannot be used: {error.strerror or error}"
        except ValueError as error:
            return f"the authorities cannot be used: {error}"
        self._trusted = self._file if anchors else self._ca_file
        return ""

    def _set_time_servers(self, time_servers: str) -> str:
        file = self._config.timesyncd_file
        if file is None:
            return ""
        try:
            if time_servers:
                self._disk.mkdir_durable(file.parent)
                self._disk.write_durable(file, f"[Time]\nNTP={time_servers}\n".encode(), 0o644)
            elif self._disk.exists(file):
                self._disk.remove_durable(file)
        except OSError as error:
            return f"{file}: {error.strerror or error}"
        return self._run(self._config.time_command, b"")

    def _call_hook(self, values: Values) -> str:
        if not self._config.hook:
            return ""
        told = {
            "version": HOOK_VERSION,
            "time_servers": values.time_servers.split(),
            "access": values.access,
        }
        return self._run(self._config.hook, json.dumps(told).encode())


def run_command(command: Sequence[str], told: bytes) -> str:
    """Run a program with `told` on its standard input. Empty, or why it failed, with its last line."""
    try:
        done = subprocess.run(
            command, input=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {COMMAND_S:.0f} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror or error}"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return SECRETS.redact(f"{command[0]} ended with {done.returncode}{': ' + said if said else ''}")[:SAID_CHARS_MAX]
