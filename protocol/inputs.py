"""Input sources: what is put beside a task before it starts, and where it comes from."""

from __future__ import annotations

from typing import Final

import msgspec

from protocol.paths import read_path
from protocol.sources import SOURCES, ArchiveSource, DirectorySource, Source, read_source
from protocol.tree import NAME, NAME_ALLOWED, Node, Plain

INPUTS_MAX: Final = 16

FIELDS: Final = ("Source", "Target", "Alias")
SOURCE_FIELDS: Final = ("Type", "Params")


class InputSource(msgspec.Struct, frozen=True):
    """One source and where the task finds it."""

    source: Source
    target: str  # see paths.read_path
    alias: str = ""  # a name for engines that link by name (Bacalhau: wasm)

    @classmethod
    def read(cls, node: Node, default: str | None = None) -> InputSource:
        """`default` is the target of one that says none; without, it has to."""
        fields = node.fields(*FIELDS)
        source = _read_source(fields.need("Source"))
        if default is None:
            target = _read_target(fields.need("Target"), source)
        else:
            target = fields.optional("Target", lambda at: _read_target(at, source), default)
        alias = fields.optional("Alias", lambda at: at.matching(NAME, NAME_ALLOWED), "")
        return cls(source=source, target=target, alias=alias)

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Source": self.source.to_plain(), "Target": self.target}
        return {**tree, "Alias": self.alias} if self.alias else tree


def read_inputs(node: Node) -> tuple[InputSource, ...]:
    """Read the list; two sources in one place, or under one alias, are refused."""
    found: list[InputSource] = []
    for item in node.items(INPUTS_MAX):
        add_source(found, InputSource.read(item), item)
    return tuple(found)


def add_source(found: list[InputSource], source: InputSource, item: Node) -> None:
    for earlier in found:
        # `/data` and `data` are one place for an engine that mounts below the task's directory
        if earlier.target.lstrip("/") == source.target.lstrip("/"):
            item.fail(f"the target '{source.target}' is taken by an earlier source")
        if _within(earlier, source) or _within(source, earlier):
            item.fail(
                f"the target '{source.target}' and the earlier '{earlier.target}' lie within one "
                "another, and one of them is a directory of the device"
            )
        if source.alias and earlier.alias == source.alias:
            item.fail(f"the alias '{source.alias}' is taken by an earlier source")
    found.append(source)


def _within(outer: InputSource, inner: InputSource) -> bool:
    """Whether one would be written into a directory of the device, or over it."""
    kinds = (type(outer.source), type(inner.source))
    if DirectorySource not in kinds:
        return False
    above, below = outer.target.strip("/"), inner.target.strip("/")
    return above == "." or below.startswith(f"{above}/")


def _read_target(node: Node, source: Source) -> str:
    """An archive is many files, so it may also go into the task's own directory: `.`."""
    if isinstance(source, ArchiveSource) and node.value in (".", "./"):
        return "."
    return read_path(node)


def _read_source(node: Node) -> Source:
    fields = node.fields(*SOURCE_FIELDS)
    kind = fields.need("Type").choice(SOURCES, "an input source")
    return read_source(kind, fields.get_or("Params", {}))
