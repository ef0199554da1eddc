"""Views of a node: the jobs it holds and the peers it knows, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.coordination import Coordination
from protocol.derived import is_pressed
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob
from protocol.ids import JobId
from protocol.inquiry import View
from protocol.listening import word_of
from protocol.membership import Membership
from protocol.records import Desired, Keyring
from protocol.roster import Peer
from protocol.steward import Steward
from protocol.story import Stories
from protocol.views import job_view, own_view, peer_view


@dataclass(slots=True)
class NodeViews:
    """Reads what the node's parts hold, for the API and for other peers' questions."""

    keyring: Keyring
    membership: Membership
    fleet: Fleet
    catalogue: Catalogue
    coordination: Coordination
    stories: Stories
    steward: Steward

    def jobs(self, prefix: str, limit: int, detail: bool, now: Now) -> list[View]:
        """Views of the jobs held here whose id starts with `prefix`, newest first; standing jobs
        come before: they are few, and of all peers."""
        standing = self.steward.views(prefix, limit, detail, now)
        held = [
            held
            for job, held in self.catalogue.jobs.items()
            if job.startswith(prefix) and not held.service  # it is among the standing ones
        ]
        held.sort(key=lambda job: (-job.accepted_ms, job.id))
        return [*standing, *(self.job(job, detail) for job in held[: limit - len(standing)])]

    def job(self, held: HeldJob, detail: bool = True) -> View:
        """One that is held here, with what its coordinator knows of it where that is this peer."""
        return job_view(
            held,
            self.coordination.led.get(held.id),
            self.stories.get(held.id),
            self.fleet.name,
            self.keyring,
            detail,
        )

    def led_job(self, job: JobId) -> View | None:
        """A one-off job that is coordinated here; None for any other."""
        held = self.catalogue.jobs.get(job)
        if held is None or held.service or held.coordinator != self.fleet.me:
            return None
        return self.job(held, detail=False)

    def last_run(self, job: JobId) -> View | None:
        """A run of a template that is coordinated here, in short; None for any other job, and
        where the template is no more."""
        held = self.catalogue.jobs.get(job)
        source = None if held is None else held.source
        template = None if source is None else self.steward.standing.jobs.get(source)
        if held is None or template is None or template.kind != "template":
            return None
        if template.desired is Desired.DELETED:
            return None
        if held.coordinator != self.fleet.me:
            return None
        view = self.job(held, detail=False)
        fired = held.job.fired
        by: View = {"by": "press" if is_pressed(held.spec) else "call"}
        if fired is not None:
            by = {"by": "message", "topic": fired.topic}
        shown = ("state", "reason", "created_ms", "ended_ms")
        return {
            "template": word_of(template.namespace, template.name),
            "job": job,
            **{key: view[key] for key in shown},
            "peer": self.fleet.me,
            "trigger": {**by, "id": held.spec.key.partition("/")[2]},
        }

    def peers(self, now: Now) -> list[View]:
        """This peer first, then the others by id."""
        advert = self.fleet.advert
        if advert is not None:
            advert = msgspec.structs.replace(advert, incarnation=self.membership.incarnation)
        me = own_view(
            advert, self.fleet.name(self.fleet.me), self.keyring, self.fleet.certificate.roles
        )
        return [me, *(peer_view(peer, now, self._via(peer)) for peer in self.membership.peers())]

    def _via(self, peer: Peer) -> str:
        """The name of the neighbour that relays to it; empty where none does."""
        through = [] if peer.connected else self.membership.routes.through(peer.id)
        return self.fleet.name(through[0]) if through else ""
