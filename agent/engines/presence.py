"""Presence: whether a container engine is on this device, answers, and which images it has.

Asked for in plain HTTP: the SDK would cost a device without container jobs 17 MB.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Final

import trio

from agent.unixhttp import Connection, Lost, Silent
from protocol.container import full_name

TIMEOUT_S: Final = 5.0
IMAGES_MAX: Final = 1000


class Presence:
    """What was seen at the last look. Once it was there, it is missed when it is not."""

    def __init__(self, path: Path, *, expected: bool = False) -> None:
        """`expected`: there are executions of an earlier life that it runs."""
        self.path = path
        self.present = expected
        self.trouble = ""  # why it does not answer; empty where it does, or is not there at all
        self.images: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Returns within seconds, whatever the engine does."""
        try:
            self.images = await trio.to_thread.run_sync(_images, self.path)
        except (OSError, Lost, Silent, ValueError, KeyError, TypeError) as error:
            why = f"no answer within {TIMEOUT_S:.0f} s" if isinstance(error, Silent) else error
            self.trouble = f"docker does not answer: {why}" if self.present else ""
            return
        self.present, self.trouble = True, ""


def _images(path: Path) -> frozenset[str]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(str(path))
        except TimeoutError:
            raise Silent from None
        connection = Connection(sock)
        try:
            answer = connection.request("GET", "/images/json", b"")
            if answer.status != 200:
                raise OSError(f"it answers {answer.status}")
            found = json.loads(answer.body())
        finally:
            connection.close()
    names = [
        name
        for image in found[:IMAGES_MAX]
        for name in (*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ()))
    ]
    return frozenset(full_name(name) for name in names if "<none>" not in name)
