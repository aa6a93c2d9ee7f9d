"""`component.json`, in which a software package says what its files are for, beyond lying there. Sans-IO.

    {"format": 1, "kind": "service", "service": {"program": "bin/watch", "libraries": ["lib"], …}}
    {"format": 1, "kind": "trust-anchor", "certificates": ["ca.pem"]}
    {"format": 1, "kind": "configuration"}

It is a file of the package like any other, and thus signed. A package without one is files that lie there. The schema
is in docs/software-packages.md. Unknown keys, repeated keys and values outside their bounds are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from updateagent.errors import DESCRIPTION, PackageError
from updateagent.layout import COMPONENT_FILE
from updateagent.package.description import IDENTIFIER, LINE_OF_TEXT, Fields, is_image_name, load_json
from updateagent.package.payload import Role

COMPONENT_BYTES_MAX = 16 << 10
COMPONENT_FORMAT = 1
DYNAMIC_USER = "dynamic"

ARGUMENTS_MAX = 32
FOLDERS_MAX = 8
VARIABLES_MAX = 32
ANCHORS_MAX = 16
MEMORY_KIB_MIN, MEMORY_KIB_MAX = 4 << 10, 1 << 20  # below the least no program of ours has started
CPU_PERCENT_MAX = 400  # of one processor; four of them is the largest board
FILES_MIN, FILES_MAX = 8, 4096
PROCESSES_MAX = 256  # threads count
RESTART_MIN_S, RESTART_MAX_S = 1, 300  # unless the component says otherwise
RESTART_S_LIMIT = 3600
READY_AFTER_S, READY_DEADLINE_S = 5, 60  # unless the component says otherwise
READY_S_MAX = 120  # an activation waits for it, and the package worker with it

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_RESERVED = re.compile(r"LD_.*|PYTHON.*|DCU_.*|PATH|HOME|STATE_DIRECTORY")


class ComponentKind(Enum):
    """What the agent does with an active component."""

    SERVICE = "service"
    TRUST_ANCHOR = "trust-anchor"
    CONFIGURATION = "configuration"


class Restart(Enum):
    """When a service that has ended by itself is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service may use. `cpu_percent` is of one processor, over a minute."""

    memory_kib: int = 64 << 10
    cpu_percent: int = 50
    files: int = 64
    processes: int = 16


@dataclass(frozen=True, slots=True)
class Ready:
    """When a start counts as successful: after the program has been up for `after_s` seconds, or as soon as `command`
    ends with 0, asked every second for at most `deadline_s` seconds. `command` is empty where there is none."""

    after_s: int = READY_AFTER_S
    command: tuple[str, ...] = ()
    deadline_s: int = READY_DEADLINE_S


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A program that runs while its component is active. Paths are below the component's folder, which is the
    program's working directory. `configuration`: the component whose active folder it is told; empty for none."""

    program: str
    arguments: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    user: str = DYNAMIC_USER
    limits: Limits = Limits()
    restart: Restart = Restart.ALWAYS
    restart_min_s: int = RESTART_MIN_S
    restart_max_s: int = RESTART_MAX_S
    ready: Ready = Ready()
    configuration: str = ""

    @property
    def is_dynamic(self) -> bool:
        """Whether its user is made for it, and is nobody else's."""
        return self.user == DYNAMIC_USER


@dataclass(frozen=True, slots=True)
class Component:
    """`component.json`, checked. `service` is there for services only, `certificates` names PEM files of anchors."""

    kind: ComponentKind
    service: ServiceSpec | None = None
    certificates: tuple[str, ...] = ()


def parse(data: bytes) -> Component:
    """Parse a `component.json`. Raises `PackageError` (`description`, `limit`)."""
    whole = Fields(load_json(data, COMPONENT_BYTES_MAX, COMPONENT_FILE), COMPONENT_FILE)
    if whole.number("format", COMPONENT_FORMAT) != COMPONENT_FORMAT:
        whole.fail("format", f"only format {COMPONENT_FORMAT} is understood")
    kind = whole.choice("kind", ComponentKind)
    if kind is ComponentKind.SERVICE:
        whole.check_known({"format", "kind", "service"})
        return Component(kind, _service(whole.child("service")))
    if kind is ComponentKind.TRUST_ANCHOR:
        whole.check_known({"format", "kind", "certificates"})
        certificates = _paths(whole, "certificates", ANCHORS_MAX)
        if not certificates:
            whole.fail("certificates", "no certificate is named")
        return Component(kind, certificates=certificates)
    whole.check_known({"format", "kind"})
    return Component(kind)


def check_files(component: Component, files: Mapping[str, bool]) -> None:
    """Check that a package has what its component names. `files`: which of its files are programs, by path.

    Raises `PackageError` (`description`).
    """
    for name in component.certificates:
        if name not in files:
            raise PackageError(DESCRIPTION, f"{COMPONENT_FILE}: the package has no file {name}")
    service = component.service
    if service is None:
        return
    for name in (service.program, *service.ready.command[:1]):
        if not files.get(name, False):
            raise PackageError(DESCRIPTION, f"{COMPONENT_FILE}: {name} is no executable file of the package")
    for folder in (*service.libraries, *service.python):
        if not any(name.startswith(f"{folder}/") for name in files):
            raise PackageError(DESCRIPTION, f"{COMPONENT_FILE}: the package has no files below {folder}")


def _service(fields: Fields) -> ServiceSpec:
    fields.check_known(
        {
            *("program", "arguments", "libraries", "python", "environment", "user", "limits", "restart", "ready"),
            "configuration",
        }
    )
    user = fields.text("user", _USER) if "user" in fields else DYNAMIC_USER
    if user == "root":
        fields.fail("user", "a service does not run as root")
    when, restart_min_s, restart_max_s = Restart.ALWAYS, RESTART_MIN_S, RESTART_MAX_S
    if "restart" in fields:
        when, restart_min_s, restart_max_s = _restart(fields.child("restart"))
    return ServiceSpec(
        program=_path(fields, "program"),
        arguments=fields.texts("arguments", LINE_OF_TEXT, ARGUMENTS_MAX) if "arguments" in fields else (),
        libraries=_paths(fields, "libraries", FOLDERS_MAX),
        python=_paths(fields, "python", FOLDERS_MAX),
        environment=_environment(fields.child("environment")) if "environment" in fields else (),
        user=user,
        limits=_limits(fields.child("limits")) if "limits" in fields else Limits(),
        restart=when,
        restart_min_s=restart_min_s,
        restart_max_s=restart_max_s,
        ready=_ready(fields.child("ready")) if "ready" in fields else Ready(),
        configuration=fields.text("configuration", IDENTIFIER) if "configuration" in fields else "",
    )


def _path(fields: Fields, key: str) -> str:
    name = fields.text(key, None)
    if not is_image_name(Role.FILE, name):
        fields.fail(key, f"{name[:64]!r} cannot be a file of a package")
    return name


def _paths(fields: Fields, key: str, count_max: int) -> tuple[str, ...]:
    found = fields.texts(key, LINE_OF_TEXT, count_max) if key in fields else ()
    for name in found:
        if not is_image_name(Role.FILE, name):
            fields.fail(key, f"{name[:64]!r} cannot be a file of a package")
    return found


def _environment(fields: Fields) -> tuple[tuple[str, str], ...]:
    names = fields.keys(VARIABLES_MAX, _VARIABLE)
    for name in names:
        if _RESERVED.fullmatch(name):
            fields.fail(name, "is set by the agent")
    return tuple((name, fields.text(name, LINE_OF_TEXT)) for name in names)


def _limits(fields: Fields) -> Limits:
    fields.check_known({"memory_kib", "cpu_percent", "files", "processes"})
    usual = Limits()
    return Limits(
        memory_kib=_number(fields, "memory_kib", usual.memory_kib, MEMORY_KIB_MIN, MEMORY_KIB_MAX),
        cpu_percent=_number(fields, "cpu_percent", usual.cpu_percent, 1, CPU_PERCENT_MAX),
        files=_number(fields, "files", usual.files, FILES_MIN, FILES_MAX),
        processes=_number(fields, "processes", usual.processes, 1, PROCESSES_MAX),
    )


def _restart(fields: Fields) -> tuple[Restart, int, int]:
    fields.check_known({"when", "min_s", "max_s"})
    when = fields.choice("when", Restart) if "when" in fields else Restart.ALWAYS
    least = _number(fields, "min_s", RESTART_MIN_S, 1, RESTART_S_LIMIT)
    most = _number(fields, "max_s", max(RESTART_MAX_S, least), least, RESTART_S_LIMIT)
    return when, least, most


def _ready(fields: Fields) -> Ready:
    fields.check_known({"after_s", "command", "deadline_s"})
    if "command" not in fields:
        fields.absent("deadline_s")
        return Ready(after_s=_number(fields, "after_s", READY_AFTER_S, 0, READY_S_MAX))
    fields.absent("after_s")
    command = fields.texts("command", LINE_OF_TEXT, ARGUMENTS_MAX)
    if not command or not is_image_name(Role.FILE, command[0]):
        fields.fail("command", "the first element is a file of the package")
    return Ready(0, command, _number(fields, "deadline_s", READY_DEADLINE_S, 1, READY_S_MAX))


def _number(fields: Fields, key: str, otherwise: int, least: int, most: int) -> int:
    if key not in fields:
        return otherwise
    value = fields.number(key, most)
    if value < least:
        fields.fail(key, f"a whole number from {least} to {most} is expected")
    return value
