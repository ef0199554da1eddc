"""The watch over results at a broker notices what is lost, changed, early or out of order."""

from __future__ import annotations

from random import Random

from protocol.effects import Save
from protocol.ids import JobId
from protocol.outbox import Message, Outbox
from protocol.sim.broker import Receipt, SimBroker
from protocol.sim.brokerwatch import BrokerWatch
from protocol.sim.run import build
from protocol.sim.trace import Trace

J = JobId("j" * 32)


class Watched:
    """A watch, and an outbox whose rows it sees."""

    def __init__(self) -> None:
        self.world = build("watch", 2, Random(1), Trace(None))
        self.broker = self.world.broker = SimBroker(self.world.heap, Random(2))
        self.found: list[str] = []
        self.watch = BrokerWatch(self.world, lambda device, text: self.found.append(text))
        self.outbox = Outbox()

    def saves(self, *ids: str) -> None:
        for id in ids:
            row = self.outbox.add(Message(id, "home", J, "t", id.encode()))
            self.watch.committed(self.world.devices[0], Save((row,)))

    def arrives(self, id: str, payload: bytes | None = None) -> None:
        payload = id.encode() if payload is None else payload
        self.broker.received.append(Receipt(0, id, "t", payload))
        self.watch.committed(self.world.devices[0], Save(()))


def test_what_arrives_in_order_even_twice_is_well() -> None:
    watched = Watched()
    watched.saves("a", "b")
    for id in ("a", "a", "b", "a"):
        watched.arrives(id)
    assert watched.found == [] and watched.watch.unrest() == []


def test_what_did_not_come_is_unrest() -> None:
    watched = Watched()
    watched.saves("a")
    assert watched.watch.unrest() == [(0, "message a has not come")]
    watched.world.devices[0].buried = True
    assert watched.watch.unrest() == []


def test_a_later_one_of_a_job_may_not_come_first() -> None:
    watched = Watched()
    watched.saves("a", "b")
    watched.arrives("b")
    watched.arrives("a")
    assert watched.found == ["a came after a later one of its job"]


def test_two_messages_of_one_id_and_one_before_its_save_are_found() -> None:
    watched = Watched()
    watched.saves("a")
    watched.arrives("a")
    watched.arrives("a", b"another")
    watched.arrives("z")
    assert watched.found == [
        "two messages have the id a",
        "z was published before it was durable",
    ]
