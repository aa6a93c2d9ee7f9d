"""The whole of collection in one loop of virtual time: clocks, base node, meters, the daemon's collector, store and
uplink, and a head-end; seeded, so that what went wrong happens again.

    python -m tests.sim.world --seeds 200            seeds 0 to 199, on all cores
    python -m tests.sim.world --seed 17 --verbose    one of them, with its plan and what the daemon logged

`plan` draws what happens from the seed; `meters`, `network`, `headend` are the world outside; `world` runs the daemon's
own code in it; `judges.verdict` says whether each interval is in the head-end, once and right, or listed as missing,
what lost frames did cost, and, with `judges.picture`, whether the device has told the truth of its meters all the time.
`planted` has the faults that collection once had, which worlds must find. `orders` are worlds in which meters are told
to do things beside it.

Nobody is polled: a thread waits until its time has come or it is woken as in the daemon, and time passes meanwhile. The
daemon's own beats, which find nothing to do, come every quarter of an hour. Beside the load profile and registers of up
to three meters a world may have: registers at local times over both switches, two ports, a head-end that is put back to
a copy and asks for the rest again, a store that loses a third of its pages, a power cut with another boot and a clock
that nothing vouches for, meters that select rows by time alone, a line on which a first visit takes longer than a visit
may, a port that swallows what it is given, a meter with another password, a second daemon; HDLC meters on a bus behind
a terminal server that hangs up or refuses, two of them at one address; buffers with the newest row first, sorted, or
overwritten, rows relative to others of the buffer, errors in place of values, capture objects that are changed. Not
here: event logs, pushes, odd deviations and status bits of rows, meters of one name, two processes. A world costs some
2 s of CPU time on a machine with much else to do, of which a quarter is the head-end's database.
"""
