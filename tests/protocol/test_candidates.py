"""candidates: whom a round asks, in which order, and who is left out."""

from __future__ import annotations

from protocol.auction import Auction
from protocol.candidates import NEAR_PER_FAR
from protocol.config import AuctionConfig, CoordinationConfig, NodeConfig
from protocol.events import PeerDisconnected
from protocol.ids import PeerId
from tests.protocol.nodenet import NodeNet, batch, queue


def test_announcements_go_mostly_to_those_who_are_connected() -> None:
    net = NodeNet("a", *"bcdefghij")
    net.submit("a", batch(on=["nobody"], task=queue(600)))
    candidates = net.coordination("a").placement.rounds.candidates
    for far in "hij":
        net.handle("a", PeerDisconnected(PeerId(far)))
    led = net.led("a")
    led.held.job = batch(on="bcdefghij")
    auction = Auction(1, AuctionConfig(), 1, [], 0.0, 0)
    order = candidates.draw(led, auction, {})
    assert sorted(order) == list("bcdefghij")
    assert set(order[:NEAR_PER_FAR]) < set("bcdefg")
    assert order[NEAR_PER_FAR] in "hij"
    assert auction.answers[PeerId("a")].kind == "filtered"


def test_filtered_peers_are_remembered_up_to_a_bound() -> None:
    config = NodeConfig(coordination=CoordinationConfig(asked_max=2))
    net = NodeNet("a", "b", "c", "d", configs={"a": config})
    net.submit("a", batch(on=["nobody"], task=queue(0)))
    net.run(0.1)
    assert len(net.coordination("a").stories.of(net.job()).rounds[0].answers) == 2
