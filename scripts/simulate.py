"""Run the deterministic simulator: many seeds with faults, one seed again, or a large shoal."""

import argparse
import hashlib
import itertools
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.sim.run import Options, Outcome, run
from protocol.sim.scale import Census, measure
from protocol.sim.scenarios import SCENARIOS, scenario_of

PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What each seed is run with."""

    peers: int
    jobs: int
    daemons: int
    services: int
    scenario: str  # empty: each seed has its own

    def options(self, seed: int) -> Options:
        scenario = self.scenario or scenario_of(seed)
        return Options(self.peers, self.jobs, self.daemons, self.services, scenario)

    def __call__(self, seed: int) -> Outcome:
        return run(seed, self.options(seed))


def main() -> int:
    arguments = parse()
    if arguments.scale:
        return scale(arguments)
    plan = Plan(
        arguments.peers,
        arguments.jobs,
        arguments.daemons,
        arguments.services,
        arguments.scenario or "",
    )
    if arguments.seed is not None:
        return report([replay(arguments.seed, plan, arguments.trace)], plan, 0.0)
    began = time.monotonic()
    outcomes = list(sweep(plan, arguments))
    return report(outcomes, plan, time.monotonic() - began)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many seeds")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first of them")
    parser.add_argument("--peers", type=int, default=12, metavar="M", help="in each shoal, from 2")
    parser.add_argument("--jobs", type=int, default=8, metavar="K", help="submitted in each run")
    parser.add_argument("--daemons", type=int, default=3, metavar="D", help="run in each of them")
    parser.add_argument("--services", type=int, default=2, metavar="V", help="and so many more")
    parser.add_argument("--seed", type=int, metavar="S", help="run this one seed only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    texts = "; ".join(f"{s.name}, {s.text}" for s in SCENARIOS.values()).replace("%", "%%")
    parser.add_argument(
        "--scenario", choices=SCENARIOS, metavar="NAME", help=f"this one only: {texts}"
    )
    parser.add_argument(
        "--soak", type=duration_s, metavar="1h", help="go on for so long, seed after seed"
    )
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


def duration_s(text: str) -> float:
    """Seconds of `90`, `90s`, `15m` or `1h`."""
    number, unit = (text[:-1], text[-1]) if text and text[-1] in "smh" else (text, "s")
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 90s, 15m or 1h")
    return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def replay(seed: int, plan: Plan, trace: bool) -> Outcome:
    return run(seed, plan.options(seed), print if trace else None)


def sweep(plan: Plan, arguments: argparse.Namespace) -> Iterator[Outcome]:
    """Outcomes in the order of their seeds, whoever computed them."""
    context = multiprocessing.get_context("fork")
    began = told = time.monotonic()
    first, soak = arguments.first, arguments.soak
    seeds = iter(itertools.count(first) if soak else range(first, first + arguments.seeds))
    batch = arguments.processes * 4
    with context.Pool(arguments.processes) as pool:
        while some := list(itertools.islice(seeds, batch)):
            for outcome in pool.imap(plan, some):
                tell_violations(outcome, plan)
                yield outcome
            now = time.monotonic()
            if now - told > PROGRESS_S:
                told = now
                print(f"{some[-1] + 1 - first} seeds in {now - began:.0f} s", file=sys.stderr)
            if soak and now - began >= soak:
                return


def tell_violations(outcome: Outcome, plan: Plan) -> None:
    for violation in outcome.violations:
        print(violation, flush=True)
    if outcome.violations:
        again = f"--seed {outcome.seed} --peers {plan.peers} --jobs {plan.jobs}"
        again += f" --daemons {plan.daemons} --services {plan.services}"
        print(f"  replay: scripts/sim {again} --scenario {outcome.scenario} --trace", flush=True)


def report(outcomes: list[Outcome], plan: Plan, took_s: float) -> int:
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
    took = f" in {took_s:.0f} s" if took_s else ""
    print(f"{len(outcomes)} seeds of {plan.peers} peers{took}")
    print_scenarios(outcomes)
    print("runs with " + ", ".join(f"{name} {n}" for name, n in sorted(families.items())))
    print(f"violations {violations}")
    print(f"digest {digest.hexdigest()}")
    return 1 if violations else 0


def print_scenarios(outcomes: list[Outcome]) -> None:
    table = [
        ["scenario", "seeds", "hours", "steps", "frames", "commits", "jobs", "runs", "violations"]
    ]
    for name in SCENARIOS:
        mine = [outcome for outcome in outcomes if outcome.scenario == name]
        if mine:
            table.append([name, *sums(mine)])
    if len(table) > 2:
        table.append(["all", *sums(outcomes)])
    print_table(table)


def sums(outcomes: list[Outcome]) -> list[str]:
    return [
        str(len(outcomes)),
        f"{sum(outcome.seconds for outcome in outcomes) / 3600:.1f}",
        *(
            str(sum(getattr(outcome, name) for outcome in outcomes))
            for name in ("steps", "frames", "commits", "jobs", "executions")
        ),
        str(sum(len(outcome.violations) for outcome in outcomes)),
    ]


def print_table(table: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


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
    table = [[*head, "B/job/peer", "daemon on", "after s", "B/peer"]]
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
                f"{census.attached}",
                f"{census.attach_s:.1f}",
                f"{census.attach_bytes:.0f}",
            ]
        )
    print_table(table)


if __name__ == "__main__":
    sys.exit(main())
