"""A deterministic simulator of many nodes: one heap of timed events, one seed, one process.

The nodes are the real ones and every frame passes through the real encoder and decoder; keys,
clocks, disks, links and tasks are simulated. Whatever goes wrong is drawn from the seed, so a run
that found something replays exactly. `scripts/sim` is its command line.
"""
