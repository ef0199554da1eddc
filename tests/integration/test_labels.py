"""Conditions of real devices: labels set live, the owner's policy, draining and forgetting."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.gated import Gated
from tests.lab import Device, Done, Lab, process_job, supervisors_of

SOON_S = 60.0  # on a busy machine; a change is told at once and acted on a second later


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The shed, d02, takes jobs of d00 only."""
    lab = Lab(3)
    for device, place in zip(lab.devices, ("house", "attic", "shed"), strict=True):
        device.flags = ["--label", f"place={place}"]
    lab[2].flags += ["--accept-authors", lab[0].name]
    with lab:
        yield lab


def ok(done: Done) -> Done:
    assert done.code == 0, done
    return done


def submit(lab: Lab, at: Device, constraint: str, *command: str) -> str:
    words = ("run", "--detach", "--constraint", constraint, "--queue-timeout", "10m", "--")
    return ok(lab.shoal(at, *words, *command)).out.strip()


def view_of(at: Device, job: str) -> dict[str, Any]:
    with at.client() as client:
        return client.job(job)


def until_waiting(lab: Lab, at: Device, job: str) -> dict[str, Any]:
    def waits() -> dict[str, Any] | None:
        view = view_of(at, job)
        return view if view["why"] and view["reason"] else None

    return dict(lab.until(waits, f"{job} waits"))


def until_completed(lab: Lab, at: Device, job: str) -> str:
    """The device where it ran."""

    def completed() -> str:
        view = view_of(at, job)
        assert view["state"] in ("pending", "running", "completed"), view
        done = view["state"] == "completed"
        return str(view["slots"][0]["executor_name"]) if done else ""

    return str(lab.until(completed, f"{job} is done", SOON_S))


def peer_at(lab: Lab, at: Device, name: str) -> dict[str, Any]:
    return dict(json.loads(ok(lab.shoal(at, "peer", "describe", name, "--json")).out))


def test_a_job_waits_for_a_label_and_runs_where_somebody_sets_it(lab: Lab) -> None:
    job = submit(lab, lab[0], "camera=front", "true")
    view = until_waiting(lab, lab[0], job)
    assert "label camera: wanted 'front', but there is none" in view["reason"]
    begun = time.monotonic()
    ok(lab.shoal(lab[1], "label", "set", "camera=front"))
    assert until_completed(lab, lab[0], job) == "d01"
    assert time.monotonic() - begun < SOON_S
    assert peer_at(lab, lab[2], "d01")["labels"]["camera"] == "front"
    rows = ok(lab.shoal(lab[0], "peers", "--where", "camera=front", "--labels", "place")).out
    assert [line.split()[0] for line in rows.splitlines()] == ["NAME", "d01"] and "attic" in rows


def test_a_daemon_comes_and_goes_with_a_label(lab: Lab) -> None:
    gated = Gated(lab, "watched")
    watched: list[Any] = [{"Key": "watch", "Operator": "exists"}]
    job = process_job(*gated.command(), name="watcher", Type="daemon", Constraints=watched)
    del job["Count"]
    with lab[0].client() as client:
        client.submit(job)
    ok(lab.shoal(lab[1], "label", "set", "watch=door"))
    lab.until(gated.executions, "it has begun where the label is", SOON_S)
    assert len(supervisors_of(lab[1])) == 1 and supervisors_of(lab[0]) == []
    ok(lab.shoal(lab[1], "label", "unset", "watch"))
    lab.until(lambda: supervisors_of(lab[1]) == [], "it has ended there", SOON_S)
    assert len(gated.executions()) == 1
    ok(lab.shoal(lab[0], "job", "delete", "watcher", "--yes"))


def test_a_label_set_live_outlives_the_agent_until_it_is_unset(lab: Lab) -> None:
    ok(lab.shoal(lab[1], "label", "set", "shelf=3", "place=cellar"))
    lab.kill(lab[1])
    lab.start(lab[1])
    listed = ok(lab.shoal(lab[1], "label", "list")).out.splitlines()
    sources = {row.split()[0]: row.split()[-1] for row in listed[1:]}
    assert (sources["shelf"], sources["place"], sources["arch"]) == ("set", "set", "found")
    ok(lab.shoal(lab[1], "label", "unset", "shelf", "place"))
    lab.until(
        lambda: (
            "shelf" not in (labels := peer_at(lab, lab[0], "d01")["labels"])
            and labels["place"] == "attic"
        ),
        "the others know that it is as its configuration has it",
        SOON_S,
    )
    done = lab.shoal(lab[1], "label", "unset", "place")
    assert done.code == 2 and "comes from the configuration" in done.err
    done = lab.shoal(lab[1], "label", "set", "memory=1")
    assert done.code == 2 and "the agent's own" in done.err


def test_what_an_owner_refuses_is_quoted_with_what_would_fit(lab: Lab) -> None:
    job = submit(lab, lab[1], "place=shed", "true")
    reason = "policy: jobs of d01 are not taken here ([accept] authors)"
    assert reason in until_waiting(lab, lab[1], job)["reason"]
    why = ok(lab.shoal(lab[0], "why", job)).out
    assert f"refused: {reason}" in why, why
    assert "-> fits from a device its owner trusts, see accept.authors there" in why
    assert until_completed(lab, lab[0], submit(lab, lab[0], "place=shed", "true")) == "d02"
    ok(lab.shoal(lab[1], "stop", job))
    described = ok(lab.shoal(lab[2], "peer", "describe")).out
    assert "authors              d00" in described, described
    assert "Taken here" not in ok(lab.shoal(lab[0], "peer", "describe", "d02")).out


def test_a_draining_device_ends_what_runs_and_takes_nothing_new(lab: Lab) -> None:
    gated = Gated(lab, "drained")
    running = submit(lab, lab[0], "place=attic", *gated.command())
    lab.until(gated.executions, "its task has begun")
    done = ok(lab.shoal(lab[1], "peer", "drain"))
    assert "d01 takes no new batch and service work; 1 task running here" in done.err
    lab.until(lambda: peer_at(lab, lab[0], "d01")["draining"], "the others know", SOON_S)
    assert "alive, draining" in ok(lab.shoal(lab[2], "peers")).out
    late = submit(lab, lab[0], "place=attic", "true")
    assert "draining: it takes no new work" in until_waiting(lab, lab[0], late)["reason"]
    why = ok(lab.shoal(lab[0], "why", late)).out
    assert "-> fits once its owner runs `shoal peer undrain` there" in why
    gated.open()
    assert until_completed(lab, lab[0], running) == "d01"
    lab.kill(lab[1])
    lab.start(lab[1])
    assert peer_at(lab, lab[1], "d01")["draining"], "it is remembered"
    assert view_of(lab[0], late)["state"] == "pending"
    done = lab.shoal(lab[0], "peer", "undrain", "d01")
    assert done.code == 2 and "--host ssh://d01 peer undrain" in done.err
    ok(lab.shoal(lab[1], "peer", "undrain"))
    assert until_completed(lab, lab[0], late) == "d01"


def test_a_device_that_is_gone_for_good_is_forgotten(lab: Lab) -> None:
    done = lab.shoal(lab[0], "peer", "forget", "d02")
    assert done.code == 1 and "only a peer that is gone can be forgotten" in done.err
    lab.kill(lab[2])
    lab.until(lambda: peer_at(lab, lab[0], "d02")["state"] == "dead", "it is held for dead")
    ok(lab.shoal(lab[0], "peer", "forget", "d02"))
    assert "d02" not in ok(lab.shoal(lab[0], "peers")).out
    lab.start(lab[2])
    lab.until(lambda: peer_at(lab, lab[0], "d02")["state"] == "alive", "it is met anew")
