"""One execution's directory: its files, and what they say of its life.

    spec            what to run (0600: the job's environment may hold secrets)
    supervisor      `pid starttime` of the supervisor; task: the same of the task
    stop            written to ask for the end; holds the grace in milliseconds, or nothing
    exit            how it ended, as JSON; whoever renames it here first decides
    sandbox         what bubblewrap told of the task's sandbox, where it is in one
    note.NAME       what the agent keeps beside it
    stdout.OFFSET   log segments, named by the absolute offset of their first byte; stderr.OFFSET
    work/ tmp/      the task's own; the only entries it may read or write

The directory is 0711 where tasks run as another user: they must pass through it to reach `work`.
"""

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent import durable
from agent.engines.removal import remove_tree
from agent.engines.supervisor import boot_id, open_process, spec_field
from agent.engines.task import ExitReason, TaskExit, TaskUser
from agent.engines.task_log import STREAMS, first_offset

_RECORD_WAIT_S = 2.0  # a supervisor writes its record ~1 ms after it took the lock
_BOOT_FIELD_BYTES = 64


class _ExitRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: ExitReason
    code: int | None = None
    signal: int | None = None
    stage: str = ""
    errno: int = 0
    duration_ms: int = 0
    ended_wall_ms: int = 0
    stdout_bytes: int | None = None  # a supervisor says them
    stderr_bytes: int | None = None
    dropped_bytes: int = 0
    detail: str = ""
    lost_output: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a directory tells: a living supervisor (we own the pidfd) or an end."""

    pidfd: int | None = None
    exit: TaskExit | None = None


@dataclass(frozen=True, slots=True)
class ExecutionDir:
    path: Path

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def sandbox(self) -> Path:
        return self.path / "sandbox"

    def create(self, user: TaskUser | None, *, give: bool = True) -> None:
        """Make it and the task's own directories; harmless when they exist. Without `give` those
        stay the agent's until they are handed over."""
        self.path.mkdir(exist_ok=True)
        self.path.chmod(0o711 if user else 0o700)  # mkdir's mode is cut down by the service's umask
        for own in (self.work, self.tmp):
            own.mkdir(mode=0o700, exist_ok=True)
            if user and give:  # the task cannot have put a link there: the directory above is ours
                os.chown(own, user.uid, user.gid, follow_symlinks=False)

    def write_spec(self, spec: bytes) -> None:
        self._replace("spec", spec)

    def clear(self) -> None:
        """Delete the task's own directories with all that is in them."""
        for own in (self.work, self.tmp):
            with contextlib.suppress(FileNotFoundError):
                remove_tree(own)

    def write_note(self, name: str, data: bytes) -> None:
        self._replace(f"note.{name}", data, durably=True)

    def read_note(self, name: str) -> bytes | None:
        try:
            return (self.path / f"note.{name}").read_bytes()
        except FileNotFoundError:
            return None

    def ask_to_stop(self, grace_ms: int | None) -> None:
        self._replace("stop", b"" if grace_ms is None else b"%d" % grace_ms)

    def fail_start(self, detail: str) -> TaskExit:
        """Record that it never ran; a disk too full for that does not change the answer."""
        record = _ExitRecord(
            reason=ExitReason.START_FAILED, ended_wall_ms=_wall_ms(), detail=detail
        )
        with contextlib.suppress(OSError):
            self._replace("exit", msgspec.json.encode(record), durably=True)
        return self._told(record)

    def record(self, ended: TaskExit) -> None:
        """Keep how it ended, as an engine without a supervisor found it out. Raises OSError."""
        record = _ExitRecord(
            reason=ended.reason,
            code=ended.code,
            signal=ended.signal,
            duration_ms=round(ended.duration_s * 1000),
            ended_wall_ms=round(ended.ended_wall * 1000),
            detail=ended.detail,
            lost_output=ended.lost_output,
        )
        self._replace("exit", msgspec.json.encode(record), durably=True)

    def known(self) -> bool:
        """False while it was only prepared."""
        return (self.path / "spec").exists() or (self.path / "exit").exists()

    def unfinished(self) -> bool:
        """It was to be started, and nobody has seen its end."""
        return (self.path / "spec").exists() and not (self.path / "exit").exists()

    def never_started(self) -> bool:
        """True if no supervisor took it on in this boot, and it has not been given up."""
        if (self.path / "supervisor").exists() or (self.path / "exit").exists():
            return False
        return not (self.path / "spec").exists() or self.of_this_boot()

    def read_exit(self) -> TaskExit | None:
        try:
            record = msgspec.json.decode((self.path / "exit").read_bytes(), type=_ExitRecord)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError) as broken:  # zeroes after a power loss
            record = _ExitRecord(
                reason=ExitReason.LOST,
                ended_wall_ms=_wall_ms(),
                detail=f"its end is unreadable: {broken}",
            )
        return self._told(record)

    def look(self) -> Sighting:
        """Find its supervisor or its end; one that has neither is given up as lost, for good."""
        give_up_at = time.monotonic() + _RECORD_WAIT_S
        while True:
            if (ended := self.read_exit()) is not None:
                return Sighting(exit=ended)
            if (pidfd := self._open_supervisor()) is not None:
                return Sighting(pidfd=pidfd)
            if time.monotonic() > give_up_at:
                raise OSError(errno.ETIMEDOUT, "locked by what is not its supervisor", self.path)
            if not self._give_up():
                time.sleep(0.002)  # a supervisor has the lock: its record or its exit comes now

    def _give_up(self) -> bool:
        """Take the lock and record the loss; a supervisor that comes later then starts nothing."""
        lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (self.path / "exit").exists():
                record = _ExitRecord(reason=ExitReason.LOST, ended_wall_ms=_wall_ms())
                self._replace("exit", msgspec.json.encode(record), durably=True)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _open_supervisor(self) -> int | None:
        try:
            pid, started = map(int, (self.path / "supervisor").read_text().split())
        except (OSError, ValueError):
            return None
        return open_process(pid, started) if self.of_this_boot() else None

    def of_this_boot(self) -> bool:
        try:
            with open(self.path / "spec", "rb") as spec:
                return spec_field(spec.read(_BOOT_FIELD_BYTES), "boot") == boot_id()
        except OSError:
            return False

    def _told(self, record: _ExitRecord) -> TaskExit:
        detail, output = record.detail, None
        if record.stdout_bytes is not None:
            output = (record.stdout_bytes, record.stderr_bytes or 0)
        if record.stage:
            detail = self._failed_step(record.stage, record.errno)
        elif record.reason is ExitReason.LOST and not detail:
            detail = "nobody saw it end: the device lost power, or its supervisor was killed"
        return TaskExit(
            code=record.code,
            signal=record.signal,
            reason=record.reason,
            ended_wall=record.ended_wall_ms / 1000,
            duration_s=record.duration_ms / 1000,
            detail=detail,
            lost_output=record.lost_output or self._lost_output(record),
            output_bytes=output,
        )

    def _lost_output(self, record: _ExitRecord) -> str:
        """What its supervisor could not write, and what it wrote over."""
        written = {"stdout": record.stdout_bytes, "stderr": record.stderr_bytes}
        lost = []
        if record.dropped_bytes:
            lost.append(f"{record.dropped_bytes:,} bytes of it found no room on the disk")
        for stream in STREAMS:
            if written[stream] and (gone := first_offset(self.path, stream)):
                why = "as task.log_bytes_max has it"
                lost.append(f"the first {gone:,} bytes of {stream} are gone, {why}")
        return "; ".join(lost)

    def _failed_step(self, stage: str, number: int) -> str:
        try:
            spec = (self.path / "spec").read_bytes()
        except OSError:
            spec = b""
        command, why = spec_field(spec, "arg"), os.strerror(number)
        match stage, number:
            case "exec", errno.ENOENT:
                return f"{command}: no such command here (or its first line names one)"
            case "exec", errno.EACCES:
                return f"{command}: not executable for the task's user"
            case "exec", errno.ENOEXEC:
                return f"{command}: neither a script with a #! line nor a program for this device"
            case "exec", _:
                return f"{command}: cannot be run: {why}"
            case "cwd", _:
                return f"{spec_field(spec, 'cwd')}: cannot be the working directory: {why}"
            case "stdin", _:
                return f"{spec_field(spec, 'stdin')}: cannot be read as standard input: {why}"
            case "user", _:
                return f"cannot become user {spec_field(spec, 'uid')}: {why}"
            case _:
                return f"the supervisor could not set it up ({stage}): {why}"

    def _replace(self, name: str, data: bytes, *, durably: bool = False) -> None:
        fresh = self.path / f".{name}"
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(file, "wb", buffering=0) as out:
            out.write(data)
            if durably:
                durable.sync(file)
        fresh.rename(self.path / name)
        if durably:
            durable.sync_directory(self.path)


def closed_parent(path: Path, user: TaskUser) -> Path | None:
    """The first directory above `path` that the user may not pass through."""
    for parent in reversed((path, *path.parents)):
        held = parent.stat()
        theirs = held.st_uid == user.uid and held.st_mode & 0o100
        group = held.st_gid in (user.gid, *user.groups) and held.st_mode & 0o010
        if not (theirs or group or held.st_mode & 0o001):
            return parent
    return None


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
