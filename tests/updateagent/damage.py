"""Damaged packages through `dcu-update install`, on a device whose slots and boot environment are files.

    python -m tests.updateagent.damage      # every bit of the frame, and more of the rest; some minutes

The frame is what is not signed: headers, names, padding and end of the archive. Whatever is damaged, the program must
answer with the number of an error of packages, and neither slot nor boot environment may differ by a byte. The tests of
the suite run a sample of it.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import cast

from tests.sim.board.uboot import ENV_BYTES, ENV_OFFSETS, Environment
from tests.updateagent.board import content
from tests.updateagent.package.buffer import Buffer
from tests.updateagent.package.signed import SignedStory, pem, signed_stories
from tests.updateagent.packages import HARDWARE, Workshop, root
from updateagent import errors
from updateagent.__main__ import main as dcu_update
from updateagent.errors import EXIT_REBOOT_WANTED, FORMAT, LIMIT, PACKAGE_MISSING, TRUNCATED, Code
from updateagent.package import cpio
from updateagent.package.cpio import Member

PACKAGE_ERRORS = frozenset(range(FORMAT.number, PACKAGE_MISSING.number))
CUT_ERRORS = frozenset({FORMAT.number, TRUNCATED.number, LIMIT.number})
NAMES = {code.number: code.name for code in vars(errors).values() if isinstance(code, Code)}
SLOT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged package; `numbers` are the answers that are right for it."""

    what: str
    data: bytes
    numbers: frozenset[int] = PACKAGE_ERRORS


@dataclass(frozen=True, slots=True)
class Good:
    """A package that is taken, and the roots of a device that takes it."""

    name: str
    data: bytes
    roots: bytes

    def members(self) -> list[Member]:
        """Its members, without the trailer."""
        reader = cpio.Reader(Buffer(self.data))
        return list(iter(reader.next, None))


def packages(folder: Path) -> list[Good]:
    """A raw, a compressed, a delta package, and one with a list of roots."""
    shop = Workshop(folder)
    raw = shop.build([shop.image("rootfs", content("2"))])
    stories = {story.name: cast("SignedStory", story) for story in signed_stories(folder)}
    return [
        Good("raw", raw, pem(root())),
        Good("compressed", stories["signed, compressed"].raw, pem(root())),
        Good("delta", stories["signed, delta"].raw, pem(root())),
        Good("roots", stories["signed, new roots"].raw, (folder / "three.pem").read_bytes()),
    ]


class Device:
    """Runs release 1 in slot A; slot B holds something else."""

    def __init__(self, folder: Path, roots: bytes) -> None:
        self.folder = folder
        folder.mkdir()
        self._package = folder / "package.swu"
        self._config = folder / "dcu-update.toml"
        (folder / "roots.pem").write_bytes(roots)
        (folder / "cmdline").write_text("rauc.slot=A")
        (folder / "release").write_text("VERSION=1\n")
        (folder / "slot-A").write_bytes(content("1").ljust(SLOT_BYTES, b"\0"))
        (folder / "slot-B").write_bytes(b"\xa5" * SLOT_BYTES)
        Environment(folder / "env").create({"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"})
        places = "".join(f"{folder}/env {at:#x} {ENV_BYTES:#x}\n" for at in ENV_OFFSETS)
        (folder / "fw_env.config").write_text(places)
        slots = "".join(
            f'[[slot]]\nname = "{name}"\ntype = "file"\npath = "{folder}/slot-{name}"\nsize = {SLOT_BYTES}\n'
            for name in "AB"
        )
        self._config.write_text(
            f'update_dir = "{folder}/update"\nrun_dir = "{folder}"\nroots = "{folder}/roots.pem"\n'
            f'compatible = "{HARDWARE}"\ncmdline = "{folder}/cmdline"\nrelease_file = "{folder}/release"\n'
            f'[bootenv]\ntype = "uboot"\nconfig = "{folder}/fw_env.config"\nlock = ""\n{slots}'
        )

    def install(self, data: bytes) -> tuple[int, str]:
        """`dcu-update install` in this process: its exit status and what it said on standard error."""
        self._package.write_bytes(data)
        said = StringIO()
        with redirect_stderr(said), redirect_stdout(StringIO()):
            code = dcu_update(["--config", str(self._config), "install", str(self._package)])
        return code, said.getvalue()

    def state(self) -> tuple[bytes, ...]:
        """Everything that a refused package must not change."""
        return tuple((self.folder / name).read_bytes() for name in ("slot-A", "slot-B", "env"))


def flips(good: Good, chance: random.Random, frame: float, rest: int) -> Iterator[Damage]:
    """Single bits: the part `frame` of those in the frame, and `rest` in the data of each member."""
    inside = bytearray(len(good.data))
    for member in good.members():
        end = member.data_offset + member.size
        inside[member.data_offset : end] = b"\1" * member.size
        for _ in range(rest):
            yield _flipped(good, 8 * chance.randrange(member.data_offset, end) + chance.randrange(8), member.name)
    for bit in range(8 * len(good.data)):
        if not inside[bit // 8] and chance.random() < frame:
            yield _flipped(good, bit, "frame")


def _flipped(good: Good, bit: int, where: str) -> Damage:
    data = bytearray(good.data)
    data[bit // 8] ^= 1 << bit % 8
    return Damage(f"{good.name}: bit {bit % 8} of byte {bit // 8}, {where}", bytes(data))


def cuts(good: Good) -> Iterator[Damage]:
    """Every class of place where an archive can end too early, and what can follow its end."""
    members = good.members()
    lengths = {0, 1, 6, cpio.HEADER_BYTES - 1, len(good.data) - 1, len(good.data) - 512}
    for member in members:
        name = member.offset + cpio.HEADER_BYTES
        data_end = member.data_offset + member.size
        lengths |= {member.offset, member.offset + 1, name, name + 1, member.data_offset, member.data_offset + 1}
        lengths |= {member.data_offset + member.size // 2, data_end - 1, data_end, member.end - 1}
    trailer = members[-1].end
    lengths |= {trailer, trailer + 1, trailer + cpio.HEADER_BYTES, trailer + cpio.HEADER_BYTES + 3, trailer + 124}
    for length in sorted(one for one in lengths if 0 <= one < len(good.data)):
        yield Damage(f"{good.name}: cut after {length} bytes", good.data[:length], CUT_ERRORS)
    for tail in (b"\0", bytes(512), b"x", good.data):
        yield Damage(f"{good.name}: {len(tail)} bytes too many", good.data + tail, frozenset({FORMAT.number}))


def shuffles(good: Good) -> Iterator[Damage]:
    """Members left out, doubled and exchanged. The archive is well formed each time."""
    data = [(one.name, good.data[one.data_offset : one.data_offset + one.size]) for one in good.members()]
    for index in range(len(data)):
        yield Damage(f"{good.name}: without {data[index][0]}", _archive(data[:index] + data[index + 1 :]))
        yield Damage(f"{good.name}: twice {data[index][0]}", _archive(data[: index + 1] + data[index:]))
        emptied = [*data[:index], (data[index][0], b""), *data[index + 1 :]]
        yield Damage(f"{good.name}: empty {data[index][0]}", _archive(emptied))
        if index:
            swapped = [*data[: index - 1], data[index], data[index - 1], *data[index + 1 :]]
            yield Damage(f"{good.name}: {data[index][0]} too early", _archive(swapped))


def mixtures(goods: Sequence[Good]) -> Iterator[Damage]:
    """Members of one package in another; both are signed by the same key."""
    for good in goods:
        for other in goods:
            theirs = {one.name: other.data[one.data_offset : one.data_offset + one.size] for one in other.members()}
            ours = [(one.name, good.data[one.data_offset : one.data_offset + one.size]) for one in good.members()]
            for index, (name, data) in enumerate(ours):
                if theirs.get(name, data) != data:
                    mixed = [*ours[:index], (name, theirs[name]), *ours[index + 1 :]]
                    yield Damage(f"{good.name}: {name} of {other.name}", _archive(mixed))


def _archive(members: Sequence[tuple[str, bytes]]) -> bytes:
    from io import BytesIO

    out = BytesIO()
    writer = cpio.Writer(out)
    for name, data in members:
        writer.add(name, data)
    writer.close()
    return out.getvalue()


def play(device: Device, damages: Iterator[Damage]) -> Counter[int]:
    """Install them all, and count the answers. Raises `AssertionError` for the first that is not as it must be."""
    before = device.state()
    answers: Counter[int] = Counter()
    for damage in damages:
        code, said = device.install(damage.data)
        assert code in damage.numbers, f"{damage.what}: answered {code}, {said}"
        assert f"dcu-update: {NAMES[code]}: " in said, f"{damage.what}: {said}"
        assert device.state() == before, f"{damage.what}: answered {code} and changed something"
        answers[code] += 1
    return answers


def main() -> None:
    """Everything, with the number of answers."""
    os.fsync = lambda _: None  # type: ignore[assignment]  # no power is cut here
    begin = time.monotonic()
    total: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(prefix="dcu-damage-") as name:
        goods = packages(Path(name))
        for good in goods:
            device = Device(Path(name) / good.name, good.roots)
            chance = random.Random(good.name)
            answers = (
                play(device, flips(good, chance, 1, 400)) + play(device, cuts(good)) + play(device, shuffles(good))
            )
            answers += play(device, mixtures([good, *goods]))
            code, said = device.install(good.data)
            assert code == EXIT_REBOOT_WANTED, said
            total += answers
            print(f"{good.name}: {answers.total()} damaged packages refused, 0 bytes changed", flush=True)
    print(f"{total.total()} in {time.monotonic() - begin:.0f} s; by number: {dict(sorted(total.items()))}")


if __name__ == "__main__":
    main()
