"""The bench of containers: jobs beside the engine's own calls, and beside a Docker Swarm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.engines.container import ContainerLaunch, create_options, host_options
from scripts.figures import Figure, compared, quantile, rate
from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Lab

NOOP = ["/bin/true"]
SWARM_S = 60.0
RATE_S = 12.0
IN_FLIGHT = (1, 4, 8)


def docker(n: int = 40) -> list[Figure]:
    """In turn, a block of ours, of the SDK's and of Swarm's, so that a drift favours nobody."""
    with DockerHost() as host, _lab(host) as lab:
        lab.until(lambda: all("docker" in peer["engines"] for peer in _peers(lab)), "docker")
        once = _job(lab)
        host.api.init_swarm(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377")
        floor, swarm = _sdk(host), _swarm(host)
        for warm in (once, floor, swarm):
            warm(0)
        times: dict[str, list[float]] = {"ours": [], "sdk": [], "swarm": []}
        for _ in range(4):
            for name, call in (("ours", once), ("sdk", floor), ("swarm", swarm)):
                times[name] += [_timed(call) for _ in range(n // 4)]
        host.api.leave_swarm(force=True)
        figures = _latency(times)
        for in_flight in IN_FLIGHT:
            ours, sdk = rate(once, in_flight, RATE_S), rate(floor, in_flight, RATE_S)
            name = f"containers-a-second-{in_flight}-in-flight"
            text = "beside the engine's own"
            figures.append(Figure(name, ours, "1/s", int(ours * RATE_S), sdk, ours / sdk, text))
        return figures


def _latency(times: dict[str, list[float]]) -> list[Figure]:
    ours, sdk, swarm = (statistics.median(times[name]) * 1e3 for name in ("ours", "sdk", "swarm"))
    count = len(times["ours"])
    late = quantile(times["ours"], 0.9) * 1e3
    return [
        compared("container-to-result-3-peers", ours, "ms", count, sdk, 1.25, "the SDK's calls"),
        compared("container-to-result-beside-swarm", ours, "ms", count, swarm, 1 / 3, "Swarm's"),
        Figure("container-to-result-3-peers-p90", late, "ms", count),
    ]


def _lab(host: DockerHost) -> Lab:
    lab = Lab(3)
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(host.socket)
    return lab


def _peers(lab: Lab) -> list[dict[str, Any]]:
    with lab[0].client() as client:
        return client.peers()


def _job(lab: Lab) -> Callable[[int], None]:
    """Submit to pushed result of a no-op container without a network, at any of the devices."""
    task = {
        "Engine": {"Type": "docker", "Params": {"Image": IMAGE, "Parameters": NOOP}},
        "Network": {"Type": "none"},
    }
    spec = {"Name": "noop", "Type": "batch", "Tasks": [task]}

    def once(number: int) -> None:
        with lab[number % 3].client() as client:
            for line in client.run(spec, events=False):
                if "final" in line and line["final"]["state"] != "completed":
                    raise RuntimeError(f"the no-op job failed: {line}")

    return once


def _sdk(host: DockerHost) -> Callable[[int], None]:
    """The SDK's create, start, wait and remove."""
    launch = ContainerLaunch("floor", IMAGE, parameters=tuple(NOOP))

    def once(number: int) -> None:
        made = created(host, launch)
        host.api.start(made)
        host.api.wait(made)
        host.api.remove_container(made)

    return once


def created(host: DockerHost, launch: ContainerLaunch) -> dict[str, Any]:
    """A container by the SDK alone, with the very options that our engine gives."""
    config = host.api.create_host_config(**host_options(launch, Path("/"), "local"))
    made: dict[str, Any] = host.api.create_container(**create_options(launch), host_config=config)
    return made


def _swarm(host: DockerHost) -> Callable[[int], None]:
    """A replicated job of one task, from its creation to `complete`."""
    import docker.types as types

    def once(number: int) -> None:
        spec = types.ContainerSpec(IMAGE, command=NOOP)
        template = types.TaskTemplate(spec, restart_policy=types.RestartPolicy("none"))
        mode = types.ServiceMode("replicated-job", replicas=1)
        service = host.api.create_service(template, mode=mode)["ID"]
        end = time.monotonic() + SWARM_S
        while time.monotonic() < end:
            tasks = host.api.tasks(filters={"service": service})
            if tasks and tasks[0]["Status"]["State"] == "complete":
                host.api.remove_service(service)
                return
            time.sleep(0.005)
        raise RuntimeError(f"the Swarm job did not end: {tasks}")

    return once


def _timed(call: Callable[[int], None]) -> float:
    began = time.perf_counter()
    call(0)
    return time.perf_counter() - began
