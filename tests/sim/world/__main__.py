"""Run worlds: `python -m tests.sim.world --seeds 200` or `--seed 17 --verbose`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.sim.world.plan import draw
from tests.sim.world.verdict import violations
from tests.sim.world.world import World


def judge(seed: int) -> tuple[int, list[str]]:
    """What is wrong in the world of this seed. An exception of the daemon's code is wrong too."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="world-", dir=memory) as folder:
        world = World(draw(seed), Path(folder))
        try:
            world.run()
            return seed, violations(world)
        except Exception:
            return seed, traceback.format_exc().splitlines()[-6:]


def quiet_judge(seed: int) -> tuple[int, list[str]]:
    logging.disable(logging.CRITICAL)
    return judge(seed)


def run_many(seeds: Iterable[int], workers: int) -> dict[int, list[str]]:
    """The worlds of these seeds in which something is wrong."""
    with ProcessPoolExecutor(workers) as pool:
        return {seed: wrong for seed, wrong in pool.map(quiet_judge, seeds, chunksize=4) if wrong}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.sim.world", description="collection in virtual time, seed by seed")
    parser.add_argument("--seeds", type=int, default=0, help="run so many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if options.seed is not None:
        if options.verbose:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            sys.stdout.write(f"{draw(options.seed)}\n")
        else:
            logging.disable(logging.CRITICAL)
        bad = {seed: wrong for seed, wrong in [judge(options.seed)] if wrong}
    else:
        bad = run_many(range(options.first, options.first + options.seeds), options.workers)
    for seed, wrong in bad.items():
        sys.stdout.write(f"seed {seed}: {len(wrong)} wrong\n")
        sys.stdout.writelines(f"    {line}\n" for line in wrong[:12])
    sys.stdout.write(f"{len(bad)} of {options.seeds or 1} worlds are wrong\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
