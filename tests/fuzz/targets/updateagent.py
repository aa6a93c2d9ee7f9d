"""Fuzz targets for everything of a package that is read before, or without, believing it.

Success or `UpdateError`; nothing else, and nothing that takes long.
"""

from __future__ import annotations

import bz2
import functools
import io
import json
import lzma
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.fuzz.guided import Target
from tests.updateagent.package.buffer import Buffer
from tests.updateagent.packages import NOW, Workshop, device, party, release, root, rsa_signer, signer
from updateagent.buildhost import bsdiff, signing
from updateagent.errors import UpdateError
from updateagent.package import certificate, cms, cpio, delta, der, description, roots, trust, unpack, verity
from updateagent.package.description import Kind
from updateagent.package.manifest import verify_package
from updateagent.package.payload import DeltaSource, Encoding, Image, Role
from updateagent.software import component

OLD = bytes(range(256)) * 40
NEW = OLD[:3000] + b"changed" * 20 + OLD[2900:]
RESULT_BYTES_MAX = 1 << 20


@functools.cache
def packages() -> tuple[bytes, ...]:
    """One small package of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        software = release(kind=Kind.SOFTWARE, software_id="lists", requires_version=("1",), requires_agent="0.1")
        return (
            shop.build([shop.image("rootfs", b"image" * 300)]),
            shop.build([shop.image("a/b", b"file", Role.FILE)], software),
            shop.build([shop.image("rootfs", NEW, encoding=Encoding.ZLIB)], by=rsa_signer()),
        )


def run_cpio(data: bytes) -> None:
    reader = cpio.Reader(Buffer(data))
    while member := reader.next():
        reader.read(member, 4096)


def run_package(data: bytes) -> None:
    verify_package(Buffer(data), device())


CONTENT = b"{}\n"


def run_cms(data: bytes) -> None:
    device().check_signer(cms.verify(CONTENT, data))


def signatures() -> list[bytes]:
    middle = party("middle", root(), authority=True)
    return [signer().cms(CONTENT), rsa_signer().cms(CONTENT), party("leaf", middle).cms(CONTENT, middle)]


def certificates() -> list[bytes]:
    return [one.certificate.der for one in (root(), signer(), rsa_signer())]


def run_der(data: bytes) -> None:
    """Walk a structure as deep as it goes."""
    left = [der.Cursor(data, "fuzz")]
    for _ in range(1000):
        if not left:
            return
        cursor = left[-1]
        tag = cursor.peek()
        if tag == -1:
            cursor.check_end()
            left.pop()
        elif tag & 0x20:
            left.append(cursor.enter(tag, "part"))
        elif tag in {der.UTC_TIME, der.GENERALIZED_TIME}:
            cursor.time()
        elif tag == der.INTEGER:
            cursor.integer()
        else:
            cursor.value(tag)


def components() -> list[bytes]:
    service = {
        "program": "bin/watch",
        "arguments": ["--every", "5"],
        "libraries": ["lib"],
        "python": ["lib/python"],
        "environment": {"LEVEL": "info"},
        "user": "dynamic",
        "limits": {"memory_kib": 65536, "cpu_percent": 20, "files": 64, "processes": 8},
        "restart": {"when": "on-failure", "min_s": 1, "max_s": 300},
        "ready": {"command": ["bin/ready"], "deadline_s": 60},
        "configuration": "watch-settings",
    }
    waiting = {"program": "watch", "ready": {"after_s": 5}}
    said: list[dict[str, object]] = [
        {"format": 1, "kind": "service", "service": service},
        {"format": 1, "kind": "service", "service": waiting},
        {"format": 1, "kind": "trust-anchor", "certificates": ["ca.pem", "old/ca.pem"]},
        {"format": 1, "kind": "configuration"},
    ]
    return [json.dumps(one).encode() for one in said]


def descriptions() -> list[bytes]:
    texts = []
    for package in packages():
        reader = cpio.Reader(Buffer(package))
        member = reader.next()
        assert member is not None
        texts.append(reader.read(member, description.DESCRIPTION_BYTES_MAX))
    return texts


def run_patch(data: bytes) -> None:
    """The first two bytes are the announced length of the result."""
    size = int.from_bytes(data[:2], "big") + 1
    patch = Buffer(data[2:])
    pieces = delta.apply(patch, 0, patch.size(), source=Buffer(OLD), source_size=len(OLD), result_size=size)
    assert sum(len(piece) for piece in pieces) == size


def patches() -> list[bytes]:
    out = io.BytesIO()
    bsdiff.write(OLD, NEW, bsdiff.stretches(OLD, NEW), out)
    return [(len(NEW) - 1).to_bytes(2, "big") + out.getvalue()]


def run_unpack(data: bytes) -> None:
    """The first byte chooses the format."""
    reader = (unpack.inflate, unpack.unxz, unpack.bunzip)[data[0] % 3 if data else 0]
    total = 0
    for piece in reader(Buffer(data[1:]), 0, max(0, len(data) - 1)):
        assert 0 < len(piece) <= unpack.PIECE_BYTES
        total += len(piece)
        if total > RESULT_BYTES_MAX:
            return  # a bomb: whoever reads counts and stops


def packed() -> list[bytes]:
    gzip = zlib.compressobj(9, zlib.DEFLATED, 31)
    return [
        b"\0" + gzip.compress(OLD) + gzip.flush(),
        b"\1" + lzma.compress(OLD, preset=0),
        b"\2" + bz2.compress(OLD, 1),
    ]


IMAGE = bytes(300 * verity.BLOCK_BYTES)


@functools.cache
def image_tree() -> tuple[bytes, bytes]:
    return verity.build([IMAGE])


def run_verity(data: bytes) -> None:
    """Two bytes say where, the rest what: a change of the tree that must not pass."""
    good_root, good = image_tree()
    at = int.from_bytes(data[:2], "big") % len(good)
    changed = good[:at] + data[2:34] + good[at + len(data[2:34]) :]
    tree = verity.Tree(Buffer(changed), 0, len(changed), 300, good_root)
    tree.check_all_leaves()
    tree.check(0, IMAGE)
    assert changed == good


def run_roots(data: bytes) -> None:
    before = device()
    after, newest = roots.accept(before, [data])
    assert newest is None or after.root_version == 1


def lists() -> list[bytes]:
    made = roots.make(1, 1, NOW, [root().certificate], ["ab" * 32])
    signed = roots.with_signature(made, root().certificate, root().sign(made.text))
    return [roots.emit(made), roots.emit(signed)]


def run_pem(data: bytes) -> None:
    trust.parse_pem(data)


def pems() -> list[bytes]:
    return [signing.pem(one.x509) for one in (root(), signer())]


def run_payload(data: bytes) -> None:
    """A signed description that lies about its payload: sizes and roots fit nothing, and no block comes out."""
    encoding = list(Encoding)[data[0] % 4 if data else 0]
    size = 1 + int.from_bytes(data[1:3], "big")
    source = DeltaSource("1", len(OLD), bytes(32)) if encoding is Encoding.BSDIFF else None
    body = data[3:] + b"\0"
    stored = size if encoding is Encoding.RAW else len(body)
    image = Image("x", Role.IMAGE, size, bytes(32), encoding, "x", stored, bytes(32), 0, "y", 0, source)
    tree = verity.build([bytes(size)])[1]
    file = Buffer(tree + body)
    placed = replace(image, tree_offset=0, payload_offset=len(tree))
    for _ in placed.blocks(file, 0, Buffer(OLD)):
        raise AssertionError("a block without a root came out")


HERE = "/updateagent/"


def target(run: object, seeds: object, mutations: int = 2000) -> Target:
    assert callable(run)
    assert callable(seeds)
    return Target(run, seeds, (UpdateError,), HERE, mutations=mutations)


def package_seeds() -> Sequence[bytes]:
    return packages()


TARGETS = {
    "cpio": target(run_cpio, package_seeds),
    "package": target(run_package, package_seeds, 600),
    "cms": target(run_cms, signatures),
    "certificate": target(certificate.parse, certificates),
    "der": target(run_der, lambda: certificates() + signatures()),
    "component": target(component.parse, components),
    "description": target(description.parse, descriptions),
    "patch": target(run_patch, patches),
    "unpack": target(run_unpack, packed),
    "verity": target(run_verity, lambda: [b"\x10\x00" + bytes(32), b"\x00\x08" + b"\x02"], 300),
    "roots": target(run_roots, lists),
    "pem": target(run_pem, pems),
    "payload": target(run_payload, lambda: [b"\0\0\x10" + OLD[:100], *(b"\1\0\x10" + one[1:] for one in packed())]),
}
