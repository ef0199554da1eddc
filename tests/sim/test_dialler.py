"""Links of a device: kept ones are dialled again, others are made for a message and closed."""

from __future__ import annotations

from random import Random
from typing import cast

from protocol.effects import Dial
from protocol.events import PeerDisconnected
from protocol.ids import PeerId
from protocol.messages import Ping
from protocol.sim.device import Device
from protocol.sim.dialler import Dialler
from protocol.sim.heap import Heap
from protocol.sim.network import IDLE_S, Network
from protocol.sim.trace import Trace
from protocol.sim.world import World

PEERS = (PeerId("one"), PeerId("two"))


class Port:
    """A device without a node: nobody but its dialler acts."""

    host_up = responsive = listening = meshed = True
    slowness = 0.0

    def __init__(self, world: World, index: int) -> None:
        self.index = index
        self.dialler = Dialler(world, index, world.heap.after, self.lost)
        self.heard: list[bytes] = []
        self.told: list[PeerDisconnected] = []

    def lost(self, event: PeerDisconnected) -> None:
        self.told.append(event)

    def hear(self, sender: int, frame: bytes) -> None:
        self.heard.append(frame)

    def hear_gossip(self, frame: bytes) -> None: ...

    def connected(self, other: int) -> None:
        self.dialler.connected(PEERS[other])

    def disconnected(self, other: int, refused: bool) -> None:
        self.dialler.lost(PEERS[other])

    def dial_failed(self, other: int) -> None:
        self.dialler.lost(PEERS[other])


def _pair() -> tuple[World, Port, Port]:
    heap = Heap()
    world = World(heap, Network(heap, Random(1), []), Trace(), Random(2), "lab")
    ports = Port(world, 0), Port(world, 1)
    world.network.ports += ports
    world.by_peer = dict(zip(PEERS, cast("tuple[Device, Device]", ports), strict=True))
    world.network.start()
    return world, *ports


def test_a_kept_link_is_made_and_made_again() -> None:
    world, mine, theirs = _pair()
    mine.dialler.keep(Dial(PEERS[1], ("address",)))
    world.heap.run(1.0)
    assert world.network.stands(0, 1)
    theirs.listening = theirs.responsive = False
    world.network.process_gone(1)
    world.heap.run(1.4)
    assert world.network.stands(0, 1)  # it is not sure yet
    world.heap.run(20.0)
    assert not world.network.stands(0, 1)
    theirs.listening = theirs.responsive = True
    world.heap.run(45.0)
    assert world.network.stands(0, 1)
    world.heap.run(45.0 + 2 * IDLE_S)
    assert world.network.stands(0, 1)


def test_a_link_that_is_kept_no_longer_is_closed() -> None:
    world, mine, _ = _pair()
    mine.dialler.keep(Dial(PEERS[1], ("address",)))
    world.heap.run(1.0)
    mine.dialler.keep(Dial(PEERS[1], ()))
    mine.dialler.keep(Dial(PEERS[1], ()))
    world.heap.run(30.0)
    assert not world.network.stands(0, 1)
    assert not world.network.stands(1, 0)
    assert mine.told == [PeerDisconnected(PEERS[1])]


def test_a_kept_link_that_is_hung_up_comes_back() -> None:
    world, mine, _ = _pair()
    mine.dialler.keep(Dial(PEERS[1], ("address",)))
    world.heap.run(1.0)
    mine.dialler.hang_up(PEERS[1])
    mine.dialler.hang_up(PEERS[1])
    assert not world.network.stands(0, 1)
    world.heap.run(5.0)
    assert world.network.stands(0, 1)
    assert len(mine.told) == 1


def test_a_message_makes_a_link_where_the_address_is_known() -> None:
    world, mine, theirs = _pair()
    mine.dialler.send(PEERS[1], Ping(1), known=False)
    mine.dialler.send(PEERS[0], Ping(1), known=True)
    mine.dialler.send(PeerId("stranger"), Ping(1), known=True)
    world.heap.run(1.0)
    assert not world.network.stands(0, 1)
    mine.dialler.send(PEERS[1], Ping(2), known=True)
    mine.dialler.send(PEERS[1], Ping(3), known=True)
    world.heap.run(2.0)
    assert len(theirs.heard) == 2
    world.heap.run(2.0 + IDLE_S)
    assert not world.network.stands(0, 1)
    assert not world.network.stands(1, 0)
