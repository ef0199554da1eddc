"""The sandbox of a program: bubblewrap, which shows it the device's files and nothing of its life.

The device is there to read, without other people's homes, sockets or tasks, and with the device
files that its owner lists. What the task writes it writes to its own directory. Processes of its
own are all it sees; a network is there unless it asked for none.

An open one is for a task that has a directory of the device to read, and is not to write there: all
else of the device is as it is without a sandbox, but for others' processes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.engines.spawner import Spawner
from agent.engines.task import TaskUser
from protocol.asks import matching

PROGRAM: Final = "bwrap"
SAID_BYTES_MAX: Final = 4096
PROBE_S: Final = 10.0  # 7 ms on a PC; a card that is busy takes its time
STATUS_FD: Final = 100  # as supervise.c opens it for bubblewrap, on `sandbox` beside the task
# Kept from what is hidden: names are looked up with these.
RESOLVERS: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
HIDDEN: Final = ("/tmp", "/var/tmp", "/run", "/home", "/root")  # noqa: S108
# All of them, also for an open one: by these a check knows a sandbox, see enter in supervise.c.
_BASE: Final = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
    *("--unshare-cgroup-try", "--die-with-parent"),
)
# Bubblewrap's own --dev makes terminals, and for these a second user namespace, which checks beside
# the task could not enter.
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS: Final = (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"))
# As ld.so(8) drops them for a program that gains rights: they would work on bubblewrap itself.
_UNSAFE: Final = (
    *("GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH"),
    *("MALLOC_TRACE", "NIS_PATH", "NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "TZDIR"),
)
_log = logging.getLogger("shoal.engines")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A bubblewrap that works here. `always`: for every program, whether it asks for it or not."""

    program: str
    always: bool
    hidden: tuple[Path, ...] = ()  # the agent's own directories and sockets
    devices: tuple[str, ...] = ()  # device files, as in the policy: a star stands for any rest

    @classmethod
    def find(
        cls,
        user: TaskUser | None,
        always: bool,
        hidden: tuple[Path, ...],
        devices: tuple[str, ...],
        spawner: Spawner | None = None,
    ) -> Sandbox | None:
        """None where tasks of `user`, or those that the spawner starts, cannot be put into one: it
        is tried as they are started. Blocks for some milliseconds."""
        program = shutil.which(PROGRAM)
        if program is None:
            _log.debug("no %s", PROGRAM)
            return None
        made = cls(program, always, hidden, devices)
        words = made.words(Path("/"), (), {}, network=False)
        argv = (program, *words, "--", "/bin/sh", "-c", ":")
        try:
            code, said = _try(argv, user) if spawner is None else _try_by(spawner, argv)
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("%s is here and does not work: %s", program, error)
            return None
        if code:
            said = said or f"its exit code is {code}"
            _log.warning("%s is here and does not work: %s", program, said)
            return None
        return made

    def prefix(
        self,
        directory: Path,
        writable: Sequence[Path],
        shared: Mapping[str, bool],
        env: Mapping[str, str],
        *,
        network: bool,
        is_open: bool = False,
    ) -> tuple[str, ...]:
        """What stands before the command; `env` is what of its variables is set inside only."""
        words = self.words(directory, writable, shared, network=network, is_open=is_open)
        set_ = [word for name, value in env.items() for word in ("--setenv", name, value)]
        return (self.program, *words, *set_, "--json-status-fd", str(STATUS_FD), "--")

    def words(
        self,
        directory: Path,
        writable: Sequence[Path],
        shared: Mapping[str, bool],
        *,
        network: bool,
        is_open: bool = False,
    ) -> list[str]:
        """It starts in `directory`, may write to `writable`, and has of the device's own
        directories those in `shared`, where that says so to write to."""
        words = [*_BASE, *([] if network else ["--unshare-net"])]
        words += ["--dev-bind", "/", "/", "--proc", "/proc"] if is_open else self._closed()
        for path, may_write in sorted(shared.items()):
            words += ["--bind" if may_write else "--ro-bind", path, path]
        for own in writable:
            words += ["--bind", str(own), str(own)]
        return [*words, "--chdir", str(directory)]

    def _closed(self) -> list[str]:
        """What of the device is there, and what of that is hidden."""
        words = ["--ro-bind", "/", "/", "--proc", "/proc", *_own_devices()]
        hidden = (*HIDDEN, *map(str, self.hidden))
        for path in dict.fromkeys(os.path.realpath(path) for path in hidden):
            if os.path.isdir(path):
                words += ["--tmpfs", path]
            elif os.path.exists(path):
                words += ["--ro-bind", "/dev/null", path]
        for path in RESOLVERS:
            words += ["--ro-bind-try", path, path]
        for path, real in _listed(self.devices).items():
            words += ["--dev-bind-try", real, path]
        return words


def _try(argv: Sequence[str], user: TaskUser | None) -> tuple[int, str]:
    """Exit code, and what it said."""
    who = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    ran = subprocess.run(argv, timeout=PROBE_S, check=False, capture_output=True, cwd="/", **who)  # type: ignore[call-overload]
    return ran.returncode, ran.stderr.decode("utf-8", "replace").strip()


def _try_by(spawner: Spawner, argv: Sequence[str]) -> tuple[int, str]:
    """The agent's own service may be kept from namespaces: its tasks are not."""
    with open(os.devnull, "r+b") as null, tempfile.TemporaryFile() as said:
        streams = (null.fileno(), null.fileno(), said.fileno())
        line = spawner.beside(Path("/"), {}, argv, streams)
        try:
            code = line.status(PROBE_S)
        finally:
            os.close(line.pidfd)
            line.close()
        if code is None:
            raise OSError(f"no end within {PROBE_S:.0f} s")
        said.seek(0)
        return code, said.read(SAID_BYTES_MAX).decode("utf-8", "replace").strip()


def inside_only(env: Mapping[str, str]) -> dict[str, str]:
    """Of a task's variables those that would do something to bubblewrap, outside of all."""
    return {k: v for k, v in env.items() if k.startswith("LD_") or k in _UNSAFE}


@dataclass(frozen=True, slots=True)
class Status:
    """What bubblewrap told of a sandbox: the process that is there as number 1, and whether the
    command itself has ended, which tells its failures from bubblewrap's."""

    pid: int = 0
    ended: bool = False

    @classmethod
    def read(cls, path: Path) -> Status | None:
        """None where there is no sandbox."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, ValueError):
            return None
        told: dict[str, object] = {}
        for line in lines:
            try:
                told |= json.loads(line)
            except ValueError:  # cut short, as the disk was full
                break
        pid = told.get("child-pid", 0)
        return cls(pid if isinstance(pid, int) else 0, "exit-code" in told)

    @classmethod
    def first_process(cls, path: Path) -> int:
        """That of a task's sandbox, by its number outside. Raises OSError."""
        status = cls.read(path)
        if status is None or not status.pid or status.ended:
            raise OSError("it is not in its sandbox just now")
        return status.pid


def _own_devices() -> Iterator[str]:
    yield from ("--tmpfs", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm")  # noqa: S108
    for name in _DEVICES:
        yield from ("--dev-bind-try", f"/dev/{name}", f"/dev/{name}")
    for name, rest in _LINKS:
        yield from ("--symlink", f"/proc/self/fd{rest}", f"/dev/{name}")


def _listed(patterns: tuple[str, ...]) -> dict[str, str]:
    """Device files that match, and what each is a link to; of all below /dev where a star asks for
    more than one, but for links, which are made anew."""
    found = {
        path: os.path.realpath(path)
        for path in patterns
        if "*" not in path and os.path.normpath(path).startswith("/dev/")
    }
    starred = [pattern for pattern in patterns if "*" in pattern]
    for directory, _, names in os.walk("/dev") if starred else ():
        for name in names:
            path = os.path.join(directory, name)
            if any(matching(path, pattern) for pattern in starred) and not os.path.islink(path):
                found[path] = path
    return {path: real for path, real in sorted(found.items()) if _is_device(real)}


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
