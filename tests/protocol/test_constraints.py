"""Constraints: Kubernetes' meaning of all eight operators, in both written forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.constraints import (
    Constraint,
    Operator,
    explain_all,
    matches_all,
    parse_constraints,
    read_constraints,
)
from protocol.errors import JobSpecError
from protocol.tree import Node, Plain

PI = {"arch": "arm64", "ram": "4", "gpu": "", "host": "pi-1"}


def one(text: str) -> Constraint:
    (constraint,) = parse_constraints(text)
    return constraint


@pytest.mark.parametrize(
    "text",
    [
        "arch=arm64",
        "arch==arm64",
        "gpu=",
        "arch!=amd64",
        "zone!=a",  # no such label: satisfied, as in Kubernetes
        "arch in (amd64, arm64)",
        "arch notin (amd64)",
        "zone notin (a,b)",
        "gpu",
        "!zone",
        "ram>3",
        "ram<5",
        "ram gt 3",
        "ram > -1",
    ],
)
def test_a_constraint_that_holds(text: str) -> None:
    assert one(text).matches(PI)
    assert one(text).explain(PI) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("arch=amd64", "label arch: wanted 'amd64', found 'arm64'"),
        ("zone=a", "label zone: wanted 'a', but there is none"),
        ("arch!=arm64", "label arch: wanted anything but 'arm64', found 'arm64'"),
        ("zone in (a,b)", "label zone: wanted one of a, b, but there is none"),
        ("arch notin (arm64,arm)", "label arch: wanted none of arm, arm64, found 'arm64'"),
        ("zone", "label zone: wanted any value, but there is none"),
        ("!gpu", "label gpu: wanted no such label, found ''"),
        ("ram>4", "label ram: wanted an integer > 4, found '4'"),
        ("ram<4", "label ram: wanted an integer < 4, found '4'"),
        ("arch>4", "label arch: wanted an integer > 4, found 'arm64'"),
        ("zone<4", "label zone: wanted an integer < 4, but there is none"),
    ],
)
def test_a_constraint_that_does_not_hold_says_why(text: str, why: str) -> None:
    assert not one(text).matches(PI)
    assert one(text).explain(PI) == why


def test_all_must_hold_and_every_reason_is_told() -> None:
    found = parse_constraints("arch=amd64,gpu,zone in (a)")
    assert not matches_all(found, PI)
    assert explain_all(found, PI) == (
        "label arch: wanted 'amd64', found 'arm64'; label zone: wanted one of a, but there is none"
    )
    assert matches_all((), PI)
    assert explain_all((), PI) is None


def test_the_short_form_reads_several_in_any_spacing() -> None:
    text = " arch = arm64 ,gpu , ! camera, zone  in ( a , b ),ram>4,zonein=x"
    assert [str(c) for c in parse_constraints(text)] == [
        "arch=arm64",
        "!camera",
        "gpu",
        "ram>4",
        "zone in (a,b)",
        "zonein=x",
    ]
    assert parse_constraints("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch=arm64,", "cannot read 'arch=arm64,'"),
        (",", "cannot read ','"),
        ("arch=a b", "cannot read 'arch=a b'"),
        ("zone in a", "cannot read 'zone in a'"),
        ("zonein (a)", "cannot read 'zonein (a)'"),
        ("zone in (a", "cannot read 'zone in (a'"),
        ("=x", "cannot read '=x'"),
        ("arch=>x", "cannot read 'arch=>x'"),
        ("ram>many", "'many' is not an integer, as 'gt' needs"),
        ("ram>", "'' is not an integer"),
        ("arch-=x", "'arch-' is not a name here"),
        ("a" * 5000, "5000 bytes; allowed: at most 4096"),
        (",".join(f"k{i}" for i in range(33)), "33 items; allowed: at most 32"),
        ("zone in (" + ",".join(f"k{i}" for i in range(65)) + ")", "65 items"),
    ],
)
def test_the_short_form_refuses_what_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        parse_constraints(text, "--constraints")
    assert caught.value.path == "--constraints"
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("==", "="),
        ("!", "!exists"),
        ("DoesNotExist", "!exists"),
        ("In", "in"),
        ("NotIn", "notin"),
        ("Exists", "exists"),
        ("Gt", "gt"),
    ],
)
def test_other_spellings_of_operators_are_read(written: str, meant: str) -> None:
    values: Plain = [] if "exists" in meant else [4]
    tree: Plain = [{"key": "ram", "operator": written, "values": values}]
    (constraint,) = read_constraints(Node(tree))
    assert constraint.operator == Operator(meant)


def test_order_and_repetition_say_nothing() -> None:
    a: Plain = {"Key": "zone", "Operator": "in", "Values": ["b", "a", "b"]}
    b: Plain = {"Key": "gpu", "Operator": "exists", "Values": None}
    assert read_constraints(Node([a, b, a])) == read_constraints(Node([b, a]))


@pytest.mark.parametrize(
    ("tree", "path", "message"),
    [
        ({"Key": "a", "Operator": "~"}, "C[0].Operator", "allowed: =, !=, in, notin, exists"),
        ({"Key": "a", "Operator": "in"}, "C[0].Values", "needs at least one value"),
        ({"Key": "a", "Operator": "="}, "C[0].Values", "needs exactly one value"),
        ({"Key": "a", "Operator": "=", "Values": ["a", "b"]}, "C[0].Values", "exactly one"),
        ({"Key": "a", "Operator": "exists", "Values": ["a"]}, "C[0].Values", "takes no values"),
        ({"Key": "a", "Operator": "gt", "Values": ["x"]}, "C[0].Values", "is not an integer"),
        ({"Key": "a", "Operator": "=", "Values": [True]}, "C[0].Values[0]", "put it in quotes"),
        ({"Key": "a", "Operator": "=", "Values": "x"}, "C[0].Values", "'x' is not a list"),
        ({"Key": "-", "Operator": "="}, "C[0].Key", "'-' is not a name here; allowed: "),
        ({"Operator": "="}, "C[0].Key", "missing"),
        ({"Key": "a"}, "C[0].Operator", "missing"),
        ({"Key": "a", "Op": "="}, "C[0].Op", "unknown key; allowed: Key, Operator, Values"),
        ("a", "C[0]", "'a' is not a mapping"),
    ],
)
def test_errors_name_the_place(tree: Plain, path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read_constraints(Node([tree], "C"))
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


KEYS = st.from_regex(r"[a-z][a-z0-9./-]{0,5}[a-z0-9]", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z0-9._-]{1,8}", fullmatch=True)
NUMBERS = st.integers(-(10**17), 10**17).map(str)


@st.composite
def constraints(draw: st.DrawFn) -> Constraint:
    operator = draw(st.sampled_from(Operator))
    match operator:
        case Operator.IN | Operator.NOT_IN:
            values = draw(st.sets(WORDS, min_size=1, max_size=4))
        case Operator.EXISTS | Operator.NOT_EXISTS:
            values = set()
        case Operator.GREATER | Operator.LESS:
            values = {draw(NUMBERS)}
        case _:
            values = {draw(WORDS)}
    return Constraint(draw(KEYS), operator, tuple(sorted(values)))


@given(constraints())
def test_both_forms_read_back(constraint: Constraint) -> None:
    assert read_constraints(Node([constraint.to_plain()])) == (constraint,)
    assert parse_constraints(str(constraint)) == (constraint,)


@given(constraints(), st.dictionaries(KEYS, WORDS | NUMBERS))
def test_a_reason_is_given_exactly_when_it_does_not_match(
    constraint: Constraint, labels: dict[str, str]
) -> None:
    assert (constraint.explain(labels) is None) == constraint.matches(labels)


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_a_spec_error(text: str) -> None:
    try:
        parse_constraints(text)
    except JobSpecError as error:
        assert error.path == "Constraints"
