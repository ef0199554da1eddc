"""Control groups: what holds the processes of a task to the memory and processor of its job.

Version 2 where the kernel's tree is of that kind, else version 1, each where this agent may write,
which is root. Elsewhere there are rlimits, and `shoal doctor` says so. All of it blocks for a
moment.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.engines.task import TaskLimits

ROOT: Final = Path("/sys/fs/cgroup")
BASE: Final = "shoal"
CONTROLLERS: Final = ("memory", "cpu", "pids")
PIDS_MAX: Final = 512  # as a container's
# What a job leaves out is set aside as 64 MiB, which is no trap: so much it may have in any case.
MEMORY_BYTES_MIN: Final = 256 << 20
WEIGHT_PER_CORE: Final = 100  # version 2's default, which a group of one core is equal to
SHARES_PER_CORE: Final = 1024  # version 1's
_log = logging.getLogger("shoal.engines")


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The groups of one agent; two agents may share a device."""

    owner: str
    version: int
    bases: tuple[Path, ...]  # of version 1, one for each controller

    @classmethod
    def find(cls, owner: str, root: Path = ROOT) -> Cgroups | None:
        """None where no limit can be set here."""
        try:
            if (root / "cgroup.controllers").exists():
                return cls._unified(owner, root)
            bases = tuple(root / name / BASE for name in CONTROLLERS)
            for base in bases:
                base.mkdir(exist_ok=True)
                _probe(base, owner)
            return cls(owner, 1, bases)
        except OSError as error:
            _log.debug("no control groups: %s", error)
            return None

    @classmethod
    def _unified(cls, owner: str, root: Path) -> Cgroups:
        base = root / BASE
        base.mkdir(exist_ok=True)
        for where in (root, base):
            allowed = set((where / "cgroup.controllers").read_text().split())
            if "memory" not in allowed:  # as on a Pi whose kernel was not told to count memory
                raise OSError("the kernel does not count memory here")
            given = set((where / "cgroup.subtree_control").read_text().split())
            if wanted := [f"+{name}" for name in CONTROLLERS if name in allowed - given]:
                (where / "cgroup.subtree_control").write_text(" ".join(wanted))
        _probe(base, owner)
        return cls(owner, 2, (base,))

    def create(self, name: str, limits: TaskLimits) -> tuple[str, ...]:
        """Make a group; the files that a process joins it by. Raises OSError.

        Of version 1 a single thread joins, as a task is before it becomes its program: a whole
        process would wait for a grace period of RCU, 10 to 20 ms.
        """
        files = []
        for base in self.bases:
            group = base / self._called(name)
            group.mkdir(exist_ok=True)
            for key, value in self._settings(base, limits):
                with contextlib.suppress(FileNotFoundError):  # no such controller, or no swap
                    _write(group / key, value)
            files.append(str(group / ("cgroup.procs" if self.version == 2 else "tasks")))
        return tuple(files)

    def ran_out(self, name: str) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        key = "memory.events" if self.version == 2 else "memory.oom_control"
        try:
            text = (self.bases[0] / self._called(name) / key).read_text()
        except OSError:
            return False
        counted = dict(line.split() for line in text.splitlines() if line.count(" ") == 1)
        return int(counted.get("oom_kill", "0")) > 0

    def remove(self, name: str) -> None:
        """Missing is fine, and so is one in which something still runs: the next start tries."""
        for base in self.bases:
            with contextlib.suppress(OSError):
                (base / self._called(name)).rmdir()

    def sweep(self, known: Iterable[str]) -> None:
        """Remove those of executions that are not known any more."""
        kept = {self._called(name) for name in known}
        for base in self.bases:
            for group in base.glob(f"{self.owner}-*"):
                if group.is_dir() and group.name not in kept:
                    with contextlib.suppress(OSError):
                        group.rmdir()

    def _called(self, name: str) -> str:
        return f"{self.owner}-{name}"

    def _settings(self, base: Path, limits: TaskLimits) -> list[tuple[str, str]]:
        memory = str(memory_bytes_max(limits))
        if self.version == 2:
            weight = min(max(limits.cpu_m * WEIGHT_PER_CORE // 1000, 1), 10_000)
            return [
                ("memory.max", memory),
                ("memory.swap.max", "0"),
                ("cpu.weight", str(weight)),
                ("pids.max", str(PIDS_MAX)),
            ]
        shares = max(limits.cpu_m * SHARES_PER_CORE // 1000, 2)
        return {
            "memory": [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
            "cpu": [("cpu.shares", str(shares))],
            "pids": [("pids.max", str(PIDS_MAX))],
        }[base.parent.name]


def memory_bytes_max(limits: TaskLimits) -> int:
    return max(limits.memory_bytes, MEMORY_BYTES_MIN)


def _write(setting: Path, value: str) -> None:
    """Never creating it: the kernel calls that forbidden, not missing."""
    with open(setting, "r+") as file:
        file.write(value)


def _probe(base: Path, owner: str) -> None:
    """Raises OSError where no group can be made."""
    group = base / f"{owner}-probe"
    group.mkdir(exist_ok=True)
    group.rmdir()
