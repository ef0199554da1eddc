"""Bad days of docker as people see them: two agents with a docker each, and what a job tells."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agent.engines.docker_client import OWNER
from agent.engines.processors import own_kind
from tests.dockerhost import IMAGE, REGISTRY_PORT, DockerHost
from tests.dockerproxy import DockerProxy
from tests.lab import Device, Lab, LabError
from tests.leftovers import leftovers

SOON_S = 60.0
GIVEN_UP_S = 240.0  # a minute for docker's word, and 90 s past the time that its job has
TWICE = "test $SHOAL_ATTEMPT = 2 && echo again && exit 0; "  # the second try is a short one
Hosts = tuple[DockerHost, DockerHost]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """The first one gives a pull up soon; the second one keeps what runs while it is away."""
    impatient = DockerHost("--max-download-attempts=2")  # of five, with 75 s between them
    with impatient as plain, DockerHost("--live-restore") as keeping:
        yield plain, keeping


@pytest.fixture(scope="module")
def agents(hosts: Hosts) -> Iterator[Lab]:
    lab = Lab(2)
    for device, host in zip(lab.devices, hosts, strict=True):
        device.environment["SHOAL_DOCKER_SOCKET"] = str(host.socket)
    with lab:
        yield lab


@pytest.fixture
def lab(agents: Lab, hosts: Hosts) -> Iterator[Lab]:
    """Both and their dockers are well, before and after; nothing is left of what ran."""
    agents.until(lambda: all(map(well, agents.devices)), "docker is seen by both", SOON_S)
    yield agents
    for host in hosts:
        if host.process is None:
            host.start()
    agents.start(*(device for device in agents.devices if device.process is None))
    try:
        agents.until(lambda: not left_behind(agents, hosts), "nothing is left behind", SOON_S)
    except LabError:
        assert left_behind(agents, hosts) == []


def well(device: Device) -> bool:
    with device.client() as client:
        checks = {check["check"]: check["ok"] for check in client.doctor()}
        engines = [peer["engines"] for peer in client.peers()]
    return checks.get("docker") is True and all("docker" in each for each in engines)


def left_behind(lab: Lab, hosts: Hosts) -> list[str]:
    """Containers, processes, mounts, work directories and partial files."""
    return [each for host in hosts for each in leftovers(lab, host)]


def container(
    name: str, script: str, on: Device | None = None, image: str = IMAGE, **more: Any
) -> dict[str, Any]:
    """A job of one container; it may be tried twice, anywhere or on that device alone."""
    engine = {
        "Type": "docker",
        "Params": {"Image": image, "Parameters": ["sh", "-c", script], **more.pop("Params", {})},
    }
    task = {"Engine": engine, "Network": {"Type": "none"}, **more.pop("Task", {})}
    where = [{"Key": "shoal/peer", "Operator": "=", "Values": [on.peer]}] if on else []
    kind = more.pop("Type", "batch")
    again = {} if kind == "daemon" else {"Retry": {"Attempts": 2, "Backoff": 0}}
    return {"Name": name, "Type": kind, "Constraints": where, "Tasks": [task], **again, **more}


def submitted(lab: Lab, spec: dict[str, Any]) -> str:
    file = lab.directory / f"{spec['Name']}.json"
    file.write_text(json.dumps(spec))
    done = lab.shoal(lab[0], "job", "run", str(file))
    assert done.code == 0, done
    return done.out.strip()


def view(at: Device, job: str) -> dict[str, Any]:
    with at.client() as client:
        return client.job(job)


def until_runs(lab: Lab, host: DockerHost, job: str) -> dict[str, Any]:
    """Its container's own words, once it has written something."""

    def runs() -> dict[str, Any] | None:
        ours = [each for each in host.ours() if each["State"] == "running"]
        return ours[0] if ours and view(lab[0], job)["slots"][0]["state"] == "running" else None

    found: dict[str, Any] = lab.until(runs, f"{job} runs", SOON_S)
    return found


def until_over(lab: Lab, job: str, timeout_s: float = SOON_S) -> dict[str, Any]:
    """Its one slot, as the device that coordinates it and the other tell of it."""
    over = ("completed", "failed", "lost")
    lab.until(lambda: view(lab[1], job)["state"] in over, f"{job} is over", timeout_s)
    lab.until(lambda: view(lab[0], job)["state"] in over, f"{job} is over", timeout_s)
    (slot,) = view(lab[0], job)["slots"]
    return dict(slot)


def tries(lab: Lab, job: str) -> list[dict[str, Any]]:
    done = lab.shoal(lab[0], "job", "executions", job, "--json")
    assert done.code == 0, done
    return list(json.loads(done.out)["executions"])


def two_tries(lab: Lab, job: str) -> str:
    """Why the first one is over, where the second was the task's own end."""
    slot = until_over(lab, job)
    assert (slot["state"], slot["stdout_tail"], slot["attempt"]) == ("completed", "again\n", 2)
    first, second = tries(lab, job)
    assert (first["state"], second["state"]) == ("failed", "completed"), first
    assert first["reason"] in lab.shoal(lab[0], "job", "executions", job).out
    return str(first["reason"])


# ---- docker goes away --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_with_docker_is_tried_again(
    lab: Lab, hosts: Hosts, number: signal.Signals
) -> None:
    job = submitted(
        lab, container(f"cut-off-{number.name.lower()}", TWICE + "exec sleep 1000", lab[0])
    )
    until_runs(lab, hosts[0], job)
    hosts[0].stop(number)
    with lab[0].client() as client:
        lab.until(
            lambda: any("docker does not answer" in c["text"] for c in client.doctor()),
            "it is missed",
            SOON_S,
        )
    hosts[0].start()
    assert two_tries(lab, job) in (
        "it was stopped through docker on this device",
        "docker was stopped on this device",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_docker_keeps_while_it_is_away_is_tried_once(
    lab: Lab, hosts: Hosts, number: signal.Signals
) -> None:
    script = "echo begun; until test -e /outputs/go; do sleep 0.1; done; exit 3"
    task = {"ResultPaths": [{"Name": "out", "Path": "/outputs"}]}
    name = f"kept-{number.name.lower()}"
    job = submitted(lab, container(name, script, lab[1], Task=task))
    found = until_runs(lab, hosts[1], job)
    pid = hosts[1].api.inspect_container(found["Id"])["State"]["Pid"]
    hosts[1].stop(number)
    Path(f"/proc/{pid}/root/outputs/go").touch()
    lab.until(lambda: not Path(f"/proc/{pid}").exists(), "it ends on its own", SOON_S)
    hosts[1].start()
    slot = until_over(lab, job)
    assert (slot["state"], slot["exit_code"], slot["stdout_tail"]) == ("failed", 3, "begun\n"), slot
    assert len(tries(lab, job)) == 1, "the task's own failure"
    got = lab.shoal(lab[0], "job", "get", job, "-o", str(lab.directory / f"got-{name}"))
    assert got.code == 0, got
    assert (lab.directory / f"got-{name}/out/go").exists()


def test_an_ops_job_that_docker_was_about_to_start_as_its_agent_died_runs_once(
    hosts: Hosts,
) -> None:
    """What docker was asked for it does, though whoever asked is gone."""
    (host, _), lab, begun = hosts, Lab(1), time.time()
    proxy = DockerProxy(host.root / "proxy.sock", host.socket)
    lab[0].environment["SHOAL_DOCKER_SOCKET"] = str(proxy.path)
    with closing(proxy), lab:
        with proxy.holding(rb"^POST \S*/start") as start, proxy.holding(rb"^DELETE ") as removal:
            script = "echo ran; until test -e /tmp/go; do sleep 0.1; done"
            spec = container("once", script, Type="ops")
            job = submitted(lab, {key: spec[key] for key in spec if key != "Retry"})
            lab.until(start.sent.is_set, "it is about to be started", SOON_S)
            lab.kill(lab[0])
            lab.start(lab[0])
            shown = lab.until(lambda: view(lab[0], job)["slots"], "it is known", SOON_S)
            assert [slot["state"] for slot in shown] == ["running"], "for all that is known"
            start.let_go()
            found = until_runs(lab, host, job)
            removal.let_go()
            pid = host.api.inspect_container(found["Id"])["State"]["Pid"]
            Path(f"/proc/{pid}/root/tmp/go").touch()
        over = lab.until(lambda: view(lab[0], job)["state"] != "running", "it is over", SOON_S)
        (slot,) = view(lab[0], job)["slots"]
        assert over and (slot["state"], slot["stdout_tail"]) == ("completed", "ran\n"), slot
        filters = {"event": "start", "label": f"{OWNER}={lab[0].peer}"}
        told = host.api.events(since=begun, until=time.time(), filters=filters, decode=True)
        assert len(list(told)) == 1


# ---- docker hangs ------------------------------------------------------------------------------


def test_what_ends_while_docker_hangs_is_told_once_it_does_not(lab: Lab, hosts: Hosts) -> None:
    script = "until test -e /tmp/go; do sleep 0.1; done; echo ended; exit 4"
    for number, (device, host) in enumerate(zip(lab.devices, hosts, strict=True)):
        job = submitted(lab, container(f"hangs-{number}", script, device))
        found = until_runs(lab, host, job)
        pid = host.api.inspect_container(found["Id"])["State"]["Pid"]
        host.freeze()
        try:
            Path(f"/proc/{pid}/root/tmp/go").touch()
            lab.until(lambda pid=pid: not runs(pid), "it ends", SOON_S)
            assert view(lab[1 - number], job)["slots"][0]["state"] == "running"
        finally:
            host.thaw()
        slot = until_over(lab, job)
        told = (slot["state"], slot["exit_code"], slot["stdout_tail"])
        assert told == ("failed", 4, "ended\n"), slot
        assert len(tries(lab, job)) == 1


def runs(pid: int) -> bool:
    """Whoever would reap it may be frozen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_docker_that_goes_on_hanging_is_given_up_with_live_restore_or_without(
    lab: Lab, hosts: Hosts
) -> None:
    bounds = {"Task": {"Timeouts": {"ExecutionTimeout": "2s"}}, "Retry": {"Attempts": 1}}
    jobs = []
    try:
        for number, (device, host) in enumerate(zip(lab.devices, hosts, strict=True)):
            spec = container(f"given-up-{number}", "exec sleep 1000", device, **bounds)
            jobs.append(submitted(lab, spec))
            until_runs(lab, host, jobs[-1])
            host.freeze()
        for job, device in zip(jobs, lab.devices, strict=True):
            slot = until_over(lab, job, GIVEN_UP_S)
            assert (slot["state"], slot["exit_code"]) == ("failed", None), slot
            why = f"docker does not answer; the container is ended once it does on {device.name}"
            assert slot["reason"] == why
            assert why in lab.shoal(lab[1], "job", "describe", job).out
    finally:
        for host in hosts:
            host.thaw()


# ---- others, and the image ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("kill", "it was stopped through docker on this device"),
        ("remove", r"it (has no container: somebody removed it|was stopped through docker)"),
    ],
    ids=["kill", "remove"],
)
def test_one_that_is_ended_behind_our_back_is_tried_again(
    lab: Lab, hosts: Hosts, how: str, reason: str
) -> None:
    job = submitted(lab, container(f"behind-{how}", TWICE + "exec sleep 1000", lab[0]))
    found = until_runs(lab, hosts[0], job)
    if how == "kill":
        hosts[0].api.kill(found["Id"])
    else:
        hosts[0].api.remove_container(found["Id"], force=True)
    assert re.match(reason, two_tries(lab, job))


def test_a_pull_that_is_cut_off_is_the_devices_failure(lab: Lab, hosts: Hosts) -> None:
    (host, _) = hosts
    files = {"large": os.urandom(64 << 20)}
    with host.registry("far/cut:1", files=files) as image:
        with host.throttled(REGISTRY_PORT, 4 << 20):
            job = submitted(lab, container("cut", "true", lab[0], image, Retry={"Attempts": 1}))
            pulled = re.compile(rf"pulling {image}: [\d.]+ of 6\d MB")
            lab.until(
                lambda: pulled.search(lab.shoal(lab[0], "job", "describe", job).out),
                "a part of it is here",
                SOON_S,
            )
            assert host.registry_process is not None
            host.registry_process.kill()
        slot = until_over(lab, job)
    assert slot["state"] == "failed" and slot["exit_code"] is None, slot
    assert slot["reason"].startswith(f"image {image} cannot be fetched: "), slot
    assert slot["reason"][:40] in lab.shoal(lab[1], "job", "describe", job).out
    assert host.api.images(image) == []


def test_an_image_for_another_processor_that_is_here_is_told_and_counts_no_more(
    lab: Lab, hosts: Hosts
) -> None:
    foreign, native = hosts
    foreign.relabel(IMAGE, "brought:1", "s390x")
    native.make_image("brought:1")
    never = {"Params": {"Pull": "never"}, "Retry": {"Attempts": 1}}
    alone = submitted(lab, container("alone", "true", lab[0], "brought:1", **never))
    slot = until_over(lab, alone)
    assert (slot["state"], slot["exit_code"]) == ("failed", None), slot
    why = f"image brought:1 is for s390x, and this device is {own_kind()} on {lab[0].name}"
    assert slot["reason"] == why
    assert slot["reason"] in lab.shoal(lab[1], "job", "describe", alone).out
    numbers = count()

    def placed() -> str:
        """A job that asked both when each knew whether it has the image."""
        spec = container(f"both-{next(numbers)}", "echo native", None, "brought:1", **never)
        job = submitted(lab, spec)
        until_over(lab, job)
        asked = json.loads(lab.shoal(lab[0], "why", job, "--json").out)["why"][0]["asked"]
        here = {each["peer"]: each["facts"].get("image_here") for each in asked}
        return job if here == {lab[0].peer: 0, lab[1].peer: 1} else ""

    slot = until_over(lab, lab.until(placed, "where it does not run it does not count", SOON_S))
    assert (slot["state"], slot["stdout_tail"]) == ("completed", "native\n"), slot
    assert slot["executor"] == lab[1].peer


# ---- standing jobs -----------------------------------------------------------------------------


@pytest.mark.parametrize("pull", ["missing", "always"])
def test_a_daemon_starts_without_its_registry_after_a_restart_of_all(
    lab: Lab, hosts: Hosts, pull: str
) -> None:
    (host, _) = hosts
    with host.registry(f"far/daemon-{pull}:1") as image:
        spec = container(
            f"daemon-{pull}", "exec sleep 1000", lab[0], image, Type="daemon", Params={"Pull": pull}
        )
        job = submitted(lab, spec)
        lab.until(lambda: runs_as(lab, host, job), "it runs", SOON_S)
    before = runs_as(lab, host, job)
    lab.kill(lab[0])
    host.stop()
    host.start()
    assert [each["State"] for each in host.ours()] == ["exited"]
    lab.start(lab[0], bootstrap=False)
    lab.until(lambda: runs_as(lab, host, job), "it runs again", SOON_S)
    assert runs_as(lab, host, job) != before
    assert lab.shoal(lab[0], "job", "delete", job, "-y").code == 0


def runs_as(lab: Lab, host: DockerHost, job: str) -> str:
    """Its container's id, where it runs and its device says so."""
    found = [each["Id"] for each in host.ours() if each["State"] == "running"]
    states = [part["state"] for part in view(lab[0], job)["parts"] if part["peer"] == lab[0].peer]
    return found[0] if states == ["running"] and len(found) == 1 else ""
