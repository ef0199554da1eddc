"""`shoal job get`: the files that the tasks of a job have left, wherever they ran."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import FAILED, OK, USAGE, CliError
from agent.cli.tables import note, show_json
from agent.client import Client
from agent.printable import clean

READ_BYTES = 1 << 20


def get(args: Namespace) -> int:
    """Fetch each slot's archive, check it against its digest, and unpack it."""
    with connect(args) as client:
        view = client.job(args.job)
        slots = _wanted(view, args.slot, args.peer)
        target = Path(args.output or f"{view['name']}-{units.short_job(view['id'])}")
        _check_target(target, [slot["archive"] for slot in slots])
        several = len(view["slots"]) > 1
        told = []
        for slot in slots:
            place = target / _place(view, slot) if several else target
            _fetch(client, view, slot, target, place)
            told.append({"slot": slot["slot"], "peer": slot["executor"], "directory": str(place)})
    if args.json:
        show_json({"job": view["id"], "results": told})
        return OK
    for each in told:
        print(clean(each["directory"]))
    return OK


def _wanted(view: dict[str, Any], number: int | None, peer: str | None) -> list[dict[str, Any]]:
    """The slots with files that were asked for. Raises CliError where there are none."""
    asked = [
        slot
        for slot in view["slots"]
        if number in (None, slot["slot"]) and (peer is None or _is_of(slot, peer))
    ]
    for slot in asked:
        if slot.get("archive_note"):
            note(f"{_name(view, slot)}: {slot['archive_note']}")
    found = [slot for slot in asked if slot.get("archive")]
    if found:
        return found
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
    """A directory of its own; names of devices are plain words, whatever a peer says."""
    if view["type"] != "ops":
        return str(slot["slot"])
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in slot["executor_name"]) or "_"


def _part(target: Path, digest: str) -> Path:
    return target / f".{digest[:16]}.part"


def _check_target(target: Path, digests: list[str]) -> None:
    """Nothing that is there is written over; what was broken off goes on."""
    if target.exists() and not target.is_dir():
        raise CliError(f"{target} is no directory: choose another with -o", USAGE)
    ours = {_part(target, digest).name for digest in digests}
    if target.is_dir() and any(entry.name not in ours for entry in target.iterdir()):
        raise CliError(f"{target} is not empty: choose another directory with -o", USAGE)


def _fetch(
    client: Client, view: dict[str, Any], slot: dict[str, Any], target: Path, place: Path
) -> None:
    digest, size = str(slot["archive"]), int(slot["archive_bytes"])
    target.mkdir(parents=True, exist_ok=True)
    part = _part(target, digest)
    with part.open("ab") as file, _progress(_name(view, slot), size) as advance:
        advance(file.tell())
        if file.tell() < size:
            for chunk in client.results(view["id"], slot["slot"], file.tell()):
                file.write(chunk)
                advance(len(chunk))
    if _digest_of(part) != digest:
        part.unlink()
        raise CliError(f"what came of {_name(view, slot)} is not what was kept: try again", FAILED)
    try:
        _unpack(part, place)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CliError(f"{part} cannot be unpacked: {error}", FAILED) from None
    part.unlink()


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _unpack(archive: Path, place: Path) -> None:
    """Regular files and directories, below `place` alone: the task's device made the archive."""
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            if member.isreg() or member.isdir():
                opened.extract(member, place, filter="data")


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
        task = progress.add_task(name, total=size)
        yield lambda count: progress.advance(task, count)
