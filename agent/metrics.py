"""Metrics: the agent's readings in Prometheus' text format, with what its process and disk tell.

The library is loaded by the first scrape, in a thread: an agent that nobody watches does without.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from agent.engines.outputs import Outputs
from agent.readings import Kind, Labels, Reading
from agent.threads import abandonable
from agent.writes import process_bytes

if TYPE_CHECKING:
    from prometheus_client import Metric

SCRAPE_S: Final = 8.0  # Prometheus gives up after 10 by default
LOOKED_S: Final = 60.0  # how old figures of the disk may be: a look at each file of a slow card
FILES_MAX: Final = 100_000  # that one look takes in
# What of the data directory a person may want to know the size of, by subdirectory.
PLACES: Final = {
    "executions": "tasks",
    "containers": "tasks",
    "archives": "archives",
    "results": "results",
    "downloads": "downloads",
    "volumes": "volumes",
    "wasm": "compiled",
}
DATA_HELP: Final = "Disk that is used, by what is kept, but for what data_unread counts."
UNREAD_HELP: Final = (
    "Directories that data_bytes leaves out, as they are closed to the agent: as the service, what "
    "running tasks and kept volumes of programs hold."
)
# Segments of output, see execution_dir.py; not files of a task's own that are called the same.
_LOG: Final = re.compile(r"[^/]+/(?:stdout|stderr)\.[0-9]+")


class Metrics:
    """One agent's; scrapes take turns, so that many at once cost no more than one thread."""

    def __init__(
        self, readings: Callable[[], list[Reading]], data_dir: Path, outputs: Outputs
    ) -> None:
        self._readings = readings
        self._data_dir = data_dir
        self._outputs = outputs
        self._turn = trio.Lock()
        self._disk: list[Reading] = []
        self._looked_at = -LOOKED_S
        self._rendering = False

    async def text(self) -> bytes:
        """Raises trio.TooSlowError where the disk hangs."""
        with trio.fail_after(SCRAPE_S):
            async with self._turn:
                if self._rendering:  # left behind by a scrape that gave up: one such is enough
                    raise trio.TooSlowError
                readings = self._readings()
                return await abandonable(partial(self._render, readings))

    def _render(self, readings: Sequence[Reading]) -> bytes:
        """In a thread of its own."""
        self._rendering = True  # here: a scrape may be given up before there is a thread
        try:
            return self._text(readings)
        finally:
            self._rendering = False

    def _text(self, readings: Sequence[Reading]) -> bytes:
        from prometheus_client import ProcessCollector, generate_latest

        now = time.monotonic()
        if now - self._looked_at >= LOOKED_S:
            self._disk, self._looked_at = disk_readings(self._data_dir), now
        process = ProcessCollector(registry=None)
        own = (*readings, *self._disk, *written(self._outputs))
        families = [*(_family(reading) for reading in own), *process.collect()]
        return generate_latest(_Families(families))


class _Families:
    """A collector in Prometheus' sense, of what was looked up already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _family(reading: Reading) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    make = GaugeMetricFamily if reading.kind is Kind.GAUGE else CounterMetricFamily
    names = [name for name, _ in next(iter(reading.values), ())]
    family = make(f"shoal_{reading.name}", reading.help, labels=names)
    for labels, value in reading.values.items():
        family.add_metric([text for _, text in labels], value)
    return family


def written(outputs: Outputs) -> Iterator[Reading]:
    """What this process and supervisors of tasks had stored; blocks for a look at what runs."""
    if (own := process_bytes()) is not None:
        help = "Bytes that the agent had written to storage, its database's with them."
        yield Reading("written_bytes", Kind.COUNTER, help, {(): own})
    tasks = outputs.look()
    help = "Bytes of output of programs and modules, written by their supervisors."
    yield Reading("task_output_bytes", Kind.COUNTER, help, {(): tasks.bytes})
    help = "Syncs to the disk by supervisors, as tasks ended."
    yield Reading("task_fsyncs", Kind.COUNTER, help, {(): tasks.fsyncs})


def disk_readings(data_dir: Path) -> list[Reading]:
    """What tasks and the agent keep below the data directory; blocks for a look at each file."""
    sizes: dict[Labels, float] = {(("kind", kind),): 0 for kind in ("logs", *PLACES.values())}
    shut: list[OSError] = []
    for place, kind in PLACES.items():
        for name, size in _files(data_dir / place, shut.append):
            log = kind == "tasks" and _LOG.fullmatch(name) is not None
            sizes[(("kind", "logs" if log else kind),)] += size
    free = shutil.disk_usage(data_dir).free
    unread = sum(not isinstance(each, FileNotFoundError) for each in shut)
    return [
        Reading("data_bytes", Kind.GAUGE, DATA_HELP, sizes),
        Reading("data_unread", Kind.GAUGE, UNREAD_HELP, {(): unread}),
        Reading("disk_free_bytes", Kind.GAUGE, "Free where the data directory is.", {(): free}),
    ]


def _files(directory: Path, shut: Callable[[OSError], None]) -> Iterator[tuple[str, int]]:
    """Path below it and bytes on disk of each file; what goes meanwhile is passed over, and `shut`
    is told of each directory that cannot be looked into. The heads of logs are punched out, so that
    their length says more than they take."""
    every = (
        os.path.join(parent, name)
        for parent, _, names in os.walk(directory, onerror=shut)
        for name in names
    )
    for path in islice(every, FILES_MAX):
        try:
            size = os.lstat(path).st_blocks * 512
        except OSError:
            continue
        yield os.path.relpath(path, directory), size
