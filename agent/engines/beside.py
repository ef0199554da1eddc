"""Commands beside a running task: as its user and as confined, in its directory, control groups and
sandbox. A supervisor of its own ends what each has left, see run_beside in supervise.c."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from agent.engines.spawner import Line, Spawner
from agent.engines.supervisor import spec_fields, supervisor_path
from agent.engines.task import TaskUser
from agent.threads import in_thread

OUTPUT_BYTES_MAX = 4096  # its last words are all that is told


@dataclass(frozen=True, slots=True)
class Place:
    """Where and as whom. With a spawner the user is its own, whatever stands here.

    `groups` are the files by which it joins the control groups of its task, `inside` a process of
    the sandbox that it is to run in, 0 for none.
    """

    directory: Path
    environment: dict[str, str]
    user: TaskUser | None
    spawner: Spawner | None = None
    groups: tuple[str, ...] = ()
    inside: int = 0

    @classmethod
    def of(
        cls, spec: bytes, work: Path, user: TaskUser | None, spawner: Spawner | None = None
    ) -> Place:
        """That of the task which `spec` started."""
        pairs = (value.partition("=") for value in spec_fields(spec, "env"))
        environment = {key: value for key, _, value in pairs}
        within = next(iter(spec_fields(spec, "cwd")), "")
        groups = tuple(spec_fields(spec, "cgroup"))
        return cls(work / within, environment, user, spawner, groups)


async def run_beside(
    place: Place, argv: Sequence[str], stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> tuple[int, str]:
    """Run to the end: exit code (128 + n for signal n) and the last line it wrote, on stderr alone
    where `stdout` is somebody's file.

    Cancelled, it ends with all that it started. Raises OSError.
    """
    if place.spawner is not None:
        return await _run_by(place.spawner, place, argv, stdin, stdout)
    words = (user_word(place.user), str(place.directory), str(place.inside), *place.groups)
    process = await trio.lowlevel.open_process(
        [str(supervisor_path()), "--beside", *words, "--", *argv],
        stdin=stdin,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
        cwd="/",
        env={f":{name}": value for name, value in place.environment.items()},
        start_new_session=True,
    )
    said = process.stdout or process.stderr
    assert said is not None
    try:
        text = await _last_words(said)
        code = await process.wait()
    finally:
        process.terminate()  # it ends all that the command started
        with trio.CancelScope(shield=True):
            code = await process.wait()
    return (128 - code if code < 0 else code), text


async def _run_by(
    spawner: Spawner, place: Place, argv: Sequence[str], stdin: int, stdout: int | None
) -> tuple[int, str]:
    """The same, started by the spawner: it ends what it started when the line is closed."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    streams = (null if stdin == subprocess.DEVNULL else stdin, stdout or theirs, theirs)

    def ask() -> Line:
        directory, environment = place.directory, place.environment
        return spawner.beside(directory, environment, argv, streams, place.groups, place.inside)

    try:
        line = await in_thread(ask)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(null)
        os.close(theirs)
    try:
        text = await _last_words(trio.lowlevel.FdStream(ours))
        return await _status(line), text
    finally:
        os.close(line.pidfd)
        line.close()


async def _last_words(stream: trio.abc.ReceiveStream) -> str:
    """Closed in the end, which tells who writes there that nobody wants more of it."""
    said = b""
    async with stream:
        while data := await stream.receive_some(OUTPUT_BYTES_MAX):
            said = (said + data)[-OUTPUT_BYTES_MAX:]
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


async def _status(line: Line) -> int:
    await trio.lowlevel.wait_readable(line.socket.fileno())
    code = line.status()
    if code is None:
        raise OSError("what started it was ended meanwhile")
    return code


def user_word(user: TaskUser | None) -> str:
    """As supervise.c reads it: `uid:gid:group,...`, `-` for the agent's own."""
    if user is None:
        return "-"
    return f"{user.uid}:{user.gid}:{','.join(map(str, user.groups))}"
