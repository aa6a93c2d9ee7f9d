"""Who this device is, from the files that the configuration names: its key, and the release of the running image."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.settings.config import DeviceConfig
from agent.settings.device import UNKNOWN_VERSION, DeviceInfo
from omadm.ssmp.limits import DEVICE_KEY_BYTES
from updateagent.release import parse_release

SECRET_FILE_BYTES_MAX = 4096
RELEASE_FILE_BYTES_MAX = 64 * 1024


class SecretError(Exception):
    """A secret's file is missing, malformed, or somebody else can use it. The message never shows its content."""


def read_secret(file: Path) -> bytes:
    """Return the device key in `file`, which holds 32 bytes as hexadecimal text. Raises `SecretError`."""
    try:
        key = bytes.fromhex(read_private(file).decode("ascii").strip())
    except ValueError:
        raise SecretError(f"{file}: wanted hexadecimal digits") from None
    if len(key) != DEVICE_KEY_BYTES:
        raise SecretError(f"{file}: wanted {DEVICE_KEY_BYTES} bytes, it holds {len(key)}")
    return key


def read_password(file: Path) -> str:
    """Return the password that is the first line of `file`. Raises `SecretError`."""
    try:
        lines = read_private(file).decode("utf-8").splitlines()
    except ValueError:
        raise SecretError(f"{file}: is no text") from None
    if not lines or not lines[0].strip():
        raise SecretError(f"{file}: holds no password")
    return lines[0]


def read_private(file: Path, bytes_max: int = SECRET_FILE_BYTES_MAX) -> bytes:
    """Return the first `bytes_max` bytes of a file that nobody but its owner may use. Raises `SecretError`."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SecretError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        mode = found.st_mode
        if not stat.S_ISREG(mode):
            raise SecretError(f"{file}: is not a file")
        if mode & 0o077:
            raise SecretError(f"{file}: others may use it (mode {stat.S_IMODE(mode):04o}); chmod it to 0600")
        if found.st_uid not in (0, os.geteuid()):  # root reads every file, also one that somebody else may exchange
            raise SecretError(f"{file}: belongs to user {found.st_uid}; chown it to the agent's user")
        return os.read(descriptor, bytes_max)
    finally:
        os.close(descriptor)


def read_release(file: Path) -> dict[str, str]:
    """Read `KEY=value` lines as in os-release(5); quotes around a value are taken off. Raises `OSError`."""
    with file.open("rb") as stream:
        return parse_release(stream.read(RELEASE_FILE_BYTES_MAX).decode("utf-8", "replace"))


def device_info(config: DeviceConfig, sw_version: str) -> DeviceInfo:
    """Return the identity that this device reports. The firmware's version comes from the release file of the image."""
    try:
        fw_version = read_release(config.release_file).get("VERSION", "")
    except OSError:
        fw_version = ""
    return DeviceInfo(
        device_id=config.id,
        man=config.man,
        mod=config.mod,
        hw_version=config.hw_version,
        fw_version=fw_version or UNKNOWN_VERSION,
        sw_version=sw_version,
        oem=config.oem,
    )
