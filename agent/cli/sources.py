"""Inputs, publishers and result paths as they are typed: in the shape of Bacalhau's command line.

What is read here is where each part stands; what it may be is the agent's word (`runs.by_flag`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from agent.cli.exitcodes import USAGE, CliError

TARGET: Final = "/inputs"  # Bacalhau's, where none is named
_INPUT: Final = (
    "allowed: https://…, s3://BUCKET/KEY, file:///PATH or peer://DIGEST, then :TARGET or "
    ",dst=TARGET, and ,opt=NAME=VALUE"
)
_PUBLISHER: Final = "allowed: local, s3://BUCKET/KEY or mqtt://BROKER/TOPIC, then ,opt=NAME=VALUE"
_RESULT: Final = "allowed: NAME:PATH or PATH, as in results:/outputs"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SOURCES: Final = ("source", "src")
_TARGETS: Final = ("target", "dst", "destination")
_OPTIONS: Final = ("opt", "option")
# What each kind of source may be told: as it is typed, without - and _, and as the job has it.
_S3: Final = {
    "endpoint": "Endpoint",
    "region": "Region",
    "filter": "Filter",
    "versionid": "VersionID",
    "checksum256": "ChecksumSHA256",
    "checksumsha256": "ChecksumSHA256",
}
_WEB: Final = {"sha256": "SHA256"}
_FILE: Final = {"rw": "ReadWrite", "readwrite": "ReadWrite"}
_PEER: Final = {"size": "Size"}


def is_uri(text: str) -> bool:
    """Whether it can only be meant as the address of a source, not as a path here."""
    return bool(_SCHEME.match(text)) or text.partition("=")[0] in _SOURCES


def source(flag: str, text: str, target: str = TARGET) -> dict[str, Any]:
    """The entry of InputSources that `src=URI,dst=PATH[,opt=NAME=VALUE]` or `URI:PATH` means.

    Bacalhau's, with its `target` where none is named; ours are `peer://` and opt=sha256. Raises
    CliError.
    """
    uri, options = "", dict[str, str]()
    for at, field in enumerate(_fields(flag, text)):
        name, equals, value = field.partition("=")
        if at == 0 and (not equals or _SCHEME.match(field)):
            uri, inner = _apart(field)
            target = inner or target
        elif name.lower() in _SOURCES:
            uri = value
        elif name.lower() in _TARGETS:
            target = value
        elif name.lower() in _OPTIONS:
            option, _, value = value.partition("=")
            options[option] = value
        else:
            raise CliError(f"{flag} {text}: cannot read {field!r}; {_INPUT}", USAGE)
    kind, params = _source_of(flag, text, uri.strip(" '\""), options)
    return {"Source": {"Type": kind, "Params": params}, "Target": target.strip(" '\"")}


def publisher(text: str) -> dict[str, Any]:
    """The Publisher that `s3://BUCKET/KEY[,opt=NAME=VALUE]` or the name of one means; what it may
    be told goes on as it is. Raises CliError."""
    flag = f"--publisher {text}"
    uri, params = "", dict[str, Any]()
    for at, field in enumerate(_fields("--publisher", text)):
        name, equals, value = field.partition("=")
        if at == 0 and (not equals or _SCHEME.match(field)):
            uri = field
        elif name.lower() in _TARGETS:
            uri = value
        elif name.lower() in _OPTIONS:
            option, _, value = value.partition("=")
            typed = {"qos": _number, "retain": _flag, "lines": _flag}.get(option.lower(), str)
            params[option] = typed(value)
        else:
            raise CliError(f"{flag}: cannot read {field!r}; {_PUBLISHER}", USAGE)
    kind, _, rest = uri.strip(" '\"").partition("://")
    first, _, last = rest.partition("/")
    where = {"s3": ("bucket", "key"), "mqtt": ("broker", "topic")}.get(kind.lower())
    if where is None:
        if rest or params:
            raise CliError(f"{flag}: {_PUBLISHER}", USAGE)
        return {"Type": kind}  # `local`, or what the agent has a word for
    given = {name.lower() for name in params}
    found = zip(where, (first, last), strict=True)
    params |= {name: part for name, part in found if part and name not in given}
    return {"Type": kind.lower(), "Params": params}


def result_path(text: str) -> dict[str, str]:
    """The entry of ResultPaths that NAME:PATH means, or PATH alone, whose last part is the name.

    Raises CliError.
    """
    name, colon, path = text.partition(":")
    if not colon:
        return {"Name": _called(text), "Path": text}
    if not _NAME.fullmatch(name) or not path:
        more = f"; a path with a colon needs a name, too: results:{text}" if path else ""
        raise CliError(f"--output {text}: {_RESULT}{more}", USAGE)
    return {"Name": name, "Path": path}


def _fields(flag: str, text: str) -> list[str]:
    """Apart at commas, as Bacalhau reads them: what holds one is quoted."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise CliError(f"{flag} {text}: {error}", USAGE) from None
    if len(rows) != 1 or not rows[0]:
        raise CliError(f"{flag}: nothing is named", USAGE)
    return rows[0]


def _apart(text: str) -> tuple[str, str]:
    """URI and target of the short form. In an address of the web colons have meanings of their
    own: there the target is what begins with one slash."""
    match = _SCHEME.match(text)
    begins = match.end() if match else 0
    at = text.rfind(":", begins)
    web = text[:begins].lower() in ("http://", "https://")
    if at < 0 or (web and not re.match(r"/(?!/)", text[at + 1 :])):
        return text, ""
    return text[:at], text[at + 1 :]


def _source_of(
    flag: str, text: str, uri: str, options: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise CliError(f"{flag} {text}: {error}", USAGE) from None
    rest = uri.partition("://")[2]  # as it was typed: a key is no path, and may have a ? or #
    first, _, last = rest.partition("/")
    params: dict[str, Any]
    match parts.scheme.lower():
        case "http" | "https":
            kind, params, known = "urlDownload", {"URL": uri}, _WEB
        case "s3":
            kind, params, known = "s3", {"Bucket": first, "Key": last.lstrip("/")}, _S3
        case "file":
            kind, params, known = "localDirectory", {"SourcePath": f"/{rest.lstrip('/')}"}, _FILE
        case "peer":
            kind, params, known = "peer", {"Digest": rest}, _PEER
        case _:
            what = f"no inputs of {parts.scheme} here" if parts.scheme else "no source is named"
            raise CliError(f"{flag} {text}: {what}; {_INPUT}", USAGE)
    for option, value in options.items():
        name = known.get(option.lower().replace("-", "").replace("_", ""))
        if name is None:
            allowed = ", ".join(dict.fromkeys(known))
            raise CliError(f"{flag} {text}: no option {option!r}; allowed: {allowed}", USAGE)
        params[name] = _flag(value) if name == "ReadWrite" else value
    return kind, params


def _flag(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and text.isascii() else text


def _called(path: str) -> str:
    """A result's name is the last part of its path, as far as names may hold that."""
    last = path.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in last).lstrip("-.") or "files"
