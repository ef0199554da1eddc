"""The event log: a bounded ring whose numbers only rise."""

from __future__ import annotations

from agent.eventlog import FIELDS_BYTES_MAX, TEXT_LENGTH_MAX, UNSAVED_MAX, EventLog
from agent.storesql import EVENTS_KEPT
from protocol.effects import Tell
from protocol.ids import JobId, PeerId


def test_events_come_back_in_order_from_a_number_on() -> None:
    log = EventLog()
    for n in range(5):
        log.append(Tell(f"kind.{n}", "text", JobId("j"), PeerId("p"), {"n": n}), 1000 + n)
    assert [e.kind for e in log.since(2, 10)] == ["kind.2", "kind.3", "kind.4"]
    assert [e.kind for e in log.since(0, 2)] == ["kind.0", "kind.1"]
    assert [e.kind for e in log.last(2)] == ["kind.3", "kind.4"]
    event = log.last(1)[0]
    assert (event.seq, event.at_ms, event.job, event.peer) == (5, 1004, "j", "p")
    assert bytes(event.fields) == b'{"n":4}'


def test_what_was_saved_comes_back_and_numbers_go_on_rising() -> None:
    log = EventLog()
    for _ in range(3):
        log.append(Tell("kind", "text", fields={"a": [1, "b", None]}), 1)
    saved = log.take_unsaved()
    assert log.unsaved == 0 and log.take_unsaved() == []
    unsaved = log.append(Tell("lost", "in a power cut"), 1)
    again = EventLog(saved)
    assert again.last(10) == log.last(10)[:3]
    assert again.append(Tell("new", "life"), 1).seq > unsaved.seq


def test_a_damaged_line_is_left_out() -> None:
    log = EventLog()
    log.append(Tell("kind", "text"), 1)
    good = log.take_unsaved()[0]
    assert len(EventLog([(0, 0, "{"), good]).last(10)) == 1


def test_everything_is_bounded() -> None:
    log = EventLog()
    for n in range(EVENTS_KEPT + 10):
        log.append(Tell("kind", str(n)), 1)
    assert len(log.last(EVENTS_KEPT * 2)) == EVENTS_KEPT
    assert log.unsaved == 2 * UNSAVED_MAX
    event = log.append(Tell("kind", "x" * 9999, fields={"big": "y" * FIELDS_BYTES_MAX}), 1)
    assert len(event.text) == TEXT_LENGTH_MAX and bytes(event.fields) == b'{"truncated":true}'
    odd = log.append(Tell("kind", "t", fields={"job": JobId("j"), "what": object}), 1)
    assert b"object" in bytes(odd.fields)


def test_whatever_is_told_is_taken_down() -> None:
    """Of a message, for instance, half of a surrogate pair: JSON can hold it, and UTF-8 cannot."""
    log = EventLog()
    tells = [
        Tell("kind", "half \ud800 of", JobId("j\ud800"), fields={"reason": "\ud800"}),
        Tell("kind", "text", fields={"a\ud800": 1, "large": 1 << 80, "of": {1: {2}}}),
        Tell("kind", "text", fields={"x": [[["\udfff" * 9000]]]}),
    ]
    for tell in tells:
        log.append(tell, 1)
    assert [event.text for event in log.last(3)] == ["half ? of", "text", "text"]
    assert b"ud800" in bytes(log.last(3)[0].fields)
    assert EventLog(log.take_unsaved()).last(3) == log.last(3)
