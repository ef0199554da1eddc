"""A few whole nodes that run one service; for tests."""

from __future__ import annotations

from protocol.effects import Reply
from protocol.heldservice import HeldService
from protocol.ids import JobId
from protocol.job import JobSpec
from protocol.records import Desired
from protocol.services import Services
from protocol.tree import Plain
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import StandingBook

NAME = "web"


def service(count: int = 1, command: str = "serve", **fields: Plain) -> JobSpec:
    """A service of `count` slots; `fields` of the file come on top."""
    engine: Plain = {"Type": "process", "Params": {"Command": [command]}}
    resources: Plain = {"CPU": fields.pop("cpu", "100m")}
    tree: dict[str, Plain] = {"Name": NAME, "Type": "service", "Count": count}
    tree["Tasks"] = [{"Engine": engine, "Resources": resources}]
    return JobSpec.from_plain({**tree, **fields})


class ServiceNet(NodeNet):
    @property
    def id(self) -> JobId:
        return StandingBook(name=NAME, shoal=self.shoal).id

    def services(self, name: str) -> Services:
        return self[name].steward.services

    def service(self, name: str) -> HeldService:
        held = self[name].jobs[self.id]
        assert isinstance(held, HeldService)
        return held

    def ran(self, name: str, spec: JobSpec) -> Reply:
        request = self.submit(name, spec)
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    def controlled(self, name: str, desired: Desired = Desired.STOPPED) -> Reply:
        request = self.stop(name, self.id, desired)
        self.until(lambda: self.answered(name, request))
        return self.reply(name, request)

    def on(self) -> list[str]:
        """Where it runs: slot and name, each as often as it does."""
        return sorted(
            f"{start.environment['SHOAL_PARTITION_INDEX']}{name}"
            for name, box in self.boxes.items()
            for start in box.running.values()
            if start.job == self.id
        )

    def where(self) -> list[str]:
        """Which peers run it, each as often as it does."""
        return sorted(each[1:] for each in self.on())

    def coordinators(self) -> list[str]:
        return [
            name
            for name, box in self.boxes.items()
            if box.node is not None and self.id in box.node.coordination.led
        ]

    def commands(self) -> list[str]:
        return sorted(
            start.spec.task.engine.process.command[0]
            for box in self.boxes.values()
            for start in box.running.values()
            if start.job == self.id
        )
