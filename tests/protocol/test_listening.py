"""Listening: lists of templates as words and as labels, and that both say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.listening import (
    FIRES_LABELS_MAX,
    allows,
    fires_labels,
    has_broker,
    listed,
    named,
    switches,
    switches_labels,
    word_of,
)

WORDS = st.lists(st.from_regex(r"[a-z]{1,40}\*?", fullmatch=True), max_size=12)


@pytest.mark.parametrize(
    ("words", "word", "found"),
    [
        (("look",), "look", True),
        (("look",), "looking", False),
        (("look*",), "looking", True),
        (("*",), "kitchen/look", True),
        (("lab-*",), "lab-a", True),
        (("lab-*",), "lab-a/look", False),
        (("lab-*",), "lab-/look", False),
        (("lab/*",), "lab/look", True),
        (("lab/lo*",), "lab/look", True),
        ((), "look", False),
        (("kitchen/look",), "look", False),
    ],
)
def test_what_a_list_names(words: tuple[str, ...], word: str, found: bool) -> None:
    assert listed(words, word) is found


@given(WORDS, st.from_regex(r"[a-z]{1,40}", fullmatch=True))
def test_others_are_told_just_what_is_listed(words: list[str], name: str) -> None:
    labels = fires_labels([f"template/{word}" for word in words])
    assert allows(labels, "default", name) == listed(words, name)
    assert all(len(value) <= 256 for value in labels.values())


def test_daemons_are_no_templates_and_namespaces_are_named() -> None:
    assert fires_labels(["daemon/look"]) == {}
    labels = fires_labels(["template/kitchen/look"])
    assert allows(labels, "kitchen", "look") and not allows(labels, "default", "look")


def test_an_endless_list_is_cut_off() -> None:
    labels = fires_labels([f"template/{at:0100}" for at in range(100)])
    assert len(labels) == FIRES_LABELS_MAX
    assert allows(labels, "default", f"{0:0100}") and not allows(labels, "default", f"{99:0100}")


def test_a_broker_is_a_label() -> None:
    assert has_broker({"broker.home": ""}, "home") and not has_broker({"broker.other": ""}, "home")


def test_what_of_daemons_is_listed_is_told_apart_from_templates() -> None:
    labels = switches_labels(["daemon/heat*", "template/look", "daemon/lab/pump"])
    assert fires_labels(["daemon/heat*"]) == {}
    assert switches(labels, "default", "heating") and switches(labels, "lab", "pump")
    assert not switches(labels, "default", "look") and not allows(labels, "default", "heating")


@pytest.mark.parametrize("of", [("default", "look"), ("kitchen", "look")])
def test_a_word_names_what_it_was_made_of(of: tuple[str, str]) -> None:
    assert named(word_of(*of)) == of
