"""specdiff: each field that differs, by its path, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given

from protocol.specdiff import Difference, differences
from protocol.tree import Plain
from tests.protocol.strategies import PLAIN


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"A": 1}, {"A": 1}, []),
        ({"A": 1}, {"A": 2}, [Difference("A", 1, 2)]),
        ({"A": 1}, {"B": 1}, [Difference("A", 1, None), Difference("B", None, 1)]),
        ({"A": {"B": [1, 2]}}, {"A": {"B": [1, 3, 4]}}, [
            Difference("A.B[1]", 2, 3), Difference("A.B[2]", None, 4),
        ]),
        ({"A": [{"B": 1}]}, {"A": []}, [Difference("A[0]", {"B": 1}, None)]),
        ({"A": [1]}, {"A": {"B": 1}}, [Difference("A", [1], {"B": 1})]),
        (1, "1", [Difference("", 1, "1")]),
    ],
)  # fmt: skip
def test_each_field_that_differs_is_told(
    before: Plain, after: Plain, found: list[Difference]
) -> None:
    assert list(differences(before, after)) == found


@given(PLAIN, PLAIN)
def test_equal_values_alone_have_no_difference(one: Plain, other: Plain) -> None:
    assert list(differences(one, one)) == []
    assert bool(list(differences(one, other))) == (one != other)
