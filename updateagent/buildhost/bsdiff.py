"""Makes BSDIFF40 patches on the build host. The device only applies them: `updateagent.package.delta`.

The classic tool sorts every suffix of the old image, which takes 17 times its size in memory and is too slow in plain
Python. This one indexes the old image at every `step` bytes, and looks up the new image at every byte that no match
covers yet. A match is then extended in both directions as long as at least half of the bytes agree: code that only
moved, with changed addresses in it, becomes one long stretch whose differences are mostly zeros. For images of file
systems the patches are as small as those of the classic tool.
"""

from __future__ import annotations

import bz2
import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from updateagent.package.delta import MAGIC, emit_number
from updateagent.package.verity import RUN_BYTES

STEP_BYTES_MIN = 32
"""A shorter match saves less than the triple that describes it costs."""
INDEX_ENTRIES_MAX = 2**21
"""An entry takes about 100 bytes, so the index takes 200 MiB at most."""
_WINDOW_BYTES = 64
_CONTROL_LEVEL, _DIFF_LEVEL, _EXTRA_LEVEL = 1, 1, 2
"""bzip2 levels. The device needs 400 KiB per level to unpack; the highest levels saved at most 3 % of a patch."""

Bytes = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class MatchedRange:
    """`length` bytes of the new image at `new`, to be made from those of the old image at `old`."""

    new: int
    old: int
    length: int


def make(old: Path, new: Path, out: BinaryIO) -> None:
    """Write the patch that makes `new` from `old`. Both must not be empty. Raises `OSError`."""
    with _mapped(old) as old_bytes, _mapped(new) as new_bytes:
        write(old_bytes, new_bytes, stretches(old_bytes, new_bytes), out)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        yield stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def stretches(old: Bytes, new: Bytes) -> Iterator[MatchedRange]:
    """Find, in the order of the new image and without overlaps, what of it is in the old one."""
    step = STEP_BYTES_MIN
    while len(old) // step > INDEX_ENTRIES_MAX:
        step *= 2
    index: dict[int, int] = {}
    for at in range(0, len(old) - step + 1, step):
        index.setdefault(hash(old[at : at + step]), at)
    # The start of a new image is usually the start of the old one with a few bytes changed.
    at = covered = _forward(old, new, 0, 0)
    if covered:
        yield MatchedRange(0, 0, covered)
    end = len(new) - step
    find = index.get
    while at <= end:
        found = find(hash(new[at : at + step]))
        if found is None or old[found : found + step] != new[at : at + step]:
            at += 1
            continue
        back = _backward(old, new, found, at, at - covered)
        length = back + step + _forward(old, new, found + step, at + step)
        yield MatchedRange(at - back, found - back, length)
        at = covered = at - back + length


def _forward(old: Bytes, new: Bytes, old_at: int, new_at: int) -> int:
    """How far the two agree from here on, at least half of the bytes in each window."""
    room = min(len(old) - old_at, len(new) - new_at)
    done = 0
    length = _WINDOW_BYTES
    while done < room:
        length = min(length, room - done)
        ours, theirs = new[new_at + done : new_at + done + length], old[old_at + done : old_at + done + length]
        if ours == theirs:
            done += length
            length = min(length * 2, RUN_BYTES)
        elif length > _WINDOW_BYTES:
            length = _WINDOW_BYTES
        else:
            agreeing = _agreeing(ours, theirs)
            if agreeing.count(0) * 2 < length:
                return done + length - len(agreeing.lstrip(b"\0"))
            done += length
    return done


def _backward(old: Bytes, new: Bytes, old_at: int, new_at: int, room: int) -> int:
    """How far the two agree before here, within `room` bytes of the new image."""
    room = min(room, old_at)
    done = 0
    while done < room:
        length = min(_WINDOW_BYTES, room - done)
        ours = new[new_at - done - length : new_at - done]
        theirs = old[old_at - done - length : old_at - done]
        if ours != theirs:
            agreeing = _agreeing(ours, theirs)
            if agreeing.count(0) * 2 < length:
                return done + length - len(agreeing.rstrip(b"\0"))
        done += length
    return done


def _agreeing(ours: bytes, theirs: bytes) -> bytes:
    """A zero for each byte that agrees."""
    return (int.from_bytes(ours, "big") ^ int.from_bytes(theirs, "big")).to_bytes(len(ours), "big")


def write(old: Bytes, new: Bytes, found: Iterator[MatchedRange], out: BinaryIO) -> None:
    """Write the patch for these stretches."""
    control, diff, extra = (_Packer(level) for level in (_CONTROL_LEVEL, _DIFF_LEVEL, _EXTRA_LEVEL))
    position = end = 0  # the reader's position in the old image, and how much of the new one it has
    add = 0
    for stretch in [*found, MatchedRange(len(new), -1, 0)]:
        # A triple is: the stretch before, what lies between it and this one, and the way to this one.
        between = stretch.new - end
        target = stretch.old if stretch.length else position
        control.write(emit_number(add) + emit_number(between) + emit_number(target - position))
        _copy(new, end, between, extra)
        _difference(old, new, stretch, diff)
        position, end, add = target + stretch.length, stretch.new + stretch.length, stretch.length
    parts = [packer.finish() for packer in (control, diff, extra)]
    out.write(MAGIC + emit_number(len(parts[0])) + emit_number(len(parts[1])) + emit_number(len(new)))
    out.writelines(parts)


def _copy(new: Bytes, start: int, length: int, packer: _Packer) -> None:
    for at in range(start, start + length, RUN_BYTES):
        packer.write(new[at : min(at + RUN_BYTES, start + length)])


def _difference(old: Bytes, new: Bytes, stretch: MatchedRange, packer: _Packer) -> None:
    for done in range(0, stretch.length, RUN_BYTES):
        length = min(RUN_BYTES, stretch.length - done)
        ours = new[stretch.new + done : stretch.new + done + length]
        theirs = old[stretch.old + done : stretch.old + done + length]
        packer.write(bytes(length) if ours == theirs else subtract(ours, theirs))


def subtract(ours: bytes, theirs: bytes) -> bytes:
    """Byte by byte, modulo 256, as long integers: a borrow is kept inside its byte by setting the top bit before."""
    size = len(ours)
    top = int.from_bytes(b"\x80" * size, "little")
    a, b = int.from_bytes(ours, "little"), int.from_bytes(theirs, "little")
    return (((a | top) - (b & ~top)) ^ ((a ^ ~b) & top)).to_bytes(size, "little")


class _Packer:
    def __init__(self, level: int) -> None:
        self._packer = bz2.BZ2Compressor(level)
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(self._packer.compress(data))

    def finish(self) -> bytes:
        self._parts.append(self._packer.flush())
        return b"".join(self._parts)
