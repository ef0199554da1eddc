"""Filters: a job's expression is looked for apart from the agent, and not for ever."""

from __future__ import annotations

import pytest

from agent.archives import ArchiveError
from agent.inputs import filtering
from agent.inputs.filtering import found_in


def test_the_names_are_told_that_it_is_found_in() -> None:
    names = ["a.csv", "b.txt", "ä/c.csv", "\ud800.csv", "new\nline.csv"]
    assert found_in(r"\.csv$", names) == [0, 2, 3, 4]
    assert found_in("^ä", names) == [2]
    assert found_in("x", []) == []


def test_one_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "FILTER_S", 1.0)
    with pytest.raises(ArchiveError, match=r"the filter '\(a\+\)\+\$' took longer than 1 s"):
        found_in("(a+)+$", ["a" * 60 + "b"])


@pytest.mark.parametrize("pattern", ["(", "(" * 400])
def test_what_is_no_expression_is_told_with_why(pattern: str) -> None:
    with pytest.raises(ArchiveError, match=r"cannot be looked for: missing \)"):
        found_in(pattern, ["a"])
