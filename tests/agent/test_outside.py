"""The outside: what effects become on a whole agent, and what a node hears first."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.outside import event_view
from protocol.effects import Tell
from protocol.events import Booted, FactsSampled, PeerConnected, PeerDisconnected, SelfDescribed
from protocol.ids import JobId, PeerId, ShoalId
from protocol.records import Certificate
from tests.agent.whole import open_directory, running_agent

OTHER = PeerId("12D3KooWJ8NCNvvnhYKZWTD5RYhDkNbfJcEnCnVF3GXRAKXuSTHD")
TOLD = Tell("job.accepted", "one accepted", JobId("j"), fields={"slots": 2, "who": ["a"]})


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


def connected() -> PeerConnected:
    certificate = Certificate(
        shoal=ShoalId("s"), peer=OTHER, name="b", roles=("submit",), namespaces=("*",),
        issued_ms=0, expires_ms=1,
    )  # fmt: skip
    return PeerConnected(OTHER, certificate, b"boot")


async def test_a_node_hears_what_it_is_what_ran_and_who_is_connected(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        outside = agent.outside
        outside.note(connected())
        booted, described, facts, peer = await outside.first_events()
        assert booted == Booted()
        assert isinstance(described, SelfDescribed) and described == outside.described
        assert isinstance(facts, FactsSampled)
        assert peer == connected()
        outside.note(PeerDisconnected(OTHER))
        assert len(await outside.first_events()) == 3


async def test_what_is_told_is_logged_kept_and_pushed(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_agent(data_dir) as agent:
        follower = agent.feed.follow(agent.feed.seq, "j")
        agent.outside.tell(TOLD)
        agent.outside.tell(Tell("job.bids", "3 bids", JobId("j")))
        pushed = [await anext(follower), await anext(follower)]
        assert [event["text"] for event in pushed] == ["one accepted", "3 bids"]
        assert pushed[0]["fields"] == {"slots": 2, "who": ["a"]}
        json.dumps(pushed)
        await follower.aclose()
    assert "one accepted" in caplog.text and "3 bids" not in caplog.text, "bids are in `why`"
    async with running_agent(data_dir) as again:
        assert "one accepted" in [event["text"] for event in again.feed.recent(0)]
        assert event_view(again.store.log.last(1)[0])["kind"].startswith(("job.", "peer."))


async def test_links_are_kept_and_let_go(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        agent.outside.dial(OTHER, ("/ip4/127.0.0.1/tcp/1",))
        assert agent.transport._dialer.keeps(OTHER)
        agent.outside.dial(OTHER, ())
        assert not agent.transport._dialer.keeps(OTHER)
        agent.outside.hangup(OTHER)
        agent.outside.send(OTHER, b"to nobody")
        agent.outside.gossip(b"to nobody")


async def test_what_is_fleeting_reaches_whoever_follows_and_no_disk(data_dir: Path) -> None:
    async with running_agent(data_dir) as agent:
        follower = agent.feed.follow(agent.feed.seq, "j")
        before = agent.store.log.unsaved
        text = "on b: pulling x"
        agent.outside.tell(Tell("execution.progress", text, JobId("j"), fleeting=True))
        assert (await anext(follower))["text"] == text
        assert agent.store.log.unsaved == before
        assert agent.feed.recent(0, "j") == []
        await follower.aclose()
