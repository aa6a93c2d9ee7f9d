"""The head-end's configuration: one YAML file, read once. Paths in it are relative to its folder."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

VERSION = 1
SERVERS = ("security", "dm", "software", "metering", "operator")
CONFIG_NAME = "headend.yaml"
SERVER_ID = "dcu-headend"
PORT_MAX = 65_535
WAITING_DAYS_MAX = 14  # a job fails when its device has not reported for this long
DAYS_MAX = 36_500


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has all that were found, each with file and key path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Listener:
    """Where one server listens, and the base URL at which devices reach it (there may be a proxy in between)."""

    host: str
    port: int
    public_url: str = ""

    def url(self, port: int) -> str:
        """The base URL without a trailing slash; `port` is the one that was actually bound."""
        return self.public_url.rstrip("/") or f"https://{self.host}:{port}"


@dataclass(frozen=True, slots=True)
class Retention:
    """Days after which rows are deleted; 0 keeps them for ever. `downloads_days` applies to installation reports
    too."""

    sessions_days: int = 90
    alerts_days: int = 365
    downloads_days: int = 90
    registrations_days: int = 365
    readings_days: int = 0


@dataclass(frozen=True, slots=True)
class Push:
    """Where devices may be called: networks, and ports in them; no port allows all."""

    networks: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of `serve`. `database` is an SQLAlchemy URL; the paths are absolute."""

    folder: Path
    server_id: str
    database: str = field(repr=False)  # a PostgreSQL URL holds a password
    certificate: Path
    certificate_key: Path
    ca: Path
    operator_token_file: Path
    files: Path
    servers: dict[str, Listener]
    log_level: str = "INFO"
    waiting_days_max: int = WAITING_DAYS_MAX
    retention: Retention = field(default=Retention())
    downloads_open: bool = True  # also to whoever names no device
    push: Push = field(default=Push())

    @property
    def ports_file(self) -> Path:
        return self.folder / "ports.json"


def load(path: Path) -> Config:
    """Read `path`. Raises `ConfigError`."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2026-13-01 is a ValueError
        raise ConfigError([f"{path}: not YAML: {error}"]) from error
    problems = [f"{path}: {problem}" for problem in _problems(document)]
    if problems:
        raise ConfigError(problems)
    folder = path.resolve().parent
    return Config(
        folder=folder,
        server_id=document["server_id"],
        database=_database(document["database"], folder),
        certificate=folder / document["tls"]["certificate"],
        certificate_key=folder / document["tls"]["key"],
        ca=folder / document["tls"]["ca"],
        operator_token_file=folder / document["operator_token_file"],
        files=folder / document["files"],
        servers={name: Listener(**document["servers"][name]) for name in SERVERS},
        log_level=document.get("log", {}).get("level", "info").upper(),
        waiting_days_max=document.get("jobs", {}).get("waiting_days_max", WAITING_DAYS_MAX),
        retention=Retention(**document.get("retention", {})),
        downloads_open=document.get("downloads", {}).get("open", True),
        push=Push(**{name: tuple(values) for name, values in document.get("push", {}).items()}),
    )


def template(server_id: str, ports: dict[str, int], host: str, tls: dict[str, str]) -> str:
    """The text of a new configuration."""
    document = {
        "version": VERSION,
        "server_id": server_id,
        "database": "headend.db",
        "files": "files",
        "tls": tls,
        "operator_token_file": "operator.token",
        "servers": {name: {"host": host, "port": ports[name], "public_url": ""} for name in SERVERS},
        "jobs": {"waiting_days_max": WAITING_DAYS_MAX},
        "retention": asdict(Retention()),
        "downloads": {"open": True},
        "push": {"networks": _own_network(host), "ports": []},
        "log": {"level": "info"},
    }
    return (
        "# Configuration of the DCU head-end. Paths are relative to this file's folder. public_url is the base URL\n"
        "# that devices and people use for a server; empty means https://host:port. retention: days after which rows\n"
        "# are deleted, 0 keeps them for ever. push.networks: where devices may be called.\n"
        "# downloads.open: packages also for whoever names no device.\n" + yaml.safe_dump(document, sort_keys=False)
    )


def _own_network(host: str) -> list[str]:
    """The network of a head-end that is tried out with devices on the same machine; else it is not known."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    return [str(ipaddress.ip_network(address))] if address.is_loopback else []


def _database(text: str, folder: Path) -> str:
    return text if "://" in text else f"sqlite:///{folder / text}"


_KEYS: dict[str, type] = {
    "version": int,
    "server_id": str,
    "database": str,
    "files": str,
    "tls": dict,
    "operator_token_file": str,
    "servers": dict,
    "jobs": dict,
    "retention": dict,
    "downloads": dict,
    "push": dict,
    "log": dict,
}
_LISTENER_KEYS: dict[str, type] = {"host": str, "port": int, "public_url": str}
_TLS_KEYS: dict[str, type] = {"certificate": str, "key": str, "ca": str}
_PUSH_KEYS: dict[str, type] = {"networks": list, "ports": list}
_LOG_KEYS: dict[str, type] = {"level": str}
_DAYS_KEYS: dict[str, tuple[dict[str, type], int]] = {  # section: its keys, and the lowest number of days
    "jobs": ({"waiting_days_max": int}, 1),
    "retention": ({each.name: int for each in fields(Retention)}, 0),
}


def _problems(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "a mapping is expected"
        return
    yield from _check(document, _KEYS, "", optional={"downloads", "log", "push", *_DAYS_KEYS})
    if document.get("version") != VERSION:
        yield f"version: {VERSION} is expected"
    if isinstance(document.get("tls"), dict):
        yield from _check(document["tls"], _TLS_KEYS, "tls.")
    if isinstance(document.get("downloads"), dict):
        yield from _check(document["downloads"], {"open": bool}, "downloads.", optional={"open"})
    if isinstance(document.get("log"), dict):
        yield from _check(document["log"], _LOG_KEYS, "log.")
        if document["log"].get("level", "info") not in ("debug", "info", "warning", "error"):
            yield "log.level: debug, info, warning or error is expected"
    if isinstance(document.get("push"), dict):
        yield from _push_problems(document["push"])
    for name, (keys, least) in _DAYS_KEYS.items():
        if isinstance(document.get(name), dict):
            yield from _days_problems(document[name], keys, least, f"{name}.")
    servers = document.get("servers")
    if isinstance(servers, dict):
        yield from _check(servers, dict.fromkeys(SERVERS, dict), "servers.")
        for name in SERVERS:
            if isinstance(servers.get(name), dict):
                yield from _listener_problems(servers[name], f"servers.{name}.")


def _days_problems(entry: dict[str, Any], keys: dict[str, type], least: int, where: str) -> Iterator[str]:
    yield from _check(entry, keys, where, optional=set(keys))
    for key in keys:
        days = entry.get(key, least)
        if isinstance(days, int) and not least <= days <= DAYS_MAX:
            yield f"{where}{key}: {least} to {DAYS_MAX} days are expected"


def _push_problems(entry: dict[str, Any]) -> Iterator[str]:
    yield from _check(entry, _PUSH_KEYS, "push.", optional=set(_PUSH_KEYS))
    networks, ports = entry.get("networks", []), entry.get("ports", [])
    for network in networks if isinstance(networks, list) else ():
        try:
            ipaddress.ip_network(str(network))  # a number would be an address
        except ValueError as error:
            yield f"push.networks: {error}"
    for port in ports if isinstance(ports, list) else ():
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= PORT_MAX:
            yield f"push.ports: 1 to {PORT_MAX} is expected, not {port!r}"


def _listener_problems(entry: dict[str, Any], where: str) -> Iterator[str]:
    yield from _check(entry, _LISTENER_KEYS, where, optional={"public_url"})
    port, url = entry.get("port"), entry.get("public_url")
    if isinstance(port, int) and not 0 <= port <= PORT_MAX:
        yield f"{where}port: 0 to {PORT_MAX} is expected"
    if isinstance(url, str) and url:
        if not _is_https(url):
            yield f"{where}public_url: an https URL is expected"


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # such as https://[
        return False
    return parts.scheme == "https" and bool(parts.hostname)


def _check(
    mapping: dict[Any, Any], keys: dict[str, type], where: str, optional: frozenset[str] | set[str] = frozenset()
) -> Iterator[str]:
    for key in mapping:
        if key not in keys:
            yield f"{where}{key}: unknown key"
    for key, kind in keys.items():
        if key not in mapping:
            if key not in optional:
                yield f"{where}{key}: missing"
        elif not isinstance(mapping[key], kind) or (kind is int and isinstance(mapping[key], bool)):
            yield f"{where}{key}: {kind.__name__} is expected, not {type(mapping[key]).__name__}"
