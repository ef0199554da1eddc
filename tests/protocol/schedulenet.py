"""A few whole nodes with one schedule, `backup`, at whole minutes; for tests."""

from __future__ import annotations

from protocol.effects import Reply
from protocol.events import FactsSampled, RunRequested
from protocol.heldjob import HeldJob
from protocol.ids import JobId, rendezvous
from protocol.job import JobSpec
from protocol.messages import Facts
from protocol.records import Desired
from protocol.schedules import Schedules, Watch
from protocol.standingjob import StandingJob
from protocol.tree import Plain
from tests.protocol.nodenet import WALL, NodeNet, batch, ops
from tests.protocol.standingbook import StandingBook


def schedule(name: str = "backup", cron: str = "* * * * *", **fields: Plain) -> JobSpec:
    """A schedule; capital fields are the schedule's, others the job's."""
    words, others = _told_apart(fields)
    return batch(name, Schedule={"Cron": cron, **words}, **others)


def ops_schedule(name: str = "backup", cron: str = "* * * * *", **fields: Plain) -> JobSpec:
    """The same of an ops job."""
    words, others = _told_apart(fields)
    return ops(name, Schedule={"Cron": cron, **words}, **others)


def _told_apart(fields: dict[str, Plain]) -> tuple[dict[str, Plain], dict[str, Plain]]:
    own = ("TimeZone", "Overlap", "CatchUp", "Scope")
    words = {key: value for key, value in fields.items() if key in own}
    return words, {key: value for key, value in fields.items() if key not in own}


class ScheduleNet(NodeNet):
    """The nodes know each other at 1 s past a minute; nothing was submitted yet."""

    def __init__(self, *names: str, **options: object) -> None:
        super().__init__(*names, settle_s=21.0, **options)

    @property
    def id(self) -> JobId:
        return StandingBook("backup", shoal=self.shoal).id

    def schedules(self, name: str) -> Schedules:
        return self[name].steward.schedules

    def watch(self, name: str) -> Watch:
        return self.schedules(name).watches[self.id]

    def standing(self, name: str) -> StandingJob:
        return self[name].steward.standing.jobs[self.id]

    def ran(self, name: str, spec: JobSpec | None = None) -> Reply:
        request = self.submit(name, spec or schedule())
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    def controlled(self, name: str, desired: Desired = Desired.STOPPED) -> Reply:
        request = self.stop(name, self.id, desired)
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    def sample(self, name: str) -> None:
        self.handle(name, FactsSampled(Facts(cpu_free_m=4000)))

    def template(self, name: str, inputs: dict[str, str], key: str = "k1") -> Reply:
        """Run the template `say` with a key that may have been used before."""
        request = next(self._requests)
        job = StandingBook("template/say", shoal=self.shoal).id
        self.handle(name, RunRequested(request, job, key, inputs, True))
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    @property
    def ranks(self) -> list[str]:
        """Who fires, the first first."""
        peers = [box.keyring.peer for box in self.boxes.values()]
        return [str(peer) for peer in rendezvous(self.id, peers)]

    def minute(self, number: int = 1, past_s: float = 1.0) -> None:
        """Run to so many seconds past a later minute."""
        wall = WALL + self.now
        self.run((wall // 60 + number) * 60 + past_s - wall)

    def runs(self) -> list[HeldJob]:
        """All runs that any live node holds, once each, the earliest slot first."""
        found = {
            job: held
            for box in self.boxes.values()
            if box.node is not None
            for job, held in box.node.jobs.items()
            if held.source is not None
        }
        return sorted(found.values(), key=lambda held: held.spec.key)

    def starts(self) -> list[tuple[str, JobId]]:
        """Every start of a run anywhere, in all lives."""
        return [(name, start.job) for name, box in self.boxes.items() for start in box.started]

    def finish(self) -> None:
        """Whatever runs ends well."""
        for name, box in self.boxes.items():
            if box.running and box.node is not None:
                self.end(name)
