"""Run worlds: `python -m tests.sim.world --seeds 200` or `--seed 17 --verbose`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from tests.sim.world.judges.verdict import violations
from tests.sim.world.plan import ALL_KINDS, Plan, draw
from tests.sim.world.world import World

GARBAGE = 50_000, 20, 100  # thresholds of its collector


def judge(seed: int, kinds: tuple[str, ...] = ALL_KINDS) -> tuple[int, list[str]]:
    """What is wrong in the world of this seed, in which only these kinds of trouble happen."""
    return seed, judge_plan(draw(seed, kinds))


def judge_plan(plan: Plan) -> list[str]:
    """What is wrong in the world of this plan. An exception of the daemon's code is wrong too."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="world-", dir=memory) as folder:
        world = World(plan, Path(folder))
        try:
            world.run()
            return violations(world)
        except Exception:
            return traceback.format_exc().splitlines()[-6:]


def prepare() -> None:
    """What a process does that runs many worlds: it logs nothing, and looks for garbage less often, and not among what
    was there before the first world."""
    logging.disable(logging.INFO)
    logging.getLogger().addHandler(logging.NullHandler())
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def run_many(seeds: Iterable[int], kinds: tuple[str, ...], workers: int) -> dict[int, list[str]]:
    """The worlds of these seeds in which something is wrong; each is told as soon as it is found."""
    found: dict[int, list[str]] = {}
    with ProcessPoolExecutor(workers, initializer=prepare) as pool:
        for seed, wrong in pool.map(judge, seeds, repeat(kinds), chunksize=4):
            if wrong:
                found[seed] = wrong
                _tell(seed, wrong)
            elif seed % 100 == 99:
                sys.stdout.write(f"up to seed {seed}: {len(found)} wrong\n")
            sys.stdout.flush()
    return found


def _tell(seed: int, wrong: list[str]) -> None:
    sys.stdout.write(f"seed {seed}: {len(wrong)} wrong\n")
    sys.stdout.writelines(f"    {line}\n" for line in wrong[:12])


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.world", description="collection in virtual time, seed by seed")
    parser.add_argument("--seeds", type=int, default=0, help="run so many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--kinds", default=",".join(ALL_KINDS), help="what may happen")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    kinds = tuple(options.kinds.split(","))
    if options.seed is not None:
        if options.verbose:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            sys.stdout.write(f"{draw(options.seed, kinds)}\n")
        else:
            prepare()
        bad = {seed: wrong for seed, wrong in [judge(options.seed, kinds)] if wrong}
        for seed, wrong in bad.items():
            _tell(seed, wrong)
    else:
        bad = run_many(range(options.first, options.first + options.seeds), kinds, options.workers)
    sys.stdout.write(f"{len(bad)} of {options.seeds or 1} worlds are wrong\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
