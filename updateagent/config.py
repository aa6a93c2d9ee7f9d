"""The settings of the Update Agent: one TOML file, read once, checked whole.

Every mistake in the file is reported, each with its line and its key, before anything else happens (exit status 2). A
key that is not known is no mistake for a program that runs: after a rollback it meets the settings of a later version.
`etc/dcu-update.toml` documents the keys.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from updateagent import boot
from updateagent.boot import loaders
from updateagent.boot.policy import TRIES_MAX
from updateagent.engine.health import DEADLINE_DEFAULT_S, CommandCheck, HealthConfig
from updateagent.errors import CONFIGURATION, RequestError

LOG = logging.getLogger("update")

DEFAULT_FILE = Path("/etc/dcu-update.toml")
TRIES_DEFAULT = 3
NO_CHECKS = "none"  # what [health] checks says when a trial is to be confirmed unseen
ROOTFS = "rootfs"  # the image that goes to the slot itself
FILE_BYTES_MAX = 64 << 10
LOCK_DEFAULT = "/var/lock/fw_printenv.lock"  # of libubootenv's fw_printenv and fw_setenv


@dataclass(frozen=True, slots=True)
class PartitionConfig:
    """Where one image is written. `size` in bytes; None for the size of the device."""

    type: str
    path: Path
    size: int | None = None


@dataclass(frozen=True, slots=True)
class SlotConfig:
    """One slot, with the boot loader's name for it and the partition of each image; a recovery slot has none."""

    name: str
    partitions: Mapping[str, PartitionConfig]
    recovery: bool = False


@dataclass(frozen=True, slots=True)
class BootEnvConfig:
    """A pair of the table in `updateagent.boot`. `config` is fw_env.config for U-Boot, the block itself for GRUB."""

    type: str
    policy: str
    config: Path
    lock: Path | None = Path(LOCK_DEFAULT)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    slots: tuple[SlotConfig, ...]
    bootenv: BootEnvConfig
    update_dir: Path
    run_dir: Path
    software_dir: Path
    roots: Path
    compatible: str
    cmdline: Path = Path("/proc/cmdline")
    cmdline_key: str = "rauc.slot"
    mountinfo: Path = Path("/proc/self/mountinfo")
    boot_id_file: Path = Path("/proc/sys/kernel/random/boot_id")
    release_file: Path = Path("/etc/os-release")
    log_file: Path | None = None
    log_command: tuple[str, ...] = ()
    state_dirs: tuple[Path, ...] = ()
    trial_tries: int = TRIES_DEFAULT
    health: HealthConfig = field(default_factory=HealthConfig)

    @property
    def slot_names(self) -> tuple[str, ...]:
        """All slots, the recovery slot last."""
        return tuple(slot.name for slot in sorted(self.slots, key=lambda slot: slot.recovery))

    @property
    def recovery(self) -> str:
        """The name of the recovery slot; empty when there is none."""
        return next((slot.name for slot in self.slots if slot.recovery), "")


_Mistake = tuple[str, str]
"""A key, and what is wrong with it."""


class _Table:
    """A TOML table from which keys are taken one by one. Bad values are mistakes, keys that are left over unknown."""

    def __init__(self, name: str, raw: object, mistakes: list[_Mistake], unknown: list[_Mistake]) -> None:
        self._name = name
        self._mistakes = mistakes
        self._unknown = unknown
        self._left: dict[str, Any] = {}
        if isinstance(raw, dict):
            self._left = dict(raw)
        else:
            mistakes.append((name, "expected a table"))

    def path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """Take the value of `key`; without a `default` it is required."""
        if key not in self._left:
            if default is ...:
                self.mistake(key, "missing")
                return None
            return default
        value = self._left.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)
            self.mistake(key, f"expected {wanted}, found {type(value).__name__}")
            return None if default is ... else default
        return value

    def take_path(self, key: str, default: Any = ...) -> Any:
        text = self.take(key, str, default)
        return Path(text) if isinstance(text, str) else text

    def take_names(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        found = self.take(key, list, list(default))
        if not all(isinstance(name, str) for name in found):
            self.mistake(key, "expected a list of texts")
            return default
        return tuple(found)

    def table(self, key: str, default: Any = ...) -> _Table:
        return _Table(self.path(key), self.take(key, dict, default) or {}, self._mistakes, self._unknown)

    def tables(self, key: str) -> list[_Table]:
        found = self.take(key, list, [])
        return [
            _Table(f"{self.path(key)}[{index}]", raw, self._mistakes, self._unknown) for index, raw in enumerate(found)
        ]

    def mistake(self, key: str, why: str) -> None:
        self._mistakes.append((self.path(key), why))

    def check(self, key: str, value: Any, good: Callable[[Any], bool], why: str) -> None:
        if value is not None and not good(value):
            self.mistake(key, why)

    def end(self) -> None:
        self._unknown.extend((self.path(key), "unknown key") for key in self._left)


def load(path: Path, *, strict: bool = True) -> Config:
    """Read the file. Raises `RequestError` (configuration) with every mistake, one per line, as `file:line: key: why`.
    Not `strict`: keys that are not known are logged, where nothing else is wrong."""
    import tomllib

    try:
        raw = path.read_bytes()
        if len(raw) > FILE_BYTES_MAX:
            raise RequestError(CONFIGURATION, f"{path}: more than {FILE_BYTES_MAX} bytes")
        text = raw.decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise RequestError(CONFIGURATION, f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RequestError(CONFIGURATION, f"{path}:{line}: not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))  # or "at end of document"
        line = int(where[1]) if where else text.count("\n") + 1
        raise RequestError(CONFIGURATION, f"{path}:{line}: {error}") from error
    mistakes: list[_Mistake] = []
    unknown: list[_Mistake] = []
    config = _config(_Table("", document, mistakes, unknown), mistakes)
    if config is None or (strict and unknown):
        raise RequestError(CONFIGURATION, "\n".join(_shown(path, text, [*mistakes, *unknown])))
    if unknown:
        for said in _shown(path, text, unknown):
            LOG.warning("%s: passed over", said, extra={"event": "config.unknown_key"})
    return config


def _shown(path: Path, text: str, mistakes: list[_Mistake]) -> list[str]:
    """One line per mistake, in the order of the file."""
    from updateagent.toml_lines import line_of, lines_of

    lines = lines_of(text)
    found = [(line_of(lines, key), f"{key}: {why}" if key else why) for key, why in mistakes]
    return [f"{path}:{line}: {said}" for line, said in sorted(found, key=lambda one: one[0])]


def _config(top: _Table, mistakes: list[_Mistake]) -> Config | None:
    """The configuration, or None when `mistakes` has any."""
    slots = tuple(_slot(table) for table in top.tables("slot"))
    bootenv = _bootenv(top.table("bootenv"))
    _check_slots(top, slots, bootenv)
    health = _health(top.table("health", {}))
    tries = top.take("trial_tries", int, TRIES_DEFAULT)
    top.check("trial_tries", tries, lambda value: 1 <= value <= TRIES_MAX, f"1 to {TRIES_MAX}")
    update_dir = top.take_path("update_dir")
    values: dict[str, Any] = {
        "update_dir": update_dir,
        "run_dir": top.take_path("run_dir"),
        "software_dir": top.take_path("software_dir", update_dir / "software" if update_dir else None),
        "roots": top.take_path("roots"),
        "compatible": top.take("compatible", str),
        "cmdline": top.take_path("cmdline", Path("/proc/cmdline")),
        "cmdline_key": top.take("cmdline_key", str, "rauc.slot"),
        "mountinfo": top.take_path("mountinfo", Path("/proc/self/mountinfo")),
        "boot_id_file": top.take_path("boot_id_file", Path("/proc/sys/kernel/random/boot_id")),
        "release_file": top.take_path("release_file", Path("/etc/os-release")),
        "log_file": top.take_path("log_file", None),
        "log_command": top.take_names("log_command", ()),
        "state_dirs": _state_dirs(top, update_dir),
    }
    top.end()
    if mistakes:
        return None
    return Config(slots=slots, bootenv=bootenv, health=health, trial_tries=tries, **values)


def _state_dirs(top: _Table, update_dir: Path | None) -> tuple[Path, ...]:
    folders = tuple(Path(name) for name in top.take_names("state_dirs", ()))
    for folder in folders:
        others = [*folders, *([update_dir] if update_dir else [])]
        if not folder.is_absolute() or ":" in str(folder) or ".." in folder.parts:
            top.mistake("state_dirs", f"{folder}: an absolute path without .. and colons is needed")
        elif any(one is not folder and (one.is_relative_to(folder) or folder.is_relative_to(one)) for one in others):
            top.mistake("state_dirs", f"{folder} lies in, or holds, another folder of these or update_dir")
    return folders


def _check_slots(top: _Table, slots: tuple[SlotConfig, ...], bootenv: BootEnvConfig) -> None:
    recovery = [slot for slot in slots if slot.recovery]
    if len(slots) - len(recovery) < 2 or len({slot.name for slot in slots}) != len(slots):
        top.mistake("slot", "at least two slots with different names are needed, besides a recovery slot")
    if len(recovery) > 1:
        top.mistake("slot", "there can be one recovery slot")
    pair = (bootenv.type, bootenv.policy)
    if recovery and pair in loaders.BOOT_LOADERS and not loaders.policy_class(*pair).has_recovery:
        top.mistake("slot", f"the policy {bootenv.policy} has no recovery slot")


def _slot(table: _Table) -> SlotConfig:
    name = table.take("name", str) or ""
    table.check("name", name, lambda value: value.isascii() and value.isalnum(), "letters and digits only")
    if table.take("recovery", bool, default=False):
        table.end()  # it is never written: only the boot loader needs to know where it is
        return SlotConfig(name, {}, recovery=True)
    partitions = {ROOTFS: _partition(table)}
    for image in table.tables("image"):
        partitions[image.take("name", str) or ""] = _partition(image)
        image.end()
    table.end()
    return SlotConfig(name, partitions)


def _partition(table: _Table) -> PartitionConfig:
    from updateagent.slots.types import SLOT_TYPES

    kind = table.take("type", str) or ""
    table.check("type", kind, lambda value: value in SLOT_TYPES, f"one of {', '.join(sorted(SLOT_TYPES))}")
    size = table.take("size", int, None)
    table.check("size", size, lambda value: value > 0, "a number of bytes above 0")
    if kind == "file" and size is None:
        table.mistake("size", "a slot of type file needs it")
    return PartitionConfig(kind, table.take_path("path") or Path(), size)


def _bootenv(table: _Table) -> BootEnvConfig:
    kind = table.take("type", str) or ""
    table.check("type", kind, lambda value: value in loaders.types(), f"one of {', '.join(loaders.types())}")
    known = loaders.policies(kind)
    policy = table.take("policy", str, known[0] if known else "")
    if known:
        table.check("policy", policy, lambda value: value in known, f"with type {kind} one of {', '.join(known)}")
    locked = kind in boot.LOCKED_TYPES
    lock = table.take("lock", str, LOCK_DEFAULT if locked else "")
    if known and not locked:
        table.check("lock", lock, lambda value: not value, f"type {kind} has no lock: its own tools take none")
    config = BootEnvConfig(kind, policy, table.take_path("config") or Path(), Path(lock) if lock else None)
    table.end()
    return config


def _health(table: _Table) -> HealthConfig:
    deadline = table.take("deadline_s", (int, float), DEADLINE_DEFAULT_S)
    table.check("deadline_s", deadline, lambda value: value > 0, "a number of seconds above 0")
    poll = table.take("poll_s", (int, float), 1.0)
    table.check("poll_s", poll, lambda value: value > 0, "a number of seconds above 0")
    defaults = HealthConfig()
    commands = []
    for command in table.tables("command"):
        name = command.take("name", str) or ""
        words = command.take_names("command", ())
        if not words:
            command.mistake("command", "a list with a program and its arguments")
        commands.append(CommandCheck(name, words, float(command.take("timeout_s", (int, float), 10.0))))
        command.end()
    checks = table.take("checks", (list, str), list(defaults.checks))
    if checks == NO_CHECKS:
        checks = []
    elif not checks or isinstance(checks, str):
        table.mistake("checks", f'without one, any system would be confirmed at once: name some, or say "{NO_CHECKS}"')
    if not all(isinstance(name, str) for name in checks):
        table.mistake("checks", "expected a list of texts")
    health = HealthConfig(
        float(deadline),
        float(poll),
        tuple(checks),
        table.take_names("boot_checks", defaults.boot_checks),
        tuple(commands),
    )
    table.end()
    return health
