"""Which components are active, and what they are for, as the folders of installed software say it."""

from __future__ import annotations

import logging
import pwd
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.clock_floor import CertificateTime
from agent.tls import by_system_clock, shown
from agent.tls import parse as parse_certificate
from updateagent.errors import UpdateError
from updateagent.layout import ACTIVE, COMPONENT_FILE, folder_name, version_of

if TYPE_CHECKING:
    from updateagent.software.component import Component, ServiceSpec

LOG = logging.getLogger("agent.services")

PEM_BYTES_MAX = 256 << 10
AUTHORITIES_MAX = 16  # of one component
SERVICES_MAX = 16


@dataclass(frozen=True, slots=True)
class ActiveService:
    """A service of an active component. `folder` is that of its version, `configuration` the active folder of the
    component that configures it, `None` where there is none now."""

    id: str
    version: str
    folder: Path
    spec: ServiceSpec
    configuration: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is active. `anchors` is the text of the certificates by component; `problems` why others do nothing, by
    component."""

    services: Mapping[str, ActiveService] = field(default_factory=dict)
    anchors: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


class Components:
    """Reads `component.json` of installed software. Writes nothing. Any thread."""

    def __init__(self, software_dir: Path, certificate_time: Callable[[], CertificateTime] = by_system_clock) -> None:
        """`certificate_time`: the time by which certificates are judged before they become anchors."""
        self._software_dir = software_dir
        self._certificate_time = certificate_time

    def look(self) -> Found:
        """What is active now. A component that cannot be used costs nothing but itself."""
        services: dict[str, ActiveService] = {}
        anchors: dict[str, str] = {}
        problems: dict[str, str] = {}
        for software_id, folder in self._active():
            try:
                component = read(folder)
                if component is None:
                    continue
                if component.certificates:
                    anchors[software_id] = _anchors(folder, component.certificates)
                elif component.service is not None and len(services) == SERVICES_MAX:
                    problems[software_id] = f"more than {SERVICES_MAX} services"
                elif component.service is not None:
                    services[software_id] = self._service(software_id, folder, component.service)
            except (UpdateError, OSError, ValueError) as error:
                problems[software_id] = str(error)
        return Found(services, anchors, problems)

    def problem_of(self, software_id: str, version: str) -> str:
        """Why this installed version must not become active; empty for nothing."""
        folder = self.folder(software_id, version)
        try:
            component = read(folder)
            if component is None:
                return ""
            if component.certificates:
                check_anchors(_anchors(folder, component.certificates), self._certificate_time())
            elif component.service is not None and not component.service.is_dynamic:
                user_of(component.service.user)
        except (UpdateError, OSError, ValueError) as error:
            return str(error)
        return ""

    def folder(self, software_id: str, version: str) -> Path:
        """Where the files of an installed version are."""
        home = self._software_dir / software_id
        try:
            names = [one.name for one in home.iterdir()]
        except OSError:
            names = []
        return home / folder_name(names, version, (self._software_dir / ACTIVE / software_id).resolve().name)

    def is_installed(self, software_id: str) -> bool:
        """Whether there is a version of it; true also where that cannot be told."""
        try:
            (self._software_dir / software_id).stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def _service(self, software_id: str, folder: Path, spec: ServiceSpec) -> ActiveService:
        configuration = self._software_dir / ACTIVE / spec.configuration if spec.configuration else None
        if configuration is not None:
            configuration = configuration.resolve() if configuration.is_dir() else None
        return ActiveService(software_id, version_of(folder.name), folder, spec, configuration)

    def _active(self) -> Iterator[tuple[str, Path]]:
        try:
            links = sorted((self._software_dir / ACTIVE).iterdir())
        except OSError:
            return
        for link in links:
            if not link.name.startswith(".") and link.is_dir():
                yield link.name, link.resolve()


def read(folder: Path) -> Component | None:
    """The component in a folder; `None` for plain files. Raises `PackageError`, `OSError`."""
    path = folder / COMPONENT_FILE
    if not path.exists():
        return None
    from updateagent.software.component import COMPONENT_BYTES_MAX, parse  # most devices have none, and do without

    with path.open("rb") as file:
        return parse(file.read(COMPONENT_BYTES_MAX + 1))


def user_of(name: str) -> tuple[int, int]:
    """User and group number of a system user. Raises `ValueError` for none, and for root by whatever name."""
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise ValueError(f"this system has no user {name}") from error
    if found.pw_uid == 0:
        raise ValueError(f"{name} is root, as whom no service runs")
    return found.pw_uid, found.pw_gid


def _anchors(folder: Path, names: Sequence[str]) -> str:
    """The certificates in these files, as text that `ssl` takes. Raises `OSError`, `ValueError`."""
    texts: list[str] = []
    for name in names:
        with (folder / name).open("rb") as file:
            raw = file.read(PEM_BYTES_MAX + 1)
        if len(raw) > PEM_BYTES_MAX:
            raise ValueError(f"{name}: larger than {PEM_BYTES_MAX} bytes")
        texts.append(raw.decode("ascii"))
    text = "\n".join(texts)
    _loaded(text)
    return text


def check_anchors(text: str, moment: CertificateTime) -> None:
    """Check that each certificate is one of an authority, and that none has expired for certain.

    Raises `ValueError`, `TlsError`.
    """
    context = _loaded(text)
    counts = context.cert_store_stats()
    # `ssl` passes over blocks that are no certificates, such as revocation lists or keys.
    if counts["x509"] != counts["x509_ca"] or text.count("-----BEGIN ") != text.count("-----BEGIN CERTIFICATE-----"):
        raise ValueError("a trust anchor holds certificates of authorities, and nothing else")
    if counts["x509"] > AUTHORITIES_MAX:
        raise ValueError(f"{counts['x509']} certificates, {AUTHORITIES_MAX} are allowed")
    for data in context.get_ca_certs(binary_form=True):
        valid = parse_certificate(data).valid
        if valid.not_after < moment.least:
            raise ValueError(f"an authority's certificate expired at {shown(valid.not_after)}")


def _loaded(text: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"no certificate that can be read: {error}") from error
    return context
