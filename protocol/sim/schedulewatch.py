"""What must hold of schedules: no run before its time, on a wrong clock, or twice from one device.

The world is the judge: what was fired is read from the disk of whoever fired it, when it was fired
from the world's own time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.derived import open_spec, slot_of, source_of
from protocol.effects import Bucket, Effect, Save, Tell
from protocol.errors import RemoteProtocolError
from protocol.execution import Execution
from protocol.ids import JobId
from protocol.records import Spec
from protocol.schedules import Mark
from protocol.sim.device import Device
from protocol.wire import loads

Rows = dict[tuple[Bucket, str], bytes | None]
FIRED: Final = "schedule.fired"
HANDLED: Final = (FIRED, "schedule.skipped")


@dataclass(slots=True)
class ScheduleWatch:
    """Follows all devices of one run."""

    violate: Callable[[int, str], None]
    handled_at: dict[JobId, float] = field(default_factory=dict)  # by schedule, simulated time
    _started: dict[tuple[JobId, int], dict[int, None]] = field(
        default_factory=dict
    )  # ops: generations by run and device

    def handled(self, device: Device, effects: list[Effect], time: float) -> None:
        """The node is between two events."""
        for effect in effects:
            if isinstance(effect, Tell) and effect.kind in HANDLED and effect.job is not None:
                self.handled_at[effect.job] = time
        saves = [effect for effect in effects if isinstance(effect, Save)]
        rows: Rows = {(bucket, key): value for save in saves for bucket, key, value in save.rows}
        for run, schedule in fired(effects).items():
            self._check(device, run, schedule, rows)

    def started(self, device: Device, execution: Execution) -> None:
        """An ops job starts: of a schedule's at most once on a device in one slot of time, whoever
        fired it; of two generations that two islands had then each may."""
        spec = open_spec(execution.spec_data, device.keyring).record
        assert isinstance(spec, Spec)
        if source_of(spec) is None:
            return
        run = f"run {spec.job} of slot {slot_of(spec)}"
        known = self._started.setdefault((spec.job, device.index), {})
        if spec.generation in known:
            self.violate(device.index, f"starts {run} twice")
        known[spec.generation] = None
        own = spec.key.split("/")[2:]
        if own not in ([], [device.peer]):
            self.violate(device.index, f"starts {run}, which is another's own")

    def _check(
        self,
        device: Device,
        run: JobId,
        schedule: JobId | None,
        rows: Rows,
    ) -> None:
        data, mark = rows.get(("spec", run)), rows.get(("schedule", str(schedule)))
        if data is None or mark is None:
            self.violate(device.index, f"fires run {run} without saving it with its mark")
            return
        if run in device.disk.rows["job"]:  # what was never durable is rightly fired again
            self.violate(device.index, f"fires run {run} twice")
        try:
            spec = open_spec(data, device.keyring).record
        except RemoteProtocolError as error:
            self.violate(device.index, f"fires run {run}, which nobody would take: {error}")
            return
        assert isinstance(spec, Spec)
        now, slot = device.now(), slot_of(spec)
        # Of several slots that are fired at once the mark is the last one's.
        _, handled = msgspec.convert(loads(mark), Mark)
        if source_of(spec) != schedule or handled < slot:
            self.violate(device.index, f"marks another slot than that of run {run}")
        if not now.wall_trusted:
            self.violate(device.index, f"fires run {run} on a clock that is not trusted")
        if slot > now.wall:
            self.violate(device.index, f"fires run {run} before its time")


def fired(effects: list[Effect]) -> dict[JobId, JobId | None]:
    """The runs that are fired just now, with their schedules."""
    tells = [effect for effect in effects if isinstance(effect, Tell) and effect.kind == FIRED]
    return {JobId(str(tell.fields["job"])): tell.job for tell in tells}
