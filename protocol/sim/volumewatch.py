"""What must hold of volumes at every step: a slot runs where its volumes are, and nowhere else.

The world is the judge: where a task of a slot has begun, its volumes are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.effects import StartTask
from protocol.ids import JobId
from protocol.jobtype import JobType
from protocol.sim.device import Device
from protocol.sim.tasks import Task

Violate = Callable[[int, str], None]
Place = tuple[JobId, int, str]  # job, slot, name of the volume


@dataclass(slots=True)
class VolumeWatch:
    """`free`: jobs of which nothing is promised. Two who each coordinate a job, cut off from one
    another or asked at once, may both let it begin; and what was deleted begins anew."""

    violate: Violate
    free: list[dict[JobId, None]]
    deleted: dict[JobId, None] = field(default_factory=dict)
    homes: dict[Place, int] = field(default_factory=dict)

    def began(self, device: Device, start: StartTask, task: Task) -> None:
        """The host has started it; what failed to start leaves nothing."""
        if task.untouched or start.spec.type is JobType.DAEMON:
            return
        for volume in start.spec.task.volumes:
            place = (start.job, start.slot, volume.name)
            home = self.homes.setdefault(place, device.index)
            if home != device.index and not self._free(start.job):
                text = f"slot {start.slot} of {start.job} runs without its volume, on {home}"
                self.violate(device.index, text)

    def _free(self, job: JobId) -> bool:
        return job in self.deleted or any(job in each for each in self.free)
