"""wasm: what a job file says of a module, read as Bacalhau's files have it."""

from __future__ import annotations

import pytest

from protocol.engine import ENGINES
from protocol.errors import JobSpecError
from protocol.inputs import INPUTS_MAX
from protocol.job import JobSpec
from protocol.task import TaskSpec
from protocol.tree import Node, Plain
from protocol.wasm import FUEL_MAX, WasmParams, module_path

INLINE: Plain = {"Type": "inline", "Params": {"URL": "data:application/wasm;base64,AGFzbQ=="}}
ARCHIVE: Plain = {"Type": "archive", "Params": {"Digest": "0" * 64, "Size": 5}}
GZIP: Plain = {"Type": "inline", "Params": {"URL": "data:application/gzip;base64,AAAA"}}

URL: Plain = {"Type": "urldownload", "Params": {"URL": "https://example.org/m.wasm"}}
DIRECTORY: Plain = {"Type": "localdirectory", "Params": {"SourcePath": "/srv/mod"}}


def read(**params: Plain) -> WasmParams:
    return WasmParams.read(Node({"EntryModule": "m.wasm", **params}, "Params"))


def entry(target: str = "m.wasm", source: Plain = INLINE, **more: Plain) -> dict[str, Plain]:
    return {"Source": source, "Target": target, **more}


def task(params: Plain, *sources: Plain, **more: Plain) -> TaskSpec:
    engine: Plain = {"Type": "wasm", "Params": params}
    node = Node({"Engine": engine, "InputSources": [*sources], **more}, "Tasks[0]")
    return TaskSpec.read(node, ENGINES, standing=False)


def test_a_module_is_all_that_is_needed() -> None:
    assert read() == WasmParams(entry_module="m.wasm")
    assert read().to_plain() == {"EntryModule": "m.wasm", "EntryPoint": "_start"}


def test_the_keys_of_bacalhaus_files_are_read_in_any_letter_case() -> None:
    found = WasmParams.read(
        Node(
            {
                "entrymodule": "/app/./m.wasm",
                "IMPORTMODULES": ["lib/math.wasm"],
                "entryPoint": "main",
                "parameters": ["--n", 5],
                "environmentvariables": {"B": 2, "A": "1=2"},
                "fuel": 7,
            }
        )
    )
    assert found == WasmParams(
        entry_module="/app/m.wasm",
        import_modules=("lib/math.wasm",),
        entry_point="main",
        parameters=("--n", "5"),
        environment=("A=1=2", "B=2"),
        fuel=7,
    )
    assert WasmParams.read(Node(found.to_plain())) == found


def test_variables_have_one_form() -> None:
    lines = read(EnvironmentVariables=["B=2", "A=1"])
    assert lines == read(EnvironmentVariables={"A": 1, "B": "2"})
    assert lines.to_plain()["EnvironmentVariables"] == ["A=1", "B=2"]


@pytest.mark.parametrize(
    ("params", "path", "message"),
    [
        ({"EntryModule": None}, "EntryModule", "missing"),
        ({"EntryModule": 5}, "EntryModule", "5 is not a module; allowed: the Target or Alias"),
        ({"EntryModule": ["m"]}, "EntryModule", "a list is not a module"),
        ({"EntryModule": "../m"}, "EntryModule", "is not a path here"),
        ({"EntryModule": {"Target": "m"}}, "EntryModule.Source", "missing"),
        ({"ImportModules": ["a", 5]}, "ImportModules[1]", "is not a module"),
        ({"EntryPoint": " \n"}, "EntryPoint", "is not a function's name; allowed: e.g. _start"),
        ({"EntryPoint": "a\nb"}, "EntryPoint", "is not a function's name"),
        ({"Fuel": -1}, "Fuel", "out of range"),
        ({"Fuel": "1Gi"}, "Fuel", "is not an integer"),
        ({"Fuel": FUEL_MAX + 1}, "Fuel", "out of range"),
        ({"EnvironmentVariables": ["A"]}, "EnvironmentVariables[0]", "allowed: NAME=value"),
        ({"EnvironmentVariables": {"SHOAL_X": "1"}}, "EnvironmentVariables[0]", "the agent"),
        ({"EnvironmentVariables": ["A=1", "A=2"]}, "EnvironmentVariables", "given twice"),
        ({"EnvironmentVariables": {"A": True}}, "EnvironmentVariables.A", "is not a string"),
        ({"Module": "m"}, "Module", "write EntryModule"),
        ({"Memory": "1Gi"}, "Memory", "write it into the task's Resources"),
        ({"Env": {}}, "Env", "write it into the task's Env"),
        ({"Fule": 1}, "Fule", "did you mean 'Fuel'?"),
    ],
)
def test_errors_name_the_place(params: dict[str, Plain], path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read(**params)
    assert caught.value.path == f"Params.{path}"
    assert message in caught.value.message


def test_a_graphics_processor_that_it_could_not_reach_is_refused() -> None:
    with pytest.raises(JobSpecError, match="a WebAssembly module reaches no graphics") as caught:
        task({"EntryModule": entry()}, Resources={"gpu": "1"})
    assert caught.value.path == "Tasks[0].Resources.gpu"
    assert task({"EntryModule": entry()}, Resources={"GPU": 0}).resources.gpu == 0


# ---- modules and the task's sources -------------------------------------------------------------


def test_a_module_that_is_written_as_a_source_becomes_one() -> None:
    """Ours and Bacalhau's way to write it are one job."""
    moved = task({"EntryModule": entry(), "ImportModules": [entry("math.wasm", Alias="math")]})
    assert [source.target for source in moved.input_sources] == ["m.wasm", "math.wasm"]
    assert moved.engine.wasm.entry_module == "m.wasm"
    assert moved == task(
        {"EntryModule": "m.wasm", "ImportModules": ["math.wasm"]},
        entry(),
        entry("math.wasm", Alias="math"),
    )
    again = TaskSpec.read(Node(moved.to_plain()), ENGINES, standing=False)
    assert again == moved


@pytest.mark.parametrize("more", [{}, {"Target": "", "Alias": ""}, {"Target": None}])
def test_sources_of_modules_without_a_target_are_where_bacalhau_puts_them(
    more: dict[str, Plain],
) -> None:
    """As files that its earlier versions wrote have them (testdata/jobs/wasm_legacy.yaml there)."""
    bare: Plain = {"Source": INLINE, **more}
    found = task({"EntryModule": bare, "ImportModules": [bare, entry("math.wasm"), bare]})
    entered, *imported = (source.target for source in found.input_sources)
    assert entered == found.engine.wasm.entry_module == "/wasm/entry.wasm"
    assert imported == [
        "/wasm/imports/module_0.wasm",
        "math.wasm",
        "/wasm/imports/module_2.wasm",
    ]
    assert [*found.engine.wasm.import_modules] == imported
    assert TaskSpec.read(Node(found.to_plain()), ENGINES, standing=False) == found


@pytest.mark.parametrize(
    ("name", "source", "path"),
    [
        ("m.wasm", entry(), "m.wasm"),
        ("app", entry(Alias="app"), "m.wasm"),
        ("m.wasm", entry("/m.wasm"), "/m.wasm"),
        ("/m.wasm", entry(), "m.wasm"),
        ("app", entry("mod", ARCHIVE, Alias="app"), "mod"),
        ("mod", entry("mod", GZIP), "mod"),
        (".", entry(".", ARCHIVE), "."),
        ("bin/m.wasm", entry(".", ARCHIVE), "bin/m.wasm"),
        ("mod/m.wasm", entry("mod", ARCHIVE), "mod/m.wasm"),
        ("/mod/m.wasm", entry("/mod", GZIP), "/mod/m.wasm"),
        ("mod", entry("mod", URL), "mod"),
        ("mod/m.wasm", entry("mod", URL), "mod/m.wasm"),
    ],
)
def test_a_module_is_found_by_target_alias_or_within_an_archive(
    name: str, source: Plain, path: str
) -> None:
    spec = task({"EntryModule": name}, source)
    assert module_path(spec.engine.wasm.entry_module, spec.input_sources) == path


@pytest.mark.parametrize(
    ("params", "sources", "path", "message"),
    [
        ({"EntryModule": "m"}, [], "EntryModule", "'m' is none of the task's input sources: none"),
        ({"entrymodule": "m"}, [entry()], "entrymodule", "input sources: m.wasm"),
        ({"EntryModule": "m.wasm/x"}, [entry()], "EntryModule", "is none of"),
        ({"EntryModule": "mod"}, [entry("mod", DIRECTORY)], "EntryModule", "is none of"),
        ({"EntryModule": "x/m"}, [entry("mod", ARCHIVE)], "EntryModule", "is none of"),
        (
            {"EntryModule": "m.wasm", "ImportModules": ["m.wasm", "b"]},
            [entry(Alias="app")],
            "ImportModules[1]",
            "'b' is none of the task's input sources: app",
        ),
        ({"EntryModule": entry()}, [entry("/m.wasm")], "EntryModule", "is taken by an earlier"),
        (
            {"EntryModule": entry("last")},
            [entry(f"{n}.wasm") for n in range(INPUTS_MAX)],
            "EntryModule",
            "one input source too many",
        ),
    ],
)
def test_a_module_without_a_source_is_refused_at_its_place(
    params: Plain, sources: list[Plain], path: str, message: str
) -> None:
    with pytest.raises(JobSpecError) as caught:
        task(params, *sources)
    assert caught.value.path == f"Tasks[0].Engine.Params.{path}"
    assert message in caught.value.message


# ---- what it cannot have -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["host", "bridge", "full"])
def test_a_module_has_no_network(kind: str) -> None:
    with pytest.raises(JobSpecError, match="reaches no network; leave it out, or write Type: none"):
        task({"EntryModule": entry()}, Network={"Type": kind})
    assert task({"EntryModule": entry()}, Network={"Type": "None"}).network.type == "none"


def test_a_check_is_no_way_out_of_the_sandbox() -> None:
    """Its command would run on the device, whose owner may have allowed modules alone."""
    tree: dict[str, Plain] = {
        "Name": "w",
        "Type": "service",
        "Tasks": [{"Engine": {"Type": "wasm", "Params": {"EntryModule": entry()}}}],
    }
    with pytest.raises(JobSpecError, match="no command to run within a WebAssembly module"):
        JobSpec.from_plain({**tree, "Check": {"Exec": ["sh"]}})
    assert JobSpec.from_plain({**tree, "Check": {"Tcp": "127.0.0.1:80"}}).check is not None
