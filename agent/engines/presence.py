"""Presence: whether a container engine is on this device, answers, and which images it has.

Asked for in plain HTTP: the SDK would cost a device without container jobs 17 MB.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Final

import msgspec

from agent.threads import in_thread
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
        self.ids: dict[str, str] = {}  # by full name, of all that there are
        self._useless: dict[str, str] = {}  # of ids, those that no container here can be made of

    def leave_out(self, name: str) -> None:
        """It is of no use here, so nobody shall count on it: until something else has its name."""
        self._useless[name] = self.ids.get(name, "")
        self.images -= {name}

    async def look(self) -> None:
        """Returns within seconds, whatever the engine does."""
        try:
            self.ids = await in_thread(_images, self.path)
        except (OSError, ValueError, RecursionError, Lost, Silent, msgspec.MsgspecError) as error:
            self.trouble = f"docker does not answer: {_why(error)}" if self.present else ""
            return
        self.present, self.trouble = True, ""
        ids, useless = self.ids, self._useless
        self._useless = {name: id for name, id in useless.items() if ids.get(name) == id}
        self.images = frozenset(name for name in ids if name not in self._useless)


class _Image(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="Id", default="")
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    digests: list[str] | None = msgspec.field(name="RepoDigests", default=None)


def _why(error: Exception) -> str:
    if isinstance(error, Silent | BlockingIOError):  # nobody takes connections, or answers one
        return f"no answer within {TIMEOUT_S:.0f} s"
    return "what it says is not docker's" if not isinstance(error, OSError) else str(error)


def _images(path: Path) -> dict[str, str]:
    """Each by its full name: the image's id."""
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
            found = msgspec.json.decode(answer.body(), type=list[_Image])
        finally:
            connection.close()
    return {
        full_name(name): image.id
        for image in found[:IMAGES_MAX]
        for name in (*(image.tags or ()), *(image.digests or ()))
        if "<none>" not in name
    }
