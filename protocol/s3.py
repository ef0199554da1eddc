"""S3: objects and places of a bucket, as sources and publishers of a job name them.

Names and parameters are Bacalhau's. With what credentials a bucket is reached is the business of
the device alone: a job file has none.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final
from urllib.parse import urlsplit

import msgspec

from protocol.tree import Fields, Node, Plain, shown

AWS: Final = "s3.amazonaws.com"  # what is meant where no endpoint is given
PLAIN_HTTP: Final = "http://"
KEY_BYTES_MAX: Final = 1024  # S3's own limit
KEY_BYTES_OF_TARGET_MAX: Final = 512  # so much is left for names of files behind it
ENDPOINT_BYTES_MAX: Final = 512
FILTER_BYTES_MAX: Final = 512
VERSION_BYTES_MAX: Final = 1024
GZIP: Final = "gzip"  # one object, a tar.gz of all
PLAIN: Final = "plain"  # one object for each file
ENCODINGS: Final = (GZIP, PLAIN)
PACKED_SUFFIX: Final = ".tar.gz"
SOURCE_FIELDS: Final = (
    "Bucket",
    "Key",
    "Filter",
    "Region",
    "Endpoint",
    "VersionID",
    "ChecksumSHA256",
)
TARGET_FIELDS: Final = ("Bucket", "Key", "Region", "Endpoint", "Encoding", "Compress")
PLACEHOLDERS: Final = ("{executionID}", "{jobID}", "{nodeID}", "{date}", "{time}")

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_BUCKET_ALLOWED: Final = "allowed: 3 to 63 letters, digits, '.', '_' and '-'"
_REGION: Final = re.compile(r"[a-z0-9-]{1,63}")
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_PARTITION: Final = (
    "is not something this version has; a task knows its part by SHOAL_PARTITION_INDEX and "
    "SHOAL_PARTITION_COUNT"
)


class Place(msgspec.Struct, frozen=True):
    """A bucket, and where it is."""

    bucket: str
    endpoint: str = ""  # http(s)://host[:port]; empty: AWS
    region: str = ""

    @classmethod
    def read(cls, fields: Fields) -> Place:
        bucket = fields.need("Bucket").matching(_BUCKET, _BUCKET_ALLOWED)
        if any(pair in bucket for pair in ("..", ".-", "-.")):
            fields.need("Bucket").fail(f"{shown(bucket)} is not a bucket; {_BUCKET_ALLOWED}")
        region = fields.read("Region", lambda at: at.text(64).strip(), "")
        if region and not _REGION.fullmatch(region):
            fields.need("Region").fail(f"{shown(region)} is not a region; allowed: e.g. us-east-1")
        return cls(bucket, fields.read("Endpoint", _read_endpoint, ""), region)

    def to_plain(self) -> dict[str, Plain]:
        tree: dict[str, Plain] = {"Bucket": self.bucket}
        tree |= {"Endpoint": self.endpoint} if self.endpoint else {}
        return tree | ({"Region": self.region} if self.region else {})

    @property
    def host(self) -> str:
        """With the port, where it is not the scheme's own."""
        parts = urlsplit(self.endpoint)
        return parts.netloc.lower() if parts.netloc else AWS

    @property
    def name(self) -> str:
        """As the device's owner allows it: minio.lan/readings by TLS, and unencrypted
        http://minio.lan:9000/readings."""
        return f"{PLAIN_HTTP if self.unencrypted else ''}{self.host}/{self.bucket}"

    @property
    def unencrypted(self) -> bool:
        """Whoever is between reads what is read and written, and keys that are lent."""
        return self.endpoint.startswith(PLAIN_HTTP)


class S3Source(msgspec.Struct, frozen=True):
    """An object, put below the target under the last part of its key; or all that begin with a
    key that ends with `/` or `*`, under the rest of theirs."""

    place: Place
    key: str = ""  # without the star; empty: the whole bucket
    many: bool = False
    filter: str = ""  # of many: a regular expression that is to be found in the rest of a key
    version: str = ""
    digest: str = ""  # of one: the SHA-256 of its bytes, in lower-case hex

    @classmethod
    def read(cls, params: Node) -> S3Source:
        fields = params.fields(*SOURCE_FIELDS, later={"Partition": _PARTITION})
        at = fields.get_or("Key", "")
        text = at.text(KEY_BYTES_MAX + 1).strip()
        many = not text or text.endswith(("/", "*"))
        key = text.removesuffix("*")
        if _odd(key) or len(key.encode()) > KEY_BYTES_MAX:
            at.fail(f"{shown(text)} is not a key here; allowed: e.g. day/readings.csv, day/*")
        for name in ("VersionID", "ChecksumSHA256") if many else ("Filter",):
            if (given := fields.get(name)) is not None and given.value != "":
                what = "many objects" if many else "one object"
                given.fail(f"does not go with a key of {what}; leave it out")
        return cls(
            Place.read(fields),
            key,
            many,
            fields.read("Filter", _read_filter, ""),
            fields.read("VersionID", _read_version, ""),
            fields.read("ChecksumSHA256", _read_checksum, ""),
        )

    @property
    def url(self) -> str:
        """For people, and to know it again."""
        star = "*" if self.many and not self.key.endswith("/") else ""
        version = f"?versionId={self.version}" if self.version else ""
        return f"s3://{self.place.bucket}/{self.key}{star}{version}"

    def to_plain(self) -> dict[str, Plain]:
        star = "*" if self.many and not self.key.endswith("/") else ""
        params: dict[str, Plain] = {**self.place.to_plain(), "Key": self.key + star}
        more = {
            "Filter": self.filter,
            "VersionID": self.version,
            "ChecksumSHA256": self.digest,
        }
        return {
            "Type": "s3",
            "Params": params | {name: value for name, value in more.items() if value},
        }


class S3Target(msgspec.Struct, frozen=True):
    """Where result files go: `key` has PLACEHOLDERS."""

    place: Place
    key: str
    encoding: str = GZIP

    @classmethod
    def read(cls, params: Node) -> S3Target:
        fields = params.fields(*TARGET_FIELDS)
        at = fields.need("Key")
        key = at.text(KEY_BYTES_OF_TARGET_MAX).strip()
        if not key.strip("/") or _odd(key) or "//" in key or key.startswith("/"):
            at.fail(f"{shown(key)} is not a key here; allowed: e.g. results/{{executionID}}")
        encoding = fields.read("Encoding", _read_encoding, "")
        compress = fields.read("Compress", _read_compress, encoding != PLAIN)
        if encoding and compress is not (encoding == GZIP):
            fields.need("Compress").fail(f"does not go with Encoding: {encoding}; leave it out")
        return cls(Place.read(fields), key, GZIP if compress else PLAIN)

    def resolved(self, values: dict[str, str]) -> str:
        """The key with its placeholders replaced, and as Bacalhau ends it: .tar.gz, or a slash."""
        key = self.key
        for placeholder in PLACEHOLDERS:
            key = key.replace(placeholder, values[placeholder])
        if self.encoding == GZIP:
            return key if key.endswith(PACKED_SUFFIX) else key.rstrip("/") + PACKED_SUFFIX
        return key if key.endswith("/") else key + "/"

    def to_plain(self) -> dict[str, Plain]:
        return {**self.place.to_plain(), "Key": self.key, "Encoding": self.encoding}


def _odd(key: str) -> bool:
    """Whether clients and servers may disagree about what it names."""
    return not key.isprintable() or any(part in (".", "..") for part in key.split("/"))


def _read_endpoint(node: Node) -> str:
    text = node.text(ENDPOINT_BYTES_MAX).strip().rstrip("/")
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    plain = host is not None and text.lower() == f"{parts.scheme}://{parts.netloc.lower()}"
    if not plain or parts.scheme not in ("http", "https") or "@" in text or not _word(text):
        node.fail(f"{shown(text)} is not an endpoint; allowed: e.g. http://minio.lan:9000")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _read_filter(node: Node) -> str:
    """Not compiled here: half a kilobyte can take seconds, and a peer wrote it."""
    return node.text(FILTER_BYTES_MAX)


def _read_version(node: Node) -> str:
    text = node.text(VERSION_BYTES_MAX).strip()
    if not _word(text):
        node.fail(f"{shown(text)} is not the version of an object")
    return text


def _read_checksum(node: Node) -> str:
    """As S3 tells it, in base64; or in hex, as other sources have it."""
    text = node.text(128).strip()
    if not text or _HEX.fullmatch(text):
        return text.lower()
    try:
        digest = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32:
        node.fail(
            f"{shown(text)} is not the SHA-256 of a whole object; allowed: base64 or 64 hex "
            "digits. What S3 tells of one that was uploaded in parts, with -2 at its end, is not "
            "that"
        )
    return digest.hex()


def _read_encoding(node: Node) -> str:
    return node.choice(("", *ENCODINGS), "an encoding")


def _read_compress(node: Node) -> bool:
    """Bacalhau's older word for Encoding, also as a string."""
    if isinstance(node.value, str):
        return node.choice(("true", "false"), "a boolean") == "true"
    return node.flag()
