"""Questions: where an answer may go, and what names a message that has no id."""

from __future__ import annotations

import pytest

from protocol.question import (
    CORRELATION_BYTES_MAX,
    Question,
    whole_key,
    why_unanswerable,
    without_question,
)
from protocol.records import Heard

ROOT = "shoal/home"
ANY = ("#",)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("x" * 1025, "over 1024 characters"),
        ("answers/+", "wildcard"),
        ("answers/#", "wildcard"),
        ("$SYS/broker", "($)"),
        ("answers\0", "cannot be printed"),
        ("answers\n", "cannot be printed"),
        ("shoal/home", "among the shoal's own"),
        ("shoal/home/trigger/look", "among the shoal's own"),
        ("shoal/homes", ""),
        ("x" * 1024, ""),
        ("grüße/ü", ""),
    ],
)
def test_an_answer_goes_where_it_may(reply: str, says: str) -> None:
    found = why_unanswerable(reply, b"", ROOT, ANY)
    assert says in found and bool(says) == bool(found)


def test_what_goes_back_has_a_bound() -> None:
    assert not why_unanswerable("a", bytes(CORRELATION_BYTES_MAX), ROOT, ANY)
    assert "over 256 bytes" in why_unanswerable("a", bytes(CORRELATION_BYTES_MAX + 1), ROOT, ANY)


@pytest.mark.parametrize(
    ("reply", "topics", "may"),
    [
        ("replies/me", ("replies/+",), True),
        ("replies/me", ("alarms/#", "replies/me"), True),
        ("replies/me/too", ("replies/+",), False),
        ("replies/me", (), False),
        ("shoal/home/event", ("shoal/home/event",), False),
    ],
)
def test_the_devices_owner_says_where_it_publishes(
    reply: str, topics: tuple[str, ...], may: bool
) -> None:
    assert bool(why_unanswerable(reply, b"", ROOT, topics)) is not may


def test_a_message_is_named_by_all_it_holds() -> None:
    names = [
        whole_key(Heard(topic, payload, reply, correlation))
        for topic, payload, reply, correlation in (
            ("a", b"b", "c", b"d"),
            ("ab", b"", "c", b"d"),
            ("a", b"b", "cd", b""),
            ("a", b"b", "", b""),
        )
    ]
    assert len(set(names)) == 4 and names[0] == whole_key(Heard("a", b"b", "c", b"d"))
    assert all(name.startswith("sha256:") for name in names)


def test_who_is_not_answered_is_heard_all_the_same() -> None:
    assert without_question(Heard("a", b"b", "c", b"d")) == Heard("a", b"b")
    assert Question("home", "a").correlation == b""
