"""moments: RFC 3339 in, one canonical form out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import JobSpecError
from protocol.moments import format_moment, parse_moment_ms, read_moment_ms
from protocol.tree import Node

LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-11-27T18:00:00Z", "2026-11-27T18:00:00Z"),
        (" 2026-11-27 18:00:00z ", "2026-11-27T18:00:00Z"),
        ("2026-11-27T19:00:00.25+01:00", "2026-11-27T18:00:00.250Z"),
        ("2026-11-27T18:00:00.123000Z", "2026-11-27T18:00:00.123Z"),
        ("2028-02-28T22:30:00-02:30", "2028-02-29T01:00:00Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_moment_has_one_canonical_form(text: str, canonical: str) -> None:
    assert format_moment(parse_moment_ms(text)) == canonical


@given(st.integers(1, LAST_MS))
def test_what_is_written_is_read_back_and_is_what_the_calendar_says(moment_ms: int) -> None:
    text = format_moment(moment_ms)
    assert parse_moment_ms(text) == moment_ms
    found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)
    assert datetime.fromisoformat(text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tomorrow", "is not a moment"),
        ("2026-11-27", "is not a moment"),
        ("2026-11-27T18:00:00", "is not a moment"),
        ("2026-13-01T00:00:00Z", "is no moment"),
        ("2026-02-29T00:00:00Z", "is no moment"),
        ("2100-02-29T00:00:00Z", "is no moment"),
        ("2026-11-27T24:00:00Z", "is no moment"),
        ("2026-11-27T18:60:00Z", "is no moment"),
        ("2026-11-27T18:00:60Z", "is no moment"),
        ("2026-11-27T18:00:00+24:00", "is no moment"),
        ("2026-11-27T18:00:00+01:60", "is no moment"),
        ("1969-12-31T23:59:59Z", "is no moment"),
        ("1970-01-01T00:00:00Z", "is no moment"),
        ("9999-12-31T23:59:59-01:00", "is no moment"),
        ("2026-11-27T18:00:00.1234Z", "finer than milliseconds"),
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        parse_moment_ms(text)
    assert "e.g. 2026-11-27T18:00:00Z" in str(raised.value)


def test_a_field_names_its_place() -> None:
    assert read_moment_ms(Node("1970-01-01T00:00:01Z", "NotAfter")) == 1000
    with pytest.raises(JobSpecError) as raised:
        read_moment_ms(Node("soon", "NotAfter"))
    assert raised.value.path == "NotAfter"
