"""Publishers: sensors whose messages run templates, with keys and without; drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from protocol.config import TriggersConfig
from protocol.effects import Reply
from protocol.events import SubmitRequested
from protocol.ids import JobId, job_id
from protocol.job import JobSpec, Plain
from protocol.sim.device import Device
from protocol.sim.faults import HEAL_S
from protocol.sim.mqtt import Broker, Published
from protocol.sim.tasks import Behaviour
from protocol.sim.triggerwatch import TriggerWatch
from protocol.sim.world import World

FIRST_REQUEST: Final = 3_000_000  # so that no request of other people's has the same number
PATIENCE_S: Final = 6.0
LAST_S: Final = 60.0  # after healing; the last messages come when all is well
SETTLED_S: Final = 30.0  # after healing all know the same of one another
MESSAGES: Final = (8, 30)
LATE: Final = 0.4  # of the messages may come after all has healed
BURST: Final = 0.3  # of the messages come with others at one moment
UNLISTED: Final = 0.2  # of the devices are not let, or have no broker


@dataclass(slots=True)
class Sensor:
    """One template, and what is published to its topic."""

    name: str
    device: int
    spec: JobSpec
    keyed: bool
    accepted: bool = False
    left: int = 0


@dataclass(slots=True)
class Publishers:
    """All of a run."""

    world: World
    watch: TriggerWatch
    rng: Random
    heal_s: float = HEAL_S
    cuts: bool = True  # whether devices lose the broker for a while
    sensors: list[Sensor] = field(default_factory=list)
    _requests: dict[int, Sensor] = field(default_factory=dict)
    _count: int = FIRST_REQUEST

    def draw(self, triggers: int) -> None:
        """Put them on the heap; where there are none, nobody has a broker."""
        if not triggers:
            return
        broker = self.world.topics = Broker(self.world, self.rng)
        self.watch.well_from = self.heal_s + SETTLED_S
        for device in self.world.devices:
            self._equip(device, broker)
        for number in range(triggers):
            keyed = self.rng.random() < 0.6
            spec = draw_template(f"trigger-{number}", keyed, self.rng)
            asked = self.rng.randrange(len(self.world.devices))
            sensor = Sensor(spec.name, asked, spec, keyed)
            self.sensors.append(sensor)
            self.world.heap.at(self.rng.uniform(0.5, self.heal_s / 4), self._ask, sensor)
            self._draw_messages(sensor)
        before = self.world.on_reply

        def on_reply(device: Device, reply: Reply) -> None:
            if reply.request >= FIRST_REQUEST:
                self._requests[reply.request].accepted |= not reply.error
            elif before is not None:
                before(device, reply)

        self.world.on_reply = on_reply

    def _equip(self, device: Device, broker: Broker) -> None:
        """Before it boots: its broker, and what its owner lists."""
        if self.rng.random() >= UNLISTED:
            device.described.labels["broker.sim"] = "true"
        if self.rng.random() >= UNLISTED:
            rows_max = self.rng.choice((4, 256))
            triggers = TriggersConfig(allow=("template/trigger-*",), rows_max=rows_max)
            device.config = replace(device.config, triggers=triggers)
        if self.cuts and self.rng.random() < 0.3:
            at = self.rng.uniform(5.0, self.heal_s - 5.0)
            seconds = self.rng.uniform(0.5, 15.0)
            self.world.heap.at(at, broker.cut_off, device.index, seconds)

    def _draw_messages(self, sensor: Sensor) -> None:
        at = 0.0
        sensor.left = self.rng.randint(*MESSAGES)
        for _ in range(sensor.left):
            if self.rng.random() >= BURST:
                late_s = LAST_S if self.rng.random() < LATE else 0.0
                at = self.rng.uniform(self.heal_s / 4, self.heal_s + late_s)
            number = len(self.watch.messages)
            key = f"key-{number}" if sensor.keyed else ""
            template = self.job(sensor)
            message = Published(number, template, f"sim/{sensor.name}/{number % 3}", key)
            self.watch.messages.append(message)
            self.world.heap.at(max(at, 1.0), self._publish, sensor, message)

    @property
    def busy(self) -> bool:
        return any(sensor.left for sensor in self.sensors)

    def job(self, sensor: Sensor) -> JobId:
        shoal = self.world.devices[0].keyring.shoal
        return job_id(shoal, "default", "standing", f"template/{sensor.name}")

    def _publish(self, sensor: Sensor, message: Published) -> None:
        sensor.left -= 1
        assert isinstance(self.world.topics, Broker)
        self.world.topics.publish(message)

    def _ask(self, sensor: Sensor) -> None:
        """Here or, where nobody is at home, at another device, until somebody answers."""
        if sensor.accepted or not sensor.left:
            return
        device = self.world.devices[sensor.device]
        if device.responsive:
            self._count += 1
            self._requests[self._count] = sensor
            device.handle(SubmitRequested(self._count, sensor.spec, sensor.name))
        sensor.device = self.rng.randrange(len(self.world.devices))
        self.world.heap.after(PATIENCE_S, self._ask, sensor)


def draw_template(name: str, keyed: bool, rng: Random) -> JobSpec:
    behaviour = Behaviour(50, rng.choice((100, 1_000)), 0)
    mqtt: dict[str, Plain] = {"Broker": "sim", "Topic": f"sim/{name}/#"}
    mqtt |= {"Dedup": {}} if keyed else {}
    tree: dict[str, Plain] = {
        "Name": name,
        "Type": "batch",
        "Trigger": {"Mqtt": {**mqtt}, "Prefer": {"NearTrigger": rng.random() < 0.5}},
        "Tasks": [
            {
                "Engine": {"Type": "process", "Params": {"Command": list(behaviour.command)}},
                "Resources": {"CPU": "10m", "Memory": "4Mi"},
                "Timeouts": {"QueueTimeout": 60},
            }
        ],
    }
    return JobSpec.from_plain(tree)
