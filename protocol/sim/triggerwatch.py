"""What must hold of triggers: no message lost, none acknowledged that is on no disk, none twice.

The world is the judge: which message became which run is read from what devices save.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from protocol.derived import heard_by
from protocol.effects import Effect, Save, Tell, TriggerKept
from protocol.ids import JobId
from protocol.sim.device import Device
from protocol.sim.mqtt import Broker, Published
from protocol.sim.world import World
from protocol.waiting import kept_of

FIRED = "trigger.fired"


@dataclass(slots=True)
class TriggerWatch:
    """Follows all devices of one run. `exclusive`: nobody is cut off or thought so."""

    world: World
    violate: Callable[[int, str], None]
    exclusive: bool
    well_from: float = inf  # simulated time; from then on one device hears what has no keys
    messages: list[Published] = field(default_factory=list)
    _runs: dict[bytes, dict[JobId, None]] = field(default_factory=dict)  # by payload
    _fired: dict[JobId, list[int]] = field(default_factory=dict)  # by which devices

    def handled(self, device: Device, effects: list[Effect]) -> None:
        """The node is between two events."""
        for effect in effects:
            if isinstance(effect, Save):
                for bucket, key, value in effect.rows:
                    if bucket == "trigger" and value is not None:
                        _, _, message, *_ = kept_of(value)
                        self._runs.setdefault(message.payload, {})[JobId(key)] = None
            elif isinstance(effect, Tell) and effect.kind == FIRED:
                self._check_fired(device, JobId(str(effect.fields["job"])))

    def _check_fired(self, device: Device, run: JobId) -> None:
        assert device.node is not None
        heard = heard_by(device.node.jobs[run].spec_data)
        assert heard is not None, run
        self._runs.setdefault(heard[1].payload, {})[run] = None
        self._fired.setdefault(run, []).append(device.index)
        if self.exclusive and len(self._fired[run]) > 1:
            self.violate(device.index, f"run {run} of a message is fired a second time")

    def leaving(self, device: Device, effect: TriggerKept) -> None:
        """The broker is told that a message came: it must be on a disk, or be a job already."""
        broker = self._broker
        message = None if broker is None else broker.handles.get((device.index, effect.handle))
        if message is None:
            return
        runs = self._runs.get(message.heard.payload, {})
        mine = device.disk.rows
        others = [other.disk.rows["job"] for other in self.world.devices]
        if not any(run in mine["trigger"] or any(run in rows for rows in others) for run in runs):
            text = f"acknowledges message {message.number}, which is on no disk"
            self.violate(device.index, text)

    def unrest(self) -> list[tuple[int, str]]:
        """What is not as it should be once all is quiet."""
        found: list[tuple[int, str]] = []
        for device in self.world.devices:
            waiting = device.disk.rows["trigger"]
            if waiting and not device.buried:
                found.append((device.index, f"{len(waiting)} messages still wait"))
        if self._broker is not None and not self._broker.idle:
            found.append((-1, "the broker has messages that nobody acknowledges"))
        for message in self.messages:
            found += self._of(message)
        return found

    def _of(self, message: Published) -> list[tuple[int, str]]:
        targets = [self.world.devices[index] for index in message.targets]
        well = [device for device in targets if not _gone(device)]
        # With a key one that is well will do: it steps in.
        if not well or (not message.key and len(well) < len(targets)):
            return []
        known = self._runs.get(message.heard.payload, {})
        nodes = [device.node for device in self.world.devices if device.node is not None]
        runs = [run for run in known if any(run in node.jobs for node in nodes)]
        if not runs and self._gone_with_its_holder(known):
            return []
        if not runs:
            return [(-1, f"message {message.number} is lost: it came to {message.targets}")]
        if self.exclusive and not message.key and message.at > self.well_from and len(targets) > 1:
            return [(-1, f"message {message.number} without a key came to {message.targets}")]
        most = 1 if message.key else len(targets)
        if len(runs) > most:
            text = f"message {message.number} is {len(runs)} jobs; {len(targets)} devices heard it"
            return [(-1, text)]
        return self._answered(message, len(runs))

    def _answered(self, message: Published, runs: int) -> list[tuple[int, str]]:
        """Whoever asked has an answer; where nobody was cut off, one for each run of the message.
        What went dark with the answer in its outbox tells nobody."""
        broker = self._broker
        if not message.reply or broker is None or any(map(_gone, self.world.devices)):
            return []
        answers = [each for each in broker.received if each.topic == message.reply]
        if not answers:
            return [(-1, f"message {message.number} is not answered")]
        # Who hears a question again answers again, with the same.
        different = dict.fromkeys((each.device, each.id, each.payload) for each in answers)
        if self.exclusive and len(different) > runs:
            return [(-1, f"message {message.number} has {len(different)} answers; {runs} runs")]
        return []

    def _gone_with_its_holder(self, runs: dict[JobId, None]) -> bool:
        """It was a job, and whoever had accepted it went dark before anybody else had it."""
        firers = [index for run in runs for index in self._fired.get(run, ())]
        return any(_gone(self.world.devices[index]) for index in firers)

    @property
    def _broker(self) -> Broker | None:
        broker = self.world.topics
        return broker if isinstance(broker, Broker) else None


def _gone(device: Device) -> bool:
    """For good, or with all that it knew."""
    return device.buried or device.amnesiac
