"""What the agent holds of an execution in a container, and what it notes of it on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import trio

from agent.engines.container import ContainerLaunch
from agent.engines.execution_dir import ExecutionDir
from agent.engines.supervisor import boot_id, spec_field
from agent.engines.task import TaskExit
from agent.engines.task_log import Stream


@dataclass(slots=True)
class Held:
    """Of one execution, from its start on until it is removed."""

    grace_s: float
    memory_bytes: int
    boot: str
    log_bytes: int = 0  # of both streams that docker is to keep; 0: not known
    started: bool = False  # docker has taken it
    ended: trio.Event = field(default_factory=trio.Event)
    exit: TaskExit | None = None
    stopping: bool = False
    timed_out: bool = False
    killed: bool = False  # through docker, by somebody else
    expected: bool = False  # docker may start it yet
    kill_at: float | None = None  # trio's clock; None while nobody brings it down
    clearing: bool = False  # whoever wanted its files has them
    told: bool = False  # docker has told of its end: nothing is written any more
    output: Mapping[Stream, Iterable[bytes]] | None = None  # all of it, where that is little
    kept: bool = False  # its output is, beside its container
    output_bytes: int = 0  # see Seen
    lost_output: str = ""
    beside: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    def end(self, exit: TaskExit) -> None:
        if self.exit is None:
            self.exit = exit
            self.ended.set()


def note_start(directory: ExecutionDir, launch: ContainerLaunch) -> None:
    """For another life of the agent. Blocks; raises OSError."""
    directory.create(None)
    directory.write_spec(_spec(launch))


def _spec(launch: ContainerLaunch) -> bytes:
    """As execution_dir reads it."""
    fields: dict[str, object] = {
        "boot": boot_id(),
        "arg": launch.image,
        "uptime_ms": _uptime_ms(),
        "grace_ms": round(launch.stop_grace_s * 1000),
        "memory": launch.memory_bytes,
        "log_bytes": 2 * launch.log_bytes_max,
    }
    if launch.timeout_s is not None:
        fields["timeout_ms"] = round(launch.timeout_s * 1000)
    return b"".join(f"{key}={value}\0".encode() for key, value in fields.items())


def read_start(directory: ExecutionDir) -> tuple[Held, float | None]:
    """What was noted, and how long it may run from now on: by the time since boot, which nobody
    sets. Blocks; raises OSError."""
    try:
        spec = (directory.path / "spec").read_bytes()
    except FileNotFoundError:  # on a full disk only its end may have been written
        spec = b""
    held = Held(
        int(spec_field(spec, "grace_ms") or 10_000) / 1000,
        int(spec_field(spec, "memory") or 0),
        spec_field(spec, "boot") or "",
        int(spec_field(spec, "log_bytes") or 0),
        started=True,
    )
    limit = spec_field(spec, "timeout_ms")
    if limit is None:
        return held, None
    ran_ms = _uptime_ms() - int(spec_field(spec, "uptime_ms") or 0)
    return held, max(0.0, (int(limit) - ran_ms) / 1000)


def _uptime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
