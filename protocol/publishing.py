"""Publishing: what a device's executions have to do with outbox and streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.asks import BROKER, BUCKET, WRITABLE
from protocol.clock import Now
from protocol.config import OutboxConfig
from protocol.effects import Bucket, Effect
from protocol.events import BrokerChanged, LinesPublished, MessagePublished, TaskEnded
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec, JobType
from protocol.outbox import Outbox
from protocol.publisher import MqttPublisher
from protocol.records import Result
from protocol.resultmessage import clearing_message, result_message
from protocol.streams import Stream, Streams

Row = tuple[Bucket, str, bytes | None]


@dataclass(slots=True)
class Publishing:
    """`me` stands in topics; `expiry_s` is how long a result is kept."""

    me: PeerId
    config: OutboxConfig = field(default_factory=OutboxConfig)
    expiry_s: int = 7 * 86_400
    outbox: Outbox = field(init=False)
    streams: Streams = field(default_factory=Streams)
    backlog: str = ""  # why no more is to be brought to buckets, as the agent says

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.config)

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[str]:
        return self.outbox.restore(disk) + self.streams.restore(disk)

    def boot(self) -> list[Effect]:
        """What earlier lives left is read on."""
        return self.streams.due()

    def hindrance(self, asks: tuple[str, ...]) -> str:
        """Why no more work that asks for this is taken just now; empty where nothing is."""
        full = self.outbox.full if any(ask.startswith(f"{BROKER} ") for ask in asks) else ""
        if any(ask.startswith(f"{BUCKET} ") and ask.endswith(WRITABLE) for ask in asks):
            full = full or self.backlog
        return f"busy: {full}" if full else ""

    # ---- an execution's life -----------------------------------------------------------------

    def start(self, execution: ExecutionId, job: JobId, slot: int, spec: JobSpec) -> list[Row]:
        """What to save with its start."""
        publisher = spec.task.publisher.mqtt
        if publisher is None or not publisher.lines:
            return []
        topic = self._topic(publisher, execution, job, slot, spec)
        return self.streams.add(
            Stream(
                execution,
                0,
                job,
                slot,
                spec.name,
                publisher.broker,
                topic,
                publisher.qos,
                publisher.retain,
                publisher.format,
            )
        )

    def begun(self, execution: ExecutionId) -> list[Effect]:
        return self.streams.begun(execution)

    def result(
        self, execution: ExecutionId, result: Result, spec: JobSpec, event: TaskEnded
    ) -> list[Row]:
        """What to save with its result."""
        publisher = spec.task.publisher.mqtt
        if publisher is None or publisher.lines:
            return []
        topic = self._topic(publisher, execution, result.job, result.slot, spec)
        expiry_s = self.expiry_s if publisher.own_topic else 0
        output = (event.stdout, event.stdout_bytes)
        message = result_message(publisher, result, execution, spec.name, topic, *output, expiry_s)
        return [self.outbox.add(message)]

    def forget(self, execution: ExecutionId, job: JobId, slot: int, spec: JobSpec) -> list[Row]:
        """It is forgotten here, and so is what the broker keeps of it."""
        publisher = spec.task.publisher.mqtt
        if publisher is None or not (publisher.own_topic and publisher.retain):
            return []
        topic = self._topic(publisher, execution, job, slot, spec)
        return [self.outbox.add(clearing_message(publisher.broker, job, execution, topic))]

    def _topic(
        self, publisher: MqttPublisher, execution: str, job: JobId, slot: int, spec: JobSpec
    ) -> str:
        return publisher.topic_for(
            {
                "root": self.config.root,
                "job": job,
                # An ops job's are numbers made of the peers' ids.
                "slot": self.me if spec.type is JobType.OPS else str(slot),
                "peer": self.me,
                "name": spec.name,
                "execution": execution,
                "namespace": spec.namespace,
            }
        )

    # ---- events ------------------------------------------------------------------------------

    def on_event(
        self, event: BrokerChanged | MessagePublished | LinesPublished, now: Now
    ) -> list[Effect]:
        match event:
            case BrokerChanged():
                return self.outbox.on_broker(event, now)
            case MessagePublished():
                return self.outbox.on_published(event, now)
            case LinesPublished():
                return self.streams.on_published(event)

    def due(self, now: Now) -> list[Effect]:
        return self.outbox.due(now)

    @property
    def deadline(self) -> float:
        return self.outbox.deadline

    def on_deadline(self, now: Now) -> list[Effect]:
        return self.outbox.on_deadline(now)
