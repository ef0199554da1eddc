"""Tallies: each reason has its number, and there are not more of them than can be read."""

from __future__ import annotations

from protocol.tally import OTHER, REASONS_MAX, count


def test_each_reason_has_its_number() -> None:
    counts: dict[str, int] = {}
    for reason in ("x", "y", "x"):
        count(counts, reason)
    assert counts == {"x": 2, "y": 1}


def test_reasons_without_end_are_counted_together() -> None:
    counts: dict[str, int] = {}
    for at in range(1000):
        count(counts, f"topic {at}")
    count(counts, "topic 0")
    assert len(counts) == REASONS_MAX + 1 and counts["topic 0"] == 2
    assert counts[OTHER] == 1000 - REASONS_MAX
