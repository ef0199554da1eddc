"""Agents behind two NATs and a public one, on real networks: does everything work across, and does
nobody die?

For some minutes, jobs are run from one private network in the other, with a shipped file, output
and an exit code each. Whoever is held for dead is told of, with the local health of who said so:
above 1 it had noticed that its own machine was slow.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.lab import Device, alive_at
from tests.namespaces import NamespaceError
from tests.netlab import NetLab

SAY = "#!/bin/sh\necho $1 > out; cat out; exit $2\n"
PAUSE_S = 2.0  # between jobs: what is wanted is minutes of life, not load
TOGETHER = 3  # agents that start at one time
STALL_S = 0.5  # a wait of nothing that takes so long is a machine that is short of CPU


class Run:
    """What happened so far."""

    def __init__(self, lab: NetLab) -> None:
        self.lab = lab
        self.rng = random.Random()
        self.jobs = 0
        self.failed: list[str] = []
        self.longest_stall_s = 0.0
        self.stalls = 0
        self.took: list[float] = []

    def one_job(self) -> None:
        """From one private network, in the other; the file goes there, the output comes back."""
        here, there = self.rng.sample(self.lab.private, 2)
        origin, place = self.rng.choice(here), self.rng.choice(there)
        number, code = self.jobs, self.jobs % 3
        self.jobs += 1
        script = self.lab.directory / "say.sh"
        wanted = ("--constraint", f"place={place.name}", "--name", f"job-{number}")
        begun = time.monotonic()
        command = ("run", *wanted, "-f", str(script), "--", "./say.sh", f"job-{number}", str(code))
        done = self.lab.shoal(origin, *command)
        self.took.append(time.monotonic() - begun)
        if done.code != code or done.out != f"job-{number}\n":
            text = f"job-{number} from {origin.name} on {place.name}: {done}"
            print(text, flush=True)
            self.failed.append(text)

    def rest(self, seconds: float) -> None:
        """Wait, and notice where the machine does not even manage that."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            time.sleep(0.05)
            stall = time.monotonic() - now - 0.05
            self.stalls += stall > STALL_S
            self.longest_stall_s = max(self.longest_stall_s, stall)


def start(lab: NetLab) -> None:
    """A few at a time: each imports libp2p for a second of CPU, which is not what is looked at."""
    lab.start(lab[0])
    private = lab.devices[1:]
    for first in range(0, len(private), TOGETHER):
        lab.start(*private[first : first + TOGETHER])


def deaths(lab: NetLab) -> list[str]:
    """Who was held for dead; here every agent runs all the while, so that each is false."""
    found = []
    for device in lab.devices:
        for event in events_at(device):
            if event["kind"] == "peer.dead":
                health = event["fields"]["health"]
                why = "its own machine was slow" if health > 1 else "it thought itself well"
                found.append(f"{device.name}: {event['text']} (local health {health}: {why})")
    return found


def events_at(device: Device) -> list[dict[str, Any]]:
    with device.client() as client:
        return client.events()


def status_of(device: Device) -> dict[str, Any]:
    with device.client() as client:
        return client.status()


def pathless(lab: NetLab) -> list[str]:
    """Pairs in different private networks that see no path to each other."""
    found = []
    for here in lab.private:
        theirs = {device.peer for side in lab.private if side is not here for device in side}
        for device in here:
            with device.client() as client:
                peers = [peer for peer in client.peers() if peer["id"] in theirs]
            found += [f"{device.name} to {peer['name']}" for peer in peers if not peer["via"]]
    return found


def report(lab: NetLab, run: Run, minutes: float) -> bool:
    """Print what came of it; whether all was well."""
    dead, lost = deaths(lab), pathless(lab)
    kinds = Counter(event["kind"] for device in lab.devices for event in events_at(device))
    public = status_of(lab[0])
    sent = {device.name: status_of(device)["bytes_sent"] for device in lab.devices}
    private = [sent[device.name] for side in lab.private for device in side]
    missing = [d.name for d in lab.devices if len(alive_at(d)) != len(lab.devices)]
    print(f"agents              {len(lab.devices)}, {minutes:g} minutes")
    print(f"jobs across NATs    {run.jobs}, {len(run.failed)} failed")
    if run.took:
        middle = sorted(run.took)[len(run.took) // 2]
        print(f"a job took          {middle:.1f} s at the median, {max(run.took):.1f} s at most")
    print(f"false deaths        {len(dead)}")
    for text in dead:
        print(f"  {text}")
    print(f"suspicions          {kinds['peer.suspect']}, refuted {kinds['self.refuted']}")
    print(f"pairs without path  {len(lost)}{': ' if lost else ''}{', '.join(lost[:10])}")
    print(f"not seen by all     {', '.join(missing) or 'nobody'}")
    print(f"public peer sent    {sent[lab[0].name] / 1e6:.1f} MB; it joined streams of")
    print(f"                    {public['counters']['relayed_bytes'] / 1e6:.2f} MB")
    each = sum(private) / len(private) / 60 / minutes
    print(f"a private one sent  {each / 1e3:.2f} kB/s on average")
    print(f"this machine        {run.stalls} stalls, {run.longest_stall_s:.2f} s the longest")
    return not (dead or lost or missing or run.failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--agents", type=int, default=20)
    options = parser.parse_args()
    half = (options.agents - 1) // 2
    try:
        lab = NetLab(1, behind=(half, options.agents - 1 - half))
    except NamespaceError as error:
        print(f"scripts/natlab: {error}", file=sys.stderr)
        return 1
    for device in lab.devices:
        device.flags = ["--label", f"place={device.name}"]
    (lab.directory / "say.sh").write_text(SAY)
    (lab.directory / "say.sh").chmod(0o755)
    try:
        start(lab)
        print(f"{len(lab.devices)} agents know each other", flush=True)
        run = Run(lab)
        end = time.monotonic() + 60 * options.minutes
        lab.until(lambda: not pathless(lab), "every pair has a path")
        while time.monotonic() < end:
            run.one_job()
            run.rest(PAUSE_S)
        return 0 if report(lab, run, options.minutes) else 1
    finally:
        lab.close()


if __name__ == "__main__":
    raise SystemExit(main())
