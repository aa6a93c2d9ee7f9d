"""The whole of collection in one loop of virtual time: clocks, base node, meters, the daemon's collector, store and
uplink, and a head-end; seeded, so that what went wrong happens again.

    python -m tests.sim.world --seeds 200            seeds 0 to 199, on all cores
    python -m tests.sim.world --seed 17 --verbose    one of them, with its plan and what the daemon logged

`plan` draws what happens from the seed; `meters`, `network`, `headend` are the world outside; `world` runs the daemon's
own code in it; `verdict` says whether each interval is in the head-end, once and right, or listed as missing. `orders`
are worlds in which meters are told to do things beside it.

Nobody is polled: a thread waits until its time has come or it is woken as in the daemon, and time passes meanwhile. The
daemon's own beats, which find nothing to do, come every five minutes. Beside the load profile and registers of up to
three meters a world may have: registers at local times over both switches, two ports, a head-end that is put back to a
copy and asks for the rest again, a store that loses a third of its pages. A world costs some 2 s of CPU time on a
machine with much else to do, of which a quarter is the head-end's database.
"""
