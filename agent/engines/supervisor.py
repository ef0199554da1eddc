"""The supervisor program: where it is, what it is told, how it is started and found again."""

import functools
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.engines.cgroups import memory_bytes_max
from agent.engines.task import TaskLaunch, TaskUser

_NULL_FD_ACTIONS = (
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
    (os.POSIX_SPAWN_DUP2, 0, 1),
    (os.POSIX_SPAWN_DUP2, 0, 2),
)
# A TERM sent before the supervisor listens for it must wait, not end it.
_ALL_SIGNALS = tuple(signal.valid_signals())


@functools.cache
def supervisor_path() -> Path:
    return Path(__file__).with_name("shoal-supervise")


@functools.cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def spawn_supervisor(directory: Path) -> int:
    """Start one in a session of its own, so that it outlives us; returns its pid, a child of ours.

    posix_spawn shares our memory until the exec (vfork): its cost does not grow with the agent.
    Raises OSError.
    """
    path = str(supervisor_path())
    return os.posix_spawn(
        path,
        (path, str(directory)),
        {},
        file_actions=_NULL_FD_ACTIONS,
        setsid=True,
        setsigmask=_ALL_SIGNALS,
    )


def encode_spec(
    launch: TaskLaunch,
    user: TaskUser | None,
    env: Mapping[str, str],
    groups: Sequence[str] = (),
    sandbox: Sequence[str] = (),
) -> bytes:
    """NUL-ended `key=value` fields, the boot id first; `groups` are the files by which the task
    joins its control groups, `sandbox` the words that come before its command. Raises ValueError
    for what cannot run."""
    if not launch.argv or not launch.argv[0]:
        raise ValueError("there is no command to run")
    if any(not key or "=" in key for key in env):
        raise ValueError("an environment variable's name is empty or has a '='")
    limits = launch.limits
    numbers = {
        "timeout_ms": None if launch.timeout_s is None else max(1, _ms(launch.timeout_s)),
        "grace_ms": _ms(launch.stop_grace_s),
        "log_bytes": launch.log_bytes_max,
        "core": 0,
        "nofile": limits.open_files_max,
        "nproc": limits.processes_max,
        "data": limits.data_bytes_max,
        "uid": user.uid if user else None,
        "gid": user.gid if user else None,
    }
    fields = [("boot", boot_id())]
    fields += [(key, str(number)) for key, number in numbers.items() if number is not None]
    fields += [("group", str(group)) for group in (user.groups if user else ())]
    fields += [("cgroup", path) for path in groups]
    fields += [("memory", str(memory_bytes_max(limits)))] if groups else []
    fields += [("cwd", launch.cwd)] if launch.cwd else []
    fields += [("stdin", launch.stdin)] if launch.stdin else []
    fields += [("sandbox", "1")] if sandbox else []
    fields += [("arg", arg) for arg in (*sandbox, *launch.argv)]
    fields += [("env", f"{key}={value}") for key, value in env.items()]
    if any("\0" in value for _, value in fields):
        raise ValueError("a NUL byte in the command, its environment or its directory")
    return b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in fields)


def spec_field(spec: bytes, key: str) -> str | None:
    """The first value of that key."""
    return next(iter(spec_fields(spec, key)), None)


def spec_fields(spec: bytes, key: str) -> list[str]:
    """Every value of that key, in order."""
    prefix = os.fsencode(key) + b"="
    found = (part for part in spec.split(b"\0") if part.startswith(prefix))
    return [os.fsdecode(value.removeprefix(prefix)) for value in found]


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the process's start (proc(5), field 22); None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(text.rpartition(b")")[2].split()[19])


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of just that process; None if it is gone, though its number be used again.

    The descriptor is opened before the comparison: what matches then is what we hold.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return None
    if start_time(pid) == started:
        return pidfd
    os.close(pidfd)
    return None


def _ms(seconds: float) -> int:
    return max(0, round(min(seconds, 1e9) * 1000))
