"""Packages and lists of roots as the build host of a release makes them, and what the Update Agent of one installs."""

from __future__ import annotations

import base64
import importlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

program: Any = importlib.import_module("program")
Part: Any = importlib.import_module("device_parts").Part
named, real_disk, NOW = program.named, program.real_disk, program.NOW

BEGIN = datetime(2025, 3, 1, tzinfo=UTC)
HARDWARE = "example-dcu-1"
LISTS, PROGRAM, FIRMWARE = "lists.swu", "program.swu", "firmware.swu"
COMPONENT = {
    "format": 1,
    "kind": "service",
    "service": {"program": "run", "arguments": ["--loud"], "environment": {"A": "1"}, "ready": {"after_s": 0}},
}


def of(name: str) -> Any:
    """A module of the Update Agent, which lay in no room in 0.1.0."""
    for room in ("package.", "buildhost.", "software.", ""):
        if program.has(f"updateagent.{room}{name}"):
            return importlib.import_module(f"updateagent.{room}{name}")
    raise SystemExit(f"no module {name}")


class Workshop:
    """A root, a signer below it, and packages that it has signed, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        signing = of("signing")
        self.root_key, key = signing.new_key("p-256"), signing.new_key("p-256")
        self.root = signing.issue("root", self.root_key, authority=True, days=7300, begin=BEGIN)
        one = signing.issue("signer", key, issuer=self.root, issuer_key=self.root_key, days=7300, begin=BEGIN)
        self._signer, self._key = signing.Identity(signing.parsed(one), (), "ecdsa"), key
        (folder / "roots.pem").write_bytes(signing.pem(self.root))

    def sign(self, data: bytes, key: Any = None) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return bytes((key or self._key).sign(data, ec.ECDSA(hashes.SHA256())))

    def image(self, role: str, name: str, data: bytes, encoding: str = "RAW", *, executable: bool = False) -> Any:
        assemble, payload = of("assemble"), of("payload")
        file = self.folder / f"image-{name.replace('/', '-')}"
        file.write_bytes(data)
        file.chmod(0o755 if executable else 0o644)
        return assemble.Input(payload.Role[role], name, file, payload.Encoding[encoding])

    def build(
        self, file: str, kind: str, version: str, images: list[Any], lists: tuple[Any, ...] = (), **said: Any
    ) -> None:
        assemble = of("assemble")
        metadata = getattr(assemble, "PackageMetadata", None) or assemble.Release
        described = metadata(of("description").Kind[kind], version, 3, (HARDWARE,), **said)
        prepared = [assemble.prepare(one, number, self.folder) for number, one in enumerate(images)]
        text = assemble.describe(described, prepared)
        out = io.BytesIO()
        assemble.write(out, text, self._signer.sign(text, int(NOW), self.sign), prepared, lists)
        (self.folder / file).write_bytes(out.getvalue())
        for one in images:
            one.path.unlink()
        for left in self.folder.glob("*.packed"):
            left.unlink()

    def roots(self) -> Any:
        """The list that follows the roots of the image."""
        roots, root = of("roots"), of("signing").parsed(self.root)
        made = roots.make(1, 1, int(NOW), [root], ["ab" * 32])
        return roots.with_signature(made, root, self.sign(made.text, self.root_key))


def trust(folder: Path) -> Any:
    certificate = of("certificate")
    found = [part for part in (folder / "roots.pem").read_text(encoding="ascii").split("-----") if "\n" in part.strip()]
    der = base64.b64decode("".join(found[0].split()))
    return of("trust").Trust((certificate.parse(der),), HARDWARE, NOW + 60, version="2", agent_version="9")


def write_packages(folder: Path) -> None:
    """A package of lists, firmware with two images and a list of roots, and what the release itself installs."""
    shop = Workshop(folder / "packages")
    lists = [shop.image("FILE", f"{name}.csv", b"3,1.0.1.8.0.255,2\n" * size) for name, size in (("a", 1), ("b", 900))]
    shop.build(LISTS, "SOFTWARE", "4", lists, software_id="reading-lists", description="Zähler")
    images = [
        shop.image("IMAGE", "rootfs", bytes(range(256)) * 64, "ZLIB"),
        shop.image("IMAGE", "kernel", b"kernel" * 2000, "XZ"),
    ]
    found = shop.roots()
    shop.build(FIRMWARE, "FIRMWARE", "3", images, (found,), requires_version=("2",), requires_agent="1")
    (folder / "packages" / "roots.json").write_bytes(of("roots").emit(found))
    _install(folder, LISTS)


def _install(folder: Path, file: str) -> Any:
    manifest, readable = of("manifest"), of("readable")
    said = manifest.verify_package(folder / "packages" / file, trust(folder / "packages"))
    store = _software(folder)
    with readable.opened(folder / "packages" / file) as package:
        store.install(package, said)
    store.activate(said.software_id, said.version)
    return said


def _software(folder: Path) -> Any:
    store = named("SoftwareStore", "updateagent.software.store", "updateagent.software")
    return store(real_disk(), folder / "installed")


def read_packages(folder: Path) -> Any:
    """What is verified, and what becomes of the software that is there: going back to it, and the same once more."""
    manifest, roots = of("manifest"), of("roots")
    here = trust(folder / "packages")
    lists = manifest.verify_package(folder / "packages" / LISTS, here)
    firmware = manifest.verify_package(folder / "packages" / FIRMWARE, here)
    listed = roots.parse((folder / "packages" / "roots.json").read_bytes())
    accepted, _ = roots.accept(here, [(folder / "packages" / "roots.json").read_bytes()])
    store = _software(folder)
    before = store.active_version("reading-lists")
    store.deactivate("reading-lists")
    again = store.activate("reading-lists", "4")
    return {
        "lists": [lists.software_id, lists.version, [image.name for image in lists.images]],
        "firmware": [firmware.version, sorted(image.name for image in firmware.images)],
        "roots": [listed.version, sorted(listed.revoked), accepted.root_version],
        "active": [before, again, len((folder / "installed" / "active" / "reading-lists" / "b.csv").read_bytes())],
    }


def write_programs(folder: Path) -> None:
    """A package with a program that is run as a service, and it installed, with its terms."""
    shop = Workshop(folder / "programs-shop")
    images = [
        shop.image("FILE", "run", b"#!/bin/sh\nexec sleep 1\n", executable=True),
        shop.image("FILE", "component.json", json.dumps(COMPONENT).encode()),
    ]
    shop.build(PROGRAM, "SOFTWARE", "1.2", images, software_id="gateway", requires_version=("2",))
    (folder / "programs").mkdir()
    (folder / "programs-shop").rename(folder / "programs" / "packages")
    _install(folder / "programs", PROGRAM)


def read_programs(folder: Path) -> Any:
    home = folder / "programs" / "installed"
    store = _software(folder / "programs")
    found: dict[str, Any] = {}
    try:
        said = of("manifest").verify_package(
            folder / "programs" / "packages" / PROGRAM, trust(folder / "programs" / "packages")
        )
        found["package"] = sorted([image.name, bool(image.executable)] for image in said.images)
    except Exception as error:  # an older one's refusal, in its own words
        found["package"] = getattr(error, "error", type(error).__name__) and str(error)
    found["active"] = store.active_version("gateway")
    if program.has("updateagent.software.component"):
        component = of("component").parse((home / "active" / "gateway" / "component.json").read_bytes())
        terms = store.terms("gateway", "1.2")
        found["component"] = [component.kind.value, component.service.program]
        found["terms"] = [terms.security_version, list(terms.requires_version)]
        found["runs"] = bool((home / "active" / "gateway" / "run").stat().st_mode & 0o100)
    return found


PARTS = (
    Part("packages", ("packages handed over", "roots"), "updateagent", write_packages, read_packages, "updateagent"),
    Part(
        "programs",
        ("terms of installed software", "`component.json` of software"),
        "updateagent.software.component",
        write_programs,
        read_programs,
        "updateagent",
    ),
)
