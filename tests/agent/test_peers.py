"""Peers of a whole agent: found, described, labelled, drained and forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.client import THIS_DEVICE
from agent.control.backend import RequestError
from agent.main import Agent
from agent.peers import BYTES_MAX
from protocol.ids import PeerId
from protocol.roster import State
from tests.agent.whole import open_directory, running_agent
from tests.lab import process_job


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


async def refused(status: int, match: str, call: Any) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        await call
    assert caught.value.status == status


def meet(agent: Agent, *peers: str) -> None:
    """Peers that this agent remembers, and has not heard of since."""
    roster = agent.driver.node.membership._roster
    for peer in peers:
        roster.admit(PeerId(peer), agent.clock.now().mono)


async def test_a_peer_is_found_by_name_id_and_either_end(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        meet(agent, "12D3KooWaaaa-first-", "12D3KooWbbbb-second")
        me = agent.member.keyring.peer
        for wanted in (THIS_DEVICE, "alone", me, me[-8:], "…" + me[-8:], me[:20]):
            assert agent.backend.peer(wanted)["id"] == me
        assert agent.backend.peer("KooWbbbb-second")["id"] == "12D3KooWbbbb-second"
        for wanted in ("nobody", "", me[-3:]):
            with pytest.raises(RequestError) as caught:
                agent.backend.peer(wanted)
            assert caught.value.status == 404
        with pytest.raises(RequestError, match="could be any of") as caught:
            agent.backend.peer("12D3KooW")
        assert caught.value.status == 409


async def test_this_device_tells_its_policy_and_how_long_it_is_up(data_dir: Path) -> None:
    async with running_agent(data_dir, accept__hours=["22:00-06:00"]) as agent:
        meet(agent, "12D3KooWbbbb-second")
        agent.started_at -= 75.0
        view = agent.backend.peer("alone")
        assert view["policy"]["hours"] == ["22:00-06:00"]
        assert view["since_s"] >= 75 and view["incarnation"] >= 1
        assert {label["source"] for label in view["label_sources"]} == {"found"}
        assert "policy" not in agent.backend.peer("12D3KooWbbbb-second")


async def test_a_label_set_live_is_advertised_and_outlives_the_agent(data_dir: Path) -> None:
    async with running_agent(data_dir, labels=["room=attic"]) as agent:
        labels = await agent.backend.label({"camera": "yes", "room": "shed"}, [])
        sources = {label["name"]: label["source"] for label in labels}
        assert sources["camera"] == sources["room"] == "set" and sources["arch"] == "found"
        node = agent.driver.node
        assert node.advert is not None and node.advert.labels["room"] == "shed"
        assert node.executor.bidder.labels["camera"] == "yes"
    async with running_agent(data_dir, labels=["room=attic"]) as agent:
        assert agent.backend.peer(THIS_DEVICE)["labels"]["camera"] == "yes"
        labels = await agent.backend.label({}, ["camera", "room"])
        assert {"name": "room", "value": "attic", "source": "configuration"} in labels
        assert "camera" not in {label["name"] for label in labels}


async def test_labels_that_cannot_be_set_or_taken_say_why(data_dir: Path) -> None:
    async with running_agent(data_dir, labels=["room=attic"]) as agent:
        label = agent.backend.label
        await refused(400, "the label arch is the agent's own", label({"arch": "vax"}, []))
        await refused(400, "no label camera on this device", label({}, ["camera"]))
        await refused(400, "room comes from the configuration", label({}, ["room"]))
        await refused(400, "os is found by the agent itself", label({}, ["os"]))
        many = {f"k{number}": "" for number in range(48)}
        await refused(400, "49 labels beside those found; allowed: 48", label(many, []))
        heavy = {f"k{number}": "x" * 250 for number in range(40)}
        await refused(400, f"bytes in all; allowed: {BYTES_MAX}", label(heavy, []))
        assert not agent.conditions.labels and not (data_dir / "conditions.json").exists()


async def test_a_disk_that_takes_nothing_changes_nothing(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.conditions._path = data_dir / "absent" / "conditions.json"
        await refused(507, "could not be saved", agent.backend.label({"a": "b"}, []))
        await refused(507, "could not be saved", agent.backend.drain(THIS_DEVICE, True))
        assert not agent.driver.node.executor.bidder.draining


async def test_a_drained_device_takes_nothing_new_and_remembers_it(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        answer = await agent.backend.drain(THIS_DEVICE, True)
        assert answer == {
            "peer": agent.member.keyring.peer, "name": "alone", "draining": True, "running": 0,
        }  # fmt: skip
        assert agent.backend.peers()[0]["draining"]
    async with running_agent(data_dir) as agent:
        assert agent.driver.node.executor.bidder.draining
        job = (await agent.backend.submit(process_job("true"), ""))["job"]
        (asked,) = (await agent.backend.job(job))["why"][0]["asked"]
        assert asked["answer"] == "filtered" and asked["reason"].startswith("draining")
        assert not (await agent.backend.drain("alone", False))["draining"]
        assert not agent.backend.peers()[0]["draining"]
        await agent.backend.stop(job)


async def test_only_this_device_is_drained_here(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        meet(agent, "12D3KooWbbbb-second")
        drain = agent.backend.drain("12D3KooWbbbb-second", False)
        await refused(400, "shoal --host ssh://b-second peer undrain", drain)


async def test_who_is_gone_is_forgotten(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        meet(agent, "12D3KooWaaaa-first-", "12D3KooWbbbb-second")
        roster = agent.driver.node.membership._roster
        first = roster.peers[PeerId("12D3KooWaaaa-first-")]
        roster.move(first, State.ALIVE, agent.clock.now().mono)
        await refused(403, "is alive", agent.backend.forget(first.id))
        await refused(400, "cannot forget itself", agent.backend.forget(THIS_DEVICE))
        answer = await agent.backend.forget("12D3KooWbbbb-second")
        assert answer["peer"] == "12D3KooWbbbb-second"
        await refused(404, "no peer", agent.backend.forget("12D3KooWbbbb-second"))
