"""Input sources: what is put beside a task before it starts, and where it comes from."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from protocol.paths import read_path
from protocol.quantities import format_size, parse_size_bytes
from protocol.tree import NAME, NAME_ALLOWED, Node, Plain, shown

SOURCES: Final = ("inline", "archive")
INPUTS_MAX: Final = 16
URL_BYTES_MAX: Final = 60 * 1024  # what a spec of 64 KiB has room for beside the rest
ARCHIVE_BYTES_MAX: Final = 4 * 1024**3  # more than most SD cards have free

FIELDS: Final = ("Source", "Target", "Alias")
SOURCE_FIELDS: Final = ("Type", "Params")

# RFC 2397. The media type is kept: `application/gzip` is how Bacalhau marks a packed directory.
_DATA_URL: Final = re.compile(r"data:([^,;]*(?:;[^,;=]+=[^,;]*)*)(;base64)?,(.*)", re.DOTALL | re.I)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class InlineSource(msgspec.Struct, frozen=True):
    """Bytes carried in the job itself, as a data URL (RFC 2397). Bacalhau's `inline`."""

    url: str

    @classmethod
    def read(cls, params: Node) -> InlineSource:
        at = params.fields("URL").need("URL")
        source = cls(at.text(URL_BYTES_MAX).strip())
        try:
            source.content()
        except ValueError as error:
            at.fail(f"{shown(at.value)} is not a data URL ({error}); allowed: e.g. data:,hello")
        return source

    def content(self) -> bytes:
        """The bytes themselves. Raises ValueError, never on a source that was read."""
        match = _DATA_URL.fullmatch(self.url)
        if match is None:
            raise ValueError("it does not start like one")
        raw = unquote_to_bytes(match[3])
        if not match[2]:
            return raw
        try:
            return b64decode(raw, validate=True)
        except binascii.Error as error:
            raise ValueError(f"base64: {error}") from None

    @property
    def media_type(self) -> str:
        match = _DATA_URL.fullmatch(self.url)
        return (match[1].lower() if match else "") or "text/plain;charset=us-ascii"

    def to_plain(self) -> dict[str, Plain]:
        return {"Type": "inline", "Params": {"URL": self.url}}


class ArchiveSource(msgspec.Struct, frozen=True):
    """Files shipped beside the job, by content: the SHA-256 of one archive, and its size."""

    digest: str  # lower-case hex
    size_bytes: int

    @classmethod
    def read(cls, params: Node) -> ArchiveSource:
        fields = params.fields("Digest", "Size")
        at = fields.need("Digest")
        digest = at.text(128).strip().lower()
        if not _DIGEST.fullmatch(digest):
            at.fail(f"{shown(at.value)} is not a digest; allowed: SHA-256 as 64 hex digits")
        size = fields.need("Size").quantity(parse_size_bytes, 0, ARCHIVE_BYTES_MAX, format_size)
        return cls(digest, size)

    def to_plain(self) -> dict[str, Plain]:
        return {"Type": "archive", "Params": {"Digest": self.digest, "Size": self.size_bytes}}


Source: TypeAlias = InlineSource | ArchiveSource


class InputSource(msgspec.Struct, frozen=True):
    """One source and where the task finds it."""

    source: Source
    target: str  # see paths.read_path
    alias: str = ""  # a name for engines that link by name (Bacalhau: wasm)

    @classmethod
    def read(cls, node: Node) -> InputSource:
        fields = node.fields(*FIELDS)
        source = _read_source(fields.need("Source"))
        return cls(
            source=source,
            target=_read_target(fields.need("Target"), source),
            alias=fields.read("Alias", lambda at: at.matching(NAME, NAME_ALLOWED), ""),
        )

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
        if source.alias and earlier.alias == source.alias:
            item.fail(f"the alias '{source.alias}' is taken by an earlier source")
    found.append(source)


def _read_target(node: Node, source: Source) -> str:
    """An archive is many files, so it may also go into the task's own directory: `.`."""
    if isinstance(source, ArchiveSource) and node.value in (".", "./"):
        return "."
    return read_path(node)


def _read_source(node: Node) -> Source:
    fields = node.fields(*SOURCE_FIELDS)
    kind = fields.need("Type").choice(SOURCES, "an input source")
    params = fields.get_or("Params", {})
    return InlineSource.read(params) if kind == "inline" else ArchiveSource.read(params)
