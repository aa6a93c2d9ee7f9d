"""What the uploaded packages contain, read from each package's own description when it is added.

A firmware release has a full package and may have deltas, each from certain versions. The version that a device runs
decides which one it gets. The signature is not checked here (the device does that, with its own roots). A file that is
not a package has no row, and is served like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Connection, Integer, String, Table, delete, insert, select

from headend import db
from omadm.descriptor import DeltaSource
from updateagent.package.manifest import DeviceError, Kind, PackageError, read_unverified

releases = Table(
    "package_releases",
    db.metadata,
    Column("name", String(128), primary_key=True),  # of the package
    Column("kind", String(16), nullable=False),  # firmware | software
    Column("software_id", String(64), nullable=False),
    Column("version", String(64), nullable=False, index=True),
    Column("security_version", Integer, nullable=False),
    Column("compatible", JSON, nullable=False),  # names of hardware
    Column("requires", JSON, nullable=False),  # versions that it can be installed on; empty: any
    Column("sources", JSON, nullable=False),  # of a delta: the images it was made from, as in its descriptor
    Column("size", Integer, nullable=False),  # bytes of the package
)


class NoPackageError(Exception):
    """No uploaded package updates this device to this version; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class PackageInfo:
    """One package of a release. `size` in bytes; `sources` is empty for a package with whole images."""

    name: str
    kind: str
    software_id: str
    version: str
    security_version: int
    compatible: tuple[str, ...]
    requires: tuple[str, ...]
    sources: tuple[DeltaSource, ...]
    size: int

    @property
    def is_delta(self) -> bool:
        return bool(self.sources)

    @property
    def from_versions(self) -> tuple[str, ...]:
        """The versions that it can be installed on; empty for any."""
        made_from = tuple(dict.fromkeys(source.version for source in self.sources))
        return self.requires or made_from

    def fits(self, running: str) -> bool:
        """Whether a device that runs version `running` can install it."""
        return not self.from_versions or running in self.from_versions


def describe(name: str, file: Path, size: int) -> PackageInfo | None:
    """The description of the package in `file`; None for a file that is not a package."""
    try:
        said = read_unverified(file)
    except (PackageError, DeviceError):
        return None
    return PackageInfo(
        name=name,
        kind=said.kind.value,
        software_id=said.software_id,
        version=said.version,
        security_version=said.security_version,
        compatible=said.compatible,
        requires=said.requires_version,
        sources=tuple(
            DeltaSource(image, made_from.version, made_from.size, made_from.root.hex())
            for image, made_from in said.deltas.items()
        ),
        size=size,
    )


def note(connection: Connection, name: str, release: PackageInfo | None) -> None:
    """Store the description of the package `name`, replacing an earlier one."""
    connection.execute(delete(releases).where(releases.c.name == name))
    if release is not None:
        row: dict[str, Any] = {field: getattr(release, field) for field in PackageInfo.__slots__}
        row |= {"compatible": list(release.compatible), "requires": list(release.requires)}
        row["sources"] = [str(source) for source in release.sources]
        connection.execute(insert(releases).values(**row))


def known(connection: Connection) -> dict[str, PackageInfo]:
    """The descriptions of all packages that have one, by name."""
    return {row["name"]: _info_of(row) for row in connection.execute(select(releases)).mappings()}


def find(connection: Connection, name: str) -> PackageInfo | None:
    row = connection.execute(select(releases).where(releases.c.name == name)).mappings().one_or_none()
    return None if row is None else _info_of(row)


def of_version(connection: Connection, version: str) -> tuple[PackageInfo, ...]:
    """The packages of one firmware release, by name."""
    query = select(releases).where(releases.c.version == version, releases.c.kind == Kind.FIRMWARE.value)
    return tuple(_info_of(row) for row in connection.execute(query.order_by(releases.c.name)).mappings())


def _info_of(row: Any) -> PackageInfo:
    lists = {name: tuple(row[name]) for name in ("compatible", "requires")}
    sources = tuple(DeltaSource.parse(text) for text in row["sources"])
    return PackageInfo(**{name: row[name] for name in PackageInfo.__slots__} | lists | {"sources": sources})


def choose(packages: Sequence[PackageInfo], running: str, hardware: str | None, *, delta: bool = True) -> PackageInfo:
    """Choose the package of a release for a device that runs version `running` on `hardware` (None: unknown).

    That is a delta that fits, if allowed and smaller, else the full package. Raises `NoPackageError`.
    """
    fitting = [one for one in packages if hardware is None or hardware in one.compatible]
    if hardware is None and len({one.compatible for one in fitting}) > 1:
        named = ", ".join(sorted({name for one in fitting for name in one.compatible}))
        raise NoPackageError(f"the packages are for different hardware ({named}), and the device does not tell its own")
    usable = [one for one in fitting if one.fits(running) and (delta or not one.is_delta)]
    if not usable:
        there = "; ".join(_said(one) for one in packages) or "none was uploaded"
        on = f" on {hardware}" if hardware else ""
        raise NoPackageError(f"no package for a device{on} that runs {running}: {there}")
    return min(usable, key=lambda one: (one.size, one.is_delta))


def full_of(connection: Connection, package: PackageInfo) -> PackageInfo | None:
    """The full package of the release that the delta `package` leads to, for all hardware that the delta is for."""
    found = [
        one
        for one in of_version(connection, package.version)
        if not one.is_delta and not one.requires and set(package.compatible) <= set(one.compatible)
    ]
    return min(found, key=lambda one: one.size, default=None)


def _said(one: PackageInfo) -> str:
    what = f"{one.name} is {'a delta' if one.is_delta else 'full'}"
    what += f" for {', '.join(one.compatible)}"
    return what + (f" from {', '.join(one.from_versions)}" if one.from_versions else "")
