"""`shoal job get`: the files that the tasks of a job have left, wherever they ran."""

from __future__ import annotations

import hashlib
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import FAILED, OK, USAGE, CliError
from agent.cli.tables import note, show_json
from agent.client import AgentError, Client
from agent.extract import FULL, NoRoom, NotExtracted, NotWritten, extract
from agent.printable import clean

ARCHIVE_BYTES_MAX: Final = (1 << 30) + (64 << 20)  # what a device keeps, and the heads of files
UNPACKED_BYTES_MAX: Final = 1 << 30
FILES_MAX: Final = 20_000  # 10,000 files, and the directories that they are in
READ_BYTES: Final = 1 << 20
OVER: Final = ("completed", "failed", "stopped", "lost", "unknown")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The archive of one slot, and where its content goes."""

    slot: int
    peer: str
    name: str  # for people
    digest: str
    size_bytes: int
    place: Path


FULL_DISK: Final = "the disk is full; make room there, or name another with -o"


class Fetched(Enum):
    """What became of one slot's archive."""

    THERE = "there"
    LATER = "later"  # it may be had by the same command
    NEVER = "never"  # it has come, and is no good


def get(args: Namespace) -> int:
    """Fetch each slot's archive, check it against its digest, and unpack it.

    What is there already is left alone, so that the same command goes on where it broke off.
    """
    with connect(args) as client:
        view = client.job(args.job)
        default = f"{_plain(view['name'])}-{units.short_job(view['id'])}"
        target = Path(args.output or default)
        wanted = _wanted(view, args.slot, args.peer, target)
        try:
            fetched = {each.place: _fetched(client, view["id"], each) for each in wanted}
        except OSError as error:
            raise CliError(f"{error.filename or target}: {error.strerror or error}") from None
    done = [each for each in wanted if fetched[each.place] is Fetched.THERE]
    failed = [each for each in wanted if each not in done]
    if args.json:
        told = [{"slot": e.slot, "peer": e.peer, "directory": str(e.place)} for e in done]
        show_json({"job": view["id"], "results": told, "missing": [e.slot for e in failed]})
    else:
        for each in done:
            print(clean(str(each.place)))
    if Fetched.LATER in fetched.values():
        note("what is missing is fetched by the same command, once it can be had")
    return FAILED if failed or view.get("slots_left_out") else OK


def _wanted(
    view: dict[str, Any], number: int | None, peer: str | None, target: Path
) -> list[Wanted]:
    """The archives that were asked for. Raises CliError where there are none."""
    if view.get("slots_left_out"):
        text = "this device knows {} of its slots only: ask the one that coordinates it"
        note(text.format(len(view["slots"])))
    asked = [
        slot
        for slot in view["slots"]
        if number in (None, slot["slot"]) and (peer is None or _is_of(slot, peer))
    ]
    found: dict[Path, Wanted] = {}
    for slot in asked:
        name = _name(view, slot)
        if slot.get("archive_note"):
            note(f"{name}: {slot['archive_note']}")
        if slot.get("published"):
            note(f"{name} is published at {slot['published']}")
        if slot["state"] not in OVER:
            note(f"{name} has not ended: {slot['state']}")
        if slot.get("archive"):
            place = target / _place(view, slot) if len(view["slots"]) > 1 else target
            if place == target and _filled(target):
                raise CliError(f"{target} is not empty: choose another directory with -o", USAGE)
            if place in found:  # names of devices are no more unique than people make them
                place = place.with_name(f"{place.name}-{slot['executor'][-8:]}")
            digest, size = str(slot["archive"]), int(slot["archive_bytes"])
            found[place] = Wanted(slot["slot"], slot["executor"], name, digest, size, place)
    if found:
        return list(found.values())
    if not asked:
        raise CliError(f"no slot of {view['name']} is that one: see `shoal job describe`", USAGE)
    if view["state"] in ("pending", "running"):
        raise CliError(f"{view['name']} has not ended: `shoal job wait` waits for it", FAILED)
    raise CliError(
        f"{view['name']} has left no files: a job's ResultPaths say which are kept", FAILED
    )


def _is_of(slot: dict[str, Any], peer: str) -> bool:
    return peer == slot["executor_name"] or str(slot["executor"]).endswith(peer)


def _name(view: dict[str, Any], slot: dict[str, Any]) -> str:
    return f"slot {slot['slot']}" if view["type"] != "ops" else str(slot["executor_name"])


def _place(view: dict[str, Any], slot: dict[str, Any]) -> str:
    return str(slot["slot"]) if view["type"] != "ops" else _plain(slot["executor_name"])


def _plain(name: str) -> str:
    """One plain word, whatever a peer says: it becomes the name of a directory."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name[:64]) or "_"


def _filled(directory: Path) -> bool:
    """Whether anything is there but an empty directory."""
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return directory.exists()


def _fetched(client: Client, job: str, wanted: Wanted) -> Fetched:
    """Whether its files are there now; what kept them away is told of."""
    if _filled(wanted.place):
        note(f"{wanted.name}: {wanted.place} is there already, and is left as it is")
        return Fetched.THERE
    if not 0 < wanted.size_bytes <= ARCHIVE_BYTES_MAX:
        note(f"{wanted.name}: an archive of {wanted.size_bytes} bytes is not fetched")
        return Fetched.NEVER
    beside = wanted.place.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    part = beside / f".{wanted.digest[:16]}.part"
    try:
        _download(client, job, wanted, part)
        if _digest_of(part) != wanted.digest:
            part.unlink()
            raise CliError("what came is not what was kept; it is thrown away")
        _unpack(part, wanted)
    except NotExtracted as error:
        if isinstance(error, NoRoom):
            return _not_now(wanted, part, FULL_DISK)
        if isinstance(error, NotWritten):
            why = f"it cannot be unpacked here: {error}; name another place with -o"
            return _not_now(wanted, part, why)
        note(f"{wanted.name}: what came cannot be unpacked, and is thrown away: {error}")
        part.unlink()
        return Fetched.NEVER
    except (AgentError, CliError) as error:
        note(f"{wanted.name}: {error}")
        return Fetched.LATER
    except OSError as error:
        if error.errno in FULL:
            return _not_now(wanted, part, FULL_DISK)
        raise
    finally:
        if part.exists() and not part.stat().st_size:  # nothing has come
            part.unlink()
    part.unlink()
    return Fetched.THERE


def _unpack(part: Path, wanted: Wanted) -> None:
    """All of it, or nothing is left of it. Raises NotExtracted, and OSError."""
    fresh = part.with_suffix(".tmp")
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    try:
        fresh.mkdir()
        extract(part, fresh, UNPACKED_BYTES_MAX, FILES_MAX, strict=False)
        fresh.rename(wanted.place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _not_now(wanted: Wanted, part: Path, why: str) -> Fetched:
    """What has come stays for the next try: over a slow link it took long."""
    size = part.stat().st_size if part.exists() else 0
    stays = f"; {units.size(size)} that have come stay in {part}" if size else ""
    note(f"{wanted.name}: {why}{stays}")
    return Fetched.LATER


def _download(client: Client, job: str, wanted: Wanted, part: Path) -> None:
    """All of the archive, going on from what is there of it."""
    with part.open("ab") as file, _progress(wanted.name, wanted.size_bytes) as advance:
        advance(file.tell())
        if file.tell() < wanted.size_bytes:
            for chunk in client.results(job, wanted.slot, file.tell()):
                file.write(chunk)
                advance(len(chunk))
                if file.tell() >= wanted.size_bytes:
                    break


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def _progress(name: str, size: int) -> Iterator[Any]:
    """A bar on a terminal, a function that moves it in any case."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(clean(name), total=size)
        yield lambda count: progress.advance(task, count)
