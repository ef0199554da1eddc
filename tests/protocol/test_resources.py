"""Resources: arithmetic that is exact, defaults that suit a small device, bounds on the absurd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import JobSpecError
from protocol.resources import RESOURCES_DEFAULT, Resources
from protocol.tree import Node, Plain

AMOUNTS = st.builds(
    Resources,
    cpu_m=st.integers(0, 10**6),
    memory_bytes=st.integers(0, 2**50),
    disk_bytes=st.integers(0, 2**50),
    gpu=st.integers(0, 64),
)
ASKED = st.builds(
    Resources,
    cpu_m=st.integers(1, 1024 * 1000),
    memory_bytes=st.integers(2**20, 2**50),
    disk_bytes=st.integers(0, 2**50),
    gpu=st.integers(0, 64),
)


@given(AMOUNTS, AMOUNTS)
def test_taking_away_what_was_added_gives_back_the_same(a: Resources, b: Resources) -> None:
    assert a + b - b == a
    assert b.fits(a + b)


@given(AMOUNTS, AMOUNTS)
def test_a_shortfall_is_told_exactly_when_it_does_not_fit(a: Resources, free: Resources) -> None:
    assert (a.shortfall(free) is None) == a.fits(free)


def test_a_shortfall_names_everything_that_lacks() -> None:
    needs = Resources(cpu_m=500, memory_bytes=2**30, disk_bytes=2**20, gpu=1)
    free = Resources(cpu_m=200, memory_bytes=15_165_901_209)
    assert "needs 900Gi, 14463Mi free" in str(Resources(memory_bytes=900 * 2**30).shortfall(free))
    free = Resources(cpu_m=200, memory_bytes=2**20)
    assert needs.shortfall(free) == (
        "cpu: needs 500m, 200m free; memory: needs 1Gi, 1Mi free; "
        "disk: needs 1Mi, 0 free; gpu: needs 1, 0 free"
    )


def test_taking_more_than_there_is_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        Resources() - Resources(gpu=1)


def read(tree: Plain, path: str = "") -> Resources:
    return Resources.read(Node(tree, path), RESOURCES_DEFAULT)


@given(ASKED)
def test_the_canonical_form_reads_back(asked: Resources) -> None:
    assert read(asked.to_plain()) == asked


def test_what_is_left_out_is_the_default() -> None:
    assert read({}) == RESOURCES_DEFAULT == Resources(100, 64 * 2**20, 0, 0)
    assert read({"cpu": None, "GPU": "2"}) == Resources(100, 64 * 2**20, 0, 2)


def test_a_number_too_long_to_print_is_refused_all_the_same() -> None:
    with pytest.raises(JobSpecError, match="a number of 16610 bits is out of range"):
        read({"Memory": 10**5000})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CPU", 0, "0 is out of range; allowed: 1m to 1024"),
        ("CPU", -1, "-1 is not a cpu quantity; allowed: cores such as 2"),
        ("CPU", 2000, "2000 is out of range"),
        ("CPU", float("inf"), "inf is not a cpu quantity"),
        ("CPU", 1e300, "1e+300 is out of range"),
        ("CPU", [], "a list is not a quantity"),
        ("Memory", 0, "0 is out of range; allowed: 1Mi to 1024Ti"),
        ("Memory", 512, "512 is out of range; allowed: 1Mi"),
        ("Memory", 2**53, "out of range"),
        ("Memory", float("nan"), "nan is not a size"),
        ("Memory", "12XB", "'12XB' is not a size; allowed: "),
        ("Disk", "2Pi", "'2Pi' is out of range; allowed: 0 to 1024Ti"),
        ("GPU", 65, "65 is out of range; allowed: 0 to 64"),
        ("GPU", {"Count": 1}, "a mapping is not a quantity"),
        ("Ram", 1, "unknown key; allowed: CPU, Memory, Disk, GPU"),
        ("Memry", 1, "unknown key, did you mean 'Memory'? allowed: "),
    ],
)
def test_absurd_resources_are_refused_with_what_is_allowed(
    key: str, value: Plain, message: str
) -> None:
    with pytest.raises(JobSpecError) as caught:
        read({key: value}, "Tasks[0].Resources")
    assert caught.value.path == f"Tasks[0].Resources.{key}"
    assert caught.value.message.startswith(message) or message in caught.value.message
