"""A small coverage-guided fuzzer in plain Python, for parsers that take bytes.

It mutates inputs and keeps those that reach a line of the package that no input reached before. Where atheris is
installed, it can be given the same targets, seeds and corpus. The tests of a package run the same targets for a fixed
number of mutations without coverage, so that every run of the suite does the same.

What is kept, in folders `MODULE/TARGET` beside this file:

* `corpus/`: small inputs that reach lines which the seeds do not reach, chosen by `minimised`;
* `crashes/`: every input that was a finding. They are run again by every test run, for ever.

An input that takes more than `TIME_S` of processor time or `MEMORY_BYTES` of memory is a finding like any other.
"""

from __future__ import annotations

import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

INPUT_BYTES_MAX = 64 << 10
INPUTS_MAX = 2000  # inputs that a run holds in memory
TIME_S = 10.0  # processor time of one input, under a tracer; the slowest takes a tenth of it
MEMORY_BYTES = 512 << 20  # address space that one input may add
KEPT_INPUT_BYTES_MAX = 700
KEPT_BYTES_MAX = 1200  # of one target's kept corpus
REPO = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
CRASHES = Path(__file__).parent / "crashes"
_PAGE_BYTES = resource.getpagesize()


class LimitExceeded(BaseException):
    """An input took too long or too much memory. No `except Exception` of the code under test swallows it."""


class TracerChanged(BaseException):
    """The code under test replaced the tracer, so that nothing it did afterwards was seen."""


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE_BYTES


@contextmanager
def limits(time_s: float = TIME_S, memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Raises `LimitExceeded` once the block used `time_s` seconds of processor time or `memory_bytes` more memory.

    The timer counts processor time, so that a busy machine makes no findings; its signal is not the one that
    pytest-timeout uses. A signal only interrupts Python code, hence the second look at the clock at the end.
    """

    expired: list[bool] = []

    def on_timer(_signal: int, _frame: FrameType | None) -> None:
        expired.append(True)  # in case the code under test swallows what is raised here
        raise LimitExceeded(f"more than {time_s:g} s of processor time")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceiling = _mapped_bytes() + memory_bytes
    before = signal.signal(signal.SIGVTALRM, on_timer)
    began = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard), hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, time_s)
    try:
        yield
    except MemoryError as error:
        raise LimitExceeded(f"more than {memory_bytes} bytes of memory") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if expired or time.process_time() - began > time_s:
        raise LimitExceeded(f"more than {time_s:g} s of processor time")


@dataclass(frozen=True, slots=True)
class Target:
    """`run` returns, or raises `expected`; anything else is a finding.

    `folder` is the part of the repository whose lines count, such as `/dlms/link/`; `tokens` are words of the format;
    `mutations` is how many of them an ordinary test tries.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    expected: tuple[type[Exception], ...]
    folder: str
    tokens: tuple[bytes, ...] = ()
    mutations: int = 1000

    def outcome(self, data: bytes) -> str:
        """What became of an input: "ok" or the name of an expected error. Lets everything else through."""
        try:
            with limits():
                self.run(data)
        except self.expected as error:
            return type(error).__name__
        return "ok"


INTERESTING = [b"\0", b"\xff", b"\x80", b"\x7f", b"\0" * 8, b"\xff" * 8, b"\x80\0", b"0", b"-1", b'"', b"{", b"}", b"["]

_VALUE = re.compile(rb'"[^"]*"|[0-9]+')  # what is a value in most formats that are text: replaced as a whole


def mutate(data: bytes, chance: random.Random, others: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One to four small changes."""
    words = [*INTERESTING, *tokens]
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(8)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = chance.randrange(256)
        elif kind == 2:
            del out[at : at + chance.choice([1, 2, 4, 8, 100])]
        elif kind == 3:
            out[at:at] = chance.choice(words)
        elif kind == 4:
            piece = chance.choice(words)
            out[at : at + len(piece)] = piece
        elif kind == 5:
            begin = chance.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + chance.randrange(64)]
        elif kind == 6 and (values := list(_VALUE.finditer(out))):
            value = chance.choice(values)
            out[value.start() : value.end()] = chance.choice(words)
        else:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            out[at : at + 32] = other[begin : begin + chance.randrange(64)]
    return bytes(out[:INPUT_BYTES_MAX])


def kept(folder: Path, name: str) -> list[bytes]:
    """The inputs in a folder of inputs, for the target called `MODULE/TARGET`, in the order of their names."""
    files = folder.joinpath(name)
    return [file.read_bytes() for file in sorted(files.iterdir())] if files.is_dir() else []


def keep(folder: Path, name: str, data: bytes) -> Path:
    """Write an input into such a folder, under a name made from its content. Returns the file."""
    file = folder / name / sha256(data).hexdigest()[:16]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def _attempt(target: Target, name: str, data: bytes, crashes: Path) -> None:
    """Raises what the target should not have raised, after keeping the input."""
    try:
        target.outcome(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        error.add_note(f"the input is in {keep(crashes, name, data)}")
        raise


def exercise(target: Target, name: str, *, corpus: Path = CORPUS, crashes: Path = CRASHES) -> None:
    """The seeds, the kept corpus, and `target.mutations` mutations of them, the same for the same name and corpus."""
    inputs = [*target.seeds(), *kept(corpus, name)]
    chance = random.Random(name)
    for data in inputs:
        _attempt(target, name, data, crashes)
    for _ in range(target.mutations):
        _attempt(target, name, mutate(chance.choice(inputs), chance, inputs, target.tokens), crashes)


Line = tuple[str, int]


class Coverage:
    """Lines of one folder that a call reaches, by `sys.settrace`. The tracer of whoever measures us is put back."""

    def __init__(self, folder: str) -> None:
        self._folder = f"{REPO}{folder}"
        self.seen: set[Line] = set()

    def run(self, call: Callable[[], object]) -> bool:
        """Call, and say whether a line was reached for the first time. Raises `TracerChanged`."""
        before, outer = len(self.seen), sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
            changed = sys.gettrace() != self._enter
        finally:
            sys.settrace(outer)
        if changed:
            raise TracerChanged
        return len(self.seen) > before

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._folder) else None

    def _line(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def lines_of(target: Target, data: bytes) -> set[Line]:
    """The lines that one input reaches."""
    coverage = Coverage(target.folder)
    coverage.run(lambda: target.outcome(data))
    return coverage.seen


def explore(
    target: Target,
    name: str,
    chance: random.Random,
    until: Callable[[], bool],
    corpus: list[bytes],
    crashes: Path = CRASHES,
) -> tuple[int, int]:
    """Fuzz until told to stop; `corpus` grows. Returns inputs tried and lines reached."""
    coverage = Coverage(target.folder)

    def reaches_more(data: bytes) -> bool:
        return coverage.run(lambda: _attempt(target, name, data, crashes))

    for seed in list(corpus):
        reaches_more(seed)
    tried = 0
    while not until():
        data = mutate(chance.choice(corpus), chance, corpus, target.tokens)
        tried += 1
        if reaches_more(data) and len(corpus) < INPUTS_MAX:
            corpus.append(data)
    return tried, len(coverage.seen)


def minimised(target: Target, inputs: Sequence[bytes]) -> list[bytes]:
    """The inputs worth keeping: each adds lines to those of the seeds and of the ones before it, most for its size
    first, up to `KEPT_BYTES_MAX`."""
    seen: set[Line] = set()
    for seed in target.seeds():
        seen |= lines_of(target, seed)
    left = {data: lines_of(target, data) for data in inputs if len(data) <= KEPT_INPUT_BYTES_MAX}
    chosen: list[bytes] = []
    room = KEPT_BYTES_MAX
    while left:
        best = max(left, key=lambda data: (len(left[data] - seen) / (len(data) + 16), data))
        fresh = left.pop(best) - seen
        if not fresh:
            break
        if len(best) <= room:
            chosen.append(best)
            room -= len(best)
            seen |= fresh
    return chosen


def all_targets(modules: Mapping[str, Mapping[str, Target]]) -> dict[str, Target]:
    """The targets of several modules under their full names, `MODULE/TARGET`."""
    return {f"{module}/{name}": target for module, targets in modules.items() for name, target in targets.items()}
