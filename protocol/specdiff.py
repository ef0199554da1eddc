"""What is different between two job specs, field by field, in their canonical form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.tree import Plain


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is not the same; None stands for one that is not there."""

    path: str
    before: Plain
    after: Plain


def differences(before: Plain, after: Plain, path: str = "") -> Iterator[Difference]:
    """Every field that differs, in the order of their paths' keys and indexes."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({**before, **after}):
            inner = f"{path}.{key}" if path else key
            yield from differences(before.get(key), after.get(key), inner)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from differences(
                before[index] if index < len(before) else None,
                after[index] if index < len(after) else None,
                f"{path}[{index}]",
            )
    elif before != after:
        yield Difference(path, before, after)
