"""Template: a job with blanks, and what fills them.

`${name}` stands in string values of a task only (words of the command and other Params, variables
of Env), and is replaced there by text: whatever a value holds, it stays one string in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

import msgspec

from protocol.errors import JobSpecError
from protocol.tree import Node, Plain

PARAMETERS_MAX: Final = 32
DESCRIPTION_BYTES_MAX: Final = 256
VALUE_BYTES_MAX: Final = 4096
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
NAME_ALLOWED: Final = "allowed: 1 to 63 letters, digits or '_', no digit first"
FIELDS: Final = ("Name", "Default", "Description")
_BLANK: Final = re.compile(r"(\$?)\$\{([^}]*)\}")  # with a second $ it is meant literally


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One blank; without a default every run has to fill it."""

    name: str
    default: str | None = None
    description: str = ""

    @classmethod
    def read(cls, node: Node) -> Parameter:
        fields = node.fields(*FIELDS)
        return cls(
            name=fields.need("Name").matching(NAME, NAME_ALLOWED),
            default=fields.read("Default", lambda at: at.word(VALUE_BYTES_MAX), None),
            description=fields.read("Description", lambda at: at.text(DESCRIPTION_BYTES_MAX), ""),
        )

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Name": self.name}
        if self.default is not None:
            tree["Default"] = self.default
        return tree | ({"Description": self.description} if self.description else {})


def read_parameters(node: Node) -> tuple[Parameter, ...]:
    """Read `Parameters`; no name comes twice. Raises JobSpecError."""
    read: dict[str, Parameter] = {}
    for at in node.items(PARAMETERS_MAX):
        parameter = Parameter.read(at)
        if parameter.name in read:
            at.fail(f"a second parameter {parameter.name}")
        read[parameter.name] = parameter
    return tuple(read.values())


def values_of(parameters: tuple[Parameter, ...], given: Mapping[str, str]) -> dict[str, str]:
    """What each blank is filled with. Raises JobSpecError that names what is missing or unknown."""
    known = {parameter.name: parameter for parameter in parameters}
    unknown = [name for name in sorted(given) if name not in known]
    if unknown:
        allowed = ", ".join(known) or "none"
        raise JobSpecError("", f"unknown parameter {', '.join(unknown)}; allowed: {allowed}")
    missing = [name for name, p in known.items() if p.default is None and name not in given]
    if missing:
        names = ", ".join(missing)
        raise JobSpecError("", f"missing parameter {names}; give it with -p {missing[0]}=VALUE")
    values = {name: given.get(name, p.default or "") for name, p in known.items()}
    for name, value in values.items():
        Node(value, name).text(VALUE_BYTES_MAX)
    return values


def filled(task: dict[str, Plain], values: Mapping[str, str], path: str) -> dict[str, Plain]:
    """The task's tree with every blank filled. Raises JobSpecError for one that has no value."""
    engine = cast("dict[str, Plain]", task["Engine"])
    params = _filled(engine.get("Params", {}), values, f"{path}.Engine.Params")
    tree = {**task, "Engine": {**engine, "Params": params}}
    return tree | ({"Env": _filled(task["Env"], values, f"{path}.Env")} if "Env" in task else {})


def _filled(value: Plain, values: Mapping[str, str], path: str) -> Plain:
    if isinstance(value, str):
        return _BLANK.sub(lambda match: _text_of(match, values, path), value)
    if isinstance(value, list):
        return [_filled(item, values, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _filled(item, values, f"{path}.{key}") for key, item in value.items()}
    return value


def _text_of(match: re.Match[str], values: Mapping[str, str], path: str) -> str:
    literal, name = match.groups()
    if literal:
        return match[0][1:]
    if name not in values:
        message = f"${{{name}}} is no parameter of this template; write $${{{name}}} for the text"
        raise JobSpecError(path, f"{message}, or add it to Parameters")
    return values[name]
