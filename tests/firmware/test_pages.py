"""The examples in the pages are what they say they are, and their expressions give what is said."""

from __future__ import annotations

import re

import pytest
import yaml

from protocol.answer import answer_message, refusal_message
from protocol.ids import JobId
from protocol.question import Question
from tests.firmware.bridge import search, value_of
from tests.firmware.pages import (
    NOTES,
    block,
    blocks,
    bytes_of,
    shortest,
    value_of_diagnostic,
)
from tests.protocol.test_answer import ended

PAGE = "sensors.md"
READINGS = ("reading", "frost", "broken")


def test_no_example_is_overlooked() -> None:
    assert set(blocks(PAGE, "json")) == {*READINGS, "parts", "result", "answer", "refused"}
    assert set(blocks(PAGE, "hex")) == {*READINGS, "stdout"}
    assert set(blocks(PAGE, "diag")) == {"reading", "stdout"}
    assert set(blocks(PAGE, "jmespath")) == {"key", "parts", "broken"}


@pytest.mark.parametrize("name", READINGS)
def test_json_and_cbor_of_an_example_are_one_value(name: str) -> None:
    payload = bytes_of(block(PAGE, "hex", name))
    value = value_of(block(PAGE, "json", name).encode(), "application/json")
    assert value_of(payload, "application/cbor") == value
    assert payload == shortest(value)


@pytest.mark.parametrize("name", ["reading", "stdout"])
def test_the_diagnostic_notation_is_of_those_bytes(name: str) -> None:
    value = value_of_diagnostic(block(PAGE, "diag", name))
    assert value_of(bytes_of(block(PAGE, "hex", name)), "application/cbor") == value


def test_each_line_of_bytes_says_what_they_are() -> None:
    """A comment behind the bytes of one item gives its value."""
    for line in block(PAGE, "hex", "reading").splitlines()[1:]:
        said = line.partition("#")[2].encode()
        assert value_of(bytes_of(line), "application/cbor") == value_of(said, "application/json")


def test_the_sizes_in_the_text_are_those_of_the_example() -> None:
    found = re.search(r"(\d+) bytes in place of (\d+)", (NOTES / PAGE).read_text())
    assert found is not None
    cbor, json = (
        len(bytes_of(block(PAGE, "hex", "reading"))),
        len(block(PAGE, "json", "reading").strip()),
    )
    assert found.groups() == (str(cbor), str(json))


def test_the_key_of_a_reading_is_its_id() -> None:
    trigger = yaml.safe_load(block(PAGE, "yaml"))["Trigger"]["Mqtt"]
    assert trigger["Dedup"]["Key"] == block(PAGE, "jmespath", "key").strip()
    ids = [
        search(
            trigger["Dedup"]["Key"],
            value_of(bytes_of(block(PAGE, "hex", name)), "application/cbor"),
        )
        for name in READINGS
    ]
    assert ids == ["porch-12-345", "porch-12-346", "porch-12-347"]


@pytest.mark.parametrize("name", ["answer", "refused"])
def test_an_answer_has_the_fields_that_are_sent(name: str) -> None:
    shown = value_of(block(PAGE, "json", name).encode(), "application/json")
    question = Question("home", "replies/x")
    held, keyring = ended(b"frost\n")
    message = (
        answer_message(held, question, keyring)
        if name == "answer"
        else refusal_message(JobId("j-90cd"), "climate", shown["error"], question)
    )
    sent = value_of(message.payload, message.content_type)
    assert list(shown) == list(sent)
    same = set(sent) if name == "refused" else {"state", "error", "outcome", "stdout", "truncated"}
    assert {key: shown[key] for key in same} == {key: sent[key] for key in same}


def test_a_key_of_parts_has_them_all() -> None:
    value = value_of(block(PAGE, "json", "parts").encode(), "application/json")
    assert search(block(PAGE, "jmespath", "parts"), value) == ["porch", 12, 345]


def test_the_template_runs_where_the_page_says() -> None:
    when = yaml.safe_load(block(PAGE, "yaml"))["Trigger"]["Mqtt"]["When"]
    values = {
        name: value_of(bytes_of(block(PAGE, "hex", name)), "application/cbor") for name in READINGS
    }
    runs = [name for name, value in values.items() if search(when, value)]
    assert runs == ["frost"]
    missing = block(PAGE, "jmespath", "broken")
    assert [name for name, value in values.items() if search(missing, value)] == ["broken"]


@pytest.mark.parametrize("path", sorted(NOTES.rglob("*.md")), ids=lambda path: path.name)
def test_links_between_the_pages_lead_somewhere(path) -> None:  # type: ignore[no-untyped-def]
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target
