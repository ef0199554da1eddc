"""The bench of what comes back: result files of a gigabyte, and output as it is written."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from agent.client import log_bytes
from scripts.figures import Figure, bounded, quantile
from tests.lab import Device, Lab, process_job

RESULT_BYTES = 10**9
GROWTH_MB_MAX = 64.0  # a transfer is a few chunks in memory, whatever its size
LOG_BYTES = 64 << 20
FLOOD_BYTES = LOG_BYTES // 2  # all of it is kept
FLOOD = f"yes 0123456789abcdef | head -c {FLOOD_BYTES}"
LINES = 200
# Tasks run as another user, for whom this Python may be out of reach.
FILL = f"head -c {RESULT_BYTES} /dev/urandom > out"
TELL = f"for i in $(seq {LINES}); do date +%s.%N; sleep 0.02; done"


def files() -> list[Figure]:
    """A gigabyte of results, packed where it was made and fetched at another device."""
    with Lab(2) as lab, tempfile.TemporaryDirectory() as directory:
        task = {"ResultPaths": [{"Name": "out", "Path": "out"}]}
        with lab[0].client(timeout_s=600) as client:
            for line in client.run(
                process_job("sh", "-c", FILL, name="fill", Task=task), events=False
            ):
                view = line.get("final", {})
        if view["state"] != "completed" or not view["slots"][0]["archive"]:
            raise RuntimeError(f"there are no results: {view}")
        size = view["slots"][0]["archive_bytes"] / 1e6
        reader = next(d for d in lab.devices if d.name != view["slots"][0]["executor_name"])
        with _watched(lab) as grown:
            began = time.perf_counter()
            with reader.client(timeout_s=600) as client, Path(directory, "x").open("wb") as file:
                for chunk in client.results(view["id"]):
                    file.write(chunk)
            took = time.perf_counter() - began
        copied = _copied(Path(directory, "x"), Path(directory, "y"))
        rate = size / took
        return [
            Figure(
                "archive-fetch-1-GB-between-peers",
                rate,
                "MB/s",
                1,
                size / copied,
                rate * copied / size,
                "beside a copy on this disk",
            ),
            bounded("archive-fetch-1-GB-memory-grown", grown(), "MB", 1, GROWTH_MB_MAX),
        ]


def _copied(source: Path, target: Path) -> float:
    """Seconds to copy it by reading and writing, as the floor."""
    began = time.perf_counter()
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(1 << 16):
            write.write(chunk)
    return time.perf_counter() - began


@contextmanager
def _watched(lab: Lab) -> Iterator[Callable[[], float]]:
    """How many megabytes the agent that grew most has grown, at its peak."""
    processes = [psutil.Process(device.pid) for device in lab.devices]
    before = [process.memory_info().rss for process in processes]
    peaks, stop = list(before), threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            for number, process in enumerate(processes):
                peaks[number] = max(peaks[number], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: max(peak - start for peak, start in zip(peaks, before, strict=True)) / 1e6
    finally:
        stop.set()
        thread.join()


def logs() -> list[Figure]:
    """Output followed at another device than it is written on, and read after the end."""
    lab = Lab(2)
    for device in lab.devices:
        device.flags = ["--task-log-bytes-max", str(LOG_BYTES)]
    with lab:
        late = _follow(lab)
        flow = _flow(lab)
        rate, count = _read(lab)
    return [
        Figure("log-follow-latency-p50", statistics.median(late) * 1e3, "ms", len(late)),
        Figure("log-follow-latency-p99", quantile(late, 0.99) * 1e3, "ms", len(late)),
        Figure("log-follow-between-peers", flow, "MB/s", 1),
        Figure("log-read-between-peers", rate, "MB/s", count),
    ]


def _follow(lab: Lab) -> list[float]:
    """Seconds from a line's printing to its arrival, on one clock."""
    job, reader = _submit(lab, "sh", "-c", TELL)
    late = []
    with reader.client(timeout_s=120) as client:
        for line in client.logs(job, follow=True, stream="stdout"):
            now = time.time()
            for word in log_bytes(line).split():
                late.append(now - float(word))
    if len(late) != LINES:
        raise RuntimeError(f"{len(late)} of {LINES} lines came")
    return late


def _flow(lab: Lab) -> float:
    """Of output that comes as fast as it is taken, while it is written."""
    job, reader = _submit(lab, "sh", "-c", f"sleep 2; {FLOOD}")  # the reader is there by then
    began, size = 0.0, 0
    with reader.client(timeout_s=120) as client:
        for line in client.logs(job, follow=True, stream="stdout"):
            began = began or time.perf_counter()
            size += len(log_bytes(line))
    took = time.perf_counter() - began
    if size != FLOOD_BYTES:
        raise RuntimeError(f"{size} of {FLOOD_BYTES} bytes came")
    return size / 1e6 / took


def _read(lab: Lab) -> tuple[float, int]:
    job, reader = _submit(lab, "sh", "-c", FLOOD)
    with reader.client(timeout_s=120) as client:
        lab.until(lambda: client.job(job)["state"] == "completed", "the log is written")
        began, size = time.perf_counter(), 0
        for line in client.logs(job, stream="stdout"):
            size += len(log_bytes(line))
    if size != FLOOD_BYTES:
        raise RuntimeError(f"{size} of {FLOOD_BYTES} bytes came")
    return size / 1e6 / (time.perf_counter() - began), 1


def _submit(lab: Lab, *command: str) -> tuple[str, Device]:
    """The job, running, and a device that does not run it."""
    with lab[0].client() as client:
        job = client.submit(process_job(*command, name="said"))["job"]

        def executor() -> str:
            return str(client.job(job)["slots"][0]["executor_name"])

        where = lab.until(executor, "it runs")
    return job, next(device for device in lab.devices if device.name != where)
