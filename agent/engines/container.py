"""A container as the engine is asked for it: what a task's spec means in docker's terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agent.engines.ports import variables
from protocol.asks import network_of
from protocol.effects import StartTask
from protocol.network import Port
from protocol.sources import DirectorySource
from protocol.volumes import volume_id

# Where paths without a slash at their beginning are: shipped files, and results beside them.
TASK_DIR: Final = "/shoal"
PIDS_MAX: Final = 512  # a fork bomb stops there; a browser has 200
# No container is held to less, whatever little its job asked for.
CPU_M_MIN: Final = 10  # 1 ms of each 100, the least that the kernel takes (sched/core.c)
MEMORY_BYTES_MIN: Final = 6 << 20  # docker's own
LOCAL: Final = "local"  # docker's driver that keeps output; podman has none of that name
# By which a container finds its device, as docker's desktops and Bacalhau have it. In the device's
# own network that is where it is itself, also where docker has no bridge to take an address from.
DEVICE_NAME: Final = "host.docker.internal"
DEVICE_AT: Final = {"bridge": "host-gateway", "host": "127.0.0.1"}
LOG_FILES: Final = 5  # the more there are, the less it has beyond what is promised


@dataclass(frozen=True, slots=True)
class ContainerLaunch:
    """One execution to start. `inputs` are absolute targets that stand below the work directory
    under the same names, `mounts` parts of the device: path, target in the container, and whether
    it may be written to; `results` absolute directories of the container that it may write to."""

    execution_id: str
    image: str
    entrypoint: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    network: str = "none"  # none, bridge or host
    ports: tuple[Port, ...] = ()
    devices: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    cpu_m: int = 500
    memory_bytes: int = 256 << 20
    gpus: tuple[int, ...] = ()  # which cards, see cards.py
    inputs: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str, bool], ...] = ()
    volumes: tuple[tuple[str, str, bool], ...] = ()  # id, target, and whether it may be written to
    job: str = ""  # whose volumes they are
    standing: bool = False
    results: tuple[str, ...] = ()
    has_task_dir: bool = False
    timeout_s: float | None = None
    stop_grace_s: float = 10.0  # as docker stop
    log_bytes_max: int = 4 << 20  # of each stream

    @property
    def chooses_ports(self) -> bool:
        return any(not port.static for port in self.ports)


def container_launch(
    task: StartTask,
    environment: Mapping[str, str],
    log_bytes_max: int,
    given: Mapping[str, str] | None = None,
    gpus: tuple[int, ...] = (),
) -> ContainerLaunch:
    """`environment`: that of the job and of the agent, below what the engine's parameters say, as
    Bacalhau has it (docker/executor.go, MergeSlices): those can have none of the agent's names.
    `given`: where paths of the device lead, see Inputs; `gpus`: the cards that it has."""
    spec = task.spec.task
    params, need = spec.engine.container, spec.resources
    variables = (text.partition("=") for text in params.environment)
    targets, mounts = [], []
    places = [each.target for each in spec.input_sources]
    for each in spec.input_sources:
        if isinstance(each.source, DirectorySource):
            path = (given or {})[each.source.path]
            mounts.append((path, within(each.target), each.source.writable))
        else:
            targets.append(each.target)
    results = [path.path for path in spec.result_paths]
    return ContainerLaunch(
        execution_id=task.execution,
        image=params.image,
        entrypoint=params.entrypoint,
        parameters=params.parameters,
        env=dict(environment) | {name: value for name, _, value in variables},
        cwd=params.working_directory,
        user=params.user,
        network=network_of(spec.engine, spec.network),
        ports=spec.network.ports,
        devices=params.devices,
        capabilities=params.capabilities,
        cpu_m=need.cpu_m,
        memory_bytes=need.memory_bytes,
        gpus=gpus,
        inputs=tuple(path for path in targets if path.startswith("/")),
        mounts=tuple(mounts),
        volumes=tuple(
            (volume_id(task.job, task.slot, each.name), each.target, not each.read_only)
            for each in spec.volumes
        ),
        job=task.job,
        standing=task.spec.standing,
        results=tuple(path for path in results if path.startswith("/")),
        has_task_dir=any(not path.startswith("/") for path in (*places, *results)),
        timeout_s=task.timeout_s,
        log_bytes_max=log_bytes_max,
    )


def with_ports(launch: ContainerLaunch, ports: tuple[Port, ...]) -> ContainerLaunch:
    """The same with ports that all have a number, which its task is told."""
    told = variables(ports, within=launch.network == "bridge")
    return replace(launch, ports=ports, env={**launch.env, **told})


def within(path: str) -> str:
    """A path of a job file as one of the container."""
    return path if path.startswith("/") else f"{TASK_DIR}/{path}"


def create_options(launch: ContainerLaunch) -> dict[str, Any]:
    """For the SDK's `create_container`, beside what host_options says."""
    cwd = launch.cwd or (TASK_DIR if launch.has_task_dir else None)
    return {
        "image": launch.image,
        "entrypoint": list(launch.entrypoint) or None,
        "command": list(launch.parameters) or None,
        "environment": dict(launch.env),
        "working_dir": cwd,
        "user": launch.user or None,
        # Twice as fast to start as a network of its own that leads nowhere.
        "network_disabled": launch.network == "none",
        "ports": [port.target for port in _published(launch)] or None,
    }


def host_options(
    launch: ContainerLaunch,
    work: Path,
    log_driver: str,
    volume_name: Callable[[str], str] = str,
) -> dict[str, Any]:
    """For the SDK's `create_host_config`: what holds the container back, and the logs' bound.
    `volume_name`: what docker calls a volume."""
    mounts = [
        {"Type": "bind", "Source": str(work / path.lstrip("/")), "Target": path, "ReadOnly": True}
        for path in launch.inputs
    ]
    mounts += [
        {"Type": "bind", "Source": path, "Target": target, "ReadOnly": not writable}
        for path, target, writable in launch.mounts
    ]
    mounts += [
        {
            "Type": "volume",
            "Source": volume_name(volume),
            "Target": target,
            "ReadOnly": not writable,
        }
        for volume, target, writable in launch.volumes
    ]
    memory_bytes = max(launch.memory_bytes, MEMORY_BYTES_MIN)
    options: dict[str, Any] = {
        "network_mode": launch.network,  # podman looks at this alone
        "extra_hosts": {DEVICE_NAME: at} if (at := DEVICE_AT.get(launch.network)) else None,
        "port_bindings": {port.target: port.static for port in _published(launch)} or None,
        "cap_drop": ["ALL"],
        "cap_add": list(launch.capabilities) or None,
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": PIDS_MAX,
        "nano_cpus": max(launch.cpu_m, CPU_M_MIN) * 1_000_000,
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,  # the sum of both: none of it is swap
        "devices": [f"{path}:{path}:rw" for path in launch.devices] or None,
        "mounts": mounts or None,
        "log_config": {"Type": log_driver, "Config": _log_files(launch, log_driver)},
    }
    if launch.gpus:
        # By number: of a count docker makes the first ones, whoever has them already.
        wanted = {"DeviceIDs": list(map(str, launch.gpus)), "Capabilities": [["gpu"]]}
        options["device_requests"] = [wanted]
    return options


def _log_files(launch: ContainerLaunch, driver: str) -> dict[str, str]:
    """Two streams share what is kept. Docker drops the oldest file of several, and has the one that
    it writes beside as many as are promised; podman has one, and begins it anew when it is full.

    Not compressed: whoever reads while docker compresses a file is not given what is in that, and a
    small board's processor and card have better to do."""
    if driver != LOCAL:
        return {"max-size": str(2 * launch.log_bytes_max), "max-file": "1"}
    size = 2 * launch.log_bytes_max // (LOG_FILES - 1)
    return {"max-size": str(size), "max-file": str(LOG_FILES), "compress": "false"}


def _published(launch: ContainerLaunch) -> tuple[Port, ...]:
    """With the device's own network a port is the device's already."""
    return launch.ports if launch.network == "bridge" else ()
