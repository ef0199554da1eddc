"""Settings: what one of them is, and how its value is read from TOML, a variable or a flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Value: TypeAlias = Any  # what TOML gives, or text from elsewhere


class ConfigError(Exception):
    """A setting that cannot be used; the text names where it stands and what is allowed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of a setting are read. `read` raises ValueError with what is allowed."""

    name: str  # word, flag, number, words or pairs: decides the flag's form
    read: Callable[[Value], Value]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `key` as in the file, `why` for the commented example and `--help`."""

    key: str
    kind: Kind
    default: Value
    why: str
    flag: str

    @property
    def variable(self) -> str:
        return "SHOAL_" + self.key.upper().replace(".", "_")


def read_word(value: Value) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("allowed: a text in quotes")
    return value


def read_flag(value: Value) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("allowed: true, false")


def read_words(value: Value) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ValueError('allowed: a list of texts such as ["a", "b"]')
    return tuple(value)


def read_pairs(value: Value) -> dict[str, str]:
    if not isinstance(value, dict):
        parts = [part.partition("=") for part in read_words(value)]
        if not all(key and equals for key, equals, _ in parts):
            raise ValueError("allowed: name=value, comma between several")
        value = {key.strip(): text.strip() for key, _, text in parts}
    from protocol.errors import JobSpecError
    from protocol.tree import Node

    try:
        return Node(value).words(64, 256)
    except JobSpecError as error:
        raise ValueError(str(error)) from None


def read_labels(value: Value) -> dict[str, str]:
    """Pairs whose names a person may set: some are found by the agent itself."""
    labels = read_pairs(value)
    from agent.labels import problem

    if refusal := problem(labels):
        raise ValueError(refusal)
    return labels


def words_of(check: Callable[[str], object], *, least: int = 0) -> Kind:
    """A list of texts, each of which `check` lets pass; it raises ValueError with what is."""

    def read(value: Value) -> tuple[str, ...]:
        words = read_words(value)
        for word in words:
            check(word)
        if len(words) < least:
            raise ValueError('allowed: at least one; "*" is all of them')
        return words

    return Kind("words", read)


def one_of(*allowed: str) -> Callable[[str], object]:
    def check(word: str) -> None:
        if word not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")

    return check


def hours(word: str) -> None:
    from protocol.policy import read_hours

    try:
        read_hours(word)
    except ValueError as error:
        raise ValueError(f"{word!r} are no hours; {error}") from None


def read_address(value: Value) -> str:
    """`127.0.0.1:9464` or `[::1]:9464`; empty stays empty."""
    text = read_word(value)
    if text:
        host_and_port(text)
    return text


def host_and_port(text: str) -> tuple[str, int]:
    """An IP address and a port. Raises ValueError."""
    from ipaddress import ip_address

    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        named = ip_address(bare).version == (4 if bare == host else 6)
    except ValueError:
        named = False
    if not named or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError("allowed: an address and a port, 127.0.0.1:9464 or [::1]:9464; or empty")
    return bare, int(port)


def number(low: int, high: int) -> Kind:
    def read(value: Value) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"allowed: {low} to {high}")
        return number

    return Kind("number", read)


def choice(*allowed: str) -> Kind:
    def read(value: Value) -> str:
        if value not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return str(value)

    return Kind("word", read)


def share(parser: str) -> Kind:
    """A part of what the device has: `75%`, or an amount as in a job file."""

    def read(value: Value) -> str:
        share_of(str(value), 0, parser)
        return str(value)

    return Kind("word", read)


def quantity(parser: str) -> Kind:
    def read(value: Value) -> int:
        return _parse(parser, value)

    return Kind("word", read)


def read_path(value: Value) -> Path | None:
    """Empty means what is said of the setting's default."""
    return Path(read_word(value)).expanduser().absolute() if value else None


PATH: Final = Kind("word", read_path)
WORD: Final = Kind("word", read_word)
FLAG: Final = Kind("flag", read_flag)
ADDRESS: Final = Kind("word", read_address)
WORDS: Final = Kind("words", read_words)
LABELS: Final = Kind("pairs", read_labels)


def about(kind: Kind, why: str, flag: str = "") -> dict[str, Value]:
    """Metadata that makes a dataclass' field a setting."""
    return {"kind": kind, "why": why, "flag": flag}


def share_of(text: str, total: int, parser: str) -> int:
    """What `75%` or an amount means where there is `total`; never more than that, unless zero."""
    if text.endswith("%"):
        number = text[:-1].strip()
        if not number.isdigit() or not 0 <= int(number) <= 100:
            raise ValueError("allowed: 0% to 100%, or an amount")
        return total * int(number) // 100
    return min(_parse(parser, text), total)


def _parse(parser: str, value: Value) -> int:
    from protocol import quantities

    parse: Callable[[Value], int] = getattr(quantities, parser)
    return parse(value)
