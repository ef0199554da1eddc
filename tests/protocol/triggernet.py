"""A few whole nodes that hear one template's messages, `look`; for tests."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from protocol.config import NodeConfig, TriggersConfig
from protocol.derived import derived_id
from protocol.effects import Publish, Reply
from protocol.events import BrokerChanged, MessagePublished, TaskEnded, TriggerHeard
from protocol.heldjob import HeldJob
from protocol.ids import ExecutionId, JobId, PeerId, rendezvous
from protocol.job import JobSpec
from protocol.records import Desired, Heard
from protocol.tree import Plain
from protocol.triggers import Triggers
from tests.protocol.nodenet import NodeNet
from tests.protocol.standingbook import StandingBook
from tests.protocol.test_trigger import mqtt, triggered

TOPIC = "home/porch/motion"
ALLOW = ("template/look",)


def look(**fields: Plain) -> JobSpec:
    """The template; capital fields are the trigger's. Without Dedup no message has a key."""
    return triggered({"Mqtt": mqtt(**fields)})


def allowing(*allow: str, **more: int) -> NodeConfig:
    return NodeConfig(triggers=TriggersConfig(allow=allow or ALLOW, **more))


class TriggerNet(NodeNet):
    """All have the broker `home` and are let, unless told otherwise; nothing was submitted yet."""

    def __init__(
        self,
        *names: str,
        without_broker: tuple[str, ...] = (),
        configs: dict[str, NodeConfig] | None = None,
        **options: object,
    ) -> None:
        self.without_broker = without_broker
        known = {name: (configs or {}).get(name) or allowing() for name in names}
        self._handles = count(1)
        super().__init__(*names, configs=known, settle_s=5.0, **options)  # type: ignore[arg-type]

    def boot(self, name: str, **options: object) -> None:
        box = self.boxes[name]
        if name not in self.without_broker:
            labels = {**box.described.labels, "broker.home": "true"}
            box.described = replace(box.described, labels=labels)
        super().boot(name, **options)  # type: ignore[arg-type]

    @property
    def id(self) -> JobId:
        return StandingBook("template/look", shoal=self.shoal).id

    def triggers(self, name: str) -> Triggers:
        return self[name].steward.triggers

    def put(self, name: str, spec: JobSpec | None = None) -> Reply:
        request = self.submit(name, spec or look(Dedup={}))
        self.until(lambda: self.answered(name, request))
        self.run(1.0)
        return self.reply(name, request)

    def delete(self, name: str, desired: Desired = Desired.DELETED) -> None:
        request = self.stop(name, self.id, desired)
        self.until(lambda: self.answered(name, request))
        self.run(1.0)

    def hear(
        self,
        *names: str,
        key: str = "",
        payload: bytes = b"ON",
        delivery: str = "",
        repeated: bool = False,
        topic: str = TOPIC,
        reply: str = "",
        correlation: bytes = b"",
        drawn: str = "",
        number: int = 0,
    ) -> list[int]:
        """A message comes to these devices; by which handles."""
        handles = []
        for name in names:
            handles.append(next(self._handles))
            message = Heard(topic, payload, reply, correlation)
            event = TriggerHeard(
                handles[-1], self.id, message, key, delivery, repeated, drawn, number
            )
            self.handle(name, event)
        return handles

    def ranks(self, key: str) -> list[str]:
        """Who fires the message of this key, the first first."""
        run = derived_id(self.shoal.id, "default", self.id, key)
        peers = [PeerId(name) for name in self.boxes]
        return [str(peer) for peer in rendezvous(run, peers)]

    @property
    def elected(self) -> list[str]:
        return [str(peer) for peer in rendezvous(self.id, [PeerId(name) for name in self.boxes])]

    def hearing(self) -> list[str]:
        """Who has subscribed."""
        return [name for name, box in self.boxes.items() if box.node is not None and box.watched]

    def runs(self) -> list[HeldJob]:
        found = {
            job: held
            for box in self.boxes.values()
            if box.node is not None
            for job, held in box.node.jobs.items()
            if held.source is not None
        }
        return sorted(found.values(), key=lambda held: held.spec.key)

    def starts(self) -> list[JobId]:
        return [start.job for box in self.boxes.values() for start in box.started]

    def fired(self, name: str) -> int:
        return len(self.told(name, "trigger.fired"))

    def finish(self) -> None:
        for name, box in self.boxes.items():
            for start in list(box.running.values()):
                if box.node is not None:
                    self.end_of(name, start.execution)

    def end_of(self, name: str, execution: str) -> None:
        self._finish(name, TaskEnded(ExecutionId(execution), 0, "", 5))

    def broker_up(self, *names: str, broker: str = "home") -> None:
        """Their broker is there; it takes nothing before `puback`."""
        for name in names or tuple(self.boxes):
            self.handle(name, BrokerChanged(broker, True))

    def puback(self, name: str, publish: Publish, problem: str = "", refused: bool = False) -> None:
        self.handle(name, MessagePublished(publish.key, publish.id, problem, refused))

    def puback_all(self, name: str) -> None:
        """Of answers one is on its way at a time."""
        taken = 0
        while taken < len(self.boxes[name].published):
            self.puback(name, self.boxes[name].published[taken])
            taken += 1

    def answers(self, *names: str) -> list[Publish]:
        """What was published at these devices, or at all, as often as it was."""
        return [each for name in names or self.boxes for each in self.boxes[name].published]

    def rows(self, name: str, bucket: str = "trigger") -> dict[str, bytes]:
        return self.boxes[name].disk.get(bucket, {})  # type: ignore[call-overload,no-any-return]
