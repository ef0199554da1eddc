"""Denied: what is not tried for a while, told of for longer, and forgotten if nobody tries it."""

from __future__ import annotations

from agent.mqtt.denied import LISTED_S, TOPICS_MAX, Denied
from agent.mqtt.session import DENIED_S
from protocol.config import OutboxConfig


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_denied_is_not_tried_for_ten_minutes_and_told_of_until_it_works() -> None:
    clock = Clock()
    denied = Denied(clock)
    denied.add("a", "not authorized")
    clock.now = DENIED_S - 1
    assert denied.why("a") == "not authorized" and denied.why("b") == ""
    clock.now = DENIED_S
    assert denied.why("a") == "" and denied.listed() == {"a": "not authorized"}
    denied.remove("a")
    denied.remove("a")
    assert denied.listed() == {}


def test_what_a_result_waits_for_is_told_of_between_its_tries_and_what_nobody_tries_is_not() -> (
    None
):
    clock = Clock()
    denied = Denied(clock)
    denied.add("asked once", "not authorized")
    for _ in range(5):
        denied.add("a result", "not authorized")
        clock.now += OutboxConfig().refused_max_s
        assert "a result" in denied.listed()
    assert list(denied.listed()) == ["a result"]
    clock.now += LISTED_S
    assert denied.listed() == {}


def test_the_oldest_of_too_many_go() -> None:
    denied = Denied(Clock())
    for number in range(TOPICS_MAX + 1):
        denied.add(f"t{number}", "no")
    assert len(denied.listed()) == TOPICS_MAX and denied.why("t0") == ""
    assert denied.why(f"t{TOPICS_MAX}") == "no"
