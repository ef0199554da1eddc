"""node: one entry for everything, and nothing from outside that makes it raise or spin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import inf
from random import Random
from typing import get_args

import msgspec
import pytest
from msgspec import Struct, inspect

from protocol.bounds import INT_MAX, LETTER_BYTES_MAX
from protocol.config import CoordinationConfig, MembershipConfig, NodeConfig, PolicyConfig
from protocol.effects import DropVolumes, RemoveTask, Save, Send, Tell
from protocol.events import (
    Booted,
    FactsSampled,
    ForgetRequested,
    FrameReceived,
    GossipReceived,
    LoopLagged,
    PeerDisconnected,
    SelfDescribed,
    ShutdownRequested,
    TaskEnded,
    TaskStarted,
)
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.loss import LOST, NOTICED
from protocol.messages import (
    Ack,
    Announce,
    Facts,
    JobQuery,
    Letter,
    Message,
    PathQuery,
    PathReport,
    Ping,
    Relayed,
    Rumours,
    SyncRoot,
)
from protocol.node import SWEEP_S, Node
from protocol.records import Fence, Role, Verdict
from protocol.relay import CONTEXT, Relay
from protocol.resources import Resources
from protocol.roster import State
from protocol.sim.cron import EverySeconds
from protocol.wire import decode_as, decode_message, dumps, encode_message, seal
from tests.protocol.jobs import Book, at, fence
from tests.protocol.nodenet import NodeNet, batch, queue, retry

# ---- the life of a node


def test_a_new_node_waits_for_its_first_event() -> None:
    net = NodeNet("a")
    box = net.boxes["a"]
    node = Node(box.keyring, NodeConfig(), Random(1), {}, EverySeconds())
    assert node.deadline == 0.0
    node.handle(Booted(), at(5.0))
    assert node.deadline <= 5.0 + SWEEP_S
    assert node.unreadable == []


def test_a_node_remembers_what_its_disk_holds() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    incarnation = net["b"].membership.incarnation
    net.kill("b")
    net.run(0.5)
    net.boot("b")
    assert net.held("b").coordinator == "a"
    assert net["b"].membership.incarnation > incarnation
    assert list(net["b"].executor.executions) == list(net.boxes["b"].running)
    net.run(1.0)
    net.end("b")
    net.run(1.0)
    assert net.told("a", "job.completed")


def test_rows_that_cannot_be_read_are_named_and_left_alone() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    for name in "ab":
        disk = net.boxes[name].disk
        for bucket in ("job", "execution"):
            for key in disk.get(bucket, {}):
                disk[bucket][key] = b"garbage"
        net.kill(name)
    net.run(1.0)
    net.boot("a")
    net.boot("b")
    assert net["a"].unreadable == [net.job()]
    assert len(net["b"].unreadable) == 2
    assert net["a"].jobs == {}


def test_volumes_of_jobs_before_a_lost_database_stay_for_a_week() -> None:
    """Its coordinator still sends the slot here, where its volume is."""
    net = NodeNet("a")
    before = JobId("before")
    net.kill("a")
    net.boxes["a"].disk = {"meta": {LOST: b"missing"}}
    net.boot("a")
    assert NOTICED in net.boxes["a"].disk["meta"]
    net.kill("a")
    net.boot("a")
    assert net["a"].keeps_volumes(before, standing=False)
    clock = net.clock("a")
    for days, kept in ((6.9, True), (7.1, False)):
        later = dataclasses.replace(clock, wall=clock.wall + days * 86_400.0)
        dropped = DropVolumes() in net["a"].handle(FactsSampled(Facts()), later)
        assert (net["a"].keeps_volumes(before, standing=False), dropped) == (kept, not kept)
    assert net["a"].keeps_volumes(before, standing=True), "a standing job is heard of again"


def test_a_device_without_compute_offers_no_engine() -> None:
    net = NodeNet("a", "b", roles={"a": (Role.SUBMIT,)})
    advert = net["a"].advert
    assert advert is not None
    assert advert.engines == ()
    net.submit("a", batch(on=["a"], task=queue(0)))
    net.run(0.5)
    assert net.held("a").done
    assert "engine process is not here" in net.told("a", "execution.ended")[0].text


def test_what_a_device_offers_may_change() -> None:
    net = NodeNet("a")
    net.handle("a", SelfDescribed((), {"zone": "attic"}, 100, 1 << 20, 0))
    assert net["a"].executor.bidder.capacity == Resources(100, 1 << 20, 0, 0)
    assert net["a"].executor.bidder.labels == {"zone": "attic", "name": "a", "shoal/peer": "a"}


def test_a_change_of_labels_is_acted_on_within_seconds() -> None:
    """A job that nobody fits waits longer and longer, but not when somebody changes."""
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["kitchen"], task=queue(3600)))
    net.run(120.0)
    assert net.executors() == []
    described = net.boxes["b"].described
    net.handle("b", dataclasses.replace(described, labels={"name": "kitchen"}))
    assert net.until(lambda: net.executors() == ["b"]) < 2.0
    net.submit("a", batch(on=["attic"], task=queue(3600)), "other")
    net.run(120.0)
    own = dataclasses.replace(net.boxes["a"].described, labels={"name": "attic"})
    net.handle("a", own)
    assert net.until(lambda: net.executors(job=net.job("other")) == ["a"]) < 2.0


def test_a_draining_device_is_not_asked_and_what_runs_there_ends_there() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    drained = dataclasses.replace(net.boxes["b"].described, draining=True)
    net.handle("b", drained)
    assert [tell.text for tell in net.told("b", "self.draining")] == [
        "draining: services move away, the rest ends"
    ]
    net.run(0.5)
    net.submit("a", batch(on=["b"], task=queue(3600)), "late")
    net.run(5.0)
    assert net.executors(job=net.job("late")) == []
    (tell,) = [tell for tell in net.told("a", "job.waiting") if tell.job == net.job("late")]
    assert tell.text.startswith("waiting: b: draining: it takes no new work; a: label name")
    net.end("b")
    net.run(0.5)
    assert net.told("a", "job.completed")
    net.handle("b", dataclasses.replace(drained, draining=False))
    assert net.told("b", "self.undrained")
    assert net.until(lambda: net.executors(job=net.job("late")) == ["b"]) < 2.0


def test_a_device_that_drains_sends_its_own_jobs_elsewhere() -> None:
    net = NodeNet("a", "b")
    net.handle("a", dataclasses.replace(net.boxes["a"].described, draining=True))
    net.submit("a", batch())
    net.run(0.5)
    assert net.executor() == "b"


def test_an_owner_may_name_authors_by_their_certificates() -> None:
    choosy = NodeConfig(policy=PolicyConfig(authors=("a",)))
    net = NodeNet("a", "b", "c", configs={"b": choosy})
    net.submit("a", batch(on=["b"]))
    net.submit("c", batch(on=["b"], task=queue(60)), "other")
    net.run(0.5)
    assert net.executor() == "b"
    assert net.executors(job=net.job("other")) == []
    assert "jobs of c are not taken here" in net.told("c", "job.waiting")[0].text


def test_what_waits_for_its_bucket_keeps_more_of_its_kind_away() -> None:
    net = NodeNet("a")
    hindrance = net["a"].executor.bidder.hindrance
    net.handle("a", FactsSampled(Facts(), backlog="much waits"))
    assert hindrance(("bucket minio.lan/results:rw",)) == "busy: much waits"
    net.handle("a", FactsSampled(Facts()))
    assert hindrance(("bucket minio.lan/results:rw",)) == ""


def test_the_time_of_day_is_that_of_the_device() -> None:
    hour = int(NodeNet("x").clock("x").wall) // 3600 % 24
    hours = f"{hour:02}:00-{hour:02}:59"
    config = NodeConfig(policy=PolicyConfig(hours=(hours,)))
    net = NodeNet("a", configs={"a": config})
    bidder = net["a"].executor.bidder
    assert bidder.unwell() == ""
    net.handle("a", FactsSampled(Facts(), utc_offset_s=-12 * 3600))
    assert "([accept] hours" in bidder.unwell()
    net.boxes["a"].trusted = False
    net.handle("a", FactsSampled(Facts()))
    assert "does not know the time" in bidder.unwell()


def test_a_peer_is_forgotten_on_request_once_it_is_gone() -> None:
    net = NodeNet("a", "b")
    net.handle("a", ForgetRequested(1, PeerId("b")))
    assert net.reply("a", 1).error == "b is alive: only a peer that is gone can be forgotten"
    net.kill("b")
    net.run(1.0)
    net.handle("a", ForgetRequested(2, PeerId("b")))
    assert net.reply("a", 2).value == {"peer": "b", "name": "b"}
    assert [tell.text for tell in net.told("a", "peer.forgotten")] == ["b is remembered no longer"]
    assert "b" not in net.boxes["a"].disk["peer"]
    assert net["a"].membership.peers() == []


def test_a_shutdown_is_told_to_the_others() -> None:
    net = NodeNet("a", "b", "c")
    net.handle("b", ShutdownRequested())
    net.handle("c", ShutdownRequested(30.0))
    net.run(0.1)
    states = {name: net["a"].membership.peer(PeerId(name)) for name in "bc"}
    assert [peer.state for peer in states.values() if peer] == [State.LEFT, State.RESTARTING]


def test_who_leaves_is_replaced_and_who_restarts_is_waited_for() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.5)
    first = net.executor()
    net.handle(first, ShutdownRequested(30.0))
    net.kill(first)
    net.run(2.0)
    assert net.led("a").plans[0].failures == 0
    net.boot(first)
    net.run(1.0)
    net.handle(first, ShutdownRequested())
    net.kill(first)
    net.boxes[first].running.clear()
    net.run(2.0)
    assert net.executor() != first


def test_a_late_loop_is_taken_for_our_own_trouble() -> None:
    net = NodeNet("a", "b")
    assert net.handle("a", LoopLagged(3.0)) == []
    assert net["a"].membership._health.level > 1.0


# ---- messages to oneself, and old things


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
    assert net["a"].malformed[PeerId("a")] >= 1


def test_old_executions_and_jobs_are_swept() -> None:
    kept = CoordinationConfig(retain_s=10.0, executions_kept=0)
    net = NodeNet("a", configs={"a": NodeConfig(coordination=kept)})
    net.submit("a", batch())
    net.run(0.1)
    (execution,) = net.boxes["a"].running
    net.end("a")
    net.run(2 * SWEEP_S + 1)
    assert net["a"].jobs == {}
    assert net["a"].executor.executions == {}
    assert execution not in net.boxes["a"].ended


def test_an_untrusted_clock_sweeps_nothing_by_age() -> None:
    kept = CoordinationConfig(retain_s=10.0)
    net = NodeNet("a", configs={"a": NodeConfig(coordination=kept)})
    net.boxes["a"].trusted = False
    net.submit("a", batch())
    net.run(0.1)
    net.end("a")
    net.run(2 * SWEEP_S + 1)
    assert len(net["a"].executor.executions) == 1


# ---- from outside


def test_garbage_is_counted_and_told_the_first_tenth_and_hundredth_time() -> None:
    net = NodeNet("a", "b")
    told = []
    for number in range(1, 121):
        effects = net.handle("a", FrameReceived(PeerId("b"), b"garbage"))
        told += [number for effect in effects if isinstance(effect, Tell)]
    assert told == [1, 10, 100]
    assert net["a"].malformed[PeerId("b")] == 120


def test_the_count_of_malformed_messages_is_bounded() -> None:
    config = NodeConfig(membership=MembershipConfig(peers_max=3))
    net = NodeNet("a", configs={"a": config})
    for number in range(10):
        net.handle("a", FrameReceived(PeerId(f"p{number}"), b"garbage"))
    assert len(net["a"].malformed) <= 3


def test_gossip_carries_rumours_alone() -> None:
    net = NodeNet("a", "b")
    assert net.handle("a", GossipReceived(encode_message(Ping(1)))) == []
    assert net["a"].malformed == {}
    (tell,) = net.handle("a", GossipReceived(b"garbage"))
    assert isinstance(tell, Tell)
    assert tell.text.startswith("gossip sent something malformed (1 so far)")
    net.handle("a", GossipReceived(encode_message(Rumours((b"garbage",)))))


def test_a_newer_version_may_say_more() -> None:
    net = NodeNet("a", "b")
    for frame in (dumps([9999, "later"]), encode_message(SyncRoot(2, b"root"))):
        assert net.handle("a", FrameReceived(PeerId("b"), frame)) == []
        assert net.handle("a", GossipReceived(frame)) == []
    assert net["a"].malformed == {}


def test_news_of_tasks_nobody_knows_is_nothing() -> None:
    net = NodeNet("a")
    key = ExecutionId("a" * 32)
    assert net.handle("a", TaskStarted(key)) == []
    assert net.handle("a", TaskEnded(key, 0)) == []
    assert net.handle("a", PeerDisconnected(PeerId("nobody"))) == []


def test_a_query_finds_what_begins_so() -> None:
    net = NodeNet("a", "b")
    for key in ("one", "two"):
        net.submit("a", batch(key, on=["a"]), key)
        net.run(0.5)
    node = net["a"]
    assert [view["name"] for view in node._views("", 9, False, net.clock("a"))] == ["two", "one"]
    assert [view["name"] for view in node._views("", 1, False, net.clock("a"))] == ["two"]
    assert [view["name"] for view in node._views(net.job("one")[:9], 9, False, net.clock("a"))] == [
        "one"
    ]
    assert node.view(net.held("a", "one"))["why"]


# ---- whatever comes


class Forger:
    """Messages of every kind with values that fit their types, and mostly mean something here."""

    def __init__(self, net: NodeNet, rng: Random) -> None:
        self.net, self.rng = net, rng
        self.book = Book(net.held("a").job, author="a", shoal=net.shoal)
        self.peers = ["a", "b", "c", "d", "zz", "0"]
        self.jobs = [net.job(), net.job("other"), "a" * 32]
        self.others = [self.book.revision, "b" * 32]

    def messages(self, count: int) -> Iterator[Message]:
        kinds = [kind for kind in get_args(Message)]
        for _ in range(count):
            yield self._struct(self.rng.choice(kinds))

    def _struct(self, kind: type[Struct]) -> Struct:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        values = [self._value(field.type, field.name) for field in info.fields]
        return kind(*values) if kind is not Fence else self._fence()

    def _value(self, kind: inspect.Type, name: str) -> object:
        rng = self.rng
        match kind:
            case inspect.IntType():
                low = kind.ge if kind.ge is not None else 0
                high = kind.le if kind.le is not None else (kind.lt or INT_MAX) - 1
                real = [*self._numbers(name), low, high, 1, 2, 3]
                return min(max(int(rng.choice(real)), int(low)), int(high))
            case inspect.StrType():
                return self._text(kind, name)
            case inspect.BytesType():
                most = kind.max_length or 10**6
                return rng.choice([each for each in self._bytes() if len(each) <= most])
            case inspect.BoolType():
                return rng.random() < 0.5
            case inspect.StructType():
                return self._struct(kind.cls)
            case inspect.VarTupleType():
                return tuple(self._value(kind.item_type, name) for _ in range(rng.randrange(4)))
            case inspect.TupleType():
                return tuple(self._value(item, name) for item in kind.item_types)
            case inspect.UnionType():
                return self._value(rng.choice(kind.types), name)
            case inspect.NoneType():
                return None
        raise AssertionError(kind)

    def _numbers(self, name: str) -> list[int]:
        led = self.net.coordination("a").led.get(self.net.job())
        if name == "auction" and led is not None and led.auction is not None:
            return [led.auction.id] * 5
        return {"slot": [0, 0, 1, 1], "domain": [0, 0, 0], "term": [1, 1, 2]}.get(name, [])

    def _text(self, kind: inspect.StrType, name: str) -> str:
        rng = self.rng
        if kind.pattern is not None:
            pool = {"job": self.jobs, "jobs": self.jobs, "revision": self.others}.get(name)
            if pool is not None:
                return rng.choice(pool)
            if "64}" in kind.pattern and "1,64" not in kind.pattern:
                return "f" * 64
            return rng.choice(self.jobs if "32}" in kind.pattern else self.peers)
        words = ["kept", "over", "unknown", "accepted", "superseded", "process", "gt", "in", "name"]
        return rng.choice(["", "x" * (kind.max_length or 100), "ä\x1b[2J", *words])

    def _fence(self) -> Fence:
        rng = self.rng
        slot = self.net.held("a").slots[rng.randrange(2)]
        real = [slot.assignment.fence] * 4 if slot.assignment is not None else []
        return rng.choice(
            [
                *real,
                fence(0, "a", 0),
                fence(1, "a", 2),
                fence(1, "c", 2),
                fence(INT_MAX, "zz", INT_MAX),
            ]
        )

    def _bytes(self) -> list[bytes]:
        book, of, by = self.book, self._fence(), self.rng.choice(["a", "b", "c", "d"])
        verdict = self.rng.choice(list(Verdict))
        records = [
            book.assignment(of, self.rng.randrange(3), self.rng.choice(self.peers)),
            book.result(of, verdict, self.rng.randrange(3), by),
            book.acceptance(of, verdict, self.rng.randrange(2), b"garbage"),
            book.acceptance(of, Verdict.FAULT, self.rng.randrange(2)),
            book.spec,
        ]
        controls = [book.controlled(by, self.rng.randrange(3))]
        garbage = [b"", b"garbage", dumps({"id": "x"}), dumps({"id": self.net.job()}), b"x" * 20]
        return [*(seal(record, book.keyring(by)) for record in records), *controls, *garbage]


@pytest.mark.parametrize("seed", range(30))
def test_no_message_of_a_member_makes_a_node_raise_or_spin(seed: int) -> None:
    """`d` says whatever it likes to all, `c` is believed to be a holder; both have certificates."""
    rng = Random(seed)
    net = NodeNet("a", "b", "c", "d", roles={"d": (Role.COMPUTE,)})
    net.submit("a", batch(count=2, on=["b", "c"], task=queue(60), **retry(4, "lost", "failure")))
    net.run(rng.random())
    for message in Forger(net, rng).messages(150):
        for to in "abc":
            net.send(rng.choice("cd"), to, message)
        net.run(rng.choice([0.0, 0.01, 0.5]))
        for name in "abc":
            assert net[name].deadline > -inf
    net.run(90.0)  # nobody is woken for ever, and nothing is owed for ever
    for name in "abc":
        node = net[name]
        node.peer_views(net.clock(name))
        for held in node.jobs.values():
            node.view(held)
        request = net.query(name, detail=True)
        net.run(1.5)
        assert net.answered(name, request)


def test_no_bytes_make_a_node_raise() -> None:
    rng = Random(3)
    net = NodeNet("a", "b")
    frame = encode_message(JobQuery(1, "abc", 5))
    for _ in range(2000):
        data = bytearray(frame)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        net.handle("a", FrameReceived(PeerId("b"), bytes(data)))
        net.handle("a", GossipReceived(bytes(data)))


def test_what_is_answered_is_on_disk_before() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"], task=queue(9)))
    effects = net.boxes["a"].sent
    assert effects
    job: JobId = net.job()
    assert job in net.boxes["a"].disk["spec"]
    assert isinstance(net.handle("a", FrameReceived(PeerId("b"), encode_message(Ping(1))))[0], Send)
    assert not any(isinstance(each, Save | RemoveTask) for _, each in effects)


# ---- through a common neighbour


class Natted(NodeNet):
    """No two of those whose names begin with n are connected; each dial between them fails."""

    def reachable(self, one: str, other: str) -> bool:
        return super().reachable(one, other) and not (one[0] == other[0] == "n")


def natted(*names: str) -> Natted:
    net = Natted(*names)
    net.run(5.0)
    return net


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


def test_a_neighbour_that_relays_is_named_in_the_view() -> None:
    net = natted("n1", "n2", "r")
    views = {view["id"]: view for view in net["n1"].peer_views(net.clock("n1"))}
    assert views["n2"]["via"] == "r" and not views["n2"]["connected"]
    assert views["r"]["via"] == "" and views["n1"]["via"] == ""


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
    assert net["n2"].malformed == {PeerId("n1"): 3}, "its author signed it"


def test_a_letter_of_an_unknown_kind_is_dropped_in_silence() -> None:
    net = natted("n1", "n2", "r")
    relayed = letter_to(net, Ping(1))
    letter = msgspec.structs.replace(
        decode_as(relayed.letter, Letter), frame=dumps([9_999, "new"]), number=10_000
    )
    body = encode_message(letter)
    signature = net.boxes["n1"].keyring.sign(CONTEXT + body)
    net.send("r", "n2", Relayed(body, signature))
    assert not net["n2"].malformed and net["n2"].relay.highest(PeerId("n1")) == 10_000


def test_a_forged_letter_is_held_against_who_brought_it() -> None:
    net = natted("n1", "n2", "r")
    forged = msgspec.structs.replace(letter_to(net, Ping(1)), signature=b"x")
    net.send("r", "n2", forged)
    assert net["n2"].malformed == {PeerId("r"): 1}


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
        routed = node._routed(send, net.clock("n1"))
        assert isinstance(routed, Send) and routed.peer == to
