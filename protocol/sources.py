"""Sources: where the bytes of a task's input come from.

Names and parameters are Bacalhau's; `archive` and `peer` are ours.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final, TypeAlias
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import msgspec

from protocol.quantities import format_size, parse_size_bytes
from protocol.s3 import S3Source
from protocol.tree import Node, Plain, shown

SOURCES: Final = ("inline", "archive", "peer", "local", "localdirectory", "urldownload", "s3")
URL_BYTES_MAX: Final = 60 * 1024  # what a spec of 64 KiB has room for beside the rest
WEB_URL_BYTES_MAX: Final = 4096
ARCHIVE_BYTES_MAX: Final = 4 * 1024**3  # more than most SD cards have free
DIRECTORY_BYTES_MAX: Final = 900  # an ask of it is a bounds.Reason
HOST_CHARS_MAX: Final = 253  # RFC 1035
FILE_NAME_BYTES_MAX: Final = 255  # what file systems take
CREATIONS: Final = ("nocreate",)  # of Bacalhau's; `dir` and `file` are refused

# RFC 2397. The media type is kept: `application/gzip` is how Bacalhau marks a packed directory.
_DATA_URL: Final = re.compile(r"data:([^,;]*(?:;[^,;=]+=[^,;]*)*)(;base64)?,(.*)", re.DOTALL | re.I)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class InlineSource(msgspec.Struct, frozen=True):
    """Bytes carried in the job itself, as a data URL (RFC 2397). Bacalhau's `inline`."""

    url: str

    @classmethod
    def read(cls, params: Node) -> InlineSource:
        at = params.fields("URL").need("URL")
        url = at.text(URL_BYTES_MAX).strip()
        if (match := _DATA_URL.fullmatch(url)) and match[2]:
            # Bacalhau's own examples break their base64 into lines.
            url = url[: match.start(3)] + match[3].replace("\r", "").replace("\n", "")
        source = cls(url)
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
    """Files by content: the SHA-256 of one tar.gz, and its size.

    Shipped beside the job (`archive`), or kept as the result of an earlier one by whichever peer
    (`peer`).
    """

    digest: str  # lower-case hex
    size_bytes: int
    anywhere: bool = False  # whoever has it is asked, not only who had to do with the job

    @classmethod
    def read(cls, params: Node, *, anywhere: bool = False) -> ArchiveSource:
        fields = params.fields("Digest", "Size")
        digest = _read_digest(fields.need("Digest"))
        size = fields.need("Size").quantity(parse_size_bytes, 0, ARCHIVE_BYTES_MAX, format_size)
        return cls(digest, size, anywhere)

    def to_plain(self) -> dict[str, Plain]:
        kind = "peer" if self.anywhere else "archive"
        return {"Type": kind, "Params": {"Digest": self.digest, "Size": self.size_bytes}}


class DirectorySource(msgspec.Struct, frozen=True):
    """A directory or file of the device itself, where its owner allows that. Bacalhau's `local`,
    and `localDirectory` of its earlier versions: so it is written, as all versions here read it."""

    path: str
    writable: bool = False

    @classmethod
    def read(cls, params: Node) -> DirectorySource:
        fields = params.fields("SourcePath", "ReadWrite", "CreateAs")
        fields.optional("CreateAs", _read_creation, None)
        at = fields.need("SourcePath")
        text = at.text(DIRECTORY_BYTES_MAX).strip()
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if not text.startswith("/") or ".." in parts or not parts or not text.isprintable():
            at.fail(f"{shown(text)} is not a path of a device here; allowed: e.g. /srv/data")
        return cls("/" + "/".join(parts), fields.read("ReadWrite", Node.flag, False))

    def to_plain(self) -> dict[str, Plain]:
        params: dict[str, Plain] = {"SourcePath": self.path}
        return {
            "Type": "localdirectory",
            "Params": {**params, "ReadWrite": True} if self.writable else params,
        }


class UrlSource(msgspec.Struct, frozen=True):
    """One file of the web, put below the target: where the address is that of the file itself, or
    its digest is given, under the last part of its path; else see Downloads."""

    url: str
    digest: str = ""  # its SHA-256; what is known by it is fetched once

    @classmethod
    def read(cls, params: Node) -> UrlSource:
        fields = params.fields("URL", "SHA256")
        at = fields.need("URL")
        source = cls(at.text(WEB_URL_BYTES_MAX).strip(), fields.read("SHA256", _read_digest, ""))
        try:
            parts = urlsplit(source.url)
            known = parts.scheme in ("http", "https")
            known = known and 0 < len(parts.hostname or "") <= HOST_CHARS_MAX
            _ = parts.port
        except ValueError:
            known = False
        if not known or not source.url.isprintable() or " " in source.url:
            at.fail(f"{shown(source.url)} is not an address here; allowed: http:// or https://")
        if not source.file_name:
            at.fail(f"{shown(source.url)} names no file by the last part of its path")
        return source

    @property
    def host(self) -> str:
        return (urlsplit(self.url).hostname or "").lower()

    @property
    def file_name(self) -> str:
        """The last part of its path; empty where that may not be used."""
        return plain_name(last_part(self.url))

    def to_plain(self) -> dict[str, Plain]:
        params: dict[str, Plain] = {"URL": self.url}
        return {
            "Type": "urldownload",
            "Params": {**params, "SHA256": self.digest} if self.digest else params,
        }


Source: TypeAlias = InlineSource | ArchiveSource | DirectorySource | UrlSource | S3Source
_CREATE: Final = "is not something this version has; make the path on the device first"


def read_source(kind: str, params: Node) -> Source:
    match kind:
        case "inline":
            return InlineSource.read(params)
        case "local" | "localdirectory":
            return DirectorySource.read(params)
        case "urldownload":
            return UrlSource.read(params)
        case "s3":
            return S3Source.read(params)
        case _:
            return ArchiveSource.read(params, anywhere=kind == "peer")


def _read_creation(node: Node) -> None:
    """What is to be made of a path that is missing: nothing."""
    if node.text(64).strip().lower() != CREATIONS[0]:
        node.fail(_CREATE)


def last_part(url: str) -> str:
    """Of an address' path, whatever slashes end it, as Bacalhau has it (Go's path.Base). Raises
    ValueError where it is no address."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]


def plain_name(text: str) -> str:
    """The same where it can be that of one file, and of no directory; else empty."""
    plain = text.isprintable() and "/" not in text and len(text.encode()) <= FILE_NAME_BYTES_MAX
    return text if plain and text not in (".", "..") else ""


def _read_digest(node: Node) -> str:
    digest = node.text(128).strip().lower()
    if not _DIGEST.fullmatch(digest):
        node.fail(f"{shown(node.value)} is not a digest; allowed: SHA-256 as 64 hex digits")
    return digest
