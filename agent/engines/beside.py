"""Commands beside a running task: as its user and as confined, in its directory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from agent.engines.spawner import Line, Spawner
from agent.engines.supervisor import spec_fields, supervisor_path
from agent.engines.task import TaskUser

OUTPUT_BYTES_MAX = 4096  # its last words are all that is told


@dataclass(frozen=True, slots=True)
class Place:
    """Where and as whom. With a spawner the user is its own, whatever stands here."""

    directory: Path
    environment: dict[str, str]
    user: TaskUser | None
    spawner: Spawner | None = None

    @classmethod
    def of(
        cls, spec: bytes, work: Path, user: TaskUser | None, spawner: Spawner | None = None
    ) -> Place:
        """That of the task which `spec` started."""
        pairs = (value.partition("=") for value in spec_fields(spec, "env"))
        environment = {key: value for key, _, value in pairs}
        within = next(iter(spec_fields(spec, "cwd")), "")
        return cls(work / within, environment, user, spawner)


async def run_beside(
    place: Place, argv: Sequence[str], stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> tuple[int, str]:
    """Run to the end: exit code (128 + n for signal n) and the last line it wrote, on stderr alone
    where `stdout` is somebody's file.

    Cancelled, it ends with all that it started. Raises OSError.
    """
    if place.spawner is not None:
        return await _run_by(place.spawner, place, argv, stdin, stdout)
    process = await trio.lowlevel.open_process(
        [str(supervisor_path()), "--beside", user_word(place.user), *argv],
        stdin=stdin,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
        cwd=place.directory,
        env=place.environment,
        start_new_session=True,
    )
    words = process.stdout or process.stderr
    assert words is not None
    said = b""
    try:
        async with words:
            while data := await words.receive_some(OUTPUT_BYTES_MAX):
                said = (said + data)[-OUTPUT_BYTES_MAX:]
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind in its session
        with trio.CancelScope(shield=True):
            code = await process.wait()
    return (128 - code if code < 0 else code), _last_line(said)


async def _run_by(
    spawner: Spawner, place: Place, argv: Sequence[str], stdin: int, stdout: int | None
) -> tuple[int, str]:
    """The same, started by the spawner: it ends what it started when the line is closed."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    words = trio.lowlevel.FdStream(ours)
    streams = (null if stdin == subprocess.DEVNULL else stdin, stdout or theirs, theirs)
    try:
        line = await trio.to_thread.run_sync(
            spawner.beside, place.directory, place.environment, argv, streams
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(null)
        os.close(theirs)
    try:
        said = b""
        async with words:
            while data := await words.receive_some(OUTPUT_BYTES_MAX):
                said = (said + data)[-OUTPUT_BYTES_MAX:]
        return await _status(line), _last_line(said)
    finally:
        os.close(line.pidfd)
        line.close()


async def _status(line: Line) -> int:
    await trio.lowlevel.wait_readable(line.socket.fileno())
    code = line.status()
    if code is None:
        raise OSError("what started it was ended meanwhile")
    return code


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def user_word(user: TaskUser | None) -> str:
    """As supervise.c reads it: `uid:gid:group,...`, `-` for the agent's own."""
    if user is None:
        return "-"
    return f"{user.uid}:{user.gid}:{','.join(map(str, user.groups))}"
