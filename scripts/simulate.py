"""Run the deterministic simulator: many seeds with faults, one seed again, or a large shoal."""

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.sim.faults import Faults
from protocol.sim.run import Options, Outcome, run
from protocol.sim.scale import Census, measure

PROGRESS_S = 10.0


def main() -> int:
    arguments = parse()
    if arguments.scale:
        return scale(arguments)
    options = Options(
        peers=arguments.peers,
        jobs=arguments.jobs,
        daemons=arguments.daemons,
        faults=Faults() if arguments.clean else None,
    )
    if arguments.seed is not None:
        return report([replay(arguments.seed, options, arguments.trace)], options, 0.0)
    began = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    outcomes = list(sweep(seeds, options, arguments))
    return report(outcomes, options, time.monotonic() - began)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many seeds")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first of them")
    parser.add_argument("--peers", type=int, default=12, metavar="M", help="in each shoal, from 2")
    parser.add_argument("--jobs", type=int, default=8, metavar="K", help="submitted in each run")
    parser.add_argument("--daemons", type=int, default=3, metavar="D", help="run in each of them")
    parser.add_argument("--seed", type=int, metavar="S", help="run this one seed only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument("--clean", action="store_true", help="no faults at all")
    parser.add_argument(
        "--processes", type=int, metavar="P", default=os.cpu_count() or 1, help="at one time"
    )
    parser.add_argument(
        "--scale", type=int, metavar="M", help="measure traffic in shoals of 10, 100, ... M peers"
    )
    arguments = parser.parse_args()
    if arguments.peers < 2 or arguments.seeds < 1 or arguments.processes < 1:
        parser.error("--peers from 2, --seeds and --processes from 1")
    return arguments


def replay(seed: int, options: Options, trace: bool) -> Outcome:
    return run(seed, options, print if trace else None)


def sweep(seeds: range, options: Options, arguments: argparse.Namespace) -> Iterator[Outcome]:
    """Outcomes in the order of their seeds, whoever computed them."""
    context = multiprocessing.get_context("fork")
    told = time.monotonic()
    with context.Pool(min(arguments.processes, len(seeds))) as pool:
        for count, outcome in enumerate(pool.imap(partial(run, options=options), seeds), 1):
            for violation in outcome.violations:
                print(violation, flush=True)
            if outcome.violations:
                again = f"--seed {outcome.seed} --peers {options.peers} --jobs {options.jobs}"
                again += f" --daemons {options.daemons}"
                clean = " --clean" if arguments.clean else ""
                print(f"  replay: scripts/sim {again}{clean} --trace", flush=True)
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                print(f"{count} of {len(seeds)} seeds", file=sys.stderr, flush=True)
            yield outcome


def report(outcomes: list[Outcome], options: Options, took_s: float) -> int:
    """The summary; 1 where a promise was broken."""
    digest = hashlib.blake2b(digest_size=16)
    families: Counter[str] = Counter()
    for outcome in outcomes:
        digest.update(outcome.digest.encode())
        families.update(outcome.faults.split(", "))
    violations = sum(len(outcome.violations) for outcome in outcomes)
    if len(outcomes) == 1:
        for violation in outcomes[0].violations:
            print(violation)
    totals = {
        "simulated hours": f"{sum(o.seconds for o in outcomes) / 3600:.1f}",
        "steps": sum(o.steps for o in outcomes),
        "frames": sum(o.frames for o in outcomes),
        "commits": sum(o.commits for o in outcomes),
        "jobs": sum(o.jobs for o in outcomes),
        "executions": sum(o.executions for o in outcomes),
    }
    took = f" in {took_s:.0f} s" if took_s else ""
    print(f"{len(outcomes)} seeds of {options.peers} peers{took}")
    print(", ".join(f"{name} {value}" for name, value in totals.items()))
    print("runs with " + ", ".join(f"{name} {n}" for name, n in sorted(families.items())))
    print(f"violations {violations}")
    print(f"digest {digest.hexdigest()}")
    return 1 if violations else 0


def scale(arguments: argparse.Namespace) -> int:
    """Traffic per peer and per job, each row in a process of its own."""
    sizes = [size for size in (10, 100, 1_000, 10_000) if size < arguments.scale]
    sizes.append(arguments.scale)
    context = multiprocessing.get_context("fork")
    began = time.monotonic()
    with context.Pool(min(arguments.processes, len(sizes)), maxtasksperchild=1) as pool:
        largest_first = list(pool.imap_unordered(measure, sorted(sizes, reverse=True), 1))
    rows = sorted(largest_first, key=lambda census: census.peers)
    print_scale(rows)
    print(f"measured in {time.monotonic() - began:.0f} s")
    return 0


def print_scale(censuses: list[Census]) -> None:
    head = ["peers", "idle msg/peer/min", "B/peer/min", "ratio", "msg/job", "B/job", "ratio"]
    table = [[*head, "B/job/peer"]]
    first = censuses[0]
    for census in censuses:
        table.append(
            [
                f"{census.peers}",
                f"{census.idle_frames:.1f}",
                f"{census.idle_bytes:.0f}",
                f"{census.idle_bytes / first.idle_bytes:.2f}",
                f"{census.job_frames:.1f}",
                f"{census.job_bytes:.0f}",
                f"{census.job_bytes / first.job_bytes:.2f}",
                f"{census.job_bytes / census.peers:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
