"""Networks that part, heal, lose and let through one way only, under real agents; jobs go on."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.gated import Gated
from tests.lab import Device, Lab, alive_at, command_at, environment_of, process_job
from tests.netlab import NetLab

PARTED_S = 60.0  # long enough for every lease, takeover and death to have run its course
HEALED_S = 90.0  # redials back off up to a minute


@pytest.fixture(scope="module")
def five() -> Iterator[NetLab]:
    lab = NetLab(5)
    for device in lab.devices:
        device.flags = ["--label", f"place={device.name}"]
    with lab:
        yield lab


@pytest.fixture
def lab(five: NetLab) -> Iterator[NetLab]:
    """All five alive on a whole network, before and after."""
    yield five
    five.heal()
    five.lose(0)
    for device in five.devices:
        five.link(device, "up")
    five.start(*(device for device in five.devices if device.process is None))
    five.until(lambda: all_know_all(five), "all are alive to all again", HEALED_S)


@pytest.fixture
def gated(lab: NetLab, request: pytest.FixtureRequest) -> Iterator[Gated]:
    made = Gated(lab, request.node.name)
    yield made
    made.open()


def all_know_all(lab: NetLab) -> bool:
    wanted = {device.peer for device in lab.devices}
    return all(wanted <= set(alive_at(device)) for device in lab.devices)


def submit(at: Device, *command: str, **fields: Any) -> dict[str, Any]:
    with at.client() as client:
        return client.submit(process_job(*command, **fields))


def job_at(device: Device, job: str) -> dict[str, Any]:
    with device.client() as client:
        return client.job(job)


def on(place: Device) -> dict[str, Any]:
    return {"Constraints": [{"Key": "place", "Operator": "=", "Values": [place.name]}]}


def off(place: Device) -> dict[str, Any]:
    return {"Constraints": [{"Key": "place", "Operator": "!=", "Values": [place.name]}]}


STAY = {"Disconnect": {"Replace": False}}


def until(lab: Lab, at: Device, job: str, what: str, holds: Callable[[Any], bool]) -> Any:
    """The job's first slot as `at` sees it, once it is as wanted."""

    def looked() -> dict[str, Any] | None:
        slot = job_at(at, job)["slots"][0]
        return slot if holds(slot) else None

    return lab.until(looked, what, HEALED_S)


def running_on(lab: NetLab, at: Device, job: str, gated: Gated) -> Device:
    slot = until(lab, at, job, "it runs", lambda slot: slot["state"] == "running")
    lab.until(gated.executions, "its task has begun")
    return next(device for device in lab.devices if device.peer == slot["executor"])


def told(device: Device, job: str) -> list[str]:
    """Kinds of what the device tells of a job, which it may know from its executions alone."""
    with device.client() as client:
        return [event["kind"] for event in client.events() if event["job"] == job]


def deaths(lab: NetLab) -> list[str]:
    """Who ever held whom for dead."""
    found = []
    for device in lab.devices:
        with device.client() as client:
            events = client.events()
        found += [
            f"{device.name}: {each['text']}" for each in events if each["kind"] == "peer.dead"
        ]
    return found


def test_a_partition_leaves_one_result_that_all_holders_know(lab: NetLab, gated: Gated) -> None:
    job = str(submit(lab[0], *gated.command(), **off(lab[0]))["job"])
    executor = running_on(lab, lab[0], job, gated)
    begun = time.monotonic()
    lab.until(lambda: time.monotonic() > begun + 1, "its award has reached the standbys")
    holders = job_at(lab[0], job)["holders"]
    second = next(
        device
        for device in sorted(lab.devices, key=lambda d: d.peer not in holders)
        if device not in (lab[0], executor)
    )
    cut_off = [executor, second]
    others = [device for device in lab.devices if device not in cut_off]
    lab.partition(cut_off, others)
    parted = time.monotonic()
    until(
        lab, lab[0], job, "it runs on this side too",
        lambda slot: slot["executor"] != executor.peer and slot["state"] == "running",
    )  # fmt: skip
    lab.until(lambda: len(gated.executions()) == 2, "the second has begun")
    gated.open()
    until(lab, lab[0], job, "its result counts here", lambda slot: slot["state"] == "completed")
    lab.until(lambda: time.monotonic() > parted + PARTED_S, "the partition lasts")
    assert job_at(lab[0], job)["slots"][0]["executor"] in {device.peer for device in others}
    here = job_at(lab[0], job)["slots"][0]["execution"]
    lab.heal()

    lab.until(lambda: all_know_all(lab), "all are alive to all again", HEALED_S)
    # Both succeeded: the lower fence counts, which is that of the one cut off.
    first, *_ = gated.executions()
    until(lab, lab[0], job, "one result counts", lambda slot: slot["execution"] == first != here)
    holders = job_at(lab[0], job)["holders"]
    for device in lab.devices:
        if device.peer in holders:
            until(lab, device, job, "this holder agrees", lambda slot: slot["execution"] == first)
        assert lab.shoal(device, "job", "wait", job).code == 0
    assert len(gated.executions()) == 2
    assert "job.result-changed" in told(lab[0], job), "whoever was told otherwise is told so"
    assert "another result counts" in lab.shoal(lab[0], "events", "--job", job).out


def test_an_executor_that_was_cut_off_brings_its_result_home(lab: NetLab, gated: Gated) -> None:
    job = str(submit(lab[0], *gated.command(7), **on(lab[3]), **STAY)["job"])
    assert running_on(lab, lab[0], job, gated) is lab[3]
    lab.partition([lab[3]], [device for device in lab.devices if device is not lab[3]])
    lab.until(lambda: lab[3].peer not in alive_at(lab[0]), "it is held for dead")
    gated.open()
    lab.until(lambda: "execution.ended-here" in told(lab[3], job), "it has ended over there")
    assert job_at(lab[0], job)["state"] != "failed"
    lab.heal()
    until(lab, lab[0], job, "its result is home", lambda slot: slot["exit_code"] == 7)
    assert len(gated.executions()) == 1
    assert lab.shoal(lab[1], "job", "wait", job).code == 7


def test_a_one_way_cut_between_two_kills_nobody_and_loses_nothing(
    lab: NetLab, gated: Gated
) -> None:
    before = deaths(lab)
    job = str(submit(lab[0], *gated.command(), **on(lab[2]))["job"])
    assert running_on(lab, lab[0], job, gated) is lab[2]
    lab.cut(lab[2], lab[0])
    gated.open()
    until(lab, lab[0], job, "its result came another way", lambda slot: slot["exit_code"] == 0)
    assert len(gated.executions()) == 1
    assert deaths(lab) == before, "others reach it"


def test_a_device_that_boots_without_a_network_works_and_tells_of_it_later(
    lab: NetLab, gated: Gated
) -> None:
    lab.power_off(lab[4])
    lab.link(lab[4], "down")
    lab.start(lab[4], wait=False, bootstrap=False)
    accepted = lab.until(lambda: submit(lab[4], *gated.command(), **on(lab[4])), "it accepts")
    assert accepted["durable_on"] == 1 and "this peer only" in accepted["warning"], accepted
    gated.open()
    job = str(accepted["job"])
    until(lab, lab[4], job, "it is done", lambda slot: slot["state"] == "completed")
    lab.link(lab[4], "up")
    lab.until(lambda: all_know_all(lab), "it is among them again", HEALED_S)
    found = lab.shoal(lab[1], "job", "wait", job)
    assert found.code == 0, found
    assert lab.shoal(lab[1], "logs", job).out == "begun\nthrough\n"


def test_jobs_end_where_every_fifth_packet_is_lost(lab: NetLab) -> None:
    lab.lose(20)
    jobs = [
        (device, str(submit(device, "sh", "-c", "exit 0", count=2)["job"]))
        for device in lab.devices
    ]
    for device, job in jobs:
        lab.until(
            lambda device=device, job=job: job_at(device, job)["state"] == "completed",
            f"{device.name}'s job has ended",
        )


# ---- NATs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def natted() -> Iterator[NetLab]:
    """One public host, one host in a private network, and two in another."""
    lab = NetLab(1, behind=(1, 2))
    for device in lab.devices:
        device.flags = ["--label", f"place={device.name}"]
    with lab:
        yield lab


def via(one: Device, other: Device) -> str:
    """Whose relaying the first one reaches the other by; empty where they are neighbours."""
    with one.client() as client:
        views = {peer["id"]: peer for peer in client.peers()}
    return str(views[other.peer]["via"])


def relayed_bytes(natted: NetLab) -> int:
    with natted[0].client() as client:
        return int(client.status()["counters"]["relayed_bytes"])


def test_peers_behind_two_nats_see_each_other_by_way_of_the_public_one(natted: NetLab) -> None:
    public, (one,), (other, _) = natted[0], *natted.private
    natted.until(lambda: via(one, other) == public.name, "the path is found")
    shown = natted.shoal(one, "peers").out
    line = next(line for line in shown.splitlines() if line.startswith(other.name))
    assert f"alive, via {public.name}" in line
    assert deaths(natted) == []


def test_a_job_crosses_two_nats_with_its_files_its_output_and_its_result(natted: NetLab) -> None:
    (one,), (other, _) = natted.private
    script = natted.directory / "say.sh"
    script.write_text("#!/bin/sh\nmkdir out; echo $1 > out/said; echo through $1; exit 5\n")
    script.chmod(0o755)
    wanted = ("--constraint", f"place={other.name}")
    wanted += ("--name", "said", "-o", "out")
    done = natted.shoal(one, "run", *wanted, "-f", str(script), "--", "./say.sh", "NATs")
    assert done.code == 5 and done.out == "through NATs\n", done
    target = natted.directory / "fetched"
    done = natted.shoal(one, "job", "get", "said", "-o", str(target))
    assert done.code == 0 and (target / "out" / "said").read_text() == "NATs\n", done
    assert relayed_bytes(natted) > 0
    assert deaths(natted) == []


def test_a_result_behind_one_nat_is_an_input_behind_the_other(natted: NetLab) -> None:
    """Who asks is no neighbour of who has it, and had nothing to do with the job that left it."""
    (one,), (other, _) = natted.private
    script = ("sh", "-c", "mkdir out; echo across > out/file")
    wanted = ("--constraint", f"place={other.name}", "--name", "left", "-o", "out", "-q")
    assert natted.shoal(other, "run", *wanted, "--", *script).code == 0
    shown = json.loads(natted.shoal(other, "job", "describe", "left", "--json").out)
    (slot,) = shown["slots"]
    params = {"Digest": slot["archive"], "Size": slot["archive_bytes"]}
    job = process_job(
        "cat",
        "in/out/file",
        name="across",
        Constraints=[{"Key": "place", "Operator": "=", "Values": [one.name]}],
        Task={"InputSources": [{"Source": {"Type": "peer", "Params": params}, "Target": "in"}]},
    )
    before = relayed_bytes(natted)
    with one.client() as client:
        *_, last = client.run(job)
    (done,) = last["final"]["slots"]
    assert (done["state"], done["stdout_tail"]) == ("completed", "across\n"), done
    assert (one.data_dir / "results" / slot["archive"]).exists()
    assert relayed_bytes(natted) - before >= slot["archive_bytes"], "by way of the public one"
    assert deaths(natted) == []


@pytest.mark.parametrize("type_", ["batch", "ops"])
def test_logs_of_several_executions_are_followed_at_once_across_two_nats(
    natted: NetLab, type_: str
) -> None:
    """By a reader that is a neighbour of neither of those who run them, and after the end again."""
    (reader,), runners = natted.private
    gated = Gated(natted, f"followed-{type_}")
    fits = {"Key": "place", "Operator": "in", "Values": [device.name for device in runners]}
    job = process_job(*gated.command(), name=f"both-{type_}", count=2, Constraints=[fits])
    if type_ == "ops":
        del job["Count"]
    with runners[0].client() as client:
        client.submit({**job, "Type": type_})
    natted.until(lambda: len(gated.executions()) == 2, "both have begun")
    for device in runners:
        natted.until(lambda device=device: via(reader, device), "they are no neighbours")
    with reader.client() as client:  # of a job that has begun those around it hear in a moment
        natted.until(lambda: client.job(job["Name"]), "it is known there")
    marks = [f"{each.name}: " for each in runners] if type_ == "ops" else ["[0] ", "[1] "]
    followed = natted.directory / f"followed-{type_}.txt"
    with followed.open("wb") as out:
        process = subprocess.Popen(
            [*command_at(reader), "logs", "-f", job["Name"]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment_of(reader),
        )
    try:
        begun = {f"{mark}begun" for mark in marks}

        def heard() -> bool:
            said = followed.read_text()
            assert process.poll() is None, f"it ended: {said}"
            return begun <= set(said.splitlines())

        natted.until(heard, "both are heard")
        gated.open()
        assert process.wait(HEALED_S) == 0
    finally:
        gated.open()
        process.kill()
        process.wait()
    lines = sorted(f"{mark}{word}" for mark in marks for word in ("begun", "through"))
    assert sorted(followed.read_text().splitlines()) == lines
    again = natted.shoal(reader, "logs", job["Name"])
    assert (again.code, sorted(again.out.splitlines()), again.err) == (0, lines, ""), again
    assert {via(reader, device) for device in runners} == {natted[0].name}, "as before"
    assert deaths(natted) == []
