"""The whole of collection in one loop of virtual time: clocks, base node, meters, the daemon's collector, store and
uplink, and a head-end; seeded, so that what went wrong happens again.

    python -m tests.sim.world --seeds 200            seeds 0 to 199, on all cores
    python -m tests.sim.world --seed 17 --verbose    one of them, with its plan and what the daemon logged

`plan` draws what happens from the seed; `meters`, `network`, `headend` are the world outside; `world` runs the daemon's
own code in it; `verdict` says whether each interval is in the head-end, once and right, or listed as missing.
"""
