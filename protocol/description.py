"""Description: what the agent says of its device, and what of that the others hear."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from protocol.clock import CLOCK_LABEL, CLOCK_UNKNOWN, Now
from protocol.config import NodeConfig
from protocol.coordination import Coordination
from protocol.effects import Effect, Tell
from protocol.events import FactsSampled, SelfDescribed
from protocol.executor import Executor
from protocol.fleet import Fleet
from protocol.labels import matched_labels
from protocol.listening import fires_labels, switches_labels
from protocol.membership import Membership
from protocol.policy import minute_here
from protocol.records import Advert
from protocol.reporting import reporting_labels
from protocol.resources import Resources
from protocol.steward import Steward


@dataclass(slots=True)
class Description:
    """Its advert, made anew as soon as something in it is no longer so."""

    config: NodeConfig
    computes: bool  # it may run what others decide: else it offers no engine
    membership: Membership
    fleet: Fleet
    executor: Executor
    coordination: Coordination
    steward: Steward
    _described: SelfDescribed | None = None
    _clocked: bool = False  # whether the time was known then
    _deaf: dict[str, str] = field(default_factory=dict)  # what of brokers was not heard then

    def on_described(self, event: SelfDescribed, now: Now) -> list[Effect]:
        """Go by it here, and tell the others where their picture of this peer changes."""
        self._described, self._clocked = event, now.wall_trusted
        allow, reporting = self.config.triggers.allow, self.config.reporting
        told = reporting_labels(reporting.reports, reporting.introduces)
        self._deaf = self.steward.triggers.hearing.label()
        own = {**fires_labels(allow), **switches_labels(allow), **told, **self._deaf}
        if not now.wall_trusted:
            own[CLOCK_LABEL] = CLOCK_UNKNOWN
        # Where there are too many for an advert, the others decide by these: they come first.
        event = replace(event, labels={**own, **event.labels, **own})
        bidder = self.executor.bidder
        bidder.capacity = Resources(event.cpu_m, event.memory_bytes, event.disk_bytes, event.gpus)
        bidder.labels = matched_labels(event.labels, self.fleet.me, self.fleet.own_name)
        bidder.draining = event.draining
        bidder.engines = event.engines if self.computes else ()
        before = self.fleet.advert
        self.fleet.advert = Advert(
            peer=self.fleet.me,
            incarnation=0,
            addresses=event.addresses,
            labels=event.labels,
            engines=self.executor.bidder.engines,
            cpu_m=event.cpu_m,
            memory_bytes=event.memory_bytes,
            disk_bytes=event.disk_bytes,
            gpus=event.gpus,
            version=self.config.version,
            name=self.fleet.own_name,
            draining=event.draining,
            memory=self.executor.journal.memory,
            keepalive_s=self.config.membership.keepalive_s,
        )
        effects = [*self.membership.describe(event, now), *self.steward.described(now)]
        if before is None or before == self.fleet.advert:
            return effects
        return effects + self.coordination.on_peer_changed(now) + self._tell_drain(before)

    def _tell_drain(self, before: Advert) -> list[Effect]:
        draining = self.executor.bidder.draining
        if draining == before.draining:
            return []
        text = "draining: services move away, the rest ends" if draining else "takes new work again"
        return [Tell("self.draining" if draining else "self.undrained", text)]

    def on_sampled(self, event: FactsSampled, now: Now) -> None:
        """What changes all the time is in no advert: whoever bids or publishes here looks at it."""
        bidder = self.executor.bidder
        bidder.facts = event.facts
        bidder.minute = minute_here(now, event.utc_offset_s)
        bidder.images, bidder.archives = event.images, event.archives
        bidder.troubles = dict(event.troubles)
        self.executor.publishing.backlog = event.backlog
        bidder.disk_full = self.coordination.disk_full = event.disk_full

    def on_clock(self, now: Now) -> list[Effect]:
        """The others hear of it when this peer has learned the time, or lost it."""
        if self._described is None or now.wall_trusted is self._clocked:
            return []
        return self.on_described(self._described, now)

    def on_hearing(self, now: Now) -> list[Effect]:
        """The others hear of it when this peer has heard nothing of a broker for a while."""
        if self._described is None or self.steward.triggers.hearing.label() == self._deaf:
            return []
        return self.on_described(self._described, now)
