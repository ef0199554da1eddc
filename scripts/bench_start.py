"""The bench of a small device: how soon an agent is of use, and what it holds in memory when idle.

The floor is a bare Python that imports the two libraries an agent cannot do without.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil

from scripts.figures import Figure, compared
from tests.lab import ROOT, Device, Lab, process_job

STARTS = 7
SETTLE_S = 20.0  # mDNS has announced, the first commits are made, and nothing more is imported
TIMES_MAX = 2.0  # of the floor: what an agent adds is its own modules, a database and a host
MEMORY_TIMES_MAX = 1.0  # an agent leaves more of libp2p out than it adds of its own
FLOOR = "import trio, libp2p"
# Told by the process itself, for it is gone before another could look.
RESIDENT = "print(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0")  # with mDNS, as people have it


@dataclass(frozen=True, slots=True)
class Start:
    answers_s: float
    bid_s: float


def start() -> list[Figure]:
    """Seconds from exec to an answer on the socket and to the first bid; idle memory."""
    floors: list[tuple[float, float]] = []
    starts: list[Start] = []
    for _ in range(STARTS):  # in turn, so that a drifting machine favours nobody
        floors.append(_floor())
        starts.append(_start())
    floor_s = statistics.median(seconds for seconds, _ in floors)
    floor_mb = statistics.median(megabytes for _, megabytes in floors)
    answers_s = statistics.median(each.answers_s for each in starts)
    bid_s = statistics.median(each.bid_s for each in starts)
    rival = "import libp2p, trio"
    return [
        compared("start-to-answer", answers_s * 1e3, "ms", STARTS, floor_s * 1e3, TIMES_MAX, rival),
        compared("start-to-first-bid", bid_s * 1e3, "ms", STARTS, floor_s * 1e3, TIMES_MAX, rival),
        compared("idle-resident", _idle_mb(), "MB", 1, floor_mb, MEMORY_TIMES_MAX, rival),
    ]


def _floor() -> tuple[float, float]:
    """Seconds to the end of a process that imports and no more, and its resident megabytes."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{FLOOR}; {RESIDENT}"], check=True, capture_output=True, cwd=ROOT
    )
    return time.perf_counter() - began, int(done.stdout) * 1024 / 1e6


def _start() -> Start:
    lab = Lab(1)
    try:
        began = _spawn(lab, lab[0])
        answers_s = time.perf_counter() - began
        with lab[0].client() as client:
            for line in client.run(process_job("/bin/true", name="first")):
                if line.get("event", {}).get("kind") == "job.bids":
                    return Start(answers_s, time.perf_counter() - began)
        raise RuntimeError("the job ended without a bid")
    finally:
        lab.close()


def _spawn(lab: Lab, device: Device) -> float:
    """Start it, and return when it answers; the moment before it was started."""
    device.listen = LISTEN
    began = time.perf_counter()
    lab.start(device, wait=False)  # the first one of a lab is waited for
    return began


def _idle_mb() -> float:
    lab = Lab(1)
    try:
        _spawn(lab, lab[0])
        time.sleep(SETTLE_S)
        return psutil.Process(lab[0].pid).memory_info().rss / 1e6
    finally:
        lab.close()
