"""earlier: what was ever spoken is read for ever, and is not changed by the way."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vectors import earlier, generate, kinds

Vector = dict[str, Any]


def test_every_earlier_form_is_read_as_it_was() -> None:
    assert list(filter(None, map(earlier.misread, earlier.read()))) == []


def test_every_form_of_today_will_be_once_it_is_an_earlier_one() -> None:
    """A kind that grows later leaves just these behind."""
    forms = [each for family in generate.families().values() for each in family if "kind" in each]
    assert len(forms) > 4 * len(kinds.BY_NAME) - 8
    for each in forms:
        assert earlier.misread(each) == "", each["name"]


def ping(*more: object) -> Vector:
    data = generate.dumps([1, 7, *more])
    return {
        "name": "ping.typical",
        "rule": "ping",
        "kind": "Ping",
        "hex": data.hex(),
        "fields": {"seq": 7},
    }


def test_what_a_kind_was_before_it_grew_is_put_aside() -> None:
    before, after = {"membership": [ping()]}, {"membership": [ping("more")]}
    (aside,) = earlier.put_aside(before, after)
    assert aside == {**ping(), "decode_only": True}
    assert earlier.misread(aside) == ""
    assert earlier.put_aside(before, {"other": [ping()]}) == []
    later = {**ping(), "name": "ping.later"}
    assert earlier.put_aside({"membership": [later]}, after) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fields": {"seq": 8}}, "ping.typical: read as"),
        ({"hex": "8101"}, "ping.typical: Expected"),
        ({"kind": "Gone"}, "ping.typical: there is no Gone any more"),
        ({"fields": {"seq": 7, "was": 1}}, "ping.typical: read as"),
    ],
)
def test_what_is_read_otherwise_is_told_of(change: Vector, why: str) -> None:
    assert earlier.misread(ping() | change).startswith(why)


def test_fields_that_came_later_are_no_difference() -> None:
    sample = next(e for e in generate.vectors_of(generate.samples.RESULT) if "short" in e["name"])
    fields = dict(sample["fields"])  # type: ignore[call-overload]
    del fields["published"]
    assert earlier.misread({**sample, "fields": fields}) == ""


def test_an_envelope_is_put_aside_when_its_record_has_grown() -> None:
    before = {"envelopes": [{**each} for each in generate.envelopes() if "Result" in each.values()]}
    (was,) = before["envelopes"]
    opened = dict(was["opened"])  # type: ignore[call-overload]
    del opened["published"]  # it came later
    was["opened"] = opened
    (aside,) = earlier.put_aside(before, {"envelopes": [{**was, "hex": "80"}]})
    assert aside == {**was, "decode_only": True}
    assert earlier.misread(aside) == ""
    opened["code"] = "other"
    assert earlier.misread(aside).startswith("envelope.root-to-admit-to-peer: read as")
    assert earlier.misread({**was, "hex": generate.dumps([b"", "", b"", b""]).hex()})


def test_the_generator_refuses_what_it_would_break(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = generate.families()
    before = copy.deepcopy(found)
    before["ids"][0]["is"] = "other"
    before["membership"].append(ping() | {"hex": "82016161"})
    files = {f"{name}.json": earlier.text_of(vectors) for name, vectors in before.items()}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "earlier.json").write_text("[]")
    monkeypatch.setattr(generate, "HERE", tmp_path)
    monkeypatch.setattr(earlier, "FILE", tmp_path / "earlier.json")
    monkeypatch.setattr(sys, "argv", ["generate"])
    with pytest.raises(SystemExit) as refused:
        generate.main()
    assert "ids: job-id" in str(refused.value)
    assert "ping.typical: Expected `int`, got `str`" in str(refused.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        **files,
        "earlier.json": "[]",
    }
    monkeypatch.setattr(sys, "argv", ["generate", "--unreleased"])
    generate.main()
    assert (tmp_path / "ids.json").read_text() == generate.build()["ids.json"]
    assert earlier.read() == []


def test_the_generator_keeps_an_earlier_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in generate.build().items():
        (tmp_path / name).write_text(text)
    before = generate.families()["membership"]
    (tmp_path / "membership.json").write_text(earlier.text_of([*before, ping("x")]))
    (tmp_path / "earlier.json").write_text("[]")
    monkeypatch.setattr(generate, "HERE", tmp_path)
    monkeypatch.setattr(earlier, "FILE", tmp_path / "earlier.json")
    monkeypatch.setattr(sys, "argv", ["generate"])
    for _ in range(2):
        generate.main()
        assert earlier.read() == [{**ping("x"), "decode_only": True}]
