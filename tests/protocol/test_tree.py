"""tree: values are read with the place where their author finds them, and within bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.errors import JobSpecError
from protocol.quantities import format_size, parse_size_bytes
from protocol.tree import INT_MAX, NAME, NAME_ALLOWED, Node, shown


def fails(read: Callable[[], object]) -> JobSpecError:
    with pytest.raises(JobSpecError) as caught:
        read()
    return caught.value


# ---- places -----------------------------------------------------------------------------------


def test_the_place_is_written_as_in_the_file() -> None:
    root = Node({"tasks": [{"ENGINE": 7}]})
    tasks = root.fields("Tasks").need("Tasks")
    engine = tasks.items(1)[0].fields("Engine").need("Engine")
    assert engine.path == "tasks[0].ENGINE"
    assert fails(lambda: engine.fields("Type")).path == "tasks[0].ENGINE"


def test_what_is_missing_is_named_as_it_should_be_written() -> None:
    error = fails(lambda: Node({}, "Tasks[0]").fields("Engine").need("Engine"))
    assert (error.path, error.message) == ("Tasks[0].Engine", "missing")


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    error = fails(lambda: Node({"Typ": 1}).fields("Type", "Params"))
    assert error.path == "Typ"
    assert "did you mean 'Type'?" in error.message and "Type, Params" in error.message
    assert "did you mean" not in fails(lambda: Node({"zzz": 1}).fields("Type")).message


def test_a_key_given_twice_in_two_letter_cases_is_refused() -> None:
    error = fails(lambda: Node({"type": 1, "TYPE": 2}, "Engine").fields("Type"))
    assert error.path == "Engine.TYPE" and "Engine.type" in error.message


def test_a_key_of_a_later_version_is_explained() -> None:
    error = fails(lambda: Node({"trigger": 1}).fields("Type", later={"Trigger": "comes later"}))
    assert (error.path, error.message) == ("trigger", "comes later")


def test_null_is_as_if_it_were_not_there() -> None:
    fields = Node({"Count": None}).fields("Count")
    assert fields.get("Count") is None
    assert fields.read("Count", lambda at: at.integer(0, 9), 5) == 5


# ---- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [], -1, 11])
def test_an_integer_is_one_and_in_its_range(value: object) -> None:
    assert Node(10).integer(0, 10) == 10
    fails(lambda: Node(value).integer(0, 10))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_flag_is_a_boolean(value: object) -> None:
    assert Node(True).flag() is True
    fails(lambda: Node(value).flag())  # type: ignore[arg-type]


def test_text_is_bounded_in_bytes_and_holds_no_nul() -> None:
    assert Node("é" * 5).text(10) == "é" * 5
    for value in ("é" * 6, "a\0b", "\ud800", 5):
        fails(lambda value=value: Node(value).text(10))  # type: ignore[misc]


def test_a_word_may_be_a_number_but_not_what_yaml_made_of_it() -> None:
    assert Node(8080).word(10) == "8080"
    for value in (True, 1.1, INT_MAX + 1, None):
        fails(lambda value=value: Node(value).word(10))  # type: ignore[misc]


def test_a_choice_is_taken_in_any_letter_case() -> None:
    assert Node(" Batch ").choice(("batch", "ops"), "a job type") == "batch"
    assert (
        "batch, ops" in fails(lambda: Node("bath").choice(("batch", "ops"), "a job type")).message
    )


def test_a_quantity_is_parsed_and_bounded() -> None:
    assert Node("1Ki").quantity(parse_size_bytes, 0, 1024, format_size) == 1024
    for value in ("2Ki", "many", None, [], {}):
        fails(lambda value=value: Node(value).quantity(parse_size_bytes, 0, 1024))  # type: ignore[misc]


def test_lists_and_mappings_have_a_most() -> None:
    assert [at.path for at in Node([1, 2], "A").items(2)] == ["A[0]", "A[1]"]
    assert [key for key, _ in Node({"b": 1, "a": 2}).entries(2)] == ["a", "b"]
    for read in (
        lambda: Node([1, 2]).items(1),
        lambda: Node({"b": 1, "a": 2}).entries(1),
        lambda: Node("ab").items(5),
        lambda: Node(["ab"]).entries(5),
        lambda: Node({1: 2}).entries(5),  # type: ignore[dict-item]
    ):
        fails(read)


def test_words_have_label_like_keys() -> None:
    assert Node({"b/c": "x", "a": 1}).words(2, 10) == {"a": "1", "b/c": "x"}
    fails(lambda: Node({"-a": "x"}).words(2, 10))
    fails(lambda: Node({"a": "x" * 11}).words(2, 10))


@pytest.mark.parametrize("name", ["a", "Docker Job", "a" * 63, "1.2_3-4"])
def test_a_name_is_safe_in_a_topic_and_a_file_name(name: str) -> None:
    assert Node(name).matching(NAME, NAME_ALLOWED) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "a/b", "a#", "+", "é", "a" * 64, "..", "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    assert NAME_ALLOWED in fails(lambda: Node(name).matching(NAME, NAME_ALLOWED)).message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("a\x1b[31m", "'a?[31m'"),
        ("x" * 70, "'" + "x" * 60 + "…'"),
        pytest.param(10**5000, "a number of 16610 bits", id="huge"),
        (1.5, "1.5"),
        ([1], "a list"),
        ({}, "a mapping"),
        (b"x", "a value of type bytes"),
    ],
)
def test_a_rejected_value_is_shown_short_and_harmless(value: object, text: str) -> None:
    assert shown(value) == text
