"""What all devices of one run share: time, network, trace, and who looks over their shoulders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

from protocol.effects import (
    Effect,
    Publish,
    Reply,
    Save,
    StartTask,
    TriggerKept,
    TriggerPutOff,
    WatchTopics,
)
from protocol.events import Event
from protocol.ids import PeerId
from protocol.sim.broker import Receipt, SimBroker
from protocol.sim.cron import EverySeconds
from protocol.sim.heap import Heap
from protocol.sim.network import Network
from protocol.sim.tasks import Task
from protocol.sim.trace import Trace

if TYPE_CHECKING:
    from protocol.sim.device import Device


class Watcher(Protocol):
    """Is told of everything at the moment when it happens."""

    def booted(self, device: Device) -> None: ...

    def forgot(self, device: Device) -> None: ...

    def handled(self, device: Device, event: Event, effects: list[Effect]) -> None: ...

    def committed(self, device: Device, save: Save) -> None: ...

    def leaving(self, device: Device, effect: Effect) -> None: ...

    def began(self, device: Device, start: StartTask, task: Task) -> None: ...

    def broke(self, device: Device, text: str) -> None: ...


class Told(Protocol):
    """Hears what nodes want of the MQTT broker that brings messages and takes answers."""

    def told(self, device: Device, effect: WatchTopics | TriggerKept | TriggerPutOff) -> None: ...

    def arrived(self, device: Device) -> None: ...

    def publish_of(self, device: Device, effect: Publish) -> None: ...

    @property
    def received(self) -> list[Receipt]: ...


@dataclass(slots=True)
class World:
    """One seed's world; `seed` is text, and every source of chance is named after it."""

    heap: Heap
    network: Network
    trace: Trace
    rng: Random  # of devices: delays of disks and tasks
    seed: str
    devices: list[Device] = field(default_factory=list)
    cron: EverySeconds = field(default_factory=EverySeconds)  # of all devices
    by_peer: dict[PeerId, Device] = field(default_factory=dict)
    watcher: Watcher | None = None
    topics: Told | None = None
    on_reply: Callable[[Device, Reply], None] | None = None
    broker: SimBroker | None = None
    save_failures: float = 0.0  # probability per commit
    start_failures: float = 0.0  # probability per task

    def add(self, device: Device) -> None:
        self.devices.append(device)
        self.by_peer[device.peer] = device
        self.network.ports.append(device)

    def note(self, device: int, kind: str, text: str) -> None:
        """Something happened to a device, or to everybody (-1)."""
        self.trace.note(self.heap.now, device, kind)
        self.trace.tell(self.heap.now, device, text)
