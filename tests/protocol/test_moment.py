"""moment: RFC 3339 there and back, and no day that is none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.moment import format_moment, parse_moment_s
from protocol.tree import Scalar


@given(st.integers(0, 253_402_300_799))
def test_every_second_reads_back_as_the_calendar_has_it(seconds: int) -> None:
    text = format_moment(seconds)
    assert text == datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)
    assert parse_moment_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2027-03-01T06:00:00+02:00", "2027-03-01T04:00:00Z"),
        ("2027-03-01t06:00:00.000-00:30", "2027-03-01T06:30:00Z"),
        (" 2028-02-29 23:59:59z ", "2028-02-29T23:59:59Z"),
    ],
)
def test_other_spellings_mean_the_same(text: str, same: str) -> None:
    assert format_moment(parse_moment_s(text)) == same


@pytest.mark.parametrize(
    "value",
    [
        "2027-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "2027-13-01T00:00:00Z",
        "2027-00-01T00:00:00Z",
        "2027-01-00T00:00:00Z",
        "2027-01-01T24:00:00Z",
        "2027-01-01T00:60:00Z",
        "2027-01-01T00:00:60Z",
        "2027-01-01T00:00:00+24:00",
        "2027-01-01T00:00:00+01:60",
        "2027-01-01T00:00:00",
        "2027-01-01T00:00:00.5Z",
        "tomorrow",
        1_800_000_000,
        True,
    ],
)
def test_anything_else_is_refused_with_a_form_that_is_not(value: Scalar) -> None:
    with pytest.raises(ValueError, match="2027-03-01T06:00:00Z"):
        parse_moment_s(value)
