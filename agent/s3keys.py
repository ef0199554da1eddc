"""Access keys: with what this device signs for which S3 server. They never leave it."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HOME: Final = "~/.aws/credentials"


class KeysError(Exception):
    """A file of keys that cannot be read; never tells what stands in it."""


@dataclass(frozen=True, slots=True)
class Keys:
    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)  # of keys that are lent for some hours


def keys_for(
    host: str, file: Path | None, profile: str, environment: Mapping[str, str]
) -> Keys | None:
    """Those for an endpoint; None where there are none, and requests are not signed.

    `file` is what the owner has named, in AWS' format; without one its tools' own places are
    looked at. A profile with the name of the host comes first. Raises KeysError.
    """
    if file is not None:
        return _in_file(file, host, profile)
    access = environment.get("AWS_ACCESS_KEY_ID", "")
    secret = environment.get("AWS_SECRET_ACCESS_KEY", "")
    if access and secret:
        return Keys(access, secret, environment.get("AWS_SESSION_TOKEN", ""))
    usual = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or HOME).expanduser()
    if not usual.is_file():
        return None
    return _in_file(usual, host, environment.get("AWS_PROFILE") or profile)


def _in_file(file: Path, host: str, profile: str) -> Keys | None:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.read_text("utf-8"))
    except OSError as error:
        raise KeysError(f"{file} with access keys cannot be read: {error.strerror}") from None
    except (configparser.Error, UnicodeError):  # whose text quotes the line
        raise KeysError(f"{file} with access keys is not as AWS' tools have it") from None
    for section in (host, profile):
        if parser.has_section(section):
            found = parser[section]
            access = found.get("aws_access_key_id", "")
            secret = found.get("aws_secret_access_key", "")
            if not access or not secret:
                raise KeysError(f"{file} has no access key and secret in [{section}]")
            return Keys(access, secret, found.get("aws_session_token", ""))
    return None
