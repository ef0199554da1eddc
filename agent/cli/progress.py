"""Progress of a run: one line that changes on a terminal, plain lines elsewhere, on standard error.

Fed by events as the agent pushes them; each brings its own words, whatever its kind.
"""

from __future__ import annotations

import os
from typing import Any, Final, TextIO

from agent.printable import clean

_STEPS_SHOWN: Final = 4
_PROGRESS: Final = "execution.progress"
_CLEAR: Final = "\r\x1b[K"  # to the line's start, erase to its end (ECMA-48, EL)
# What a person wants to have on the screen afterwards, too.
_LASTING: Final = (
    "job.waiting", "job.placed-again", "job.conflict", "peer.dead", "peer.suspect", "feed.dropped",
)  # fmt: skip


# The same once more, as the executor saw it, where that is the device that was asked.
_ELSEWHERE: Final = (
    "execution.running",
    "execution.publishing-here",
    "execution.ended-here",
    "execution.stopped-here",
)


class Progress:
    """What is happening to one job, in few words."""

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._live = stream.isatty()
        self._steps: list[str] = []
        self._drawn = False
        self._last = ""
        self._going_on: dict[tuple[Any, Any], str] = {}

    def event(self, event: dict[str, Any]) -> None:
        text = clean(str(event.get("text") or ""))
        if self._quiet or not text or event["kind"] in _ELSEWHERE or text == self._last:
            return
        self._last = text
        if event["kind"] == _PROGRESS:
            self._step_of(event, text)
        elif not self._live:
            self._print(text)
        elif event["kind"] in _LASTING:
            self.clear()
            self._print(text)
        else:
            self._steps = [*self._steps, text][-_STEPS_SHOWN:]
            self._draw()

    def _step_of(self, event: dict[str, Any], text: str) -> None:
        """It takes the place of what was said before of the same; in a file once is enough."""
        of = (event.get("peer"), (event.get("fields") or {}).get("slot"))
        before, self._going_on[of] = self._going_on.get(of), text
        if not self._live:
            if before is None:
                self._print(text)
            return
        if before in self._steps:
            self._steps[self._steps.index(before)] = text
        else:
            self._steps = [*self._steps, text][-_STEPS_SHOWN:]
        self._draw()

    def clear(self) -> None:
        """Make room for the task's output, or for a question."""
        if self._drawn:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._drawn = False

    def warn(self, text: str) -> None:
        """Something that stays on the screen."""
        self.clear()
        if not self._quiet:
            self._print(clean(text))

    def end(self, text: str, even_quiet: bool = False) -> None:
        """How it ended."""
        self.clear()
        if even_quiet or not self._quiet:
            self._print(clean(text))

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
