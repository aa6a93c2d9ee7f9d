"""A small coverage-guided fuzzer in plain Python, for parsers that take bytes.

    python -m tests.fuzz.updateagent TARGET [--seconds 60] [--seed 1] [--corpus DIR]

`all` in the place of TARGET runs each of them for so long. It mutates inputs and keeps those that reach a line of the
package that no input reached before. Where atheris is installed, `--atheris` hands the same target, its seeds and the
corpus to it; words it does not know are atheris' own. The tests of a package run the same targets for a fixed number of
mutations without coverage, so that every run of the suite does the same.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

INPUT_BYTES_MAX = 64 << 10
CORPUS_MAX = 2000
ALL = "all"


@dataclass(frozen=True, slots=True)
class Target:
    """`run` returns, or raises `expected`; anything else is a finding. `folder` is the package whose lines count."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    expected: tuple[type[Exception], ...]
    folder: str

    def outcome(self, data: bytes) -> str:
        """What became of an input: "ok" or the name of an expected error. Lets everything else through."""
        try:
            self.run(data)
        except self.expected as error:
            return type(error).__name__
        return "ok"


INTERESTING = [b"\0", b"\xff", b"\x80", b"\x7f", b"\0" * 8, b"\xff" * 8, b"\x80\0", b"0", b"-1", b'"', b"{", b"}", b"["]


def mutate(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """One to four small changes."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = chance.randrange(256)
        elif kind == 2:
            del out[at : at + chance.choice([1, 2, 4, 8, 100])]
        elif kind == 3:
            out[at:at] = chance.choice(INTERESTING)
        elif kind == 4:
            piece = chance.choice(INTERESTING)
            out[at : at + len(piece)] = piece
        elif kind == 5:
            begin = chance.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + chance.randrange(64)]
        else:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            out[at : at + 32] = other[begin : begin + chance.randrange(64)]
    return bytes(out[:INPUT_BYTES_MAX])


def exercise(target: Target, name: str, mutations: int) -> None:
    """The seeds and so many mutations of them, the same for the same name: for the tests of a package."""
    seeds = target.seeds()
    chance = random.Random(name)
    for seed in seeds:
        target.outcome(seed)
    for _ in range(mutations):
        target.outcome(mutate(chance.choice(seeds), chance, seeds))


class Coverage:
    """Lines of one folder that a call reaches, by `sys.settrace`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.seen: set[tuple[str, int]] = set()

    def run(self, call: Callable[[], object]) -> bool:
        """Call, and say whether a line was reached for the first time."""
        before = len(self.seen)
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(None)
        return len(self.seen) > before

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if self._folder in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def explore(target: Target, chance: random.Random, until: Callable[[], bool], corpus: list[bytes]) -> tuple[int, int]:
    """Fuzz until told to stop; `corpus` grows. Returns inputs tried and lines reached."""
    coverage = Coverage(target.folder)
    for seed in list(corpus):
        coverage.run(lambda seed=seed: target.outcome(seed))  # type: ignore[misc]
    tried = 0
    while not until():
        data = mutate(chance.choice(corpus), chance, corpus)
        tried += 1
        try:
            fresh = coverage.run(lambda data=data: target.outcome(data))  # type: ignore[misc]
        except BaseException:
            name = f"finding-{sha256(data).hexdigest()[:12]}"
            Path(name).write_bytes(data)
            sys.stderr.write(f"the input is in {name}\n")
            raise
        if fresh and len(corpus) < CORPUS_MAX:
            corpus.append(data)
    return tried, len(coverage.seen)


def _by_atheris(target: Target, corpus: Path | None, options: Sequence[str]) -> None:
    """Never returns. Findings are written to files named crash-… here."""
    import atheris

    folder = corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_len={INPUT_BYTES_MAX}", *options, str(folder)], target.outcome)
    atheris.Fuzz()


def _each(targets: Iterable[str]) -> int:
    """Run the targets one after the other with the same options; returns the first exit status that is not 0."""
    at = sys.argv.index(ALL)
    for name in sorted(targets):
        words = [*sys.argv[1:at], name, *sys.argv[at + 1 :]]
        done = subprocess.run([sys.executable, "-m", "tests.fuzz." + Path(sys.argv[0]).stem, *words], check=False)
        if done.returncode:
            return done.returncode
    return 0


def main(targets: Mapping[str, Target]) -> None:
    """Run one target, or `all`, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", choices=[*sorted(targets), ALL])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder with a folder for each target: read inputs, write new ones")
    parser.add_argument("--atheris", action="store_true", help="let atheris do it")
    arguments, rest = parser.parse_known_args()
    if arguments.target == ALL:
        sys.exit(_each(targets))
    if arguments.corpus:
        arguments.corpus /= arguments.target
        arguments.corpus.mkdir(parents=True, exist_ok=True)
    target = targets[arguments.target]
    if arguments.atheris:
        _by_atheris(target, arguments.corpus, [f"-max_total_time={arguments.seconds:.0f}", *rest])
        return
    corpus = list(target.seeds())
    if arguments.corpus:
        corpus += [path.read_bytes() for path in sorted(arguments.corpus.iterdir())]
    known = set(corpus)
    end = time.monotonic() + arguments.seconds
    tried, lines = explore(target, random.Random(arguments.seed), lambda: time.monotonic() > end, corpus)
    if arguments.corpus:
        for data in corpus:
            if data not in known:
                (arguments.corpus / sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{arguments.target}: {tried} inputs, {len(corpus)} in the corpus, {lines} lines reached, no finding")
