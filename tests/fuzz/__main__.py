"""The fuzzer as a program.

    python -m tests.fuzz MODULE/TARGET [--seconds 60] [--seed 1] [--keep]
    python -m tests.fuzz all

`all` runs each target for so long, in a process of its own, and goes on after a finding. `--keep` puts the new inputs
that reach new lines into the kept corpus. With `--atheris` atheris does the work; words that are not known here are its
own options.
"""

from __future__ import annotations

import argparse
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.guided import CORPUS, INPUT_BYTES_MAX, Target, explore, keep, kept, minimised
from tests.fuzz.targets.registry import TARGETS

ALL = "all"


def _by_atheris(target: Target, name: str, options: Sequence[str]) -> None:
    """Never returns. Findings are written to files named crash-… here."""
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, data in enumerate([*target.seeds(), *kept(CORPUS, name)]):
        (folder / f"seed-{number}").write_bytes(data)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_len={INPUT_BYTES_MAX}", *options, str(folder)], target.outcome)
    atheris.Fuzz()


def _each(words: Sequence[str]) -> int:
    """Run every target with the same options. Returns 1 if any had a finding."""
    program = [sys.executable, "-m", "tests.fuzz"]
    failed = [name for name in sorted(TARGETS) if subprocess.run([*program, name, *words], check=False).returncode]
    if failed:
        print("findings in:", ", ".join(failed))
    return bool(failed)


def _one(name: str, seconds: float, seed: int, *, keeping: bool) -> None:
    target = TARGETS[name]
    before = kept(CORPUS, name)
    corpus = [*target.seeds(), *before]
    known = len(corpus) - len(before)
    end = time.monotonic() + seconds
    tried, lines = explore(target, name, random.Random(seed), lambda: time.monotonic() > end, corpus)
    if keeping:
        for file in (CORPUS / name).glob("*"):
            file.unlink()
        for data in minimised(target, corpus[known:]):
            keep(CORPUS, name, data)
    print(f"{name}: {tried} inputs, {len(corpus)} in the corpus, {lines} lines reached, no finding", flush=True)


def main() -> None:
    """Run one target, or all of them."""
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Coverage-guided, for every parser.")
    parser.add_argument("target", choices=[*sorted(TARGETS), ALL], metavar="MODULE/TARGET")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write the kept corpus anew, minimised by coverage")
    parser.add_argument("--atheris", action="store_true", help="let atheris do it")
    arguments, rest = parser.parse_known_args()
    if arguments.target == ALL:
        at = sys.argv.index(ALL)
        sys.exit(_each([*sys.argv[1:at], *sys.argv[at + 1 :]]))
    if arguments.atheris:
        limit = f"-max_total_time={arguments.seconds:.0f}"
        _by_atheris(TARGETS[arguments.target], arguments.target, [limit, *rest])
    _one(arguments.target, arguments.seconds, arguments.seed, keeping=arguments.keep)


if __name__ == "__main__":
    main()
