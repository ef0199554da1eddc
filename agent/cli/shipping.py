"""Shipping: files that travel with `shoal run`; the same files make the same archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final

from agent.cli.exitcodes import USAGE, CliError
from agent.cli.tables import note

TOTAL_BYTES_MAX: Final = 16 * 1024**2  # what the agent takes in one archive
FILES_MAX: Final = 5000
TARGET: Final = "."  # the task's own directory


def collect(files: Sequence[str], directory: str | None) -> dict[str, str]:
    """What is to be shipped: name in the archive -> path here. Raises CliError.

    A file below the current directory keeps its relative path, so that its name means the same
    there; any other goes by its last part. Of `directory` goes what is in it.
    """
    found: dict[str, str] = {}
    for name, path in [*_directory(directory), *((_name_of(file), file) for file in files)]:
        if name in found:
            raise CliError(f"{path} and {found[name]} would both be {name} there", USAGE)
        if len(found) == FILES_MAX:  # before all of a disk is walked through
            raise CliError(f"more than {FILES_MAX} files; allowed: {FILES_MAX}", USAGE)
        found[name] = path
    _check(found)
    return found


def pack(found: dict[str, str]) -> bytes:
    """A gzipped tar: sorted, without times or owners, mode bits kept."""
    import gzip
    import io
    import tarfile

    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(found):
            try:
                with open(found[name], "rb") as file:
                    data = file.read(TOTAL_BYTES_MAX + 1)
                    mode = os.fstat(file.fileno()).st_mode
            except OSError as error:
                raise CliError(f"{found[name]}: {(error.strerror or '').lower()}", USAGE) from None
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), stat.S_IMODE(mode) & 0o777, 0
            archive.addfile(entry, io.BytesIO(data))
    data = raw.getvalue()
    if len(data) > TOTAL_BYTES_MAX:
        raise CliError(f"the files are {len(data)} bytes packed; allowed: {TOTAL_BYTES_MAX}", USAGE)
    return data


def as_input(stored: dict[str, Any]) -> dict[str, Any]:
    """The entry of InputSources for an archive that the agent keeps."""
    params = {"Digest": stored["digest"], "Size": stored["size"]}
    return {"Source": {"Type": "archive", "Params": params}, "Target": TARGET}


def check_command(command: Sequence[str], found: dict[str, str]) -> None:
    """A program named by a path here has to be shipped, and be executable. Raises CliError."""
    program = command[0]
    name = os.path.normpath(program)
    if "/" in program and not program.startswith("/"):
        if name not in found:
            raise CliError(
                f"{program} is not on the other devices: ship it with -f {_shown(name)}", USAGE
            )
        if not os.access(found[name], os.X_OK):
            raise CliError(f"{program} is not executable: chmod +x {found[name]}", USAGE)
    for argument in command[1:]:
        path = os.path.normpath(argument)
        if argument.startswith("./") and path not in found and os.path.isfile(path):
            raise CliError(
                f"{argument} is not on the other devices: ship it with -f {_shown(path)}, "
                f"or write {path} for a file that the task makes itself",
                USAGE,
            )


def with_module(path: str, found: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A WebAssembly module's name there, and what is shipped with it among it. Raises CliError."""
    try:
        with open(path, "rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise CliError(f"{path}: {(error.strerror or str(error)).lower()}", USAGE) from None
    if begins != b"\0asm":
        raise CliError(f"{path} is not a WebAssembly module in its binary form", USAGE)
    for name, other in found.items():  # of a directory that is shipped as a whole
        if os.path.samefile(path, other):
            return name, found
    (name,) = module = collect([path], None)
    if name in found:
        raise CliError(f"{path} and {found[name]} would both be {name} there", USAGE)
    return name, found | module


def _directory(directory: str | None) -> Iterator[tuple[str, str]]:
    if directory is None:
        return
    if not os.path.isdir(directory):
        raise CliError(f"-C {directory}: there is no such directory", USAGE)
    left_out = []
    for place, directories, files in os.walk(directory):
        directories.sort()
        for file in sorted(files):
            path = os.path.join(place, file)
            try:
                regular = stat.S_ISREG(os.lstat(path).st_mode)
            except OSError:
                continue  # it has gone meanwhile
            if regular:
                yield os.path.relpath(path, directory), path
            else:
                left_out.append(path)
        left_out += [p for d in directories if os.path.islink(p := os.path.join(place, d))]
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        note(f"not shipped, being no regular files: {', '.join(left_out[:3])}{more}")


def _name_of(file: str) -> str:
    name = os.path.normpath(file)
    if name.startswith(("/", "..")):
        return os.path.basename(name)
    return name


def _check(found: dict[str, str]) -> None:
    total = 0
    for path in found.values():
        try:
            held = os.stat(path)
            readable = os.access(path, os.R_OK)
        except OSError as error:
            raise CliError(f"-f {path}: {(error.strerror or str(error)).lower()}", USAGE) from None
        if stat.S_ISDIR(held.st_mode):
            raise CliError(f"-f {path}: is a directory; ship what is in it with -C {path}", USAGE)
        if not stat.S_ISREG(held.st_mode) or not readable:
            raise CliError(f"-f {path}: is not a file that can be read", USAGE)
        total += held.st_size
    if total > TOTAL_BYTES_MAX:
        raise CliError(
            f"the files are {total} bytes; allowed: {TOTAL_BYTES_MAX}; put larger ones where the "
            "task can fetch them",
            USAGE,
        )


def _shown(name: str) -> str:
    import shlex

    return shlex.quote(name)
