"""Engines: `process` in full, those of later versions as written, the rest refused by name."""

from __future__ import annotations

import pytest

from protocol.container import ContainerParams
from protocol.engine import EngineSpec, ProcessParams
from protocol.errors import JobSpecError
from protocol.tree import Node, Plain

LATER = ("process", "docker", "wasm")


def process(**params: Plain) -> Node:
    return Node({"Type": "process", "Params": {**params}}, "Engine")


def test_a_command_is_an_argument_vector() -> None:
    spec = EngineSpec.read(process(command=["sleep", 5, ""], workingdirectory="./x/"), LATER)
    assert spec.process == ProcessParams(("sleep", "5", ""), "x")
    assert spec.params == {"Command": ["sleep", "5", ""], "WorkingDirectory": "x"}
    assert EngineSpec.read(Node(spec.to_plain()), LATER) == spec


def test_a_command_as_a_string_is_a_line_for_the_shell() -> None:
    spec = EngineSpec.read(process(Command="echo $HOME | wc\n"), LATER)
    assert spec.process.command == ("/bin/sh", "-c", "echo $HOME | wc")


def test_a_container_is_read_by_its_own_rules() -> None:
    node = Node({"Type": "Docker", "Params": {"image": "busybox", "parameters": ["true"]}})
    spec = EngineSpec.read(node, LATER)
    assert spec.params == {"Image": "busybox", "Parameters": ["true"], "Pull": "missing"}
    assert spec.container == ContainerParams(image="busybox", parameters=("true",))
    assert EngineSpec.read(Node(spec.to_plain()), LATER) == spec


def test_types_are_read_in_any_letter_case() -> None:
    assert EngineSpec.read(Node({"TYPE": "Process", "PARAMS": {"COMMAND": "x"}}), LATER).process


def test_an_engine_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(JobSpecError) as caught:
        EngineSpec.read(Node({"Type": "docker"}, "Tasks[0].Engine"), ("process",))
    assert str(caught.value) == (
        "Tasks[0].Engine.Type: 'docker' is not an engine this version has; allowed: process"
    )


@pytest.mark.parametrize(
    ("params", "path", "message"),
    [
        ({}, "Engine.Params.Command", "missing"),
        ({"Command": []}, "Engine.Params.Command", "names no program"),
        ({"Command": [""]}, "Engine.Params.Command", "names no program"),
        ({"Command": " "}, "Engine.Params.Command", "is empty"),
        ({"Command": 5}, "Engine.Params.Command", "5 is not a list"),
        ({"Command": ["sleep", 0.5]}, "Engine.Params.Command[1]", "put it in quotes"),
        ({"Command": ["sleep", 2**60]}, "Engine.Params.Command[1]", "out of range"),
        ({"Command": ["x"] * 257}, "Engine.Params.Command", "257 items; allowed: at most 256"),
        ({"Comand": "x"}, "Engine.Params.Comand", "did you mean 'Command'?"),
        ({"Entrypoint": ["x"]}, "Engine.Params.Entrypoint", "is for containers"),
        ({"arguments": ["x"]}, "Engine.Params.arguments", "write them into Command"),
        ({"Environment": {}}, "Engine.Params.Environment", "write it into the task's Env"),
    ],
)
def test_errors_name_the_place(params: dict[str, Plain], path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        EngineSpec.read(process(**params), LATER)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


def test_parameters_of_other_engines_are_kept_as_written_without_floats() -> None:
    params: Plain = {
        "module": "busybox",
        "Parameters": ["-c", {"x": [True, 1.0, -3]}],
        "Nothing": None,
    }
    spec = EngineSpec.read(Node({"Type": "wasm", "Params": params}), LATER)
    assert spec.params == {"module": "busybox", "Parameters": ["-c", {"x": [True, 1, -3]}]}
    assert not isinstance(spec.param("parameters"), str)
    assert (spec.param("MODULE"), spec.param("Tag")) == ("busybox", None)
    assert EngineSpec.read(Node(spec.to_plain()), LATER) == spec
    assert EngineSpec.read(Node({"Type": "wasm"}), LATER) == EngineSpec("wasm", {})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": 0.5}, "Params.a: 0.5 has no exact form; put it in quotes"),
        ({"a": float("inf")}, "Params.a: inf has no exact form"),
        ({"a": 2**60}, "Params.a: 1152921504606846976 is out of range"),
        ({"a": 1e300}, "Params.a: a number of 997 bits is out of range"),
        ({"a": [[[["x"]]]]}, r"Params.a\[0\]\[0\]\[0\]: nested too deep"),
        ({"a": b"bytes"}, "a value of type bytes has no exact form"),
        ({"Image": "a", "image": "b"}, "Params.image: given twice, first as Image"),
        ({3: "x"}, "the key 3 is not a string"),
    ],
)
def test_parameters_that_no_record_could_carry_are_refused(params: Plain, message: str) -> None:
    with pytest.raises(JobSpecError, match=message):
        EngineSpec.read(Node({"Type": "wasm", "Params": params}), LATER)


def test_asking_another_engine_for_process_parameters_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        _ = EngineSpec("docker", {}).process
