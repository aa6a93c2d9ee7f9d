"""Stories of power cuts with real packages: signed, compressed, as a delta, with new roots; over `SignedPackages`."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tests.updateagent.board import Board, content
from tests.updateagent.engine.power import Story
from tests.updateagent.packages import HARDWARE, NOW, Party, Workshop, party, release, root
from updateagent.buildhost import assemble, bsdiff
from updateagent.disk import Storage
from updateagent.engine.deps import EngineDeps
from updateagent.errors import SIGNATURE, PackageError
from updateagent.handover import InstallRequest
from updateagent.package import roots, verity
from updateagent.package.payload import DeltaSource, Encoding, Role
from updateagent.package.verifier import SignedPackages, VerifierDeps

OLD, NEW = content("1"), content("2")
UNUSED = PackageError(SIGNATURE, "packages of these stories are files")


class SignedBoard(Board):
    """A board whose inbox holds real packages, and whose roots are in a PEM file outside the simulated disk."""

    packages_type: type[SignedPackages] = SignedPackages

    def __init__(self, folder: Path, disk: Storage | None, pem: Path, new_roots: bytes = b"") -> None:
        super().__init__(folder, disk)
        self.pem = pem
        self.new_roots = new_roots

    def check_at_rest(self) -> None:
        super().check_at_rest()
        kept = self.update_dir / "roots.json"
        found = self.disk.read_bytes(kept) if self.disk.exists(kept) else b""
        assert found in (b"", self.new_roots), "the roots that are believed are not the ones that the package brought"
        kept_or_old = found == self.new_roots or self.running_version() == "1"
        assert kept_or_old, "the roots that the package of this version brought are not kept"

    def deps(self) -> EngineDeps:
        deps = super().deps()
        packages = self.packages_type(
            VerifierDeps(
                disk=self.disk,
                roots=self.pem,
                newer_roots=self.update_dir / "roots.json",
                compatible=HARDWARE,
                partitions=deps.partitions,
                running_version=deps.booted_version,
                clock=lambda: float(NOW),
                run_hook=no_hooks,
            )
        )
        return replace(deps, packages=packages)


def no_hooks(step: str, content: Iterable[bytes], variables: Mapping[str, str]) -> None:
    raise AssertionError(f"no package here has a hook for {step}")


@dataclass(frozen=True)
class SignedStory(Story):
    """A story whose package is bytes."""

    raw: bytes = b""

    def hand_over(self, board: Board) -> None:
        board.disk.write_durable(board.update_dir / "inbox" / "package.swu", self.raw)
        request = InstallRequest("r1", "package.swu", "correlator", 1.0)
        board.disk.write_durable(board.update_dir / "inbox" / "request.json", request.emit())


@functools.cache
def _authority(name: str) -> Party:
    return party(name, authority=True, days=7000)


def signed_stories(folder: Path) -> list[Story]:
    """The stories; `folder` is a real one, for keys and for building."""
    shop = Workshop(folder)
    old_pem = folder / "root.pem"
    old_pem.write_bytes(pem(root()))
    three = tuple(_authority(name) for name in "ABC")
    three_pem = folder / "three.pem"
    three_pem.write_bytes(b"".join(pem(one) for one in three))

    def story(name: str, raw: bytes, fumo: int = 200, trusted: Path = old_pem, new_roots: bytes = b"") -> Story:
        make = functools.partial(SignedBoard, pem=trusted, new_roots=new_roots)
        return SignedStory(name, "2", UNUSED, healthy=True, fumo=fumo, make_board=cast("type[Board]", make), raw=raw)

    delta = _delta(shop)
    rotating, new_roots = _with_new_roots(shop, three)
    return [
        story("signed, compressed", shop.build([shop.image("rootfs", NEW, encoding=Encoding.ZLIB)])),
        story("signed, delta", delta),
        story("signed, new roots", rotating, trusted=three_pem, new_roots=roots.emit(new_roots)),
        story("signed, one byte changed", delta[:-900] + bytes([delta[-900] ^ 1]) + delta[-899:], fumo=404),
    ]


def pem(one: Party) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding as Form

    return one.x509.public_bytes(Form.PEM)


def _delta(shop: Workshop) -> bytes:
    patch = io.BytesIO()
    bsdiff.write(OLD, NEW, bsdiff.stretches(OLD, NEW), patch)
    path = shop.folder / "patch"
    path.write_bytes(patch.getvalue())
    source = DeltaSource("1", len(OLD), verity.build([OLD])[0])
    return shop.build([shop.image("rootfs", NEW, Role.IMAGE, Encoding.BSDIFF, delta=source, patch=path)])


def _with_new_roots(shop: Workshop, before: tuple[Party, ...]) -> tuple[bytes, roots.RootList]:
    """Brings the roots B, C, D to a device that believes A, B, C; only D vouches for its signer."""
    after = (*before[1:], _authority("D"))
    found = roots.make(1, 2, NOW, [one.certificate for one in after])
    for one in before:
        if one in after:
            found = roots.with_signature(found, one.certificate, one.sign(found.text))
    signer = party("signer of D", after[-1])
    prepared = [assemble.prepare(shop.image("rootfs", NEW), 0, shop.folder)]
    text = assemble.describe(release(), prepared)
    out = io.BytesIO()
    assemble.write(out, text, signer.cms(text, signed_at=NOW), prepared, [found])
    return out.getvalue(), found
