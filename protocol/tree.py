"""Trees of plain values, read with their place: what a job file is before it is a job.

A `Node` is one value and the path by which the person who wrote it would find it. Reading a field
either gives a checked Python value or raises JobSpecError with that path and with what is allowed.
Everything is bounded, since the same code reads files and records that came from peers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias, TypeVar

from protocol.errors import JobSpecError

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
Scalar: TypeAlias = bool | int | float | str
T = TypeVar("T")

INT_MAX: Final = 2**53 - 1  # the largest that JSON readers everywhere keep exact (RFC 8259, 6)
SHOWN_MAX: Final = 60  # characters of a rejected value that an error repeats

# Not a DNS label: Bacalhau's own job files are called "Docker Job". Safe in an MQTT topic and a
# file name: no slash, wildcard, control character, or space at an end.
NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,61}[A-Za-z0-9])?")
NAME_ALLOWED: Final = (
    "allowed: 1 to 63 letters, digits, spaces, '.', '_' or '-', a letter or digit at both ends"
)
# Kubernetes' label keys with their optional prefix, one length for both parts.
KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
KEY_ALLOWED: Final = (
    "allowed: 1 to 128 letters, digits, '.', '_', '-' or '/', a letter or digit at both ends"
)


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the tree, and its place as written: `Tasks[0].Engine.Type`."""

    value: Plain
    path: str = ""

    def fail(self, message: str) -> NoReturn:
        raise JobSpecError(self.path, message)

    def child(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fields(self, *known: str, later: Mapping[str, str] | None = None) -> Fields:
        """Read a mapping with a closed set of keys, in any letter case; null means absent.

        `later` names keys that get an explanation instead of "unknown key".
        """
        by_lower = {name.lower(): name for name in known}
        explained = {name.lower(): text for name, text in (later or {}).items()}
        found: dict[str, Node] = {}
        for key, at in self._entries():
            name = by_lower.get(key.lower())
            if key.lower() in explained:
                if at.value in (None, ""):  # it says nothing
                    continue
                at.fail(explained[key.lower()])
            if name is None:
                at.fail(
                    f"unknown key{_suggestion(key, known)} allowed: {', '.join(known) or 'none'}"
                )
            if name in found:
                at.fail(f"given twice, first as {found[name].path}")
            found[name] = at
        return Fields(self, found)

    def entries(self, items_max: int) -> list[tuple[str, Node]]:
        """Read a mapping whose keys belong to the writer, sorted by key: its order says nothing."""
        found = list(self._entries())
        if len(found) > items_max:
            self.fail(f"{len(found)} entries; allowed: at most {items_max}")
        return sorted(found, key=lambda entry: entry[0])

    def items(self, items_max: int) -> list[Node]:
        if not isinstance(self.value, list):
            self.fail(f"{shown(self.value)} is not a list")
        if len(self.value) > items_max:
            self.fail(f"{len(self.value)} items; allowed: at most {items_max}")
        return [Node(item, f"{self.path}[{i}]") for i, item in enumerate(self.value)]

    def text(self, bytes_max: int) -> str:
        """Read a string without NULs, at most `bytes_max` long in UTF-8."""
        if not isinstance(self.value, str):
            self.fail(
                f"{shown(self.value)} is not a string; put it in quotes if it is meant as one"
            )
        try:
            length = len(self.value.encode())
        except UnicodeEncodeError:
            self.fail("holds half of a surrogate pair, which is no character")
        if length > bytes_max:
            self.fail(f"{length} bytes; allowed: at most {bytes_max}")
        if "\0" in self.value:
            self.fail("holds a NUL character")
        return self.value

    def word(self, bytes_max: int) -> str:
        """Read a string, or an integer as its digits (`PORT: 8080`).

        Not a float or a boolean: the file's `1.10`, or its `True`, is already lost by then.
        """
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return str(self.integer(-INT_MAX, INT_MAX))
        return self.text(bytes_max)

    def matching(self, pattern: re.Pattern[str], allowed: str) -> str:
        value = self.text(1024)
        if not pattern.fullmatch(value):
            self.fail(f"{shown(value)} is not a name here; {allowed}")
        return value

    def integer(self, low: int, high: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"{shown(self.value)} is not an integer; allowed: {low} to {high}")
        if not low <= self.value <= high:
            self.fail(f"{shown(self.value)} is out of range; allowed: {low} to {high}")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.fail(f"{shown(self.value)} is not a boolean; allowed: true, false")
        return self.value

    def choice(self, allowed: Sequence[str], noun: str) -> str:
        """Read one of a few words in any letter case; the canonical ones are lower case."""
        value = self.text(1024).strip().lower()
        if value not in allowed:
            listed = ", ".join(allowed)
            self.fail(f"{shown(self.value)} is not {noun} this version has; allowed: {listed}")
        return value

    def quantity(
        self,
        parse: Callable[[Scalar], int],
        low: int,
        high: int,
        write: Callable[[int], str] = str,
    ) -> int:
        """Read a scalar with one of the parsers of `quantities`, which raise plain ValueErrors."""
        if isinstance(self.value, (list, dict)) or self.value is None:
            self.fail(f"{shown(self.value)} is not a quantity")
        try:
            value = parse(self.value)
        except ValueError as error:
            self.fail(str(error))
        if not low <= value <= high:
            allowed = f"{write(low)} to {write(high)}"
            self.fail(f"{shown(self.value)} is out of range; allowed: {allowed}")
        return value

    def words(self, items_max: int, bytes_max: int) -> dict[str, str]:
        """Read a mapping of label-like keys to short strings, sorted by key."""
        read = {}
        for key, at in self.entries(items_max):
            if not KEY.fullmatch(key):
                at.fail(f"{shown(key)} is not a key here; {KEY_ALLOWED}")
            read[key] = at.word(bytes_max)
        return read

    def _entries(self) -> Iterator[tuple[str, Node]]:
        if not isinstance(self.value, dict):
            self.fail(f"{shown(self.value)} is not a mapping")
        for key, value in self.value.items():
            if not isinstance(key, str):  # a record from a peer may hold anything
                self.fail(f"the key {shown(key)} is not a string")
            yield key, Node(value, self.child(_clipped(key)))


@dataclass(frozen=True, slots=True)
class Fields:
    """The keys found in one mapping, by canonical name."""

    node: Node
    found: dict[str, Node]

    def get(self, name: str) -> Node | None:
        at = self.found.get(name)
        return None if at is None or at.value is None else at

    def need(self, name: str) -> Node:
        return self.get(name) or Node(None, self._place(name)).fail("missing")

    def get_or(self, name: str, default: Plain) -> Node:
        """The field, or `default` in its place."""
        return self.get(name) or Node(default, self._place(name))

    def read(self, name: str, read: Callable[[Node], T], default: T) -> T:
        at = self.get(name)
        return default if at is None else read(at)

    def optional(self, name: str, read: Callable[[Node], T], default: T) -> T:
        """As `read`; an empty string says nothing either, as in files that Bacalhau writes (Go has
        no other way)."""
        at = self.get(name)
        return default if at is None or at.value == "" else read(at)

    def _place(self, name: str) -> str:
        return self.found[name].path if name in self.found else self.node.child(name)


def shown(value: object) -> str:
    """Name a rejected value in an error, however large or odd it is."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"'{_clipped(value)}'"
        case int() if value.bit_length() > 128:  # str() itself refuses more than 4300 digits
            return f"a number of {value.bit_length()} bits"
        case int() | float():
            return str(value)
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a value of type {type(value).__name__}"


def _clipped(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text[:SHOWN_MAX])
    return clean if len(text) <= SHOWN_MAX else clean + "…"


def _suggestion(key: str, known: Sequence[str]) -> str:
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower()[:SHOWN_MAX], lower, 1, 0.6)
    return f", did you mean '{lower[near[0]]}'?" if near else ";"
