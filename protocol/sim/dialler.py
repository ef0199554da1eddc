"""The transport's part of a simulated device: links that are kept, dialled and dialled again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.effects import Dial
from protocol.events import PeerDisconnected
from protocol.ids import PeerId
from protocol.sim.world import World
from protocol.wire import encode_message

REDIAL_FIRST_S: Final = 0.5
REDIAL_MAX_S: Final = 15.0


@dataclass(slots=True)
class Dialler:
    """Of one device. `soon` calls something in the same life of its agent, after a while."""

    world: World
    index: int
    soon: Callable[..., None]
    disconnected: Callable[[PeerDisconnected], None]
    kept: dict[PeerId, float] = field(default_factory=dict)  # the next pause of each

    def clear(self) -> None:
        self.kept.clear()

    def keep(self, dial: Dial) -> None:
        """Keep a link from now on; without addresses: keep it no longer."""
        target = self.world.by_peer.get(dial.peer)
        if target is None or target.index == self.index:
            return
        if dial.addresses:
            self.kept[dial.peer] = REDIAL_FIRST_S
            self.world.network.keep(self.index, target.index)
            self.redial_now(dial.peer)
        elif self.kept.pop(dial.peer, None) is not None:
            self.hang_up(dial.peer)

    def hang_up(self, peer: PeerId) -> None:
        """Close; a link that is kept is dialled again by and by."""
        target = self.world.by_peer.get(peer)
        if target is None or not self.world.network.stands(self.index, target.index):
            return
        self.world.network.hang_up(self.index, target.index)
        self.soon(0.0, self.disconnected, PeerDisconnected(peer))
        self.lost(peer)

    def connected(self, peer: PeerId) -> None:
        if peer in self.kept:
            self.kept[peer] = REDIAL_FIRST_S
            self.world.network.keep(self.index, self.world.by_peer[peer].index)

    def lost(self, peer: PeerId) -> None:
        """The link ended or could not be made: again after a pause, twice as long each time."""
        pause = self.kept.get(peer)
        if pause is not None:
            self.kept[peer] = min(2 * pause, REDIAL_MAX_S)
            self.soon(pause * self.world.rng.uniform(0.7, 1.3), self.redial_now, peer)

    def redial_now(self, peer: PeerId) -> None:
        other = self.world.by_peer[peer].index
        if peer in self.kept and not self.world.network.stands(self.index, other):
            self.world.network.dial(self.index, other)

    def send(self, peer: PeerId, message: msgspec.Struct, known: bool) -> None:
        """Send where a link stands, else dial if the address is `known` or the link is kept."""
        network = self.world.network
        target = self.world.by_peer.get(peer)
        if target is None or target.index == self.index:
            return
        frame = encode_message(message)
        if network.stands(self.index, target.index):
            network.send(self.index, target.index, frame)
        elif known or peer in self.kept:
            network.dial(self.index, target.index, frame)
