"""How far an image is, out of docker's lines."""

from __future__ import annotations

from typing import Any

from agent.engines.pulling import SAY_S, Pulling


class Pull:
    def __init__(self) -> None:
        self.now, self.said = 100.0, list[str]()
        self.pulling = Pulling("busybox:1", self.said.append, lambda: self.now)

    def hear(self, status: str, layer: str = "", here: int = 0, total: int = 0) -> str:
        """After a while; what is said of it."""
        self.now += SAY_S
        detail = {"current": here, "total": total} if total else {}
        self.pulling.take({"status": status, "id": layer, "progressDetail": detail})
        return self.said[-1].removeprefix("pulling busybox:1")


def test_the_layers_are_counted_together() -> None:
    it = Pull()
    assert it.hear("Pulling from library/busybox", "1") == ""
    assert it.hear("Pulling fs layer", "a") == ""
    assert it.hear("Downloading", "a", 1_000_000, 30_000_000) == ": 1.0 of 30 MB"
    assert it.hear("Downloading", "b", 2_500_000, 10_000_000) == ": 3.5 of 40 MB"
    assert it.hear("Download complete", "a") == ": 32 of 40 MB"
    assert it.hear("Extracting", "a", 100, 30_000_000) == ": 32 of 40 MB", "b is on its way"
    assert it.hear("Verifying Checksum", "b") == ": unpacking 40 MB"
    assert it.hear("Pull complete", "b") == ": unpacking 40 MB"


def test_it_is_said_now_and_then_and_only_what_is_new() -> None:
    it = Pull()
    it.hear("Downloading", "a", 1, 10)
    for at in range(100):
        line: dict[str, Any] = {"current": at, "total": 10_000_000}
        it.pulling.take({"status": "Downloading", "id": "b", "progressDetail": line})
    assert len(it.said) == 1
    it.hear("Downloading", "b", 5_000_000, 10_000_000)
    it.hear("Downloading", "b", 5_000_001, 10_000_000)
    assert len(it.said) == 2


def test_lines_that_make_no_sense_are_no_harm() -> None:
    it = Pull()
    for line in (
        {},
        {"status": None, "id": 3, "progressDetail": "x"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": "x", "total": -1}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 50, "total": 10}},
    ):
        it.now += SAY_S
        it.pulling.take(line)
    assert it.said == ["pulling busybox:1", "pulling busybox:1: 0.0 of 0.0 MB"]
