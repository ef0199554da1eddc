"""The bench of output: followed at another device than it is written on, and read after the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from agent.client import log_bytes
from agent.engines.container import ContainerLaunch
from scripts.bench_docker import created
from scripts.figures import Figure, quantile
from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Device, Lab, process_job

LOG_BYTES: Final = 64 << 20
# Lines of 17 bytes. Docker hands output over line by line, and leaves a slow follower at the
# end of its first file of two (20.10, 28.2): LOG_BYTES each, with 27 bytes more for each line.
FLOOD: Final = "yes 0123456789abcdef | head -c {}"
FLOOD_BYTES: Final = {"process": LOG_BYTES // 2, "container": 2 << 20}
LINES: Final = 200
ROUNDS: Final = 3
READY_S: Final = 2
# Tasks run as another user, for whom this Python may be out of reach; busybox' date knows whole
# seconds alone, and Debian's sh nothing of the time.
MOMENTS: Final = {"process": "date +%s.%N", "container": "echo $EPOCHREALTIME"}

Follow = Callable[[str], Iterator[bytes]]  # runs a script; its output, as it comes


def logs() -> list[Figure]:
    """Of a process."""
    with _lab() as lab:

        def follow(script: str) -> Iterator[bytes]:
            return _followed(lab, process_job("sh", "-c", script, name="said"))

        late, flow = [], []
        for _ in range(ROUNDS):
            late += _delays(follow(_telling("process")))
            flow.append(_speed(follow(_flooding("process")), "process"))
        flooding = process_job("sh", "-c", _flooding("process"), name="said")
        read = [_read(lab, flooding, "process") for _ in range(ROUNDS)]
    return [
        Figure("log-follow-latency-p50", statistics.median(late) * 1e3, "ms", len(late)),
        Figure("log-follow-latency-p99", quantile(late, 0.99) * 1e3, "ms", len(late)),
        Figure("log-follow-between-peers", statistics.median(flow), "MB/s", len(flow)),
        Figure("log-read-between-peers", statistics.median(read), "MB/s", len(read)),
    ]


def container_logs() -> list[Figure]:
    """Of a container, in turn with what the SDK follows (`docker logs -f`) at the same engine."""
    with DockerHost() as host, _lab(host) as lab:

        def ours(script: str) -> Iterator[bytes]:
            yield from _followed(lab, _container_job(script))
            gone()

        def gone() -> None:
            lab.until(lambda: not host.ours(), "docker's log of it is kept", 120)

        late: dict[str, list[float]] = {"ours": [], "sdk": []}
        flow: dict[str, list[float]] = {"ours": [], "sdk": []}
        for _ in range(ROUNDS):
            for name, follow in (("ours", ours), ("sdk", _sdk(host))):
                late[name] += _delays(follow(_telling("container")))
                flow[name].append(_speed(follow(_flooding("container")), "container"))
        flooding = _container_job(_flooding("container"))
        read = [_read(lab, flooding, "container", gone) for _ in range(ROUNDS)]
    text = "beside the SDK's logs(follow=True)"
    figures = []
    for share, word in ((0.5, "p50"), (0.99, "p99")):
        mine, rival = (quantile(late[name], share) * 1e3 for name in ("ours", "sdk"))
        name = f"container-log-follow-latency-{word}"
        figures.append(Figure(name, mine, "ms", len(late["ours"]), rival, mine / rival, text))
    mine, rival = (statistics.median(flow[name]) for name in ("ours", "sdk"))
    name = "container-log-follow-between-peers"
    figures.append(Figure(name, mine, "MB/s", ROUNDS, rival, mine / rival, text))
    rate = statistics.median(read)
    return [*figures, Figure("container-log-read-between-peers", rate, "MB/s", ROUNDS)]


@contextmanager
def _lab(host: DockerHost | None = None) -> Iterator[Lab]:
    lab = Lab(2)
    for device in lab.devices:
        device.flags = ["--task-log-bytes-max", str(LOG_BYTES)]
        if host is not None:
            device.environment["SHOAL_DOCKER_SOCKET"] = str(host.socket)
    with lab:
        if host is not None:
            with lab[0].client() as client:
                seen = lambda: all("docker" in peer["engines"] for peer in client.peers())  # noqa: E731
                lab.until(seen, "docker")
        yield lab


def _container_job(script: str) -> dict[str, Any]:
    task = {
        "Engine": {
            "Type": "docker",
            "Params": {"Image": IMAGE, "Parameters": ["sh", "-c", script]},
        },
        "Network": {"Type": "none"},
    }
    return {"Name": "said", "Type": "batch", "Tasks": [task]}


def _sdk(host: DockerHost) -> Follow:
    """A container like ours, without an agent."""

    def follow(script: str) -> Iterator[bytes]:
        parameters = ("sh", "-c", script)
        launch = ContainerLaunch("said", IMAGE, parameters=parameters, log_bytes_max=LOG_BYTES)
        made = created(host, launch)
        host.api.start(made)
        yield from host.api.logs(made, stdout=True, stderr=False, stream=True, follow=True)
        host.api.wait(made)
        host.api.remove_container(made)

    return follow


def _telling(kind: str) -> str:
    """A script that says what time it is, again and again, when its reader is there."""
    return f"sleep {READY_S}; for i in $(seq {LINES}); do {MOMENTS[kind]}; sleep 0.02; done"


def _flooding(kind: str) -> str:
    """A script that says much, likewise."""
    return f"sleep {READY_S}; {FLOOD.format(FLOOD_BYTES[kind])}"


def _delays(output: Iterable[bytes]) -> list[float]:
    """Seconds from a line's printing to its arrival, on one clock."""
    late = []
    for data in output:
        now = time.time()
        late += [now - float(word) for word in data.split()]
    if len(late) != LINES:
        raise RuntimeError(f"{len(late)} of {LINES} lines came")
    return late


def _speed(output: Iterable[bytes], kind: str) -> float:
    """MB/s of output that comes as fast as it is taken, from its first byte to its last."""
    began, ended, size = 0.0, 0.0, 0
    for data in output:
        ended = time.perf_counter()
        began = began or ended
        size += len(data)
    if size != FLOOD_BYTES[kind]:
        raise RuntimeError(f"{size} of {FLOOD_BYTES[kind]} bytes came")
    return size / 1e6 / (ended - began)


def _followed(lab: Lab, spec: dict[str, Any]) -> Iterator[bytes]:
    job, reader = _submit(lab, spec)
    with reader.client(timeout_s=120) as client:
        for line in client.logs(job, follow=True, stream="stdout"):
            yield log_bytes(line)


def _read(
    lab: Lab, spec: dict[str, Any], kind: str, settled: Callable[[], None] = lambda: None
) -> float:
    """MB/s of what was written before, from the request on, once `settled` returns."""
    job, reader = _submit(lab, spec)
    with reader.client(timeout_s=120) as client:
        lab.until(lambda: client.job(job)["state"] == "completed", "the log is written", 120)
        settled()
        began, size = time.perf_counter(), 0
        for line in client.logs(job, stream="stdout"):
            size += len(log_bytes(line))
    if size != FLOOD_BYTES[kind]:
        raise RuntimeError(f"{size} of {FLOOD_BYTES[kind]} bytes came")
    return size / 1e6 / (time.perf_counter() - began)


def _submit(lab: Lab, spec: dict[str, Any]) -> tuple[str, Device]:
    """The job, running, and a device that does not run it."""
    with lab[0].client() as client:
        job = client.submit(spec)["job"]

        def executor() -> str:
            return str(client.job(job)["slots"][0]["executor_name"])

        where = lab.until(executor, "it runs")
    return job, next(device for device in lab.devices if device.name != where)
