"""A WebAssembly task: which module runs, what is linked with it, and what it is told.

`EntryModule`, `ImportModules`, `EntryPoint`, `Parameters` and `EnvironmentVariables` are
Bacalhau's; `Fuel` is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.container import VARIABLE_BYTES_MAX, VARIABLES_MAX, read_arguments, read_variables
from protocol.inputs import INPUTS_MAX, InputSource, add_source
from protocol.paths import PATH_BYTES_MAX, read_path
from protocol.sources import DirectorySource, InlineSource
from protocol.tree import INT_MAX, Fields, Node, Plain, shown

ENTRY_POINT: Final = "_start"  # of WASI's commands; Bacalhau's default, too
ENTRY_TARGET: Final = "/wasm/entry.wasm"
IMPORTS_TARGET: Final = "/wasm/imports"
ENTRY_POINT_BYTES_MAX: Final = 256
FUEL_MAX: Final = INT_MAX

FIELDS: Final = (
    "EntryModule",
    "ImportModules",
    "EntryPoint",
    "Parameters",
    "EnvironmentVariables",
    "Fuel",
)
HINTS: Final = {
    "Module": "is not a key here; write EntryModule: the Target or Alias of an input source",
    "Command": "is for processes; write EntryModule and Parameters: [argument]",
    "Entrypoints": "is not a key here; write EntryPoint: the name of one function",
    "Env": "is not a key here; write it into the task's Env",
    "Memory": "is not a key here; write it into the task's Resources",
}
_MODULE_ALLOWED: Final = (
    "allowed: the Target or Alias of one of the task's InputSources, a path below the Target of an "
    "archive, or a mapping of Source and Target"
)
_PACKED: Final = ("application/gzip", "application/x-gzip")


class WasmParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the `wasm` engine. Modules are named as `module_path` finds them."""

    entry_module: str
    import_modules: tuple[str, ...] = ()  # each may import from those before it
    entry_point: str = ENTRY_POINT
    parameters: tuple[str, ...] = ()  # its arguments, behind the module's own name
    environment: tuple[str, ...] = ()  # NAME=value
    fuel: int = 0  # about one for each instruction; zero: no bound

    @classmethod
    def read(cls, node: Node) -> WasmParams:
        """A module that is written as a source is named by its target: see sources_with."""
        fields = node.fields(*FIELDS, later=HINTS)
        entry, *imported = _modules(fields)
        return cls(
            entry_module=_read_module(*entry),
            import_modules=tuple(_read_module(at, target) for at, target in imported),
            entry_point=fields.optional("EntryPoint", _read_entry_point, ENTRY_POINT),
            parameters=fields.read("Parameters", read_arguments, ()),
            environment=fields.read("EnvironmentVariables", _read_environment, ()),
            fuel=fields.read("Fuel", lambda at: at.integer(0, FUEL_MAX), 0),
        )

    def to_plain(self) -> dict[str, Plain]:
        """Canonical form: what is empty is left out."""
        tree: dict[str, Plain] = {
            "EntryModule": self.entry_module,
            "ImportModules": [*self.import_modules],
            "EntryPoint": self.entry_point,
            "Parameters": [*self.parameters],
            "EnvironmentVariables": [*self.environment],
            "Fuel": self.fuel,
        }
        return {key: value for key, value in tree.items() if value}


def sources_with(params: Node, sources: tuple[InputSource, ...]) -> tuple[InputSource, ...]:
    """The task's sources and those of modules that are written as one; checks that each module
    has one."""
    modules = _modules(params.fields(*FIELDS, later=HINTS))
    found = list(sources)
    for at, target in modules:
        if isinstance(at.value, dict):
            if len(found) >= INPUTS_MAX:
                at.fail(f"one input source too many; allowed: at most {INPUTS_MAX}")
            add_source(found, InputSource.read(at, target), at)
    for at, target in modules:
        name = _read_module(at, target)
        if module_path(name, found) == "":
            there = ", ".join(f"{source.alias or source.target}" for source in found) or "none"
            at.fail(f"{shown(name)} is none of the task's input sources: {there}")
    return tuple(found)


def module_path(name: str, sources: Sequence[InputSource]) -> str:
    """Where the module of that name is, as the task finds it; empty where no source has it.

    A source of many files may be named as well: its one module is meant. A directory of the
    device is none of them: what is there another device has not. A slash in front is no matter, as
    the task's own directory is its root.
    """
    sources = [each for each in sources if not isinstance(each.source, DirectorySource)]
    for source in sources:
        if name == source.alias or name.lstrip("/") == source.target.lstrip("/"):
            return source.target
    for source in sources:
        within = source.target.strip("/") + "/" if source.target != "." else ""
        if _is_many(source) and name.lstrip("/").startswith(within):
            return name
    return ""


def _is_many(source: InputSource) -> bool:
    inner = source.source
    return not isinstance(inner, InlineSource) or inner.media_type in _PACKED


def _modules(params: Fields) -> list[tuple[Node, str]]:
    """The entry module and those that are linked, each with the target that it has where it is
    written as a source without one: the same as in Bacalhau."""
    imported = params.get_or("ImportModules", []).items(INPUTS_MAX)
    targets = (f"{IMPORTS_TARGET}/module_{number}.wasm" for number in range(len(imported)))
    return [(params.need("EntryModule"), ENTRY_TARGET), *zip(imported, targets, strict=True)]


def _read_module(node: Node, target: str) -> str:
    if isinstance(node.value, dict):
        return InputSource.read(node, target).target
    if not isinstance(node.value, str):
        node.fail(f"{shown(node.value)} is not a module; {_MODULE_ALLOWED}")
    if node.text(PATH_BYTES_MAX).strip() == ".":
        return "."
    return read_path(node)


def _read_entry_point(node: Node) -> str:
    name = node.text(ENTRY_POINT_BYTES_MAX)
    if not name or not name.isprintable():
        node.fail(f"{shown(name)} is not a function's name; allowed: e.g. {ENTRY_POINT}")
    return name


def _read_environment(node: Node) -> tuple[str, ...]:
    """NAME=value in a list, or a mapping; the list is what is kept, sorted."""
    if isinstance(node.value, dict):
        entries = node.entries(VARIABLES_MAX)
        lines: list[Plain] = [f"{name}={at.word(VARIABLE_BYTES_MAX)}" for name, at in entries]
        node = Node(lines, node.path)
    found = read_variables(node)
    names = [text.partition("=")[0] for text in found]
    if len(set(names)) != len(names):
        node.fail("a variable is given twice")
    return tuple(sorted(found))
