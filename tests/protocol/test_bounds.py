"""bounds: every field of every message and record has one, and our own text keeps to them."""

from __future__ import annotations

import msgspec
import pytest

from protocol import job
from protocol.bounds import REASON_CHARS_MAX, SLOTS_MAX, SPEC_BODY_BYTES_MAX, Reason, Slot, clipped
from protocol.records import Accusation, Desired, Verdict
from tests.vectors import extremes, kinds


@pytest.mark.parametrize("kind", kinds.BY_NAME.values(), ids=list(kinds.BY_NAME))
def test_every_number_and_text_is_bounded(kind: type[msgspec.Struct]) -> None:
    if kind.__name__ != "Envelope":
        extremes.most(kind)  # it asserts that there is a most of each


def test_a_long_reason_is_clipped_to_what_peers_take() -> None:
    for length in (0, 1, REASON_CHARS_MAX - 1, REASON_CHARS_MAX):
        assert clipped("é" * length) == "é" * length
    long = clipped("é" * (REASON_CHARS_MAX + 1))
    assert msgspec.convert(long, Reason) == long
    assert long == "é" * (REASON_CHARS_MAX - 1) + "…"


def test_the_bounds_of_a_job_are_those_of_its_record() -> None:
    assert job.COUNT_MAX == SLOTS_MAX
    assert job.SPEC_BYTES_MAX == SPEC_BODY_BYTES_MAX
    assert msgspec.convert(job.COUNT_MAX - 1, Slot) == job.COUNT_MAX - 1


def test_codes_are_exactly_the_enums() -> None:
    assert [int(each) for each in Verdict] == [0, 1, 2, 3]
    assert [int(each) for each in Desired] == [0, 1, 2]
    assert [int(each) for each in Accusation] == [0, 1]
