"""The head-end's configuration: one YAML file, read once. Paths in it are relative to its folder."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from headend.sealing.sources import KeyFile, KeySource, Sources
from headend.sealing.token import TokenKeys, TokenSettings
from omadm.addresses import AddressError, check_address

VERSION = 1
SERVERS = ("security", "dm", "software", "metering", "operator")
CONFIG_NAME = "headend.yaml"
KEY_FILE = "sealing.key"
SERVER_ID = "dcu-headend"
PORT_MAX = 65_535
WAITING_DAYS_MAX = 14  # a job fails when its device has not reported for this long
DAYS_MAX = 36_500
ISSUED_DAYS = 730  # the period of a certificate that this head-end issues


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
class Sealing:
    """Where the key is under which secrets of the database lie: a file, a PKCS#11 token, or, while the one takes the
    place of the other, both: the token's wraps then."""

    key_file: Path | None
    pkcs11: TokenSettings | None = None

    def source(self) -> KeySource:
        sources: list[KeySource] = []
        if self.pkcs11 is not None:
            sources.append(TokenKeys(self.pkcs11))
        if self.key_file is not None:
            sources.append(KeyFile(self.key_file))
        return sources[0] if len(sources) == 1 else Sources(*sources)


@dataclass(frozen=True, slots=True)
class Ssmp:
    """Certificates of SSMP: the server's with its key, and the authorities of devices; `None` for none of them."""

    certificate: Path
    key: Path
    device_ca: Path | None = None
    issuing_certificate: Path | None = None  # of the authority by which certificates of devices are renewed
    issuing_key: Path | None = None
    issued_days: int = ISSUED_DAYS


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
    sealing: Sealing
    log_level: str = "INFO"
    waiting_days_max: int = WAITING_DAYS_MAX
    retention: Retention = field(default=Retention())
    downloads_open: bool = True  # also to whoever names no device
    push: Push = field(default=Push())
    ssmp: Ssmp | None = None  # without it devices prove themselves with shared keys only

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
        sealing=_sealing(document.get("sealing", {}), folder),
        log_level=document.get("log", {}).get("level", "info").upper(),
        waiting_days_max=document.get("jobs", {}).get("waiting_days_max", WAITING_DAYS_MAX),
        retention=Retention(**document.get("retention", {})),
        downloads_open=document.get("downloads", {}).get("open", True),
        ssmp=_ssmp(document, folder),
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
        "sealing": {"key_file": KEY_FILE},
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
        "# downloads.open: packages also for whoever names no device. sealing: the key to the secrets of the\n"
        "# database; keep a copy, apart from copies of the database.\n" + yaml.safe_dump(document, sort_keys=False)
    )


def _ssmp(document: dict[str, Any], folder: Path) -> Ssmp | None:
    """The section; certificate and key are those of TLS where it names no others."""
    if "ssmp" not in document:
        return None
    named = {"certificate": document["tls"]["certificate"], "key": document["tls"]["key"], **document["ssmp"]}
    days: int = named.pop("issued_days", ISSUED_DAYS)
    return Ssmp(**{name: folder / value for name, value in named.items()}, issued_days=days)


def _own_network(host: str) -> list[str]:
    """The network of a head-end that is tried out with devices on the same machine; else it is not known."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    return [str(ipaddress.ip_network(address))] if address.is_loopback else []


def _sealing(section: dict[str, Any], folder: Path) -> Sealing:
    """Without the section, as in a configuration of before, the key file is beside the configuration."""
    token = section.get("pkcs11")
    name = section.get("key_file", None if token else KEY_FILE)
    settings = None
    if token:
        settings = TokenSettings(folder / token["module"], token["token"], token["key"], folder / token["pin_file"])
    return Sealing(None if name is None else folder / name, settings)


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
    "sealing": dict,
    "ssmp": dict,
    "log": dict,
}
_LISTENER_KEYS: dict[str, type] = {"host": str, "port": int, "public_url": str}
_TLS_KEYS: dict[str, type] = {"certificate": str, "key": str, "ca": str}
_SSMP_KEYS: dict[str, type] = {"certificate": str, "key": str, "device_ca": str}
_SSMP_KEYS |= {**dict.fromkeys(("issuing_certificate", "issuing_key"), str), "issued_days": int}
_PUSH_KEYS: dict[str, type] = {"networks": list, "ports": list}
_SEALING_KEYS: dict[str, type] = {"key_file": str, "pkcs11": dict}
_PKCS11_KEYS: dict[str, type] = {"module": str, "token": str, "key": str, "pin_file": str}
_LOG_KEYS: dict[str, type] = {"level": str}
_DAYS_KEYS: dict[str, tuple[dict[str, type], int]] = {  # section: its keys, and the lowest number of days
    "jobs": ({"waiting_days_max": int}, 1),
    "retention": ({each.name: int for each in fields(Retention)}, 0),
}


def _problems(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "a mapping is expected"
        return
    yield from _check(document, _KEYS, "", optional={"downloads", "log", "push", "sealing", "ssmp", *_DAYS_KEYS})
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
    yield from _sealing_problems(document.get("sealing"))
    yield from _ssmp_problems(document.get("ssmp"))
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


def _sealing_problems(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        return  # said already, unless there is none
    yield from _check(entry, _SEALING_KEYS, "sealing.", optional=set(_SEALING_KEYS))
    if isinstance(entry.get("pkcs11"), dict):
        yield from _check(entry["pkcs11"], _PKCS11_KEYS, "sealing.pkcs11.")
    if not entry:
        yield "sealing: key_file or pkcs11 is expected"


def _ssmp_problems(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict):
        return  # said already, unless there is none
    yield from _check(entry, _SSMP_KEYS, "ssmp.", optional=set(_SSMP_KEYS))
    if ("certificate" in entry) != ("key" in entry):
        yield "ssmp: certificate and key are given together"
    if ("issuing_certificate" in entry) != ("issuing_key" in entry):
        yield "ssmp: issuing_certificate and issuing_key are given together"
    days = entry.get("issued_days", ISSUED_DAYS)
    if isinstance(days, int) and not 1 <= days <= DAYS_MAX:
        yield f"ssmp.issued_days: 1 to {DAYS_MAX} days are expected"


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
        try:
            check_address(url)
        except AddressError as error:
            yield f"{where}public_url: an https URL is expected: it {error}"


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
