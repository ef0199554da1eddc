"""Compiled modules: machine code of WebAssembly modules on disk, made once by a child of ours.

What is here is run as it is, so nobody but the agent may write it: the compiler runs as the task's
user (its input comes from anywhere) and is handed an open file, never the directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from agent import durable
from agent.engines.beside import Place, run_beside
from agent.threads import in_thread

MODULE_BYTES_MAX: Final = 64 << 20  # four times what `shoal wasm run` ships
COMPILE_S: Final = 600.0  # 8 MB took 6 s on a core of a server; a Pi is ten or twenty times slower
COUNT_MAX: Final = 64
BYTES_MAX: Final = 256 << 20  # SD cards are small; machine code is twice its module (measured)
SPARED_S: Final = 60.0  # a task that was just prepared opens its file within that
UNFIT: Final = 3  # what the child ends with where the module is at fault
SUFFIX: Final = ".cwasm"
FUELLED: Final = "-fuel"  # ends the target of code that counts its instructions


class UnfitModule(Exception):
    """A module that no device could run, in a sentence."""


class Compiled:
    """All that were compiled here, the longest unused gone first."""

    def __init__(self, root: Path, *, readable: bool = False) -> None:
        """`readable`: by their paths, for children that are never the agent's user."""
        self.root = root
        self._mode = 0o711 if readable else 0o700
        self._turn = trio.Lock()  # one compiler at a time: it is a whole core, and much memory

    def open(self) -> None:
        """Make the directory, free of what a crash left half done. Raises OSError."""
        self.root.mkdir(exist_ok=True)
        self.root.chmod(self._mode)  # tasks are given what they are to run, as open files
        for path in self.root.glob(".*"):
            path.unlink(missing_ok=True)

    async def of(self, module: int, place: Place, child: Sequence[str], target: str) -> Path:
        """The machine code of an open module, compiled if it was not before.

        `child` is the compiler's command line up to its `compile`, `target` what it makes code
        for: version, settings. Raises UnfitModule, OSError.
        """
        digest = await in_thread(_digest, module)
        path = self.root / f"{digest}-{target}{SUFFIX}"
        if await in_thread(_touch, path):  # whatever is being compiled just now
            return path
        async with self._turn:
            if not await in_thread(_touch, path):
                await self._compile(module, place, [*child, "compile", digest], target, path)
        return path

    async def _compile(
        self, module: int, place: Place, command: Sequence[str], target: str, path: Path
    ) -> None:
        fuelled = "1" if target.endswith(FUELLED) else "0"
        part = path.with_name(f".{path.name}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        code = os.open(part, flags, 0o600)
        try:
            os.lseek(module, 0, os.SEEK_SET)
            with trio.fail_after(COMPILE_S):
                status, said = await run_beside(place, [*command, fuelled], module, code)
            if status == UNFIT:
                raise UnfitModule(_sentence(said))
            if status != 0:
                raise OSError(f"compiling its module: {_sentence(said) or f'exit code {status}'}")
            await in_thread(_keep, code, part, path)
        except trio.TooSlowError:
            raise OSError(f"compiling its module took longer than {COMPILE_S:.0f} s") from None
        finally:
            os.close(code)
            part.unlink(missing_ok=True)
        await in_thread(self._prune)

    def _prune(self) -> None:
        spared, kept, total = time.time() - SPARED_S, 0, 0
        found = [(path.stat(), path) for path in self.root.glob(f"*{SUFFIX}")]
        for status, path in sorted(found, key=lambda each: each[0].st_mtime, reverse=True):
            kept, total = kept + 1, total + status.st_size
            if (kept > COUNT_MAX or total > BYTES_MAX) and status.st_mtime < spared:
                path.unlink(missing_ok=True)


def target_of(version: str, *, fuelled: bool) -> str:
    """What machine code depends on beside the module. By the processor's features, too: a card
    that is moved to an older board brings code that does not run there."""
    features = hashlib.sha256(_features()).hexdigest()[:8]
    return f"{version}-{platform.machine()}-{features}{FUELLED if fuelled else ''}"


def open_module(work: Path, path: str) -> int:
    """A descriptor of the module at a path of the job. Raises UnfitModule, OSError.

    What it is in is the task user's, and the agent may be root: no link is followed.
    """
    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        for part in [part for part in path.split("/") if part not in ("", ".")]:
            within, descriptor = descriptor, os.open(part, flags, dir_fd=descriptor)
            os.close(within)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            found = sorted(name for name in os.listdir(descriptor) if name.endswith(".wasm"))
            if len(found) != 1:
                raise UnfitModule(f"{path} holds {len(found)} files *.wasm; name the one to run")
            within, descriptor = descriptor, os.open(found[0], flags, dir_fd=descriptor)
            os.close(within)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitModule(f"{path} is no file")
        if status.st_size > MODULE_BYTES_MAX:
            size = status.st_size >> 20
            raise UnfitModule(f"{path} has {size} MiB; allowed: {MODULE_BYTES_MAX >> 20} MiB")
    except (FileNotFoundError, NotADirectoryError):
        os.close(descriptor)
        raise UnfitModule(f"{path}: no such file among its input sources") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _digest(module: int) -> str:
    with open(module, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touch(path: Path) -> bool:
    """Mark it as used; whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _keep(code: int, part: Path, path: Path) -> None:
    """On the disk before it has its name: half a file would be run as it is."""
    os.fchmod(code, 0o644)  # who has it open may open it anew, to map it into memory
    durable.sync(code)
    part.rename(path)


def _sentence(said: str) -> str:
    return said.removeprefix("shoal: ")


def _features() -> bytes:
    """Of the first core, as the kernel lists them: `flags` on x86, `Features` on ARM."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb") as lines:
        for line in lines:
            if line.startswith((b"flags", b"Features")):
                return line
    return b""
