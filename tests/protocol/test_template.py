"""Templates: blanks, what fills them, and that a value never becomes more than text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import JobSpecError
from protocol.job import JobSpec
from protocol.template import Parameter, values_of
from protocol.tree import Plain

COMMAND: list[Plain] = ["say", "${what}", "--to=${who}", "$${HOME}"]


def template(command: list[Plain] | None = None, **fields: Plain) -> JobSpec:
    params: dict[str, Plain] = {"Command": COMMAND if command is None else command}
    tree: dict[str, Plain] = {
        "Name": "say",
        "Type": "batch",
        "Parameters": [
            {"Name": "what", "Description": "what is said"},
            {"Name": "who", "Default": "all"},
        ],
        "Tasks": [{"Engine": {"Type": "process", "Params": params}, "Env": {"WHO": "${who}"}}],
    }
    return JobSpec.from_plain({**tree, **fields})


def run(spec: JobSpec, **given: str) -> JobSpec:
    assert spec.parameters is not None
    return spec.filled(values_of(spec.parameters, given))


def command_of(spec: JobSpec) -> list[str]:
    return list(spec.task.engine.process.command)


def test_blanks_are_filled_in_words_and_variables() -> None:
    filled = run(template(), what="hello", who="you")
    assert command_of(filled) == ["say", "hello", "--to=you", "${HOME}"]
    assert filled.task.env == {"WHO": "you"}
    assert filled.parameters is None and not filled.standing


def test_a_default_stands_in() -> None:
    assert command_of(run(template(), what="hi"))[2] == "--to=all"


def test_a_template_is_read_back_from_its_canonical_form() -> None:
    assert JobSpec.from_plain(template().to_plain()) == template()
    engine: Plain = {"Type": "process", "Params": {"Command": ["true"]}}
    empty = template(Parameters=[], Tasks=[{"Engine": engine}])
    assert JobSpec.from_plain(empty.to_plain()).parameters == ()


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=200))
def test_whatever_a_value_holds_it_stays_one_string_in_its_place(value: str) -> None:
    filled = run(template(), what=value, who="${what}")
    assert command_of(filled) == ["say", value, "--to=${what}", "${HOME}"]
    assert filled.count == 1 and len(filled.tasks) == 1


def test_missing_and_unknown_parameters_are_named() -> None:
    with pytest.raises(JobSpecError, match="missing parameter what"):
        run(template())
    with pytest.raises(JobSpecError, match=r"unknown parameter whom, why; allowed: what, who"):
        run(template(), whom="", why="")
    with pytest.raises(JobSpecError, match="allowed: none"):
        values_of((), {"a": ""})
    with pytest.raises(JobSpecError, match="what: 5000 bytes"):
        run(template(), what="x" * 5000)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"command": ["${nobody}"]}, r"Tasks\[0\].Engine.Params.Command\[0\]: \$\{nobody\}"),
        ({"command": ["${}"]}, "is no parameter"),
        ({"Parameters": [{"Name": "9"}]}, r"Parameters\[0\].Name"),
        ({"Parameters": [{"Name": "a"}, {"Name": "a"}]}, r"Parameters\[1\]: a second parameter a"),
        ({"Parameters": [{"Default": "a"}]}, r"Parameters\[0\].Name: missing"),
        ({"Type": "ops"}, "Parameters: only a batch job"),
    ],
)
def test_a_wrong_template_is_refused_where_it_is_wrong(fields: dict[str, Plain], says: str) -> None:
    with pytest.raises(JobSpecError, match=says):
        template(**fields)


def test_what_comes_of_filling_is_read_as_any_job() -> None:
    spec = template(["${what}"])
    with pytest.raises(JobSpecError):
        run(spec, what="")


def test_numbers_and_nothing_are_left_as_they_are() -> None:
    spec = JobSpec.from_plain(
        {
            "Name": "w",
            "Type": "batch",
            "Parameters": [{"Name": "fuel", "Default": 7}],
            "Tasks": [
                {
                    "Engine": {
                        "Type": "wasm",
                        "Params": {
                            "EntryModule": {
                                "Source": {"Type": "inline", "Params": {"URL": "data:,x"}},
                                "Target": "m.wasm",
                            },
                            "Fuel": 9,
                            "Parameters": ["x", "${fuel}"],
                        },
                    }
                }
            ],
        },
    )
    assert spec.parameters == (Parameter(name="fuel", default="7"),)
    filled = spec.filled(values_of(spec.parameters, {}))
    assert filled.task.engine.wasm.fuel == 9
    assert filled.task.engine.wasm.parameters == ("x", "7")
