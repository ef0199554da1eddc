"""Kinds: every struct that goes over the wire, and the frozen list that they may only add to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from protocol import messages, records
from protocol.wire import Envelope

FROZEN = Path(__file__).with_name("kinds.txt")

Kind = type[msgspec.Struct]


def structs_of(module: object) -> list[Kind]:
    """The wire structs a module defines, in its order."""
    name = getattr(module, "__name__", "")
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == name
        and value.__struct_config__.array_like
    ]


RECORDS: tuple[Kind, ...] = get_args(records.Record)
MESSAGES: tuple[Kind, ...] = get_args(messages.Message)
STREAMS: tuple[Kind, ...] = tuple(
    kind
    for kind in structs_of(messages)
    if kind.__struct_config__.tag is not None and kind not in MESSAGES
)
CODES = (records.Desired, records.Verdict, records.Accusation)
PARTS: tuple[Kind, ...] = tuple(
    kind
    for kind in (*structs_of(records), *structs_of(messages))
    if kind.__struct_config__.tag is None
)
BY_NAME: dict[str, Kind] = {
    kind.__name__: kind for kind in (*RECORDS, *MESSAGES, *STREAMS, *PARTS, Envelope)
}


def rule_of(kind: Kind) -> str:
    """The name of its rule in wire.cddl: JobSyncAck is job-sync-ack."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def optional_of(kind: Kind) -> int:
    """How many fields at the end have a default, and so may be absent."""
    return len(kind.__struct_defaults__)


def current() -> list[str]:
    """One line for each kind: where it goes, its number, its name, its fields in order, with a
    question mark where they may be absent."""
    lines = []
    for space, kinds in (
        ("record", RECORDS),
        ("frame", (*MESSAGES, *STREAMS)),
        ("part", (*PARTS, Envelope)),
    ):
        for kind in kinds:
            tag = kind.__struct_config__.tag
            number = "-" if tag is None else str(tag)
            required = len(kind.__struct_fields__) - optional_of(kind)
            fields = [
                name if index < required else f"{name}?"
                for index, name in enumerate(kind.__struct_fields__)
            ]
            lines.append(f"{space} {number} {kind.__name__}: {' '.join(fields)}")
    for code in CODES:
        lines.append(f"code - {code.__name__}: {' '.join(f'{each.name}={each}' for each in code)}")
    return lines


def frozen() -> list[str]:
    return FROZEN.read_text().splitlines() if FROZEN.exists() else []


def broken_promises(before: list[str], after: list[str]) -> list[str]:
    """The lines of `before` that `after` does not keep: a kind gone, renumbered or renamed; a field
    gone, renamed, moved or no longer optional; a field added that older peers do not send.

    What was added at an end and may be absent is no breach; codes do not grow at all.
    """
    heads = dict(line.split(": ", 1) for line in after)
    broken = []
    for line in before:
        head, fields = line.split(": ", 1)
        then, now = fields.split(" "), heads.get(head, "").split(" ")
        added = now[len(then) :]
        grows = not head.startswith("code ") and all(name.endswith("?") for name in added)
        if now[: len(then)] != then or (added and not grows):
            broken.append(line)
    return broken
