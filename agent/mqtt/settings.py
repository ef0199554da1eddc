"""Settings of brokers: where they are, who we are to them, and whom they may be taken for.

Neither trio nor paho is imported: the command line reads the configuration, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

BROKERS_MAX: Final = 8  # each is a thread and a connection
BROKER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}  # as registered with IANA
VERSIONS: Final = ("5", "3.1.1")
LOGIN_BYTES_MAX: Final = 4096
SESSION_S_MAX: Final = 31_536_000  # a year: a session that nobody comes back to takes room there
PREFIX: Final = re.compile(r"[^+#$/\x00-\x1f\x7f][^+#\x00-\x1f\x7f]{0,99}")
ALLOWED: Final = re.compile(r"(template|daemon)/(\*|[A-Za-z0-9][A-Za-z0-9 ._/-]{0,127}\*?)")
_TEXTS: Final = (
    "url", "version", "user", "password_file", "credential", "ca_file", "cert_file", "key_file",
    "client_id", "home_assistant_prefix",
)  # fmt: skip


class LoginError(Exception):
    """A file that a broker's settings name cannot be used; a sentence."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """One broker, as `[mqtt.brokers.NAME]` has it."""

    url: str  # mqtt://HOST[:PORT] or mqtts://HOST[:PORT]
    version: str = "5"
    user: str = ""
    password_file: str = ""  # its one line; where user is empty, the user's line comes first
    credential: str = ""  # the same of systemd, in $CREDENTIALS_DIRECTORY
    ca_file: str = ""  # empty: the system's
    cert_file: str = ""  # of a client certificate
    key_file: str = ""  # empty: in cert_file
    client_id: str = ""  # empty: made of the peer's id, and so the same for ever
    keepalive_s: int = 30  # a broker that is silent for so long is lost
    # How long it keeps messages of triggers for a device that is away (MQTT 5): as long as ids of
    # messages are remembered and results kept. What comes later may have run elsewhere.
    session_s: int = 604_800
    report: bool = True  # state and events of this device go there
    home_assistant: bool = False  # a Home Assistant there is told what there is
    home_assistant_prefix: str = "homeassistant"  # where it listens; its own default

    @property
    def tls(self) -> bool:
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or PORTS[parts.scheme]

    def login(self) -> tuple[str, str] | None:
        """User and password as they are now: a file may be renewed. Raises LoginError."""
        path = self._login_file()
        if path is None:
            return (self.user, "") if self.user else None
        try:
            data = path.read_bytes()[:LOGIN_BYTES_MAX]
            lines = data.decode().splitlines()
        except OSError as error:
            raise LoginError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError:
            raise LoginError(f"{path}: no text in UTF-8") from None
        needed = 1 if self.user else 2
        if len(lines) < needed:
            what = "the password" if self.user else "two lines, the user and the password"
            raise LoginError(f"{path}: {what} should stand there")
        return (self.user, lines[0]) if self.user else (lines[0], lines[1])

    def _login_file(self) -> Path | None:
        if self.password_file:
            return Path(self.password_file).expanduser()
        if not self.credential:
            return None
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not directory:
            raise LoginError(
                f"credential {self.credential}: systemd gave this agent none "
                "(LoadCredential= in its unit)"
            )
        return Path(directory) / self.credential


def read_brokers(value: Any) -> dict[str, BrokerSettings]:
    """Brokers by name: a table of tables or URLs, or `name=url, name=url`.

    Raises ValueError with the place and what is allowed.
    """
    if not isinstance(value, Mapping):
        from agent.settings import read_pairs

        value = read_pairs(value)
    if len(value) > BROKERS_MAX:
        raise ValueError(f"{len(value)} brokers; allowed: {BROKERS_MAX}")
    brokers = {}
    for name, table in value.items():
        if not BROKER_NAME.fullmatch(str(name)):
            raise ValueError(f"{name!r} is no name of a broker; allowed: letters, digits, - and _")
        try:
            brokers[str(name)] = _read(table if isinstance(table, Mapping) else {"url": table})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    _check_apart(brokers)
    return brokers


def _check_apart(brokers: Mapping[str, BrokerSettings]) -> None:
    """A broker has one connection of each client id: two names would end each other's for ever."""
    known: dict[tuple[str, int, str], str] = {}
    for name, broker in brokers.items():
        if other := known.get(place := (broker.host, broker.port, broker.client_id)):
            raise ValueError(
                f"{other} and {name} are one broker, {broker.host}:{broker.port}, under one client "
                "id; leave one out, or set client_id"
            )
        known[place] = name


def _read(table: Mapping[str, Any]) -> BrokerSettings:
    known = [part.name for part in fields(BrokerSettings)]
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r}; allowed: {', '.join(known)}")
        if key in _TEXTS and not (isinstance(value, str) and value.isprintable()):
            raise ValueError(f"{key}: allowed: a text in quotes")
    if "url" not in table:
        raise ValueError('url is needed, e.g. "mqtt://192.168.1.5" or "mqtts://broker:8883"')
    settings = BrokerSettings(**table)
    _check_url(settings.url)
    if settings.version not in VERSIONS:
        raise ValueError(f"version: allowed: {', '.join(VERSIONS)}")
    for key in ("report", "home_assistant"):
        if not isinstance(getattr(settings, key), bool):
            raise ValueError(f"{key}: allowed: true, false")
    if settings.home_assistant and not settings.report:
        raise ValueError("home_assistant shows what report = true has told")
    try:
        read_prefix(settings.home_assistant_prefix)
    except ValueError as error:
        raise ValueError(f"home_assistant_prefix: {error}") from None
    _check_within("keepalive_s", settings.keepalive_s, 5, 3600)
    _check_within("session_s", settings.session_s, 60, SESSION_S_MAX)
    if not settings.tls and (settings.ca_file or settings.cert_file or settings.key_file):
        raise ValueError("certificates are for mqtts:// alone; write that in url")
    if settings.password_file and settings.credential:
        raise ValueError("password_file and credential name the same thing; leave one out")
    if settings.key_file and not settings.cert_file:
        raise ValueError("key_file is of the certificate in cert_file, which is missing")
    if "/" in settings.credential or settings.credential.startswith("."):
        raise ValueError("credential: allowed: the name of a credential, and no path")
    return settings


def _check_within(key: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{key}: allowed: {least} to {most}")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in PORTS and bool(parts.hostname) and parts.path in ("", "/")
        parts.port  # noqa: B018 - raises for what is none
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{url!r}: allowed: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise ValueError("user and password do not belong into url; see user and password_file")


def read_prefix(value: Any) -> str:
    if not isinstance(value, str) or not PREFIX.fullmatch(value) or value.endswith("/"):
        raise ValueError("allowed: the beginning of topics, without + and #, e.g. shoal")
    return value


def check_allowed(word: str) -> None:
    if not ALLOWED.fullmatch(word):
        raise ValueError(
            f"{word!r} is nothing that MQTT could command; allowed: template/NAME, daemon/NAME, a "
            "* at the end standing for any rest"
        )


def check_topics(word: str) -> None:
    levels = word.split("/")
    alone = all(level in ("+", "#") or not set(level) & {"+", "#"} for level in levels)
    if not word.isprintable() or not alone or "#" in levels[:-1]:
        raise ValueError(
            f"{word!r} is no topic filter; allowed: levels between slashes, + for any one, # at "
            "the end for all that follow"
        )
