"""Refusals: the first is told of at once, what follows once a minute, and nothing fills up."""

from __future__ import annotations

from protocol.clock import NEVER
from protocol.effects import Effect, Tell
from protocol.ids import JobId, PeerId
from protocol.refusals import KINDS_MAX, OTHER, TELL_S, Refusals

LOOK = JobId("look")


def texts(effects: list[Effect]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Tell)]


def test_the_first_is_told_of_and_the_next_are_counted() -> None:
    refusals = Refusals(PeerId("a"))
    assert texts(refusals.add(LOOK, "look", "too long", 0.0)) == [
        "look: a message was refused: too long"
    ]
    for at in range(5):
        assert refusals.add(LOOK, "look", "too long", float(at)) == []
    assert refusals.deadline == TELL_S
    assert texts(refusals.on_deadline(TELL_S)) == ["look: 5 messages were refused: too long"]
    assert refusals.deadline == NEVER


def test_each_reason_has_its_number() -> None:
    refusals = Refusals(PeerId("a"))
    refusals.add(LOOK, "look", "x", 0.0)
    for reason in ("x", "y", "x"):
        refusals.add(LOOK, "look", reason, 1.0)
    assert texts(refusals.on_deadline(61.0)) == [
        "look: 2 messages were refused: x",
        "look: a message was refused: y",
    ]


def test_reasons_without_end_are_counted_together() -> None:
    refusals = Refusals(PeerId("a"))
    for at in range(10 * KINDS_MAX):
        refusals.add(LOOK, "look", f"reason {at}", 0.0)
    told = texts(refusals.on_deadline(TELL_S))
    assert len(told) == KINDS_MAX + 1
    assert told[-1].endswith(OTHER)


def test_names_without_end_are_told_of_together() -> None:
    """Whoever publishes chooses them, where they are a topic's."""
    refusals = Refusals(PeerId("a"))
    assert texts(refusals.add(LOOK, "daemon x", "unknown", 0.0)) == [
        "daemon x: a message was refused: unknown"
    ]
    for at in range(1_000):
        refusals.add(LOOK, f"daemon {at}", "unknown", 1.0)
    assert texts(refusals.on_deadline(TELL_S)) == [
        "daemon 0 and others: 1000 messages were refused: unknown"
    ]
    assert refusals.deadline == NEVER


def test_templates_without_end_are_forgotten() -> None:
    refusals = Refusals(PeerId("a"))
    for at in range(10 * KINDS_MAX):
        refusals.add(JobId(f"job-{at}"), "look", "x" * 5_000, 0.0)
    assert len(refusals._tell_at) <= KINDS_MAX


def test_what_is_told_may_be_something_else() -> None:
    refusals = Refusals(PeerId("a"), "trigger.unanswered", "not answered")
    (told,) = refusals.add(LOOK, "look", "a wildcard", 0.0)
    assert isinstance(told, Tell) and told.kind == "trigger.unanswered"
    assert told.text == "look: a message was not answered: a wildcard"
