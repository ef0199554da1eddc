"""What stands in the pages of firmware-notes/: its fenced blocks, by kind and name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import cbor2

from tests.firmware.bridge import value_of

NOTES: Final = Path(__file__).parents[2] / "firmware-notes"
_BLOCK: Final = re.compile(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, kind: str) -> dict[str, str]:
    """The text of each block "```kind name", by its name; one without has the name ""."""
    found = _BLOCK.findall((NOTES / page).read_text())
    return {name: text for its, name, text in found if its == kind}


def block(page: str, kind: str, name: str = "") -> str:
    return blocks(page, kind)[name]


def bytes_of(text: str) -> bytes:
    """Of a block of hex with comments behind a #."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def value_of_diagnostic(text: str) -> Any:
    """Of CBOR's diagnostic notation (RFC 8949, 8), which is JSON but for h'..'."""
    marked = re.sub(r"h'([0-9a-f]*)'", r'"h:\1"', text)
    return _unmarked(value_of(marked.encode(), "application/json"))


def _unmarked(value: Any) -> Any:
    match value:
        case dict():
            return {key: _unmarked(each) for key, each in value.items()}
        case list():
            return [_unmarked(each) for each in value]
        case str() if value.startswith("h:"):
            return bytes.fromhex(value[2:])
    return value


def shortest(value: Any) -> bytes:
    """As RFC 8949, 4.2.1, has it; cbor2 orders by length first, which is the same for text."""
    return cbor2.dumps(value, canonical=True)
