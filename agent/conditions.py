"""Conditions: what a person set on this device while it runs, its labels and whether it drains.

In a small file of its own beside the database: it is written by hand, so seldom, and survives a
database that has to be begun anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from agent import durable
from agent.labels import problem
from agent.threads import in_thread
from protocol.errors import ShoalError

FILE_NAME: Final = "conditions.json"
_log = logging.getLogger("shoal")


class Kept(msgspec.Struct, frozen=True):
    """What the file holds."""

    labels: dict[str, str] = {}
    draining: bool = False


class Conditions:
    """The one writer of the file; what it holds is durable before it counts."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._kept = _read(self._path)
        self._turn = trio.Lock()

    @property
    def labels(self) -> Mapping[str, str]:
        return self._kept.labels

    @property
    def draining(self) -> bool:
        return self._kept.draining

    async def change(self, given: Mapping[str, str], taken: Sequence[str]) -> None:
        """Set and unset labels, all or none. Raises ValueError with a sentence, and OSError."""
        async with self._turn:
            labels = {**self._kept.labels, **given}
            labels = {name: labels[name] for name in sorted(labels) if name not in taken}
            if refusal := problem(labels):
                raise ValueError(refusal)
            await self._write(msgspec.structs.replace(self._kept, labels=labels))

    async def drain(self, draining: bool) -> None:
        """Raises OSError."""
        async with self._turn:
            await self._write(msgspec.structs.replace(self._kept, draining=draining))

    async def _write(self, kept: Kept) -> None:
        if kept != self._kept:
            data = msgspec.json.format(msgspec.json.encode(kept)) + b"\n"
            await in_thread(durable.write, self._path, data)
            self._kept = kept


def _read(path: Path) -> Kept:
    """A damaged file is set aside: the device starts without, and says so. Raises ShoalError."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
        if not (why := problem(kept.labels)):
            return kept
    except FileNotFoundError:
        return Kept()
    except OSError as error:
        raise ShoalError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = str(error)
    aside = durable.set_aside(path, "damaged")
    _log.error("%s cannot be used (%s) and is kept as %s", path, why, os.fspath(aside or path))
    return Kept()
