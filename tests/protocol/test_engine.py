"""Engines: each read by its own rules, the rest refused by name."""

from __future__ import annotations

import pytest

from protocol.container import ContainerParams
from protocol.engine import ENGINES, EngineSpec, ProcessParams
from protocol.errors import JobSpecError
from protocol.tree import Node, Plain
from protocol.wasm import WasmParams


def process(**params: Plain) -> Node:
    return Node({"Type": "process", "Params": {**params}}, "Engine")


def test_a_command_is_an_argument_vector() -> None:
    spec = EngineSpec.read(process(command=["sleep", 5, ""], workingdirectory="./x/"), ENGINES)
    assert spec.process == ProcessParams(("sleep", "5", ""), "x")
    assert spec.params == {"Command": ["sleep", "5", ""], "WorkingDirectory": "x"}
    assert EngineSpec.read(Node(spec.to_plain()), ENGINES) == spec


def test_a_command_as_a_string_is_a_line_for_the_shell() -> None:
    spec = EngineSpec.read(process(Command="echo $HOME | wc\n"), ENGINES)
    assert spec.process.command == ("/bin/sh", "-c", "echo $HOME | wc")


def test_a_container_is_read_by_its_own_rules() -> None:
    node = Node({"Type": "Docker", "Params": {"image": "busybox", "parameters": ["true"]}})
    spec = EngineSpec.read(node, ENGINES)
    assert spec.params == {"Image": "busybox", "Parameters": ["true"], "Pull": "missing"}
    assert spec.container == ContainerParams(image="busybox", parameters=("true",))
    assert EngineSpec.read(Node(spec.to_plain()), ENGINES) == spec


def test_a_module_is_read_by_its_own_rules() -> None:
    node = Node({"Type": "WASM", "Params": {"entrymodule": "m.wasm", "Fuel": 5}})
    spec = EngineSpec.read(node, ENGINES)
    assert spec.params == {"EntryModule": "m.wasm", "EntryPoint": "_start", "Fuel": 5}
    assert spec.wasm == WasmParams(entry_module="m.wasm", fuel=5)
    assert EngineSpec.read(Node(spec.to_plain()), ENGINES) == spec


def test_types_are_read_in_any_letter_case() -> None:
    assert EngineSpec.read(Node({"TYPE": "Process", "PARAMS": {"COMMAND": "x"}}), ENGINES).process


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
        EngineSpec.read(process(**params), ENGINES)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


def test_asking_another_engine_for_process_parameters_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        _ = EngineSpec("docker", {}).process
    with pytest.raises(AssertionError):
        _ = EngineSpec("process", {}).container
    with pytest.raises(AssertionError):
        _ = EngineSpec("docker", {}).wasm
