"""The simulated network: what arrives, in which order, and who is told of what."""

from dataclasses import dataclass, field
from random import Random

import pytest

from protocol.errors import RemoteProtocolError
from protocol.messages import Ping
from protocol.sim.heap import Heap
from protocol.sim.network import Conditions, Network, garbled
from protocol.wire import decode_message, encode_message


@dataclass
class Recorder:
    """A device that only writes down what it is told."""

    index: int
    heap: Heap
    host_up: bool = True
    listening: bool = True
    responsive: bool = True
    meshed: bool = True
    slowness: float = 0.0
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    gossip: list[bytes] = field(default_factory=list)
    links: list[tuple[str, int]] = field(default_factory=list)

    def hear(self, sender: int, frame: bytes) -> None:
        self.heard.append((sender, frame))

    def hear_gossip(self, frame: bytes) -> None:
        self.gossip.append(frame)

    def connected(self, other: int) -> None:
        self.links.append(("up", other))

    def disconnected(self, other: int, refused: bool) -> None:
        self.links.append(("refused" if refused else "down", other))

    def dial_failed(self, other: int) -> None:
        self.links.append(("failed", other))


def _net(count: int, seed: int = 1) -> tuple[Network, list[Recorder], Heap]:
    heap = Heap()
    ports = [Recorder(index, heap) for index in range(count)]
    network = Network(heap, Random(seed), list(ports))
    network.start()
    return network, ports, heap


def test_frames_wait_for_the_handshake_and_keep_their_order() -> None:
    network, ports, heap = _net(2)
    frames = [bytes([at]) for at in range(50)]
    for frame in frames:
        network.dial(0, 1, frame)
    heap.run(1.0)
    assert ports[1].heard == [(0, frame) for frame in frames]
    assert ports[0].links == [("up", 1)]
    assert ports[1].links == [("up", 0)]
    assert network.traffic[0].frames == 50


def test_a_cut_link_brings_late_what_it_was_given() -> None:
    network, ports, heap = _net(2)
    network.dial(0, 1)
    heap.run(1.0)
    network.cut(0, 1)
    network.send(0, 1, b"late")
    network.send(1, 0, b"the other way")
    heap.run(10.0)
    assert ports[1].heard == []
    assert ports[0].heard == [(1, b"the other way")]
    network.heal(0, 1)
    heap.run(20.0)
    assert ports[1].heard == [(0, b"late")]


def test_a_dead_process_is_refused_and_a_dead_host_is_silent() -> None:
    network, ports, heap = _net(3)
    network.dial(0, 1)
    network.dial(0, 2)
    heap.run(1.0)
    ports[1].listening = ports[1].responsive = False
    network.process_gone(1)
    ports[2].host_up = ports[2].listening = ports[2].responsive = False
    network.power_gone(2)
    heap.run(5.0)
    assert ports[0].links == [("up", 1), ("up", 2), ("refused", 1)]
    assert network.stands(0, 2)
    network.dial(0, 1)
    heap.run(20.0)
    assert ports[0].links[-1] == ("failed", 1)


def test_a_host_that_is_back_resets_what_it_does_not_know() -> None:
    network, ports, heap = _net(2)
    network.dial(0, 1)
    heap.run(1.0)
    network.power_gone(1)
    network.send(0, 1, b"to an earlier life")
    heap.run(5.0)
    assert ports[1].heard == []
    assert ports[0].links == [("up", 1), ("down", 1)]


def test_gossip_reaches_everybody_over_several_hops_and_is_counted() -> None:
    network, ports, heap = _net(5)
    for index in range(4):  # a chain
        network.dial(index, index + 1)
    heap.run(1.0)
    network.gossip(0, b"rumour")
    heap.run(2.0)
    assert [port.gossip for port in ports] == [[], *[[b"rumour"]] * 4]
    assert [each.gossips for each in network.traffic] == [1, 2, 2, 2, 1]


def test_who_is_outside_the_mesh_hears_and_passes_on_no_gossip() -> None:
    network, ports, heap = _net(4)
    for index in range(3):
        network.dial(index, index + 1)
    heap.run(1.0)
    ports[2].meshed = False
    network.gossip(0, b"rumour")
    network.gossip(2, b"its own")
    heap.run(2.0)
    assert [port.gossip for port in ports] == [[], [b"rumour"], [], []]


def test_loss_duplication_and_reordering_happen() -> None:
    network, ports, heap = _net(2)
    network.dial(0, 1)
    heap.run(1.0)
    network.conditions = Conditions(loss=0.2, duplicate=0.2, reorder=0.2)
    for at in range(500):
        network.send(0, 1, at.to_bytes(2, "big"))
    heap.run(10.0)
    numbers = [int.from_bytes(frame, "big") for _, frame in ports[1].heard]
    assert 300 < len(set(numbers)) < 490
    assert len(numbers) > len(set(numbers))
    assert numbers != sorted(numbers)


def test_garbage_is_nothing_that_can_be_read() -> None:
    frame, rng = encode_message(Ping(7)), Random(3)
    for _ in range(200):
        with pytest.raises(RemoteProtocolError):
            decode_message(garbled(frame, rng))
