"""The bench: Shoal's figures beside a floor or a rival of the same run, held against its budgets.

Every line is {name, value, unit, n, against, ratio, budget, met}: `against` is the rival's or
floor's figure in the same unit, `ratio` is value / against, `budget` what DESIGN allows, in words.
A machine's own speed falls out of a ratio; figures without one (memory, bytes) do not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from scripts.bench_docker import docker
from scripts.bench_files import files
from scripts.bench_logs import container_logs, logs
from scripts.bench_mqtt import mqtt
from scripts.bench_start import start
from scripts.figures import Figure, as_line, bounded, compared, quantile, rate
from tests.lab import Device, Lab, process_job
from tests.netlab import NetLab

NOOP = "/bin/true"
WARM_UP = 10
IDLE_S = 60.0
SETTLE_S = 30.0
METERED_S = 600.0  # five keepalives of a leaf
METERED_SETTLE_S = 180.0  # its connections to others than its anchors close when idle
METERED_PEERS = 5
METERED_LAN = 3
MONTH_S = 30 * 86_400.0
YOUNG_S = 12.0  # an agent that just started gives a coordinator 10 s to be heard of


# ---- latency ------------------------------------------------------------


def run_once(device: Device, client: Any) -> float:
    """Seconds from the call to the pushed end of a no-op job."""
    began = time.perf_counter()
    for line in client.run(process_job(NOOP, name="noop"), events=False):
        if "final" in line and line["final"]["state"] != "completed":
            raise RuntimeError(f"the no-op job failed: {line}")
    return time.perf_counter() - began


def latencies(lab: Lab, n: int) -> list[float]:
    with lab[0].client() as client:
        for _ in range(WARM_UP):
            run_once(lab[0], client)
        return [run_once(lab[0], client) for _ in range(n)]


def spawn_latencies(n: int) -> list[float]:
    """The floor: the same program, started and waited for."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        subprocess.run([NOOP], check=True)
        times.append(time.perf_counter() - began)
    return times


def _execute() -> int:
    return subprocess.run([NOOP], check=True).returncode


@contextmanager
def dask(workers: int) -> Iterator[Callable[[], float]]:
    """A Dask cluster of that many one-thread worker processes; yields a timed submit().result()."""
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.worker.daemon": False})
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    client = Client(cluster)

    def once() -> float:
        began = time.perf_counter()
        client.submit(_execute, pure=False).result(timeout=60)
        return time.perf_counter() - began

    try:
        for _ in range(WARM_UP):
            once()
        yield once
    finally:
        client.close()
        cluster.close()


def latency(peers: int, most: float, n: int = 100) -> list[Figure]:
    """In turn, a block of ours and a block of theirs, so that a drifting machine favours nobody."""
    ours: list[float] = []
    theirs: list[float] = []
    with Lab(peers) as lab, dask(3) as once:
        time.sleep(5)
        for _ in range(4):
            ours += latencies(lab, n // 4)
            theirs += [once() for _ in range(n // 4)]
    floor = spawn_latencies(n)
    figures = []
    for share, word in ((0.5, "p50"), (0.99, "p99")):
        value, rival = quantile(ours, share) * 1e3, quantile(theirs, share) * 1e3
        name = f"submit-to-result-{peers}-peers-{word}"
        if word == "p50":
            figures.append(compared(name, value, "ms", n, rival, most, "Dask's submit().result()"))
        else:
            ratio = value / rival
            figures.append(Figure(name, value, "ms", n, rival, ratio, "beside Dask's"))
    bare = statistics.median(floor) * 1e3
    value = statistics.median(ours) * 1e3
    figures.append(
        Figure(
            f"submit-to-result-{peers}-peers-over-spawn",
            value,
            "ms",
            n,
            bare,
            value / bare,
            "beside the bare spawn",
        )
    )
    return figures


def throughput(seconds: float = 15.0, in_flight: int = 8) -> list[Figure]:
    """Jobs a second with 8 callers that each wait for their job, on 3 peers."""
    with Lab(3) as lab, ExitStack() as stack:
        time.sleep(5)
        latencies(lab, 5)
        clients = [stack.enter_context(lab[number % 3].client()) for number in range(in_flight)]
        ours = rate(lambda number: run_once(lab[number % 3], clients[number]), in_flight, seconds)
    with dask(3) as once:
        against = rate(lambda number: once(), in_flight, seconds)
    count = int(ours * seconds)
    return [
        Figure(
            "jobs-a-second-8-in-flight",
            ours,
            "1/s",
            count,
            against,
            ours / against,
            ">= 80 1/s",
            ours >= 80,
        )
    ]


# ---- loss ------------------------------------------------------------


def placed_again(lab: Lab, hurt: Callable[[Device], None]) -> float:
    """Seconds from the blow to the moment at which another peer runs the slot."""
    spec = process_job("/bin/sleep", "600", name="long")
    with lab[0].client() as client:
        job = client.submit(spec)["job"]

        def running() -> str:
            slot = client.job(job)["slots"][0]
            return slot["executor"] if slot["state"] == "running" else ""

        winner = lab.until(running, "the job runs", 30)
        if winner == lab[0].peer:  # the watcher shall live; lab[0] offers nothing, see below
            raise RuntimeError("the job runs where it was submitted")
        device = next(device for device in lab.devices if device.peer == winner)
        began = time.monotonic()
        hurt(device)
        lab.until(lambda: (who := running()) and who != winner, "it is placed again", 60)
        took = time.monotonic() - began
        client.stop(job)
    return took


def replace(n: int = 5) -> list[Figure]:
    kills: list[float] = []
    freezes: list[float] = []
    for _ in range(n):
        with _watched_lab() as lab:
            time.sleep(3)
            kills.append(placed_again(lab, lab.power_off))
    for _ in range(n):
        with _watched_lab() as lab:
            time.sleep(3)
            freezes.append(placed_again(lab, lab.freeze))
    figures = []
    for name, times, most in (("kill", kills, 2.0), ("freeze", freezes, 10.0)):
        figures.append(
            bounded(f"placed-again-after-{name}-p50", quantile(times, 0.5), "s", n, most)
        )
        figures.append(bounded(f"placed-again-after-{name}-max", max(times), "s", n, most))
    return figures


@contextmanager
def _watched_lab() -> Iterator[Lab]:
    """Four agents; the first one only watches, since it offers too little to win."""
    lab = Lab(4)
    lab[0].flags = ["--offer-cpu", "10m"]
    with lab:
        yield lab


# ---- daemons ------------------------------------------------------------


def attach(n: int = 20) -> list[Figure]:
    """From the moment at which the others know a new device to its first daemon running."""
    spec = {**process_job("/bin/sleep", "600", name="attached"), "Type": "daemon"}
    del spec["Count"]
    with Lab(3) as lab, lab[0].client() as client:
        client.submit(spec)
        times = [_attached(lab, client, f"late{number:02}") for number in range(n)]
    return [
        bounded("daemon-attached-p50", quantile(times, 0.5), "s", n, 2.0),
        bounded("daemon-attached-p99", quantile(times, 0.99), "s", n, 2.0),
    ]


def _attached(lab: Lab, client: Any, name: str) -> float:
    late = lab.add(name)
    lab.start(late)
    with late.client() as its:

        def started() -> int:
            kinds = ("daemon.started", "daemon.restarted")
            return next((e["at_ms"] for e in its.events() if e["kind"] in kinds), 0)

        began = lab.until(started, "the daemon runs there", 60)
    known = next(
        event["at_ms"]
        for event in client.events()
        if event["peer"] == late.peer and event["kind"] == "peer.joined"
    )
    lab.power_off(late)
    lab.devices.remove(late)
    return max(0.0, (began - known) / 1000)


# ---- takeover ------------------------------------------------------------


def takeover(n: int = 5) -> list[Figure]:
    """From kill -9 of a coordinator in the middle of a job to the job led by another peer."""
    times: list[float] = []
    for _ in range(n):
        with Lab(4) as lab:
            time.sleep(YOUNG_S)
            times.append(_led_by_another(lab))
    return [
        Figure("led-by-another-p50", quantile(times, 0.5), "s", n),
        Figure("led-by-another-max", max(times), "s", n),
    ]


def _led_by_another(lab: Lab) -> float:
    coordinator, watcher = lab[1], lab[0]
    spec = process_job("/bin/sleep", "600", name="led")
    with coordinator.client() as client:
        job = client.submit(spec)["job"]
        lab.until(lambda: client.job(job)["slots"][0]["state"] == "running", "the job runs", 30)
    with watcher.client() as client:
        began = time.monotonic()
        lab.kill(coordinator)
        lab.until(
            lambda: client.job(job)["coordinator"] != coordinator.peer, "another leads it", 60
        )
        took = time.monotonic() - began
        client.stop(job)
    return took


# ---- idle ------------------------------------------------------------


def idle() -> list[Figure]:
    with Lab(3) as lab:
        time.sleep(SETTLE_S)
        processes = [psutil.Process(device.pid) for device in lab.devices]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        synced = _fsyncs(lab)
        began = time.monotonic()
        time.sleep(IDLE_S)
        took = time.monotonic() - began
        synced = [end - start for start, end in zip(synced, _fsyncs(lab), strict=True)]
        spent = [
            (sum(process.cpu_times()[:2]) - start) / took * 1e3
            for process, start in zip(processes, before, strict=True)
        ]
        resident = [process.memory_info().rss / 1e6 for process in processes]
    with Lab(20) as lab:
        time.sleep(SETTLE_S)
        rates = _sent(lab)
    return [
        bounded("idle-resident-3-peers", max(resident), "MB", 3, 95),
        bounded("idle-cpu-3-peers", max(spent), "ms/s", 3, 5),
        bounded("idle-fsyncs-3-peers", max(synced) / took * 60, "1/min", 3, 2),
        bounded("idle-bytes-sent-20-peers", statistics.mean(rates), "B/s", 20, 1000),
        bounded("idle-bytes-sent-20-peers-max", max(rates), "B/s", 20, 1000),
    ]


def _fsyncs(lab: Lab) -> list[int]:
    counts = []
    for device in lab.devices:
        with device.client() as client:
            counts.append(int(client.status()["fsyncs"]))
    return counts


def _sent(lab: Lab) -> list[float]:
    """Bytes a second each agent wrote to its sockets, as its transport counted."""

    def counted() -> list[int]:
        totals = []
        for device in lab.devices:
            with device.client() as client:
                totals.append(int(client.status()["bytes_sent"]))
        return totals

    before, began = counted(), time.monotonic()
    time.sleep(IDLE_S)
    after, took = counted(), time.monotonic() - began
    return [(end - start) / took for start, end in zip(before, after, strict=True)]


# ---- metered ------------------------------------------------------------


def metered(seconds: float = METERED_S) -> list[Figure]:
    """What an idle device on a metered link sends in a month, among three that pay for nothing: all
    on one network, and each behind a router as on a mobile network, with one public peer.

    The budget is of what agents write to their sockets. The network bills more than that: what its
    interface carries has the heads of Ethernet, IP and TCP, and acknowledgements, in it.
    """
    near = NetLab(METERED_PEERS)
    far = NetLab(1, behind=(METERED_LAN, 1, 1))
    leaves = {"metered": (near, near.devices[METERED_LAN:])}
    leaves["metered-behind-nat"] = (far, [device for side in far.private[1:] for device in side])
    for _, devices in leaves.values():
        for device in devices:
            device.flags = ["--preset", "metered"]
    with near, far:
        time.sleep(METERED_SETTLE_S)
        before = {name: _carried(*each) for name, each in leaves.items()}
        began = time.monotonic()
        time.sleep(seconds)
        after = {name: _carried(*each) for name, each in leaves.items()}
        took = time.monotonic() - began
    figures = []
    for name in leaves:
        ends = zip(before[name], after[name], strict=True)
        most = [
            max((then - first) / took * MONTH_S / 1e6 for first, then in zip(*end, strict=True))
            for end in ends
        ]
        count = len(leaves[name][1])
        figures += [
            bounded(f"{name}-sent-a-month", most[0], "MB", count, 10),
            Figure(f"{name}-interface-sent-a-month", most[1], "MB", count),
            Figure(f"{name}-interface-received-a-month", most[2], "MB", count),
        ]
    return figures


def _carried(lab: NetLab, devices: list[Device]) -> tuple[tuple[int, ...], ...]:
    """Of each device the bytes that its agent wrote to its sockets; then those that its interface
    sent, and received."""
    written = []
    for device in devices:
        with device.client() as client:
            written.append(int(client.status()["bytes_sent"]))
    sent, received = zip(*(lab.carried(device) for device in devices), strict=True)
    return tuple(written), tuple(sent), tuple(received)


# ---- the table ------------------------------------------------------------

BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "latency-3": lambda: latency(3, 2.0),
    "latency-20": lambda: latency(20, 3.0),
    "throughput": throughput,
    "replace": replace,
    "attach": attach,
    "takeover": takeover,
    "idle": idle,
    "start": start,
    "metered": metered,
    "docker": docker,
    "files": files,
    "logs": logs,
    "container-logs": container_logs,
    "mqtt": mqtt,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--json", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    figures: list[Figure] = []
    print(f"{'name':44} {'value':>10} {'unit':5} {'n':>5} {'against':>9} {'ratio':>6}  budget")
    for name in arguments.names or BENCHES:
        for figure in BENCHES[name]():
            figures.append(figure)
            print(as_line(figure), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    os.environ.setdefault("DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH", "0")
    raise SystemExit(main())
