"""The steward: what a node has to do with standing jobs, put together for the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from protocol.clock import Now
from protocol.config import NodeConfig
from protocol.effects import Bucket, Effect
from protocol.events import ControlRequested, SubmitRequested
from protocol.ids import PeerId
from protocol.records import Certificate, Keyring
from protocol.standing import Standing, SyncMessage
from protocol.standingacts import StandingActs
from protocol.standingnews import tells_of


class Steward:
    """Composes the records every peer holds, and what people do to them."""

    def __init__(
        self,
        keyring: Keyring,
        certificate: Certificate,
        config: NodeConfig,
        rng: Random,
        name_of: Callable[[PeerId], str],
    ) -> None:
        self._me = keyring.peer
        self._name_of = name_of
        self.standing = Standing(keyring, config.standing, rng, config.membership.sync_period_s)
        self.acts = StandingActs(keyring, certificate, self.standing, name_of)

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[str]:
        """Rebuild from disk; returns the keys of rows that could not be read."""
        return self.standing.restore(disk)

    # ---- events ------------------------------------------------------------------------------

    def boot(self, now: Now) -> list[Effect]:
        self.standing.boot(now)
        return []

    def submit(self, event: SubmitRequested, now: Now) -> list[Effect]:
        return self.acts.submit(event, now)

    def control(self, event: ControlRequested, now: Now) -> list[Effect]:
        return self.acts.control(event, now)

    def connected(self, peer: PeerId, now: Now) -> list[Effect]:
        return self.standing.on_connected(peer, now)

    def disconnected(self, peer: PeerId) -> list[Effect]:
        self.standing.on_disconnected(peer)
        return []

    def receive(self, sender: PeerId, message: SyncMessage, now: Now) -> list[Effect]:
        """Handle one of domain 1. Raises RemoteProtocolError."""
        return self.standing.receive(sender, message, now)

    # ---- what follows from what --------------------------------------------------------------

    def news(self, now: Now) -> list[Effect]:
        """Pass on what was merged and what others have confirmed."""
        effects: list[Effect] = []
        merged, self.standing.news[:] = list(self.standing.news), []
        for each in merged:
            effects += tells_of(each, self._me, self._name_of)
        confirmed, self.standing.confirmed[:] = list(self.standing.confirmed), []
        for job, peer in confirmed:
            effects += self.acts.confirmed(job, peer)
        return effects

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(self.standing.deadline, self.acts.deadline)

    def on_deadline(self, now: Now) -> list[Effect]:
        return [*self.standing.on_deadline(now), *self.acts.on_deadline(now)]
