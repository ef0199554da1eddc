"""A container's launch: what a job and the agent say of it, and what docker is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from docker.types import HostConfig
from docker.types.containers import ContainerConfig

from agent.engines.container import (
    ContainerLaunch,
    container_launch,
    create_options,
    host_options,
    within,
)
from protocol.effects import StartTask
from protocol.errors import JobSpecError
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec
from protocol.tree import Plain
from protocol.volumes import volume_id

API_VERSION = "1.41"  # of docker 20.10, which Debian 11 has
GIVEN = {"/srv/data": "/srv/data"}  # where it leads
MIB = 1 << 20
WORK = Path("/data/containers/e1/work")


def start_task(
    params: dict[str, Plain] | None = None, timeout_s: float | None = None, **task: Plain
) -> StartTask:
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox:1.37.0", **(params or {})}}
    tree: Plain = {"Name": "job", "Type": "batch", "Tasks": [{"Engine": engine, **task}]}
    return StartTask(
        ExecutionId("e1"),
        JobId("j"),
        JobSpec.from_plain(tree),
        {"SHOAL_JOB_ID": "j"},
        timeout_s,
        (PeerId("p"),),
    )


def launched(*args: Any, **more: Any) -> ContainerLaunch:
    return container_launch(start_task(*args, **more), {}, 4 * MIB, GIVEN)


def inline(*targets: str) -> list[Plain]:
    content: Plain = {"Type": "inline", "Params": {"URL": "data:,x"}}
    return [{"Source": content, "Target": target} for target in targets]


def local(path: str, **params: Plain) -> Plain:
    return {"Type": "localdirectory", "Params": {"SourcePath": path, **params}}


def results(*paths: str) -> Plain:
    return [{"Name": f"r{number}", "Path": path} for number, path in enumerate(paths)]


# ---- from the job ------------------------------------------------------------------------------


def test_an_image_is_all_that_a_job_has_to_say() -> None:
    assert launched() == ContainerLaunch(
        execution_id="e1",
        image="busybox:1.37.0",
        network="bridge",
        cpu_m=500,
        memory_bytes=256 * MIB,
        job="j",
        log_bytes_max=4 * MIB,
    )


def test_all_that_a_job_says_arrives() -> None:
    directories: list[Plain] = [
        {"Source": local("/srv/data"), "Target": "/data"},
        {"Source": local("/srv/out", ReadWrite=True), "Target": "out"},
    ]
    task = start_task(
        {
            "Entrypoint": ["/bin/sh", "-c"],
            "Parameters": ["echo $A"],
            "WorkingDirectory": "/app",
            "User": "1000:1000",
            "Devices": ["/dev/video0", "/dev/i2c-1"],
            "Capabilities": ["NET_ADMIN"],
        },
        30.0,
        Network={"Type": "host"},
        Resources={"CPU": "250m", "Memory": 64 * MIB, "GPU": 1},
        InputSources=[*inline("/input", "script.sh"), *directories],
        ResultPaths=results("/outputs", "out.txt"),
        Volumes=[{"Name": "state", "Target": "/state"}],
    )
    environment = {"A": "1", "SHOAL_JOB_ID": "j"}
    given = {"/srv/data": "/srv/data", "/srv/out": "/mnt/out"}
    assert container_launch(task, environment, 1000, given, (1,)) == ContainerLaunch(
        execution_id="e1",
        image="busybox:1.37.0",
        entrypoint=("/bin/sh", "-c"),
        parameters=("echo $A",),
        env=environment,
        cwd="/app",
        user="1000:1000",
        network="host",
        devices=("/dev/i2c-1", "/dev/video0"),
        capabilities=("NET_ADMIN",),
        cpu_m=250,
        memory_bytes=64 * MIB,
        gpus=(1,),
        inputs=("/input",),
        mounts=(("/srv/data", "/data", False), ("/mnt/out", "/shoal/out", True)),
        volumes=((volume_id(JobId("j"), 0, "state"), "/state", True),),
        job="j",
        results=("/outputs",),
        has_task_dir=True,
        timeout_s=30.0,
        log_bytes_max=1000,
    )


def test_the_engines_variables_come_before_the_jobs_as_in_bacalhau() -> None:
    task = start_task({"EnvironmentVariables": ["A=params", "B=params", "C=x=y", "D="]})
    found = container_launch(task, {"B": "job", "E": "job", "SHOAL_JOB_ID": "j"}, 1)
    engines = {"A": "params", "B": "params", "C": "x=y", "D": ""}
    assert found.env == engines | {"E": "job", "SHOAL_JOB_ID": "j"}


@pytest.mark.parametrize("name", ["SHOAL_JOB_ID", "BACALHAU_JOB_ID", "shoal_peer_id"])
def test_no_variable_of_the_engine_has_a_name_of_the_agents(name: str) -> None:
    with pytest.raises(JobSpecError, match="belong to the agent"):
        start_task({"EnvironmentVariables": [f"{name}=x"]})


@pytest.mark.parametrize(
    ("asked", "given"),
    [("default", "bridge"), ("bridge", "bridge"), ("none", "none"), ("host", "host")],
)
def test_its_network_is_a_bridge_unless_the_job_says_otherwise(asked: str, given: str) -> None:
    assert launched(Network={"Type": asked}).network == given


def test_the_timeout_is_what_the_start_says_and_not_the_jobs() -> None:
    assert launched(timeout_s=7.5, Timeouts={"ExecutionTimeout": "60s"}).timeout_s == 7.5
    assert launched(Timeouts={"ExecutionTimeout": "60s"}).timeout_s is None


@pytest.mark.parametrize(
    ("targets", "paths", "has_task_dir"),
    [
        ((), (), False),
        (("/in",), ("/out",), False),
        (("in",), ("/out",), True),
        (("/in",), ("out",), True),
        (("/a", "b/c"), (), True),
    ],
)
def test_a_path_without_a_slash_makes_a_task_directory(
    targets: tuple[str, ...], paths: tuple[str, ...], has_task_dir: bool
) -> None:
    found = launched(InputSources=inline(*targets), ResultPaths=results(*paths))
    assert found.has_task_dir is has_task_dir
    assert found.inputs == tuple(path for path in targets if path.startswith("/"))
    assert found.results == tuple(path for path in paths if path.startswith("/"))


def test_files_shipped_into_the_tasks_own_directory_make_one() -> None:
    source: Plain = {"Type": "archive", "Params": {"Digest": "ab" * 32, "Size": 5}}
    found = launched(InputSources=[{"Source": source, "Target": "."}])
    assert (found.has_task_dir, found.inputs) == (True, ())


@pytest.mark.parametrize(
    ("path", "inside"),
    [("/outputs", "/outputs"), ("out.txt", "/shoal/out.txt"), ("a/b", "/shoal/a/b")],
)
def test_relative_paths_are_in_the_task_directory(path: str, inside: str) -> None:
    assert within(path) == inside


# ---- for docker --------------------------------------------------------------------------------


def test_what_is_left_out_is_the_images_own() -> None:
    assert create_options(ContainerLaunch("e1", "busybox")) == {
        "image": "busybox",
        "entrypoint": None,
        "command": None,
        "environment": {},
        "working_dir": None,
        "user": None,
        "network_disabled": True,
        "ports": None,
    }


def test_what_is_given_is_asked_for() -> None:
    launch = ContainerLaunch(
        "e1",
        "busybox",
        entrypoint=("sh",),
        parameters=("-c", "true"),
        env={"A": "1"},
        cwd="/app",
        user="1000",
        network="bridge",
        has_task_dir=True,
    )
    assert create_options(launch) == {
        "image": "busybox",
        "entrypoint": ["sh"],
        "command": ["-c", "true"],
        "environment": {"A": "1"},
        "working_dir": "/app",
        "user": "1000",
        "network_disabled": False,
        "ports": None,
    }


def test_a_task_directory_is_where_it_runs() -> None:
    assert create_options(ContainerLaunch("e1", "x", has_task_dir=True))["working_dir"] == "/shoal"


def test_a_container_is_held_back_by_default() -> None:
    launch = ContainerLaunch("e1", "x", cpu_m=250, memory_bytes=32 * MIB, log_bytes_max=MIB)
    assert host_options(launch, WORK, "local") == {
        "network_mode": "none",
        "extra_hosts": None,
        "port_bindings": None,
        "cap_drop": ["ALL"],
        "cap_add": None,
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 512,
        "nano_cpus": 250_000_000,
        "mem_limit": 32 * MIB,
        "memswap_limit": 32 * MIB,
        "devices": None,
        "mounts": None,
        "log_config": {
            "Type": "local",
            "Config": {"max-size": str(MIB // 2), "max-file": "5", "compress": "false"},
        },
    }


def test_of_podman_s_one_file_all_of_it_goes_at_once() -> None:
    launch = ContainerLaunch("e1", "x", log_bytes_max=MIB)
    assert host_options(launch, WORK, "json-file")["log_config"] == {
        "Type": "json-file",
        "Config": {"max-size": str(2 * MIB), "max-file": "1"},
    }


def test_it_is_held_to_no_less_than_docker_can() -> None:
    options = host_options(ContainerLaunch("e1", "x", cpu_m=1, memory_bytes=MIB), WORK, "local")
    assert options["nano_cpus"] == 10_000_000
    assert options["mem_limit"] == options["memswap_limit"] == 6 * MIB


@pytest.mark.parametrize(
    ("network", "disabled", "mode"),
    [("none", True, "none"), ("bridge", False, "bridge"), ("host", False, "host")],
)
def test_without_a_network_there_is_not_even_one_that_leads_nowhere(
    network: str, disabled: bool, mode: str
) -> None:
    launch = ContainerLaunch("e1", "x", network=network)
    assert create_options(launch)["network_disabled"] is disabled
    assert host_options(launch, WORK, "local")["network_mode"] == mode


@pytest.mark.parametrize(
    ("network", "hosts"),
    [
        ("none", None),
        ("bridge", {"host.docker.internal": "host-gateway"}),
        ("host", {"host.docker.internal": "127.0.0.1"}),
    ],
)
def test_with_a_network_it_finds_its_device_by_the_name_that_bacalhau_has(
    network: str, hosts: dict[str, str] | None
) -> None:
    launch = ContainerLaunch("e1", "x", network=network)
    assert host_options(launch, WORK, "local")["extra_hosts"] == hosts


def test_inputs_are_mounted_to_be_read_only() -> None:
    launch = ContainerLaunch("e1", "x", inputs=("/input", "/etc/app/config"), results=("/outputs",))
    assert host_options(launch, WORK, "local")["mounts"] == [
        {"Type": "bind", "Source": f"{WORK}/input", "Target": "/input", "ReadOnly": True},
        {
            "Type": "bind",
            "Source": f"{WORK}/etc/app/config",
            "Target": "/etc/app/config",
            "ReadOnly": True,
        },
    ]


def test_parts_of_the_device_are_mounted_as_they_were_asked_for() -> None:
    mounts = (("/srv/data", "/data", False), ("/srv/out", "/shoal/out", True))
    launch = ContainerLaunch("e1", "x", inputs=("/input",), mounts=mounts)
    assert host_options(launch, WORK, "local")["mounts"] == [
        {"Type": "bind", "Source": f"{WORK}/input", "Target": "/input", "ReadOnly": True},
        {"Type": "bind", "Source": "/srv/data", "Target": "/data", "ReadOnly": True},
        {"Type": "bind", "Source": "/srv/out", "Target": "/shoal/out", "ReadOnly": False},
    ]


def test_what_a_slot_keeps_is_a_volume_of_docker() -> None:
    launch = ContainerLaunch("e1", "x", volumes=(("v1", "/data", True), ("v2", "/ro", False)))
    assert host_options(launch, WORK, "local", "ours-{}".format)["mounts"] == [
        {"Type": "volume", "Source": "ours-v1", "Target": "/data", "ReadOnly": False},
        {"Type": "volume", "Source": "ours-v2", "Target": "/ro", "ReadOnly": True},
    ]


def test_docker_takes_what_it_is_asked_for() -> None:
    launch = ContainerLaunch(
        "e1",
        "busybox",
        parameters=("true",),
        env={"A": "1"},
        network="host",
        devices=("/dev/i2c-1",),
        capabilities=("NET_ADMIN",),
        gpus=(1, 3),
        inputs=("/input",),
    )
    host = cast("dict[str, Any]", HostConfig(API_VERSION, **host_options(launch, WORK, "local")))
    assert (host["NetworkMode"], host["CapAdd"], host["CapDrop"]) == (
        "host",
        ["NET_ADMIN"],
        ["ALL"],
    )
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (
        500_000_000, 256 * MIB, 256 * MIB,
    )  # fmt: skip
    assert host["Devices"] == [
        {
            "PathOnHost": "/dev/i2c-1",
            "PathInContainer": "/dev/i2c-1",
            "CgroupPermissions": "rw",
        }
    ]
    (gpus,) = host["DeviceRequests"]
    assert (gpus["Count"], gpus["DeviceIDs"]) == (0, ["1", "3"]), "these, and not the first ones"
    assert gpus["Capabilities"] == [["gpu"]]
    assert host["Mounts"][0]["Source"] == f"{WORK}/input"
    assert host["LogConfig"]["Type"] == "local"
    made = cast(
        "dict[str, Any]",
        ContainerConfig(API_VERSION, host_config=host, **create_options(launch)),
    )
    assert (made["Image"], made["Cmd"], made["Env"]) == ("busybox", ["true"], ["A=1"])
    assert made["NetworkDisabled"] is False


def test_a_part_of_the_device_at_a_relative_target_makes_a_task_directory() -> None:
    """It is mounted at /shoal/data, and the job, which reads `data`, runs in the image's own."""
    directory: Any = {"Type": "localdirectory", "Params": {"SourcePath": "/srv/data"}}
    launch = launched(InputSources=[{"Source": directory, "Target": "data"}])
    assert launch.mounts == (("/srv/data", "/shoal/data", False),)
    assert create_options(launch)["working_dir"] == "/shoal"


def test_ports_are_published_from_a_bridge_and_are_the_devices_own_without() -> None:
    ports: Any = [{"Name": "web", "Static": 8080, "Target": 80}]
    bridged = launched(Network={"Ports": ports})
    assert create_options(bridged)["ports"] == [80]
    assert host_options(bridged, Path("/w"), "local")["port_bindings"] == {80: 8080}
    own = launched(Network={"Type": "host", "Ports": ports})
    assert create_options(own)["ports"] is None
    assert host_options(own, Path("/w"), "local")["port_bindings"] is None
