"""The bench of what comes back: result files of a gigabyte."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from scripts.figures import Figure, bounded
from tests.lab import Lab, process_job

RESULT_BYTES = 10**9
GROWTH_MB_MAX = 64.0  # a transfer is a few chunks in memory, whatever its size
# Tasks run as another user, for whom this Python may be out of reach.
FILL = f"head -c {RESULT_BYTES} /dev/urandom > out"


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
