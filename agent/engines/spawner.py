"""The spawner, as the agent speaks to it: what starts tasks where the agent may become nobody else.

It is `spawn.c`, which says what is asked and answered. All of this blocks, for a millisecond or
two, and raises OSError with a sentence where nobody answers.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.engines.task import TaskUser

MESSAGE_BYTES_MAX: Final = 192 << 10  # below a socket's own bound (net.core.wmem_default is 208)
ANSWER_BYTES: Final = 1024
ANSWER_S: Final = 30.0  # it forks and answers; systemd may have to start it first
TAKE_S: Final = 600.0  # as removing a tree of a million files may take
OK: Final = b"ok"


@dataclass(slots=True)
class Line:
    """What is kept of one thing that runs: a connection that tells of its end, and a pidfd."""

    socket: socket.socket
    pidfd: int

    def status(self, wait_s: float = 0.0) -> int | None:
        """Its exit status once the spawner has told of it (128 + n for signal n)."""
        self.socket.settimeout(wait_s)
        try:
            word, _, number = self.socket.recv(ANSWER_BYTES).partition(b" ")
        except OSError:
            return None
        return int(number) if word == b"ended" and number.isdigit() else None

    def close(self) -> None:
        """A command beside a task ends with it; a supervisor goes on."""
        self.socket.close()


@dataclass(frozen=True, slots=True)
class Spawner:
    path: Path

    def user(self) -> TaskUser:
        """Whom it runs tasks as."""
        with self._connect() as line:
            uid, gid, groups = self._ask(line, ["hello"])[0].decode().split(":")
            return TaskUser(int(uid), int(gid), tuple(int(group) for group in groups.split(",")))

    def start(self, directory: Path) -> Line:
        """A supervisor for an execution directory; its `work` and `tmp` become the task user's."""
        return self._run(["start", str(directory)])

    def beside(
        self,
        directory: Path,
        environment: Mapping[str, str],
        argv: Sequence[str],
        descriptors: tuple[int, int, int],
        groups: Sequence[str] = (),
        inside: int = 0,
    ) -> Line:
        """One command in a directory, with these as its first three descriptors; it joins control
        groups by the files `groups`, and the sandbox that process `inside` is in."""
        fields = ["beside", f"cwd={directory}", f"inside={inside}"]
        fields += [f"cgroup={path}" for path in groups]
        fields += [f"env={name}={value}" for name, value in environment.items()]
        fields += [f"arg={word}" for word in argv]
        return self._run(fields, descriptors)

    def take(self, tree: Path) -> bool:
        """Make what the task user left below `tree` the agent's own; whether that was all."""
        return self._done(["take", str(tree)])

    def give(self, directory: Path) -> bool:
        """Make a directory of the agent's the task user's, itself alone; whether it is."""
        return self._done(["give", str(directory)])

    def _done(self, fields: Sequence[str]) -> bool:
        line = self._run(fields)
        try:
            return line.status(TAKE_S) == 0
        finally:
            os.close(line.pidfd)
            line.close()

    def _connect(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.settimeout(ANSWER_S)
        try:
            line.connect(os.fspath(self.path))
        except OSError as error:
            line.close()
            raise OSError(
                error.errno,
                f"nothing starts tasks here: {self.path}: {error.strerror or error}; "
                "`systemctl status shoal-tasks.socket` says why",
            ) from None
        return line

    def _run(self, fields: Sequence[str], descriptors: Sequence[int] = ()) -> Line:
        line = self._connect()
        try:
            answer, pidfd = self._ask(line, fields, descriptors)
            if answer != OK or pidfd is None:
                word, _, number = answer.partition(b" ")
                why = (
                    os.strerror(int(number))
                    if number.isdigit()
                    else answer.decode(errors="replace")
                )
                raise OSError(
                    f"the spawner of tasks refused ({word.decode(errors='replace')}: {why})"
                )
        except BaseException:
            line.close()
            raise
        return Line(line, pidfd)

    def _ask(
        self, line: socket.socket, fields: Sequence[str], descriptors: Sequence[int] = ()
    ) -> tuple[bytes, int | None]:
        message = b"".join(os.fsencode(field) + b"\0" for field in fields)
        if len(message) > MESSAGE_BYTES_MAX:
            raise OSError(
                f"the command and its environment have more than {MESSAGE_BYTES_MAX} bytes"
            )
        socket.send_fds(line, [message], list(descriptors))
        answer, received, _, _ = socket.recv_fds(line, ANSWER_BYTES, 1)
        for extra in received[1:]:
            with contextlib.suppress(OSError):
                os.close(extra)
        return answer, received[0] if received else None
