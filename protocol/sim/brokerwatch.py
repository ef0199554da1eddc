"""What must hold of results that go to a broker: none is lost or changes, a job's are in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from protocol.effects import Save
from protocol.ids import ExecutionId
from protocol.outbox import Message
from protocol.wire import loads

if TYPE_CHECKING:
    from protocol.sim.broker import Receipt
    from protocol.sim.device import Device
    from protocol.sim.world import World

Unrest = list[tuple[int, str]]


@dataclass(slots=True)
class BrokerWatch:
    """Sees each row that became durable, and compares it with what the broker got."""

    world: World
    violate: Callable[[int, str], None]
    _messages: dict[tuple[int, str], Message] = field(default_factory=dict)  # ever durable, by id
    _order: dict[tuple[int, str], int] = field(default_factory=dict)  # in which they were
    _seen: int = 0  # receipts that were looked at
    _answers_seen: int = 0  # of those at the broker of triggers
    _first: dict[tuple[int, str], tuple[str, bytes]] = field(default_factory=dict)
    _last: dict[tuple[int, str], int] = field(default_factory=dict)  # by device and job

    def committed(self, device: Device, save: Save) -> None:
        for bucket, _, value in save.rows:
            if bucket == "outbox" and value is not None:
                message = msgspec.convert(loads(value, 1 << 20), Message)
                self._messages[(device.index, message.id)] = message
                self._order.setdefault((device.index, message.id), len(self._order))
        for bucket, key, value in save.rows:
            if bucket == "execution" and value is not None:
                self._check_result(device, key)
        self._look()

    def _check_result(self, device: Device, key: str) -> None:
        """A result and its message are durable together."""
        executions = {} if device.node is None else device.node.executor.executions
        execution = executions.get(ExecutionId(key))
        if execution is None or execution.spec.task.publisher.mqtt is None:
            return
        # What is in memory may be a save ahead of what is durable, and never behind it.
        saved = device.disk.rows["execution"].get(key, b"")
        durable = bool(execution.result_data) and execution.result_data in saved
        if durable and (device.index, key) not in self._messages:
            self.violate(device.index, f"the result of {key} is durable and no message of it")

    def _look(self) -> None:
        broker = self.world.broker
        for receipt in broker.received[self._seen :] if broker is not None else ():
            self._seen += 1
            self._receive(receipt)
        topics = self.world.topics
        for receipt in topics.received[self._answers_seen :] if topics is not None else ():
            self._answers_seen += 1
            self._receive(receipt)

    def _receive(self, receipt: Receipt) -> None:
        at = (receipt.device, receipt.id)
        message, what = self._messages.get(at), (receipt.topic, receipt.payload)
        if message is None:
            self.violate(receipt.device, f"{receipt.id} was published before it was durable")
            return
        if at in self._first:
            if self._first[at] != what:
                self.violate(receipt.device, f"two messages have the id {receipt.id}")
            return
        self._first[at] = what
        line, order = (receipt.device, message.job), self._order[at]
        if order < self._last.get(line, -1):
            self.violate(receipt.device, f"{receipt.id} came after a later one of its job")
        self._last[line] = order

    def unrest(self) -> Unrest:
        """What still waits, and in the end: what never came."""
        self._look()
        found: Unrest = []
        for (index, id), _ in self._messages.items():
            device = self.world.devices[index]
            if not device.buried and not device.amnesiac and (index, id) not in self._first:
                found.append((index, f"message {id} has not come"))
        for device in self.world.devices:
            if device.node is not None and device.node.publishing.outbox.messages:
                found.append((device.index, "messages wait for the broker"))
        return found[:3]
