"""Progress: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest

from agent.cli.progress import Progress


class Screen(io.StringIO):
    def __init__(self, live: bool) -> None:
        super().__init__()
        self._live = live

    def isatty(self) -> bool:
        return self._live

    def fileno(self) -> int:
        raise OSError("no file")


def event(text: str, kind: str = "execution.progress", peer: str = "b", slot: int = 0) -> Any:
    return {"kind": kind, "text": text, "peer": peer, "fields": {"slot": slot}}


def shown(live: bool, *events: Any) -> str:
    screen = Screen(live)
    progress = Progress(screen)
    for each in events:
        progress.event(each)
    return screen.getvalue()


EVENTS = (
    event("to b", "job.awarded"),
    event("on b: pulling x"),
    event("on c: pulling x", peer="c"),
    event("on b: pulling x: 1 of 2 MB"),
    event("running on b", "execution.started"),
)


def test_on_a_terminal_what_goes_on_changes_in_its_place() -> None:
    lines = shown(True, *EVENTS).split("\r\x1b[K")
    assert lines[-1] == (
        "shoal: to b · on b: pulling x: 1 of 2 MB · on c: pulling x · running on b"
    )


def test_elsewhere_it_is_told_once() -> None:
    assert shown(False, *EVENTS).splitlines() == [
        "shoal: to b",
        "shoal: on b: pulling x",
        "shoal: on c: pulling x",
        "shoal: running on b",
    ]


@pytest.mark.parametrize("live", [True, False])
def test_who_wants_quiet_has_it(live: bool) -> None:
    screen = Screen(live)
    Progress(screen, quiet=True).event(EVENTS[1])
    assert screen.getvalue() == ""
