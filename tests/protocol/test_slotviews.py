"""slotviews: slots put together of what several peers say of them."""

from __future__ import annotations

from typing import cast

from protocol.slotviews import View, executions_of_both, slots_settled
from protocol.tree import Plain
from tests.protocol.nodenet import reported, reported_slot


def execution(key: str, slot: int = 0, **fields: Plain) -> View:
    view: View = {
        "id": key,
        "slot": slot,
        "peer": "b",
        "peer_name": "b",
        "state": "running",
        "attempt": 1,
        "term": 1,
        "exit_code": None,
        "reason": "",
        "started_ms": 5,
        "ended_ms": 0,
        "restarts": 0,
    }
    return {**view, **fields}


def service(slots: list[Plain], executions: list[Plain], **fields: Plain) -> View:
    more: dict[str, Plain] = {"count": len(slots), "parts": []}
    return reported(type="service", slots=slots, executions=executions, **(more | fields))


def slot_of(view: View, index: int = 0) -> View:
    return cast("list[View]", slots_settled(view)["slots"])[index]


def test_whoever_runs_a_slot_knows_best_how_it_is() -> None:
    slot = reported_slot(0, attempt=1, term=1)
    told = execution("x", state="restarting", reason="soon", restarts=2)
    seen = slot_of(service([slot], [told]))
    assert (seen["state"], seen["execution"], seen["failures"]) == ("restarting", "x", 2)


def test_what_ended_or_was_awarded_anew_since_does_not_count() -> None:
    slot = reported_slot(0, attempt=2, term=1, executor="c")
    old, ended = execution("old"), execution("ended", attempt=3, state="failed")
    assert slot_of(service([slot], [old, ended]))["executor"] == "c"


def test_the_latest_of_several_executions_counts() -> None:
    slot = reported_slot(0, attempt=1, term=1)
    both: list[Plain] = [execution("one", restarts=1), execution("two", restarts=2)]
    assert slot_of(service([slot], both))["execution"] == "two"


def test_slots_beyond_the_count_are_not_shown() -> None:
    view = service([reported_slot(0), reported_slot(1, state="done")], [], count=1)
    assert len(cast("list[View]", slots_settled(view)["slots"])) == 1


def test_it_runs_as_long_as_one_slot_does_and_says_what_the_others_lack() -> None:
    waiting = reported_slot(1, state="pending", reason="nobody fits")
    seen = slots_settled(service([reported_slot(0), waiting], []))
    assert (seen["state"], seen["reason"]) == ("running", "nobody fits")
    seen = slots_settled(service([waiting], []))
    assert seen["state"] == "pending"


def test_two_peers_executions_are_put_together_in_order() -> None:
    one = service([], [execution("b", 1), execution("a", 0)])
    two = service([], [execution("c", 0, attempt=2), execution("a", 0)])
    assert [each["id"] for each in cast("list[View]", executions_of_both(one, two))] == [
        "a",
        "c",
        "b",
    ]
