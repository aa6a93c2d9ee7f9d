"""What the factory does once: signing keys, images, and a board with firmware 1 and three facts about its owner."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.demo.image import REPO, Defect, build
from tests.demo.processes import DemoError
from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS, Environment

COMPATIBLE = "dcu-demo-board"
DEVICE_ID = "urn:dcu:DEMO-000042"
SLOT_BYTES = 48 * 1024 * 1024
TRIES = 2
HEALTH_DEADLINE_S = 25  # of a trial; a busy machine needs half of it, an unhealthy system all of it, twice
PORT_FIRST = 10_000
COMMAND_S = 120
POLL_EVERY_S = 3600  # nothing in the demo waits for a poll: every session is pushed or reported

# A release nobody tested on hardware: the checksum of the PRIME API starts from the wrong value, so the base node
# understands nothing of what this system says and this system nothing of what it hears.
UNTESTED = Defect(
    "plc/prime/usi.py",
    "functools.reduce(operator.xor, data, 0)",
    "functools.reduce(operator.xor, data, 0xFF)",
)


@dataclass(frozen=True)
class Signing:
    """The build host's keys."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.crt"


def run(*command: str | Path) -> str:
    """Run one of the project's programs of the build host to its end; its output, or `DemoError` with what it said."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=REPO, check=False, timeout=COMMAND_S
    )
    if done.returncode != 0:
        raise DemoError(f"{Path(str(command[0])).name} failed with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def make_keys(folder: Path) -> Signing:
    run(tool("dcu-pack"), "keygen", "--out", folder)
    return Signing(folder)


def make_firmware(version: str, signing: Signing, folder: Path) -> tuple[Path, Path]:
    """(image, signed package) of a firmware version; version 3 has its defect."""
    image = folder / f"rootfs-{version}.tar"
    build(version, image, folder, UNTESTED if version == "3" else None)
    package = folder / f"firmware-{version}.swu"
    run(
        *(tool("dcu-pack"), "build", "--key", signing.folder / "signer.key", "--cert", signing.folder / "signer.crt"),
        *("--version", version, "--security-version", "1", "--compatible", COMPATIBLE),
        *("--image", f"rootfs={image}", "--device-roots", signing.root, "-o", package),
    )
    return image, package


LIBRARY = """
const char *grid_library(void) { return "grid library %s"; }
"""
PROGRAM = """
#include <stdio.h>
#include <unistd.h>
const char *grid_library(void);
int main(void) {
    for (int count = 1; !%d; count++) {
        printf("look %%d with the %%s\\n", count, grid_library());
        fflush(stdout);
        sleep(1);
    }
    return 3;
}
"""


def make_service(name: str, version: str, signing: Signing, folder: Path, *, broken: bool = False) -> Path:
    """A signed software package with a program that is run, and the shared library that it needs. A broken one ends
    at once."""
    home = folder / f"{name}-{version}"
    home.mkdir()
    for source, text in (("library.c", LIBRARY % version), ("program.c", PROGRAM % broken)):
        (home / source).write_text(text)
    library, program, said = home / "libgrid.so", home / name, home / "component.json"
    run("cc", "-shared", "-fPIC", "-o", library, home / "library.c")
    run("cc", "-o", program, home / "program.c", library)
    spec = {"program": f"bin/{name}", "libraries": ["lib"], "ready": {"after_s": 1}, "limits": {"memory_kib": 16384}}
    said.write_text(json.dumps({"format": 1, "kind": "service", "service": spec}))
    files = {f"bin/{name}": program, "lib/libgrid.so": library, said.name: said}
    return make_software(name, version, files, signing, folder)


def make_software(name: str, version: str, files: Mapping[str, Path], signing: Signing, folder: Path) -> Path:
    """A signed software package with these files."""
    package = folder / f"{name}-{version}.swu"
    run(
        *(tool("dcu-pack"), "build", "--key", signing.folder / "signer.key", "--cert", signing.folder / "signer.crt"),
        *("--software", name, "--version", version, "--security-version", "1", "--compatible", COMPATIBLE),
        *(part for path, file in files.items() for part in ("--image", f"file:{path}={file}")),
        *("--device-roots", signing.root, "-o", package),
    )
    return package


@dataclass(frozen=True)
class Ports:
    """Where the board's two serial ports lead."""

    plc: Path
    rs485: Path


class Board:
    """The folder of one board, and the paths inside it that matter to the demo."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = Environment(folder / "flash" / "uboot.env")
        self.etc = folder / "data" / "etc"
        self.state = folder / "data" / "dcu"
        self.run = folder / "ram" / "run"
        self.control = self.run / "control.sock"

    def slot(self, name: str) -> Path:
        return self.folder / "flash" / f"slot-{name.lower()}.img"

    def assemble(self, image: Path, key: str, security_url: str, ca: Path, root: Path, ports: Ports) -> None:
        """Flash firmware 1 into slot A, erase slot B, set the environment, write the factory data."""
        for folder in ("flash", "data/etc", "data/dcu", "bin"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        self.slot("A").write_bytes(image.read_bytes().ljust(SLOT_BYTES, b"\0"))
        self.slot("B").write_bytes(b"\xff" * SLOT_BYTES)
        self.environment.create({"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0"})
        self._secret("device.key", key + "\n")
        (self.etc / "ca.pem").write_bytes(ca.read_bytes())
        (self.etc / "roots.pem").write_bytes(root.read_bytes())
        (self.etc / "fw_env.config").write_text(
            "".join(f"{self.environment.flash} {offset:#x} {ENV_BYTES:#x}\n" for offset in ENV_OFFSETS)
        )
        (self.etc / "dcu.yaml").write_text(self._agent_configuration(security_url, ports))
        (self.etc / "dcu-update.toml").write_text(self._update_configuration())

    def _secret(self, name: str, text: str) -> None:
        path = self.etc / name
        path.touch(mode=0o600)
        path.write_text(text)

    def _agent_configuration(self, security_url: str, ports: Ports) -> str:
        rootfs = self.folder / "ram" / "rootfs"
        return f"""\
# Factory data: who this device is, and whom to ask. Everything else is provisioned.
device:
  id: {DEVICE_ID}
  key_file: {self.etc}/device.key
  man: Example Works
  mod: DCU-10
  hw_version: "A"
  release_file: {rootfs}/etc/dcu-release
security_server:
  url: {security_url}
  ca_file: {self.etc}/ca.pem
dm:
  poll_every_s: {POLL_EVERY_S}
  push_listen:
    host: 127.0.0.1
    port: {free_ports(1)[0]}
  backoff_min_s: 0.5
  backoff_max_s: 5
ports:
  - name: plc0
    protocol: prime-usi
    url: {ports.plc}
  - name: rs485
    protocol: hdlc
    url: {ports.rs485}
    baudrate: 115200
    scan:
      first: 16
      last: 19
      every_s: 60
    response_timeout_s: 0.5
metering:
  reading_lists_dir: {rootfs}/etc/dcu/reading-lists
  uplink_backoff_min_s: 0.5
  uplink_backoff_max_s: 3
  uplink_replay_records_per_min: 1000000
  uplink_replay_spread_s: 0.5
update:
  dir: {self.state}/update
  run_dir: {self.run}
  boot_id_file: {self.folder}/ram/boot_id
  roots: {self.etc}/roots.pem
  compatible: {COMPATIBLE}
  command: [{sys.executable}, -I, -S, {rootfs}/usr/bin/dcu-update, --config, {self.etc}/dcu-update.toml]
state_dir: {self.state}
control_socket: {self.control}
reboot_command: [/bin/sh, -c, 'kill -USR1 "$(cat {self.folder}/ram/board.pid)"']
log:
  level: info
"""

    def _update_configuration(self) -> str:
        return f"""\
update_dir = "{self.state}/update"
run_dir = "{self.run}"
boot_id_file = "{self.folder}/ram/boot_id"
roots = "{self.etc}/roots.pem"
compatible = "{COMPATIBLE}"
release_file = "{self.folder}/ram/rootfs/etc/dcu-release"
cmdline = "{self.folder}/ram/cmdline"
trial_tries = {TRIES}
log_file = "{self.folder}/console/dcu-agent.log"
software_dir = "{self.state}/software"

[bootenv]
type = "uboot"
config = "{self.etc}/fw_env.config"

[health]
deadline_s = {HEALTH_DEADLINE_S}
checks = ["agent_up", "dm_session", "meter_port", "storage"]

[[slot]]
name = "A"
type = "file"
path = "{self.slot("A")}"
size = {SLOT_BYTES}

[[slot]]
name = "B"
type = "file"
path = "{self.slot("B")}"
size = {SLOT_BYTES}
"""


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody uses now, and that the kernel gives to nobody unasked: their owners go away for a while
    (a reboot, an outage), and somebody's outgoing connection must not sit there when they return."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = list(range(PORT_FIRST, max(low, PORT_FIRST)))
    secrets.SystemRandom().shuffle(candidates)
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in [*candidates, *[0] * count]:  # 0: where the kernel's range leaves none, one of its own
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(int(probe.getsockname()[1]))
    return found


def device_key() -> str:
    """A device key as the factory writes it: 256 bits, hexadecimal."""
    return secrets.token_hex(32)
