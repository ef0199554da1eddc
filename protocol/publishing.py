"""Publishing: what a device's executions have to do with outbox and streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from protocol.asks import BROKER, BUCKET, WRITABLE
from protocol.clock import Now
from protocol.config import OutboxConfig
from protocol.effects import Bucket, Effect
from protocol.events import BrokerChanged, LinesPublished, MessagePublished, TaskEnded
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec, JobType
from protocol.listening import RUN_OF, word_of
from protocol.outbox import Outbox
from protocol.publisher import MqttPublisher
from protocol.records import Result
from protocol.resultmessage import clearing_message, result_message
from protocol.retained import Kept, Retained
from protocol.streams import Stream, Streams
from protocol.unread import Unread

Row = tuple[Bucket, str, bytes | None]


@dataclass(slots=True)
class Publishing:
    """`me` stands in topics; `expiry_s` is how long a result is kept."""

    me: PeerId
    config: OutboxConfig = field(default_factory=OutboxConfig)
    expiry_s: int = 7 * 86_400
    outbox: Outbox = field(init=False)
    streams: Streams = field(default_factory=Streams)
    retained: Retained = field(default_factory=Retained)
    backlog: str = ""  # why no more is to be brought to buckets, as the agent says

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.config)

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        unreadable = self.outbox.restore(disk) + self.streams.restore(disk)
        return unreadable + self.retained.restore(disk)

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

    def removed(self, execution: ExecutionId) -> list[Effect]:
        return self.streams.removed(execution)

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
        if spec.fired is not None:  # it runs the same template no more, wherever it is heard
            run_of = (RUN_OF, word_of(spec.namespace, spec.name))
            message = msgspec.structs.replace(message, properties=(*message.properties, run_of))
        return [self.outbox.add(message)]

    def forget(
        self, execution: ExecutionId, job: JobId, slot: int, spec: JobSpec, ended_ms: int
    ) -> list[Row]:
        """It is forgotten here; what the broker keeps of it is `sweep`'s."""
        publisher = spec.task.publisher.mqtt
        if publisher is None or not (publisher.own_topic and publisher.retain):
            return []
        topic = self._topic(publisher, execution, job, slot, spec)
        return [self.retained.keep(Kept(publisher.broker, topic, job, execution, ended_ms))]

    def sweep(self, before_ms: int) -> list[Row]:
        """Take back from brokers what ended before then, as far as results find room beside it."""
        room = max(0, self.config.messages_max // 2 - len(self.outbox.messages))
        rows: list[Row] = []
        for kept, row in self.retained.due(before_ms, room):
            message = clearing_message(kept.broker, kept.job, kept.execution, kept.topic)
            rows += [row, self.outbox.add(message)]
        return rows

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
