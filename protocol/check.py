"""Check: how it is found out whether what runs is well, beside that it runs."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

from protocol.jobtype import JobType
from protocol.quantities import format_duration, parse_duration_s
from protocol.tree import Fields, Node, Plain, shown

WORDS_MAX: Final = 64
WORD_BYTES_MAX: Final = 4096
URL_BYTES_MAX: Final = 2048
EVERY_S_DEFAULT: Final = 10  # Consul's and Kubernetes' default
EVERY_S_MAX: Final = 86_400
TIMEOUT_S_DEFAULT: Final = 5
FAILURES_DEFAULT: Final = 3  # Kubernetes' failureThreshold
FAILURES_MAX: Final = 1000
PORT_MAX: Final = 65_535
FIELDS: Final = ("Exec", "Http", "Tcp", "Every", "Timeout", "Failures")
KINDS: Final = FIELDS[:3]
EXAMPLE: Final = "Check: {Http: 'http://127.0.0.1:8080/health', Every: 10s, Failures: 3}"


class CheckSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One of `command` (exit code 0 is well), `url` (a status below 400 is) and `address`."""

    command: tuple[str, ...] = ()
    url: str = ""
    address: str = ""  # host:port, well if somebody accepts a connection
    every_s: int = EVERY_S_DEFAULT
    timeout_s: int = TIMEOUT_S_DEFAULT
    failures: int = FAILURES_DEFAULT  # in a row; then it is unwell

    @classmethod
    def read(cls, node: Node, kind: JobType) -> CheckSpec:
        if not kind.standing:
            node.fail(f"{kind.noun} ends by itself, and its exit code tells; leave Check out")
        fields = node.fields(*FIELDS)
        given = [name for name in KINDS if fields.get(name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            node.fail(f"{found} of {', '.join(KINDS)} given; give exactly one, such as {EXAMPLE}")
        every_s = fields.read("Every", _read_seconds, EVERY_S_DEFAULT)
        return cls(
            command=fields.read("Exec", _read_command, ()),
            url=fields.read("Http", _read_url, ""),
            address=fields.read("Tcp", _read_address, ""),
            every_s=every_s,
            timeout_s=_read_timeout_s(fields, every_s),
            failures=fields.read(
                "Failures", lambda at: at.integer(1, FAILURES_MAX), FAILURES_DEFAULT
            ),
        )

    def to_plain(self) -> dict[str, Plain]:
        what: dict[str, Plain] = {"Exec": [*self.command]} if self.command else {}
        what |= {"Http": self.url} if self.url else {}
        what |= {"Tcp": self.address} if self.address else {}
        return {
            **what,
            "Every": self.every_s,
            "Timeout": self.timeout_s,
            "Failures": self.failures,
        }


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ValueError."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or not parts.port or parts.netloc != address or parts.username:
        raise ValueError(address)
    return parts.hostname, parts.port


def _read_timeout_s(fields: Fields, every_s: int) -> int:
    timeout_s = fields.read("Timeout", _read_seconds, min(TIMEOUT_S_DEFAULT, every_s))
    if timeout_s > every_s:
        fields.need("Timeout").fail(f"longer than Every, which is {format_duration(every_s)}")
    return timeout_s


def _read_seconds(node: Node) -> int:
    return node.quantity(parse_duration_s, 1, EVERY_S_MAX, format_duration)


def _read_command(node: Node) -> tuple[str, ...]:
    words = tuple(at.word(WORD_BYTES_MAX) for at in node.items(WORDS_MAX))
    if not words or not words[0]:
        node.fail("no command; write Exec: [./healthy.sh]")
    return words


def _read_url(node: Node) -> str:
    url = node.text(URL_BYTES_MAX)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        node.fail(f"{shown(url)} is no address of a web page; write http://127.0.0.1:8080/health")
    return url


def _read_address(node: Node) -> str:
    address = node.text(256)
    try:
        split_address(address)
    except ValueError:
        node.fail(f"{shown(address)} is no host and port; write 127.0.0.1:1883")
    return address
