"""The steward: what a node has to do with standing jobs, put together for the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from protocol.answering import Answering
from protocol.clock import Now
from protocol.commands import Commands
from protocol.config import NodeConfig
from protocol.coordination import Coordination
from protocol.daemons import Daemons
from protocol.effects import Bucket, DropVolumes, Effect, Reply
from protocol.events import (
    Booted,
    ControlRequested,
    HealthChanged,
    RunRequested,
    SubmitRequested,
    TaskEnded,
    TaskProgressed,
    TaskStarted,
)
from protocol.executor import Executor
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.inquiry import Inquiries
from protocol.job import JobType
from protocol.outbox import Outbox
from protocol.records import Advert, Certificate, Desired, Keyring
from protocol.requests import Requests
from protocol.schedules import Schedules
from protocol.services import Services
from protocol.serviceviews import service_view
from protocol.slots import Cron
from protocol.standing import Standing, SyncMessage
from protocol.standingacts import StandingActs
from protocol.standingjob import StandingJob, standing_id
from protocol.standingnews import tells_of
from protocol.standingviews import View, listed, standing_view, version_view
from protocol.triggers import Triggers
from protocol.triggerviews import trigger_view
from protocol.unread import Unread
from protocol.versions import Version


class Steward:
    """Composes the records every peer holds, what people do to them, and what runs here of them."""

    def __init__(
        self,
        keyring: Keyring,
        certificate: Certificate,
        config: NodeConfig,
        rng: Random,
        executor: Executor,
        coordination: Coordination,
        inquiries: Inquiries,
        adverts: Callable[[], list[Advert]],
        connected: Callable[[], list[PeerId]],
        absent: Callable[[], list[PeerId]],
        name_of: Callable[[PeerId], str],
        requests: Requests,
        cron: Cron,
        partners: Callable[[Sequence[PeerId]], list[PeerId]] = list,
    ) -> None:
        """`adverts` of whoever is alive, `absent` whoever is expected back, `partners`
        with whom of some neighbours to compare."""
        self._requests = requests
        self._me = keyring.peer
        self._name_of = name_of
        period_s = config.membership.records_sync_s
        self.standing = Standing(keyring, config.standing, rng, period_s, partners)
        self.acts = StandingActs(
            keyring, certificate, self.standing, inquiries, absent, name_of, cron
        )
        self.daemons = Daemons(
            keyring,
            config.standing,
            rng,
            self.standing,
            executor.bidder,
            config.coordination.start_max_s,
            adverts,
            connected,
            executor.publishing,
        )
        self.services = Services(
            keyring,
            config.coordination,
            self.standing,
            coordination,
            executor,
            coordination.fleet,
        )
        self.schedules = Schedules(
            keyring,
            config.coordination,
            self.standing,
            coordination,
            executor.bidder,
            inquiries.ask,
            cron,
            requests.end_run,
        )
        self.answering = self._answering(config, coordination, executor.publishing.outbox)
        self.triggers = Triggers(
            keyring,
            config.triggers,
            config.coordination,
            rng,
            self.standing,
            coordination,
            inquiries,
            self.answering,
        )
        self.commands = self._commands(config, rng, coordination)

    def _answering(
        self, config: NodeConfig, coordination: Coordination, outbox: Outbox
    ) -> Answering:
        def leave(template: JobId, reason: str, now: Now) -> list[Effect]:
            return self.triggers.leave_unanswered(template, reason, now)

        keyring, fleet = self.standing.keyring, coordination.fleet
        return Answering(keyring, config, coordination.catalogue, fleet, outbox, leave)

    def _commands(self, config: NodeConfig, rng: Random, coordination: Coordination) -> Commands:
        return Commands(
            self.standing.keyring,
            config.triggers,
            config.coordination.boot_grace_s,
            config.outbox.root,
            rng,
            self.standing,
            coordination.fleet,
            self.acts,
            coordination,
            self._requests.press,
        )

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable = self.standing.restore(disk) + self.daemons.restore(disk)
        unreadable += self.schedules.restore(disk) + self.triggers.restore(disk)
        return unreadable + self.answering.restore(disk)

    # ---- events ------------------------------------------------------------------------------

    def boot(self, event: Booted, now: Now) -> tuple[list[Effect], Booted]:
        """Take up what runs of daemons; gives back the event with what is none of theirs."""
        known = self.standing.boot(now)
        effects, others = self.daemons.boot(event.found, now)
        return [*known, *effects], Booted(tuple(others))

    def owns(self, execution: ExecutionId) -> bool:
        """Whether it is a daemon's execution, the present one or one that is over."""
        return self.daemons.find(execution) is not None or self.daemons.over(execution)

    def on_task(
        self, event: TaskStarted | TaskProgressed | HealthChanged | TaskEnded, now: Now
    ) -> list[Effect]:
        """What became of it."""
        if isinstance(event, TaskStarted):
            return self.daemons.on_started(event.execution, now, event.ports)
        if isinstance(event, TaskProgressed):
            self.daemons.on_progress(event.execution, event.text)
            return []
        if isinstance(event, HealthChanged):
            return self.daemons.on_health(event, now)
        return self.daemons.on_ended(event, now)

    def described(self, now: Now) -> list[Effect]:
        return [
            *self.daemons.described(now),
            *self.schedules.review_all(now),
            *self.triggers.review_all(now),
        ]

    def sampled(self, now: Now) -> list[Effect]:
        return [
            *self.daemons.sampled(now),
            *self.services.sampled(now),
            *self.schedules.review_all(now),
        ]

    def submit(self, event: SubmitRequested, now: Now) -> list[Effect]:
        spec = event.spec
        job = standing_id(self.standing.keyring, spec.namespace, spec.name)
        before = self.standing.jobs.get(job)
        fresh = before is None or before.desired is Desired.DELETED
        effects = self.acts.submit(event, now)
        return effects + self.services.accept(job, now) if fresh else effects

    def run_template(self, event: RunRequested, now: Now) -> list[Effect]:
        """Everybody holds all templates."""
        template = self.standing.jobs.get(event.template)
        if template is None or template.kind != "template":
            return [Reply(event.request, error=f"no template {event.template} is known here")]
        return self._requests.run_template(event, template, now)

    def control(self, event: ControlRequested, now: Now) -> list[Effect]:
        return self.acts.control(event, now)

    def connected(self, peer: PeerId, now: Now) -> list[Effect]:
        return [*self.standing.on_connected(peer, now), *self.daemons.met(now)]

    def disconnected(self, peer: PeerId, now: Now) -> list[Effect]:
        self.standing.on_disconnected(peer)
        self.daemons.parted(now)
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
        for job in dict.fromkeys(each.job for each in merged if not each.lost):
            effects += [
                *self.daemons.review(job, now),
                *self.services.review(job, now),
                *self.schedules.review(job, now),
                *self.triggers.review(job, now),
            ]
            record = self.standing.jobs.get(job)
            if record is not None and record.desired is Desired.DELETED:
                effects.append(DropVolumes())
        confirmed, self.standing.confirmed[:] = list(self.standing.confirmed), []
        for job, peer in confirmed:
            effects += self.acts.confirmed(job, peer, now)
        return effects

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(
            self.standing.deadline,
            self.acts.deadline,
            self.daemons.deadline,
            self.schedules.deadline,
            self.triggers.deadline,
            self.commands.deadline,
            self.answering.deadline,
            self.services.deadline,
        )

    def on_deadline(self, now: Now) -> list[Effect]:
        return [
            *self.standing.on_deadline(now),
            *self.daemons.on_deadline(now),
            *self.schedules.on_deadline(now),
            *self.triggers.on_deadline(now),
            *self.commands.on_deadline(now),
            *self.answering.on_deadline(now),
            *self.services.on_deadline(now),
            *self.acts.on_deadline(now),
        ]

    # ---- reading -----------------------------------------------------------------------------

    def keeps_volumes(self, job: JobId) -> bool:
        """Whether a standing job's volumes are wanted, or in use yet. One that is not known here is
        heard of again, where it was not deleted."""
        record = self.standing.jobs.get(job)
        if record is None or record.desired is not Desired.DELETED:
            return True
        daemon = self.daemons.daemons.get(job)
        running = self.services.executor.executions.open
        return (daemon is not None and daemon.active) or any(each.job == job for each in running)

    def versions(self, job: JobId) -> list[View]:
        """The specs of a standing job that this peer remembers, the present one first."""
        held = self.standing.jobs.get(job)
        if held is None:
            return []
        found = self.standing.versions.of(job)
        if held.spec_data:
            found.append(Version.of(held.spec_data, held.since_ms, self.standing.keyring))
        return [version_view(each, self._name_of) for each in reversed(found)]

    def views(self, prefix: str, limit: int, detail: bool, now: Now) -> list[View]:
        """This peer's part of the standing jobs whose id starts so, the newest first."""
        found = [held for held in self.standing.jobs.values() if listed(held, self.daemons, prefix)]
        found.sort(key=lambda held: (-held.since_ms, held.id))
        return [self._view(held, detail, now) for held in found[:limit]]

    def _view(self, held: StandingJob, detail: bool, now: Now) -> View:
        name = self._name_of
        if held.job is not None and held.job.type is JobType.SERVICE:
            known = self.services.known(held.id)
            return service_view(held, known, name, self.standing.keyring, detail, now)
        view = standing_view(held, self.daemons, self.schedules, name, detail, now)
        spec = held.wanted(now)
        if detail and spec is not None and spec.trigger is not None:
            view["trigger"] = trigger_view(held, spec.trigger.mqtt, self.triggers, name, now)
        return view
