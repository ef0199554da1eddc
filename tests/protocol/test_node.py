"""node: one entry for everything, and nothing from outside that makes it raise or spin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import inf
from random import Random
from typing import get_args

import pytest
from msgspec import Struct, inspect

from protocol.bounds import INT_MAX
from protocol.config import CoordinationConfig, NodeConfig, PolicyConfig
from protocol.effects import DropVolumes, RemoveTask, Save, Send
from protocol.events import (
    Booted,
    FactsSampled,
    ForgetRequested,
    FrameReceived,
    GossipReceived,
    LoopLagged,
    PeerDisconnected,
    ShutdownRequested,
    TaskEnded,
    TaskStarted,
)
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.loss import LOST, NOTICED
from protocol.messages import Facts, JobQuery, Message, Ping
from protocol.node import SWEEP_S, Node
from protocol.records import Fence, Role, Verdict
from protocol.roster import State
from protocol.sim.cron import EverySeconds
from protocol.wire import dumps, encode_message, seal
from tests.protocol.jobs import Book, at, fence
from tests.protocol.nodenet import NodeNet, batch, queue, retry

# ---- the life of a node -----------------------------------------------------------------------


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
    assert [(each.bucket, each.key) for each in net["a"].unreadable] == [("job", net.job())]
    assert [each.bucket for each in net["b"].unreadable] == ["job", "execution"]
    (left,) = net.told("a", "agent.left-aside")
    assert left.text.startswith(f"left aside, and kept as it is: job {net.job()}: ")
    assert net.boxes["a"].disk["job"][net.job()] == b"garbage"
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


def test_an_owner_may_name_authors_by_their_certificates() -> None:
    choosy = NodeConfig(policy=PolicyConfig(authors=("a",)))
    net = NodeNet("a", "b", "c", configs={"b": choosy})
    net.submit("a", batch(on=["b"]))
    net.submit("c", batch(on=["b"], task=queue(60)), "other")
    net.run(0.5)
    assert net.executor() == "b"
    assert net.executors(job=net.job("other")) == []
    assert "jobs of c are not taken here" in net.told("c", "job.waiting")[0].text


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


def test_a_late_loop_is_taken_for_our_own_trouble() -> None:
    net = NodeNet("a", "b")
    assert net.handle("a", LoopLagged(3.0)) == []
    assert net["a"].membership._health.level > 1.0


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


def test_news_of_tasks_nobody_knows_is_nothing() -> None:
    net = NodeNet("a")
    key = ExecutionId("a" * 32)
    assert net.handle("a", TaskStarted(key)) == []
    assert net.handle("a", TaskEnded(key, 0)) == []
    assert net.handle("a", PeerDisconnected(PeerId("nobody"))) == []


# ---- whatever comes ---------------------------------------------------------------------------


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
        node.views.peers(net.clock(name))
        for held in node.jobs.values():
            node.views.job(held)
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
