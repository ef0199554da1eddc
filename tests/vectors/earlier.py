"""Earlier forms: vectors that are no longer written, since a kind has grown, and are read for ever.

`generate` puts them aside here as it rewrites the others; whatever it cannot put aside, because it
is not read as it was, it refuses to change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.errors import RemoteProtocolError
from protocol.wire import decode_as, decode_message, decode_record, open_sealed
from tests.vectors import keys, kinds
from tests.vectors.notation import to_fields

FILE: Final = Path(__file__).with_name("earlier.json")
# Of one form each, by their names: what is derived or refused by one version is so by all.
UNCHANGING: Final = ("job", "forgeries", "refusals", "ids", "runs")

Vector = dict[str, Any]
Families = Mapping[str, list[Vector]]


def read() -> list[Vector]:
    return json.loads(FILE.read_text())  # type: ignore[no-any-return]


def text_of(vectors: list[Vector]) -> str:
    return json.dumps(vectors, ensure_ascii=False, indent=1) + "\n"


def decode(kind: type[msgspec.Struct], data: bytes) -> object:
    if kind in kinds.RECORDS:
        return decode_record(data)
    return decode_message(data) if kind in kinds.MESSAGES else decode_as(data, kind)


def put_aside(before: Families, after: Families) -> list[Vector]:
    """What stood in `before` and nowhere in `after`, to be read on. What stands for a later version
    (`later`) is no form of ours: its rest may be at a new field's place."""
    written = {(each.get("rule"), each.get("hex")) for family in after.values() for each in family}
    return [
        {**each, "decode_only": True}
        for family, vectors in before.items()
        if family not in UNCHANGING
        for each in vectors
        if (each["rule"], each["hex"]) not in written and not each["name"].endswith(".later")
    ]


def changed(before: Families, after: Families) -> list[str]:
    """Names of vectors that may not change, and did, or are gone."""
    found = []
    for family in UNCHANGING:
        now = {each["name"]: each for each in after.get(family, ())}
        found += [
            f"{family}: {each['name']}"
            for each in before.get(family, ())
            if now.get(each["name"]) != each
        ]
    return found


def misread(vector: Vector) -> str:
    """Why this is no longer read as it was: every field that it had, as it was; empty if it is.
    An envelope never grows, and opens to a record that may have grown."""
    kind = kinds.BY_NAME.get(vector["kind"])
    if kind is None:
        return f"{vector['name']}: there is no {vector['kind']} any more"
    data = bytes.fromhex(vector["hex"])
    try:
        fields = to_fields(decode(kind, data))
        opened = to_fields(open_sealed(data, keys.PEER).record) if "opened" in vector else {}
    except RemoteProtocolError as error:
        return f"{vector['name']}: {error}"
    for had, has in ((vector["fields"], fields), (vector.get("opened", {}), opened)):
        if not _within(had, has):
            return f"{vector['name']}: read as {has}"
    return ""


def _within(had: object, has: object) -> bool:
    if isinstance(had, dict) and isinstance(has, dict):
        return all(key in has and _within(value, has[key]) for key, value in had.items())
    if isinstance(had, list) and isinstance(has, list):
        return len(had) == len(has) and all(map(_within, had, has))
    return had == has
