"""The fleet: the peers of the shoal as jobs see them, asked anew each time and so never stale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.ids import PeerId
from protocol.membership import Membership
from protocol.records import Advert, Certificate, Role
from protocol.roster import PRESENT, State

AWAY = (State.UNHEARD, State.DEAD, State.RESTARTING)


@dataclass(slots=True)
class Fleet:
    """This peer and the others. Membership alone says who is alive; here it is only read."""

    membership: Membership
    me: PeerId
    certificate: Certificate  # ours
    own_name: str
    advert: Advert | None = None  # ours, once the device was described

    # ---- who is there ------------------------------------------------------------------------

    def adverts(self) -> list[Advert]:
        """Of everybody alive, this peer included, by peer id."""
        adverts = [] if self.advert is None else [self.advert]
        for peer_id in self.membership.alive():
            peer = self.membership.peer(peer_id)
            if peer is not None and peer.advert is not None:
                adverts.append(peer.advert)
        return sorted(adverts, key=lambda advert: advert.peer)

    def expected(self) -> list[Advert]:
        """The same with those that are away and may come back, as they were when last heard."""
        away = [peer.advert for peer in self.membership.peers() if peer.state in AWAY]
        adverts = [*self.adverts(), *(advert for advert in away if advert is not None)]
        return sorted(adverts, key=lambda advert: advert.peer)

    def alive(self, peer_id: PeerId) -> bool:
        """Also one that has said that it comes back."""
        peer = self.membership.peer(peer_id)
        present = peer is not None and (peer.state in PRESENT or peer.state is State.RESTARTING)
        return present or peer_id == self.me

    def reachable(self, peer_id: PeerId) -> bool:
        peer = self.membership.peer(peer_id)
        return peer_id == self.me or (peer is not None and peer.state in PRESENT)

    def left(self, peer_id: PeerId) -> bool:
        """Whether it has said that it leaves for good."""
        peer = self.membership.peer(peer_id)
        return peer is not None and peer.state is State.LEFT

    def boot(self, peer_id: PeerId) -> bytes:
        """Which life of its agent's this is; empty where it is not connected, and so may be in
        another by now."""
        peer = self.membership.peer(peer_id)
        return peer.boot if peer is not None and peer.connected else b""

    def outlived(self, peer_id: PeerId, boot: bytes) -> bool:
        """Whether that life of its agent's is known to have ended without a goodbye."""
        peer = self.membership.peer(peer_id)
        if peer is None or not peer.boot or not boot:
            return False
        return boot not in (peer.boot, peer.goodbye)

    def connected(self, peer_id: PeerId) -> bool:
        peer = self.membership.peer(peer_id)
        return peer is not None and peer.connected

    def neighbours(self) -> list[PeerId]:
        """Who is alive and connected, by id."""
        return [peer for peer in self.membership.alive() if self.connected(peer)]

    def absent(self) -> list[PeerId]:
        """Who belongs here and is away: dead for now, or restarting; not who has left."""
        return [peer.id for peer in self.membership.peers() if peer.state in AWAY]

    def is_leaf(self, peer_id: PeerId) -> bool:
        """Whether it is on a metered link."""
        return self.membership.is_leaf(peer_id)

    # ---- who they are ------------------------------------------------------------------------

    def name(self, peer_id: PeerId) -> str:
        """For people."""
        if peer_id == self.me:
            return self.own_name
        peer = self.membership.peer(peer_id)
        return peer.name if peer is not None else peer_id[-8:]

    def certificate_of(self, peer_id: PeerId) -> Certificate | None:
        if peer_id == self.me:
            return self.certificate
        peer = self.membership.peer(peer_id)
        return peer.certificate if peer is not None else None

    # ---- who decides -------------------------------------------------------------------------

    def may_coordinate(self, peer_id: PeerId) -> bool:
        """A member with `role compute` alone runs what others decide, and decides nothing."""
        certificate = self.certificate_of(peer_id)
        return certificate is not None and certificate.holds(Role.SUBMIT)

    def coordinators(self, but: PeerId) -> list[PeerId]:
        """Who is alive and may coordinate, by peer id, except for one; leaves only if all are."""
        found = (advert.peer for advert in self.adverts() if advert.peer != but)
        return self._steady([peer for peer in found if self.may_coordinate(peer)])

    def leaders(self, me: PeerId, without: Sequence[PeerId] = ()) -> list[PeerId]:
        """The same with ourselves, `without` some others: all who know the same name the same."""
        others = [advert.peer for advert in self.adverts() if advert.peer != me]
        others = [peer for peer in others if peer not in without]
        return self._steady([peer for peer in (me, *others) if self.may_coordinate(peer)])

    def _steady(self, peers: list[PeerId]) -> list[PeerId]:
        return [peer for peer in peers if not self.is_leaf(peer)] or peers
