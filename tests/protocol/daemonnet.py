"""A few whole nodes that run daemons; for tests."""

from __future__ import annotations

from protocol.daemon import Daemon
from protocol.daemons import Daemons
from protocol.effects import Reply
from protocol.events import FactsSampled, SelfDescribed
from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec
from protocol.messages import Facts
from protocol.records import Desired
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import StandingBook, daemon


class DaemonNet(NodeNet):
    """One daemon, `collect`, unless a test runs others."""

    @property
    def id(self) -> JobId:
        return StandingBook(shoal=self.shoal).id

    def daemons(self, name: str) -> Daemons:
        return self[name].steward.daemons

    def daemon(self, name: str) -> Daemon:
        return self.daemons(name).daemons[self.id]

    def on(self) -> list[str]:
        """Where it runs, each place as often as it does."""
        return [
            name
            for name, box in self.boxes.items()
            for start in box.running.values()
            if start.job == self.id
        ]

    def ran(self, name: str, spec: JobSpec | None = None) -> Reply:
        request = self.submit(name, spec or daemon())
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    def controlled(self, name: str, desired: Desired = Desired.STOPPED) -> Reply:
        request = self.stop(name, self.id, desired)
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    def execution(self, name: str) -> ExecutionId:
        (found,) = [key for key, s in self.boxes[name].running.items() if s.job == self.id]
        return found

    def relabel(self, name: str, **labels: str) -> None:
        box = self.boxes[name]
        old = box.described
        labels = {"name": name, **labels}
        box.described = SelfDescribed(
            old.addresses, labels, old.cpu_m, old.memory_bytes, old.disk_bytes
        )
        self.handle(name, box.described)

    def sample(self, name: str, **facts: int) -> None:
        self.handle(name, FactsSampled(Facts(**facts)))
