"""An engine: which program of the agent runs a task, and with which parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.container import ContainerParams
from protocol.paths import read_path
from protocol.tree import INT_MAX, Node, Plain, shown

ENGINES: Final = ("process", "docker")  # what this version runs; wasm comes later
COMMAND_MAX: Final = 256  # arguments
ARGUMENT_BYTES_MAX: Final = 16 * 1024  # room for a script after `sh -c`
PARAMS_MAX: Final = 64
PARAMS_DEPTH_MAX: Final = 3  # the whole tree then stays within what wire.scan lets through
PARAM_BYTES_MAX: Final = 16 * 1024

ENGINE_FIELDS: Final = ("Type", "Params")
PROCESS_FIELDS: Final = ("Command", "WorkingDirectory")
PROCESS_HINTS: Final = {
    "Entrypoint": "is for containers; write the whole command line as Command: [program, argument]",
    "Parameters": "is for containers; write the whole command line as Command: [program, argument]",
    "Arguments": "is not a key here; write them into Command: [program, argument]",
    "Args": "is not a key here; write them into Command: [program, argument]",
    "Environment": "is not a key here; write it into the task's Env",
    "EnvironmentVariables": "is not a key here; write it into the task's Env",
}


class EngineSpec(msgspec.Struct, frozen=True):
    """Which engine runs the task, and with which parameters."""

    type: str
    params: dict[str, Plain]

    @classmethod
    def read(cls, node: Node, engines: Sequence[str]) -> EngineSpec:
        fields = node.fields(*ENGINE_FIELDS)
        kind = fields.need("Type").choice(engines, "an engine")
        params = fields.get_or("Params", {})
        if kind == "process":
            return cls(kind, ProcessParams.read(params).to_plain())
        if kind == "docker":
            return cls(kind, ContainerParams.read(params).to_plain())
        return cls(kind, _read_opaque(params))

    def param(self, name: str) -> Plain:
        """Look a parameter up in any letter case; None where there is none."""
        for key, value in self.params.items():
            if key.lower() == name.lower():
                return value
        return None

    @property
    def process(self) -> ProcessParams:
        """The parameters of a `process` engine. Calling it on another is our own bug."""
        assert self.type == "process", self.type
        return ProcessParams.read(Node(self.params))

    @property
    def container(self) -> ContainerParams:
        """The parameters of a `docker` engine. Calling it on another is our own bug."""
        assert self.type == "docker", self.type
        return ContainerParams.read(Node(self.params))

    def to_plain(self) -> dict[str, Plain]:
        params: dict[str, Plain] = dict(self.params)
        return {"Type": self.type, "Params": params}


class ProcessParams(msgspec.Struct, frozen=True):
    """Parameters of the `process` engine: an argument vector, not a shell line."""

    command: tuple[str, ...]
    working_directory: str = ""  # empty: the task's own directory

    @classmethod
    def read(cls, node: Node) -> ProcessParams:
        fields = node.fields(*PROCESS_FIELDS, later=PROCESS_HINTS)
        return cls(
            command=_read_command(fields.need("Command")),
            working_directory=fields.read("WorkingDirectory", read_path, ""),
        )

    def to_plain(self) -> dict[str, Plain]:
        command: list[Plain] = list(self.command)
        tree: dict[str, Plain] = {"Command": command}
        if self.working_directory:
            tree["WorkingDirectory"] = self.working_directory
        return tree


def _read_command(node: Node) -> tuple[str, ...]:
    """An argument vector; a string is a shell line, as in a Dockerfile's `CMD`."""
    if isinstance(node.value, str):
        if not (line := node.text(ARGUMENT_BYTES_MAX).strip()):
            node.fail("is empty; allowed: [program, argument, ...] or a line for the shell")
        return ("/bin/sh", "-c", line)
    command = tuple(item.word(ARGUMENT_BYTES_MAX) for item in node.items(COMMAND_MAX))
    if not command or not command[0]:
        node.fail("names no program; allowed: [program, argument, ...] or a line for the shell")
    return command


def _read_opaque(params: Node) -> dict[str, Plain]:
    """Parameters of an engine that reads its own, which looks them up in any letter case."""
    written: dict[str, str] = {}
    read: dict[str, Plain] = {}
    for key, at in params.entries(PARAMS_MAX):
        if key.lower() in written:
            at.fail(f"given twice, first as {written[key.lower()]}")
        written[key.lower()] = key
        if at.value is not None:
            read[key] = _exact(at, 1)
    return read


def _exact(node: Node, depth: int) -> Plain:
    """A value kept as written, in a form that deterministic CBOR carries: no floats."""
    if depth > PARAMS_DEPTH_MAX and isinstance(node.value, (list, dict)):
        node.fail(f"nested too deep; allowed: {PARAMS_DEPTH_MAX} levels below Params")
    match node.value:
        case None | bool():
            return node.value
        case int():
            return node.integer(-INT_MAX, INT_MAX)
        case float() if math.isfinite(node.value) and node.value == int(node.value):
            return Node(int(node.value), node.path).integer(-INT_MAX, INT_MAX)
        case str():
            return node.text(PARAM_BYTES_MAX)
        case list():
            return [_exact(item, depth + 1) for item in node.items(PARAMS_MAX)]
        case dict():
            return {key: _exact(at, depth + 1) for key, at in node.entries(PARAMS_MAX)}
        case _:
            node.fail(f"{shown(node.value)} has no exact form; put it in quotes")
