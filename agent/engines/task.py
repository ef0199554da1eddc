"""The values that go into an engine and come out of it: a task's launch and its exit."""

import enum
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

_EXECUTION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ExitReason(enum.StrEnum):
    """Why an execution is over."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"
    STOPPED = "stopped"  # we asked for it
    INTERRUPTED = "interrupted"  # its supervisor was told to end by someone else: a shutdown
    START_FAILED = "start-failed"
    LOST = "lost"  # nobody saw its end: power loss, or the supervisor was killed


class ExecutionRunningError(Exception):
    """It cannot be removed while it runs."""


@dataclass(frozen=True, slots=True)
class TaskUser:
    """Whom tasks run as; `groups` are the supplementary ones (gpio, video, ...)."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def named(cls, name: str) -> Self:
        """Raises KeyError when the device has no such user."""
        entry = pwd.getpwnam(name)
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return cls(entry.pw_uid, entry.pw_gid, groups)

    @classmethod
    def default(cls) -> Self | None:
        """`nobody` where the agent is root, else the agent's own user (None)."""
        return cls.named("nobody") if os.geteuid() == 0 else None


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """Resource limits of each of a task's processes, where nothing else is said; None leaves the
    device's own."""

    open_files_max: int = 1024  # the kernel's customary soft limit
    processes_max: int | None = None  # and threads, of its user, whoever started them
    data_bytes_max: int | None = None  # of its own that it may write to, used or not
    memory_bytes: int = 0  # of all processes together, where there are control groups
    cpu_m: int = 100  # millicores; what it has of a busy device, likewise


@dataclass(frozen=True, slots=True)
class TaskLaunch:
    """One execution to start. `env` is the job's and the SHOAL_* variables; the engine adds
    PATH, LANG, HOME and TMPDIR, which `env` may override. `cwd` and `stdin`, the file that is its
    standard input, are relative to the work directory.
    """

    execution_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    stdin: str | None = None
    limits: TaskLimits = field(default_factory=TaskLimits)
    timeout_s: float | None = None
    stop_grace_s: float = 10.0  # as docker stop
    log_bytes_max: int = 4 << 20  # of each stream, on disk
    user: TaskUser | None = None  # None: the engine's default
    becomes_user: bool = False  # it is started as the agent's own user, and changes to it by itself
    network: bool = True  # without one it is put into a sandbox
    shared: Mapping[str, bool] = field(default_factory=dict)  # the device's own directories that it
    # is given, and whether to write to; with one to read it is put into an open sandbox


@dataclass(frozen=True, slots=True)
class TaskExit:
    """How an execution ended. `detail` is a sentence for people, empty for an ordinary end."""

    code: int | None
    signal: int | None
    reason: ExitReason
    ended_wall: float
    duration_s: float
    detail: str = ""
    lost_output: str = ""  # what of its output is not kept, in a sentence
    # Of stdout and stderr, as its supervisor has written them; None where none said so.
    output_bytes: tuple[int, int] | None = field(default=None, compare=False)
    may_begin: bool = False  # whoever was asked to start it did not answer, and may do it yet

    @property
    def succeeded(self) -> bool:
        return self.reason is ExitReason.EXITED and self.code == 0


def is_execution_id(name: str) -> bool:
    return _EXECUTION_ID.fullmatch(name) is not None


def check_execution_id(execution_id: str) -> None:
    """Raises ValueError for a name that could reach outside its directory."""
    if not is_execution_id(execution_id):
        raise ValueError(f"not an execution id: {execution_id!r:.80}")
