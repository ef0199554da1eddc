"""An engine: which program of the agent runs a task, and with which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from protocol.container import ContainerParams
from protocol.paths import read_path
from protocol.tree import Node, Plain
from protocol.wasm import WasmParams

ENGINES: Final = ("process", "docker", "wasm")  # what this version runs
COMMAND_MAX: Final = 256  # arguments
ARGUMENT_BYTES_MAX: Final = 16 * 1024  # room for a script after `sh -c`

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
        assert kind == "wasm", kind
        return cls(kind, WasmParams.read(params).to_plain())

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

    @property
    def wasm(self) -> WasmParams:
        """The parameters of a `wasm` engine. Calling it on another is our own bug."""
        assert self.type == "wasm", self.type
        return WasmParams.read(Node(self.params))

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
