"""The sandbox of a program: bubblewrap, which shows it the device's files and nothing of its life.

The device is there to read, without other people's homes, sockets or tasks, and with the device
files that its owner lists. What the task writes it writes to its own directory. Processes of its
own are all it sees; a network is there unless it asked for none.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.engines.task import TaskUser

PROGRAM: Final = "bwrap"
PROBE_S: Final = 10.0  # 7 ms on a PC; a card that is busy takes its time
# Kept from what is hidden: names are looked up with these.
RESOLVERS: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
HIDDEN: Final = ("/tmp", "/var/tmp", "/run", "/home", "/root")  # noqa: S108
_BASE: Final = [
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
]
_log = logging.getLogger("shoal.engines")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A bubblewrap that works here. `always`: for every program, whether it asks for it or not."""

    program: str
    always: bool
    hidden: tuple[Path, ...]  # the agent's own directories
    devices: tuple[str, ...] = ()  # device files, as in the policy: a star stands for any rest

    @classmethod
    def find(
        cls, user: TaskUser | None, always: bool, hidden: Path, devices: tuple[str, ...]
    ) -> Sandbox | None:
        """None where tasks of `user` cannot be put into one. Blocks for some milliseconds."""
        program = shutil.which(PROGRAM)
        if program is None:
            _log.debug("no %s", PROGRAM)
            return None
        made = cls(program, always, (hidden.absolute(),), devices)
        who = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
        command = (*made.prefix(Path("/"), (), {}, network=False), "/bin/sh", "-c", ":")
        try:
            ran = subprocess.run(
                command, timeout=PROBE_S, check=False, capture_output=True, cwd="/", **who
            )  # type: ignore[call-overload]
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("%s is here and does not work: %s", program, error)
            return None
        if ran.returncode:
            said = ran.stderr.decode("utf-8", "replace").strip()
            _log.warning("%s is here and does not work: %s", program, said)
            return None
        return made

    def prefix(
        self,
        directory: Path,
        writable: Sequence[Path],
        shared: dict[str, bool],
        *,
        network: bool,
    ) -> tuple[str, ...]:
        """What stands before the command: it starts in `directory`, may write to `writable`, and
        has of the device's own directories those in `shared`, where that says so to write to."""
        words = [self.program, *_BASE, *([] if network else ["--unshare-net"])]
        for path in (*HIDDEN, *map(str, self.hidden)):
            if os.path.isdir(path) and not os.path.islink(path):
                words += ["--tmpfs", path]
        for path in RESOLVERS:
            words += ["--ro-bind-try", path, path]
        for pattern in self.devices:
            for path in sorted(glob.glob(pattern)):
                words += ["--dev-bind-try", path, path]
        for path, may_write in sorted(shared.items()):
            words += ["--bind" if may_write else "--ro-bind", path, path]
        for own in writable:
            words += ["--bind", str(own), str(own)]
        return (*words, "--chdir", str(directory), "--")


def command_here(name: str, path: str, directory: Path) -> bool:
    """Whether there is such a command to run in `directory`: inside, nobody could tell that from
    the command's own failure."""
    if "/" in name:
        return os.access(directory / name, os.X_OK)
    return shutil.which(name, path=path) is not None
