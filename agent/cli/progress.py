"""Progress of a run: one line that changes on a terminal, plain lines elsewhere, on standard error.

Fed by events as the agent pushes them; kinds it does not know are shown as their own text.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TextIO

from agent.cli import units
from agent.printable import clean

Fields = dict[str, Any]

_STEPS_SHOWN: Final = 4
_CLEAR: Final = "\r\x1b[K"  # to the line's start, erase to its end (ECMA-48, EL)
# What a person wants to have on the screen afterwards, too.
_LASTING: Final = (
    "job.waiting", "job.placed-again", "job.conflict", "peer.dead", "peer.suspect", "feed.dropped",
)  # fmt: skip


class Progress:
    """What is happening to one job, in few words."""

    def __init__(self, stream: TextIO, slots: int, quiet: bool = False) -> None:
        self._stream = stream
        self._slots = slots
        self._quiet = quiet
        self._live = stream.isatty()
        self._steps: list[str] = []
        self._drawn = False

    def event(self, event: dict[str, Any]) -> None:
        text = phrase(event, self._slots)
        if self._quiet or not text:
            return
        if not self._live:
            self._print(text)
        elif event["kind"] in _LASTING:
            self.clear()
            self._print(text)
        else:
            self._steps = [*self._steps, text][-_STEPS_SHOWN:]
            self._draw()

    def clear(self) -> None:
        """Make room for the task's output, or for a question."""
        if self._drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._drawn = False

    def end(self, text: str) -> None:
        self.clear()
        if not self._quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        self._stream.write(f"shoal: {text}\n")
        self._stream.flush()

    def _draw(self) -> None:
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            width = 80
        line = "shoal: " + " · ".join(self._steps)
        line = line if len(line) < width else line[: width - 2] + "…"
        self._stream.write(_CLEAR + line)
        self._stream.flush()
        self._drawn = True


def phrase(event: dict[str, Any], slots: int) -> str:
    """An event in few words; `slots` of the job, whose number is left out where there is one."""
    fields: Fields = event.get("fields") or {}
    say = _PHRASES.get(event["kind"])
    try:
        text = say(fields) if say else ""
    except (KeyError, TypeError, ValueError):
        text = ""  # an older or newer agent: its own text says it
    if not text:
        return clean(str(event.get("text", "")))
    if slots > 1 and fields.get("slot") is not None:
        text = f"slot {fields['slot']}: {text}"
    return clean(text)


def _asking(fields: Fields) -> str:
    return f"asking {units.plural(int(fields['peers']), 'peer')}"


def _bids(fields: Fields) -> str:
    return units.plural(int(fields["bids"]), "bid")


def _awarded(fields: Fields) -> str:
    return f"awarded to {fields['name']}"


def _running(fields: Fields) -> str:
    return "running"


def _ended(fields: Fields) -> str:
    code = fields.get("exit_code")
    if code is None:
        return "ended without an exit code"
    return "done" if code == 0 else f"ended with exit code {int(code)}"


_PHRASES: Final[dict[str, Callable[[Fields], str]]] = {
    "job.asking": _asking,
    "job.bids": _bids,
    "job.awarded": _awarded,
    "execution.running": _running,
    "execution.ended": _ended,
}
