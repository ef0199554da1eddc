"""messaging: what comes from outside, from a neighbour's neighbour and from this peer itself."""

from __future__ import annotations

import msgspec

from protocol.bounds import LETTER_BYTES_MAX
from protocol.config import MembershipConfig, NodeConfig
from protocol.effects import Send, Tell
from protocol.events import FrameReceived, GossipReceived
from protocol.ids import PeerId
from protocol.messages import (
    Ack,
    Announce,
    Letter,
    Message,
    PathQuery,
    PathReport,
    Ping,
    Relayed,
    Rumours,
    SyncRoot,
)
from protocol.relay import CONTEXT, Relay
from protocol.roster import State
from protocol.wire import decode_as, decode_message, dumps, encode_message
from tests.protocol.nodenet import NodeNet, batch, natted, queue

# ---- from outside -----------------------------------------------------------------------------


def test_garbage_is_counted_and_told_the_first_tenth_and_hundredth_time() -> None:
    net = NodeNet("a", "b")
    told = []
    for number in range(1, 121):
        effects = net.handle("a", FrameReceived(PeerId("b"), b"garbage"))
        told += [number for effect in effects if isinstance(effect, Tell)]
    assert told == [1, 10, 100]
    assert net["a"].messaging.malformed[PeerId("b")] == 120


def test_the_count_of_malformed_messages_is_bounded() -> None:
    config = NodeConfig(membership=MembershipConfig(peers_max=3))
    net = NodeNet("a", configs={"a": config})
    for number in range(10):
        net.handle("a", FrameReceived(PeerId(f"p{number}"), b"garbage"))
    assert len(net["a"].messaging.malformed) <= 3


def test_gossip_carries_rumours_alone() -> None:
    net = NodeNet("a", "b")
    assert net.handle("a", GossipReceived(encode_message(Ping(1)))) == []
    assert net["a"].messaging.malformed == {}
    (tell,) = net.handle("a", GossipReceived(b"garbage"))
    assert isinstance(tell, Tell)
    assert tell.text.startswith("gossip sent something malformed (1 so far)")
    net.handle("a", GossipReceived(encode_message(Rumours((b"garbage",)))))


def test_a_newer_version_may_say_more() -> None:
    net = NodeNet("a", "b")
    for frame in (dumps([9999, "later"]), encode_message(SyncRoot(2, b"root"))):
        assert net.handle("a", FrameReceived(PeerId("b"), frame)) == []
        assert net.handle("a", GossipReceived(frame)) == []
    assert net["a"].messaging.malformed == {}


# ---- through a common neighbour ---------------------------------------------------------------


def test_what_is_for_a_peer_that_cannot_be_dialled_goes_by_letter() -> None:
    net = natted("n1", "n2", "r")
    assert net["n1"].membership.routes.through(PeerId("n2")) == ["r"]
    net.submit("n1", batch(on=["n2"]))
    net.until(lambda: net.executors() == ["n2"], 5.0)
    net.end("n2")
    net.until(lambda: net.held("n1").done, 5.0)
    kinds = {type(message) for to, message in net.boxes["n1"].sent if to == "r"}
    assert Relayed in kinds
    assert not net.told("n1", "peer.dead") and not net.told("n2", "peer.suspect")


def test_a_relay_that_dies_is_no_death_of_who_was_behind_it() -> None:
    net = natted("n1", "n2", "r1", "r2")
    used = net["n1"].membership.routes.through(PeerId("n2"))[0]
    net.kill(used)
    net.run(30.0)
    for name in ("n1", "n2"):
        assert [tell.peer for tell in net.told(name, "peer.dead")] == [used]
    assert net["n1"].membership.routes.through(PeerId("n2")) == ["r1" if used == "r2" else "r2"]


def test_who_dies_behind_relays_is_found_dead() -> None:
    net = natted("n1", "n2", "n3", "r")
    net.kill("n2")
    net.run(40.0)
    assert net["n1"].membership.peer(PeerId("n2")).state is State.DEAD  # type: ignore[union-attr]


def letter_to(net: NodeNet, message: Message, receiver: str = "n2") -> Relayed:
    """What n1 would write now, by way of r."""
    node = net["n1"]
    there = net[receiver].membership.incarnation
    lives = (node.membership.incarnation, there)
    relayed = node.relay.seal(PeerId(receiver), PeerId("r"), lives, message, net.now)
    assert relayed is not None
    return relayed


def test_a_letter_is_read_as_if_it_had_come_from_its_author() -> None:
    net = natted("n1", "n2", "r")
    effects = net.send("r", "n2", letter_to(net, Ping(77)))
    (answer,) = [each for each in effects if isinstance(each, Send)]
    assert answer.peer == "r" and isinstance(answer.message, Relayed)
    letter = decode_as(answer.message.letter, Letter)
    assert decode_message(letter.frame) == Ack(77) and letter.receiver == "n1"


def test_a_letter_about_neighbours_or_in_a_letter_is_malformed() -> None:
    net = natted("n1", "n2", "r")
    for inner in (PathQuery(()), PathReport((), ()), Relayed(b"", b"")):
        net.send("r", "n2", letter_to(net, inner))
    assert net["n2"].messaging.malformed == {PeerId("n1"): 3}, "its author signed it"


def test_a_letter_of_an_unknown_kind_is_dropped_in_silence() -> None:
    net = natted("n1", "n2", "r")
    relayed = letter_to(net, Ping(1))
    letter = msgspec.structs.replace(
        decode_as(relayed.letter, Letter), frame=dumps([9_999, "new"]), number=10_000
    )
    body = encode_message(letter)
    signature = net.boxes["n1"].keyring.sign(CONTEXT + body)
    net.send("r", "n2", Relayed(body, signature))
    assert not net["n2"].messaging.malformed and net["n2"].relay.highest(PeerId("n1")) == 10_000


def test_a_forged_letter_is_held_against_who_brought_it() -> None:
    net = natted("n1", "n2", "r")
    forged = msgspec.structs.replace(letter_to(net, Ping(1)), signature=b"x")
    net.send("r", "n2", forged)
    assert net["n2"].messaging.malformed == {PeerId("r"): 1}


def test_who_writes_to_an_earlier_life_is_told_of_the_present_one() -> None:
    net = natted("n1", "n2", "r")
    stranger = Relay(net.boxes["n1"].keyring)  # it knows nothing of the one it writes to
    life = net["n1"].membership.incarnation
    outdated = stranger.seal(PeerId("n2"), PeerId("r"), (life, 0), Ping(1), net.now)
    assert outdated is not None
    effects = net.send("r", "n2", outdated)
    (answer,) = [each for each in effects if isinstance(each, Send)]
    assert isinstance(answer.message, Relayed)
    message = decode_message(decode_as(answer.message.letter, Letter).frame)
    assert isinstance(message, Rumours)
    assert net.send("r", "n2", letter_to(net, Ping(2))), "that one is read"


def test_a_letter_of_one_never_heard_of_is_read_by_its_certificate() -> None:
    net = natted("n1", "n2", "r")
    keyring = net.shoal.keyring("late")
    relayed = Relay(keyring).seal(
        PeerId("n2"), PeerId("r"), (1, net["n2"].membership.incarnation), Ping(5), net.now
    )
    assert relayed is not None
    net.send("r", "n2", relayed)
    known = net["n2"].membership.peer(PeerId("late"))
    assert known is not None and known.state is State.ALIVE


def test_what_does_not_fit_into_a_letter_is_tried_directly() -> None:
    net = natted("n1", "n2", "r")
    node = net["n1"]
    for size, to in ((100, "r"), (LETTER_BYTES_MAX, "n2")):
        send = Send(PeerId("n2"), Rumours((bytes(size),)))
        routed = node.messaging.routed(send, net.clock("n1"))
        assert isinstance(routed, Send) and routed.peer == to


# ---- to oneself -------------------------------------------------------------------------------


def test_what_is_sent_to_oneself_is_handled_in_its_place() -> None:
    """The job is saved before it is awarded, the award before it starts."""
    net = NodeNet("a")
    net.submit("a", batch())
    box = net.boxes["a"]
    assert list(box.running)
    assert [message for peer, message in box.sent if peer == "a"] == []


def test_a_record_that_is_refused_here_does_not_end_the_node() -> None:
    """Whatever a job's records hold, its coordinator may come to award it to itself."""
    net = NodeNet("a", "b")
    net.drop = lambda sender, to, message: isinstance(message, Announce)
    net.submit("a", batch(on=["a", "b"], task=queue(60)))
    net.run(0.01)
    net.held("a").spec_data = b"garbage"
    net.run(1.0)
    told = [tell for tell in net.told("a", "peer.malformed") if tell.peer == "a"]
    assert told
    assert net["a"].messaging.malformed[PeerId("a")] >= 1
