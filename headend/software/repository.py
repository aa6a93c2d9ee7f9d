"""Packages on the disk and in the database, the access log, and the installation reports.

A package's bytes are in `<files>/<sha256>`, written once and never changed; its row has its name. The same bytes under
two names are one file.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import BigInteger, Column, Engine, Float, Integer, String, Table, delete, insert, select, update

from headend import db
from headend.software import releases
from headend.software.releases import PackageInfo

NAME_CHARS_MAX = 128
PACKAGE_BYTES_MAX = 1 << 30
ACCESS_ROWS_MAX = 100_000
PRUNE_EVERY = 1000
DEFAULT_TYPE = "application/octet-stream"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}", re.ASCII)
_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}", re.ASCII)

packages = Table(
    "packages",
    db.metadata,
    Column("name", String(NAME_CHARS_MAX), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content_type", String(128), nullable=False),
    Column("uploaded", Float(53), nullable=False),
)

downloads = Table(
    "downloads",
    db.metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),  # when the answer began
    Column("ended", Float(53), nullable=False),
    Column("package", String(NAME_CHARS_MAX), nullable=False, index=True),
    Column("device", String(128), nullable=False),  # as the URL claims; empty when it does not
    Column("peer", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("start", BigInteger, nullable=False),  # first byte of the range
    Column("wanted", BigInteger, nullable=False),  # bytes that the answer was to have
    Column("sent", BigInteger, nullable=False),  # bytes handed to the network before it ended
)

reports = Table(
    "install_reports",
    db.metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("package", String(NAME_CHARS_MAX), nullable=False),
    Column("device", String(128), nullable=False),
    Column("code", Integer, nullable=False),
    Column("text", String(200), nullable=False),
)


class PackageStoreError(ValueError):
    """The package cannot be accepted."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package. `path` is its file."""

    name: str
    sha256: str
    size: int
    content_type: str
    path: Path

    @property
    def etag(self) -> str:
        """A strong validator: the hash of the content."""
        return f'"{self.sha256}"'


class PackageStore:
    """The packages of one head-end."""

    def __init__(self, engine: Engine, files: Path) -> None:
        self.engine = engine
        self._files = files

    def find(self, name: str) -> Package | None:
        with db.reader(self.engine).begin() as connection:
            row = connection.execute(select(packages).where(packages.c.name == name)).one_or_none()
        if row is None:
            return None
        return Package(row.name, row.sha256, row.size, row.content_type, self._files / row.sha256)

    async def add(self, name: str, content_type: str, chunks: AsyncIterator[bytes], now: float) -> Package:
        """Store a package; it replaces one of the same name. Raises `PackageStoreError`, `OSError`."""
        if not _NAME.fullmatch(name):
            raise PackageStoreError("a package name has letters, digits, dots, hyphens and underscores")
        if not _TYPE.fullmatch(content_type):
            raise PackageStoreError("the content type is not one")
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._files / f".upload-{secrets.token_hex(8)}"
        try:
            digest, size = await _write(temporary, chunks)
            temporary.replace(self._files / digest)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self._files)
        package = Package(name, digest, size, content_type, self._files / digest)
        self._register(package, now)
        return package

    def learn(self) -> None:
        """Read the descriptions of packages that were added by a version that did not read them."""
        with db.reader(self.engine).begin() as connection:
            known = releases.known(connection)
            rows = connection.execute(select(packages)).all()
        for row in rows:
            if row.name not in known:
                found = releases.describe(row.name, self._files / row.sha256, row.size)
                with self.engine.begin() as connection:
                    releases.note(connection, row.name, found)

    def release(self, name: str) -> tuple[PackageInfo | None, PackageInfo | None]:
        """The description of a package, and that of the full package of the same release if it is a delta."""
        with db.reader(self.engine).begin() as connection:
            found = releases.find(connection, name)
            full = releases.full_of(connection, found) if found is not None and found.is_delta else None
        return found, full

    def remove(self, name: str) -> bool:
        """Remove a package, and its file if no other name has it. Returns False when there is none."""
        package = self.find(name)
        if package is None:
            return False
        with self.engine.begin() as connection:
            connection.execute(delete(packages).where(packages.c.name == name))
            releases.note(connection, name, None)
            shared = connection.execute(select(packages.c.name).where(packages.c.sha256 == package.sha256)).first()
        if shared is None:
            package.path.unlink(missing_ok=True)
        return True

    def listing(self) -> list[dict[str, object]]:
        """The packages by name, each with its description (`kind` and so on; empty for a file that is not a
        package)."""
        with db.reader(self.engine).begin() as connection:
            known = releases.known(connection)
            rows = connection.execute(select(packages).order_by(packages.c.name)).mappings().all()
        return [dict(row) | shown(known.get(row["name"])) for row in rows]

    def note_download(self, row: dict[str, object]) -> None:
        """Log a download that ended; `row` has the columns of `downloads` except `seq`."""
        with self.engine.begin() as connection:
            key = connection.execute(insert(downloads).values(**row)).inserted_primary_key
            if key is not None and key[0] % PRUNE_EVERY == 0:
                connection.execute(delete(downloads).where(downloads.c.seq <= key[0] - ACCESS_ROWS_MAX))

    def note_report(self, package: str, device: str, code: int, text: str, now: float) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                insert(reports).values(at=now, package=package, device=device[:128], code=code, text=text[:200])
            )

    def downloads(self, package: str | None, limit: int) -> list[dict[str, object]]:
        """The access log, oldest first, its newest `limit` entries."""
        query = select(downloads).order_by(downloads.c.seq.desc()).limit(limit)
        if package is not None:
            query = query.where(downloads.c.package == package)
        with db.reader(self.engine).begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()][::-1]

    def reports(self, limit: int) -> list[dict[str, object]]:
        """The installation reports, newest first."""
        with db.reader(self.engine).begin() as connection:
            query = select(reports).order_by(reports.c.seq.desc()).limit(limit)
            return [dict(row) for row in connection.execute(query).mappings()]

    def _register(self, package: Package, now: float) -> None:
        values = {
            "sha256": package.sha256,
            "size": package.size,
            "content_type": package.content_type,
            "uploaded": now,
        }
        found = releases.describe(package.name, package.path, package.size)
        with self.engine.begin() as connection:
            releases.note(connection, package.name, found)
            changed = connection.execute(update(packages).where(packages.c.name == package.name).values(**values))
            if changed.rowcount == 0:
                connection.execute(insert(packages).values(name=package.name, **values))


def shown(release: PackageInfo | None) -> dict[str, object]:
    """The description of a package, as the operator sees it."""
    if release is None:
        return {"kind": "", "id": "", "version": "", "compatible": [], "delta": False, "from_versions": []}
    return {
        "kind": release.kind,
        "id": release.software_id,
        "version": release.version,
        "compatible": list(release.compatible),
        "delta": release.is_delta,
        "from_versions": list(release.from_versions),
    }


async def _write(path: Path, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
    """Write and sync a new file; return its SHA-256 and size."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > PACKAGE_BYTES_MAX:
                raise PackageStoreError(f"a package has at most {PACKAGE_BYTES_MAX} bytes")
            digest.update(chunk)
            file.write(chunk)
        if size == 0:
            raise PackageStoreError("the package is empty")
        file.flush()
        os.fsync(descriptor)
    return digest.hexdigest(), size


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
