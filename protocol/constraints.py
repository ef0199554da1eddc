"""Constraints: which peers may run a job, as conditions on their labels.

Operators and their meaning are Kubernetes' (apimachinery `labels.Requirement`): all constraints
must hold; a peer without the label satisfies `!=` and `notin`; `gt` and `lt` compare integers and
are never true of a label that is missing or is no integer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, assert_never

import msgspec

from protocol.tree import KEY, KEY_ALLOWED, Node, Plain, shown

CONSTRAINTS_MAX: Final = 32
VALUES_MAX: Final = 64
VALUE_BYTES_MAX: Final = 256

FIELDS: Final = ("Key", "Operator", "Values")

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")  # fits an int64, as Kubernetes has it


class Operator(StrEnum):
    EQUAL = "="
    NOT_EQUAL = "!="
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    NOT_EXISTS = "!exists"
    GREATER = "gt"
    LESS = "lt"


# What else Bacalhau (`==`, `!`), Kubernetes (`DoesNotExist`) and the short form (`>`) write.
ALIASES: Final[dict[str, Operator]] = {
    "==": Operator.EQUAL,
    "!": Operator.NOT_EXISTS,
    "doesnotexist": Operator.NOT_EXISTS,
    ">": Operator.GREATER,
    "<": Operator.LESS,
}


class Constraint(msgspec.Struct, frozen=True, order=True):
    """One condition on a peer's labels. `values` is sorted and without repetition."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    @classmethod
    def read(cls, node: Node) -> Constraint:
        fields = node.fields(*FIELDS)
        key = fields.need("Key").matching(KEY, KEY_ALLOWED)
        operator = _read_operator(fields.need("Operator"))
        values = fields.get_or("Values", [])
        return _checked(key, operator, values)

    def to_plain(self) -> dict[str, Plain]:
        values: list[Plain] = list(self.values)
        tree: dict[str, Plain] = {"Key": self.key, "Operator": self.operator.value}
        return {**tree, "Values": values} if values else tree

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.key)
        match self.operator:
            case Operator.EQUAL | Operator.IN:
                return found is not None and found in self.values
            case Operator.NOT_EQUAL | Operator.NOT_IN:
                return found is None or found not in self.values
            case Operator.EXISTS:
                return found is not None
            case Operator.NOT_EXISTS:
                return found is None
            case Operator.GREATER:
                return _is_integer(found) and int(found or 0) > int(self.values[0])
            case Operator.LESS:
                return _is_integer(found) and int(found or 0) < int(self.values[0])
            case _:
                assert_never(self.operator)

    def explain(self, labels: Mapping[str, str]) -> str | None:
        """Why these labels do not satisfy it, for people; None where they do."""
        if self.matches(labels):
            return None
        found = labels.get(self.key)
        if found is None:
            return f"label {self.key}: wanted {self.wanted}, but there is none"
        return f"label {self.key}: wanted {self.wanted}, found {shown(found)}"

    @property
    def wanted(self) -> str:
        """What the label should be, for people: `'arm64'`, `one of a, b`, `an integer > 4`."""
        listed = ", ".join(self.values)
        match self.operator:
            case Operator.EQUAL:
                return f"'{listed}'"
            case Operator.NOT_EQUAL:
                return f"anything but '{listed}'"
            case Operator.IN:
                return f"one of {listed}"
            case Operator.NOT_IN:
                return f"none of {listed}"
            case Operator.EXISTS:
                return "any value"
            case Operator.NOT_EXISTS:
                return "no such label"
            case Operator.GREATER:
                return f"an integer > {listed}"
            case Operator.LESS:
                return f"an integer < {listed}"
            case _:
                assert_never(self.operator)

    def __str__(self) -> str:
        """The short form, which parse_constraints reads back where the values allow it."""
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.NOT_EXISTS:
                return f"!{self.key}"
            case Operator.IN | Operator.NOT_IN:
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case Operator.GREATER:
                return f"{self.key}>{self.values[0]}"
            case Operator.LESS:
                return f"{self.key}<{self.values[0]}"
            case Operator.EQUAL | Operator.NOT_EQUAL:
                return f"{self.key}{self.operator}{self.values[0]}"
            case _:
                assert_never(self.operator)


def read_constraints(node: Node) -> tuple[Constraint, ...]:
    """Read the list in a job file: sorted, since all must hold and their order says nothing."""
    return tuple(sorted(set(Constraint.read(item) for item in node.items(CONSTRAINTS_MAX))))


def matches_all(constraints: Iterable[Constraint], labels: Mapping[str, str]) -> bool:
    return all(constraint.matches(labels) for constraint in constraints)


def explain_all(constraints: Iterable[Constraint], labels: Mapping[str, str]) -> str | None:
    """Every reason why these labels do not fit, joined by semicolons; None where they fit."""
    reasons = [why for c in constraints if (why := c.explain(labels)) is not None]
    return "; ".join(reasons) or None


_K: Final = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_V: Final = r"[^,()\s=!<>]*"
_TERM: Final = re.compile(
    rf"\s*(?:!\s*(?P<absent>{_K})"
    rf"|(?P<key>{_K})(?:\s*(?P<sign>==|!=|=|>|<)\s*(?P<value>{_V})"
    rf"|\s+(?P<word>gt|lt)\s+(?P<bound>{_V})"
    rf"|\s+(?P<set>in|notin)\s*\((?P<list>[^()]*)\))?)\s*(?:,(?=.)|\Z)",
    re.DOTALL,
)
SHORT_BYTES_MAX: Final = 4096


def parse_constraints(text: str, path: str = "Constraints") -> tuple[Constraint, ...]:
    """Read the short form of the command line: `arch=arm64,gpu,!camera,zone in (a,b),ram>4`.

    Raises JobSpecError at `path` (say, `--constraints`).
    """
    node = Node(text, path)
    node.text(SHORT_BYTES_MAX)
    found: list[Constraint] = []
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None:
            example = "arch=arm64,gpu,!camera,zone in (a,b),ram>4"
            node.fail(f"cannot read {shown(text[at:])}; allowed: e.g. {example}")
        found.append(_from_match(match, node))
        at = match.end()
    if len(found) > CONSTRAINTS_MAX:
        node.fail(f"{len(found)} items; allowed: at most {CONSTRAINTS_MAX}")
    return tuple(sorted(set(found)))


def _from_match(match: re.Match[str], node: Node) -> Constraint:
    if match["absent"]:
        key, operator, values = match["absent"], "!exists", []
    elif match["sign"] or match["word"]:
        key, operator = match["key"], match["sign"] or match["word"]
        values = [match["value"] if match["sign"] else match["bound"]]
    elif match["set"]:
        key, operator = match["key"], match["set"]
        values = [value.strip() for value in match["list"].split(",")]
    else:
        key, operator, values = match["key"], "exists", []
    Node(key, node.path).matching(KEY, KEY_ALLOWED)
    plain: list[Plain] = list(values)
    return _checked(key, _read_operator(Node(operator, node.path)), Node(plain, node.path))


def _read_operator(node: Node) -> Operator:
    written = node.text(32).strip().lower()
    if written in ALIASES:
        return ALIASES[written]
    if written not in tuple(Operator):
        node.fail(f"{shown(node.value)} is not an operator; allowed: {', '.join(Operator)}")
    return Operator(written)


def _checked(key: str, operator: Operator, node: Node) -> Constraint:
    values = sorted({item.word(VALUE_BYTES_MAX) for item in node.items(VALUES_MAX)})
    match operator:
        case Operator.IN | Operator.NOT_IN:
            if not values:
                node.fail(f"the operator '{operator}' needs at least one value")
        case Operator.EXISTS | Operator.NOT_EXISTS:
            if values:
                node.fail(f"the operator '{operator}' takes no values")
        case _:
            if len(values) != 1:
                node.fail(f"the operator '{operator}' needs exactly one value")
            if operator in (Operator.GREATER, Operator.LESS) and not _is_integer(values[0]):
                node.fail(f"{shown(values[0])} is not an integer, as '{operator}' needs")
    return Constraint(key, operator, tuple(values))


def _is_integer(text: str | None) -> bool:
    return text is not None and _INTEGER.fullmatch(text) is not None
