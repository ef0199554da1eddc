"""The join token: the text that an invited device is given.

`shoal1:` and, in lower-case base32, two bytes of length, the CBOR of what it says, and four bytes
of its hash: so a token that was cut short and one with a typing error are told from a wrong one.
"""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b32decode, b32encode
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent import peerid
from protocol.clock import Now
from protocol.errors import RemoteProtocolError, ShoalError
from protocol.ids import PeerId, ShoalId
from protocol.wire import decode_as, dumps

PREFIX = "shoal1:"
SECRET_BYTES = 16
ADDRESSES_MAX = 8
ADDRESS_LENGTH_MAX = 256
TOKEN_LENGTH_MAX = 6144
FILE_BYTES_MAX = 64 * 1024

_LENGTH_BYTES = 2
_CHECK_BYTES = 4
_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_LOOKS = re.compile(r"[\s\"'`]*shoal\d+:", re.IGNORECASE)  # of this version or another


class TokenError(ShoalError):
    """A token cannot be used; the text is a sentence for the person who holds it."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token says."""

    shoal: ShoalId
    shoal_name: str
    inviter: PeerId
    addresses: tuple[str, ...]  # of the inviter, each ending in /p2p/<inviter>
    secret: bytes
    expires_ms: int  # Unix time; 0 where the inviter did not know the time


class _Body(msgspec.Struct, array_like=True, frozen=True):
    """As it is encoded: keys raw and the inviter once, which keeps the text short."""

    shoal: bytes
    shoal_name: str
    inviter: bytes
    addresses: tuple[str, ...]
    secret: bytes
    expires_ms: int


def format_token(token: JoinToken) -> str:
    """The text of `token`; at most ADDRESSES_MAX of its addresses."""
    suffix = f"/p2p/{token.inviter}"
    short = [a.removesuffix(suffix) for a in token.addresses if len(a) <= ADDRESS_LENGTH_MAX]
    body = _Body(
        peerid.decode(token.shoal),
        token.shoal_name,
        peerid.decode(token.inviter),
        tuple(short[:ADDRESSES_MAX]),
        token.secret,
        token.expires_ms,
    )
    payload = dumps(msgspec.to_builtins(body, builtin_types=(bytes,)))
    raw = len(payload).to_bytes(_LENGTH_BYTES, "big") + payload + _check(payload)
    return PREFIX + _armour(raw)


def parse_token(text: str, now: Now | None = None) -> JoinToken:
    """Read a token's text; white space and letter case do not matter.

    With `now`, a token that is over is refused, if the clock can be trusted. Raises TokenError.
    """
    payload = _payload(text)
    try:
        body = decode_as(payload, _Body)
        shoal, inviter = peerid.encode(body.shoal), peerid.encode(body.inviter)
        if len(body.secret) != SECRET_BYTES or len(body.addresses) > ADDRESSES_MAX:
            raise ValueError("bounds")
    except (RemoteProtocolError, ValueError):
        raise TokenError(
            "this token was made by a version of shoal that this one cannot read"
        ) from None
    if now is not None and now.wall_trusted and 0 < body.expires_ms <= now.wall_ms:
        raise TokenError(f"this token expired on {utc(body.expires_ms)}: ask for a new one")
    suffix = f"/p2p/{inviter}"
    addresses = tuple(a if "/p2p/" in a else a + suffix for a in body.addresses)
    return JoinToken(
        ShoalId(shoal), body.shoal_name, inviter, addresses, body.secret, body.expires_ms
    )


def read_token(argument: str, now: Now | None = None) -> JoinToken:
    """A token given as text, or in a file whose path is given. Raises TokenError."""
    if not argument:
        raise TokenError("an empty word is no token: give what `shoal invite` printed")
    if _LOOKS.match(argument):
        return parse_token(argument, now)
    path = Path(argument)
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except FileNotFoundError:
        raise TokenError(
            f"this is not a token, which starts with {PREFIX!r}, nor the name of a file with one"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TokenError(f"the file {argument} cannot be read: {reason}") from None
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return parse_token("".join(lines), now)


def utc(wall_ms: int) -> str:
    """Unix milliseconds for people, to the minute."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(wall_ms / 1000))
    except (OverflowError, ValueError, OSError):
        return "an unknown day"


def _payload(text: str) -> bytes:
    """Undo the armour. Raises TokenError that tells how the text was damaged."""
    if len(text) > TOKEN_LENGTH_MAX:
        raise TokenError("this is not a token: it is too long")
    plain = "".join(text.split()).lower().strip("\"'`")
    if not plain.startswith(PREFIX):
        if re.match(r"shoal\d+:", plain):
            raise TokenError("this token was made by a newer version of shoal than this one")
        raise TokenError(f"this is not a token: a token starts with {PREFIX!r}")
    signs = plain.removeprefix(PREFIX).rstrip("=")
    for sign in signs:
        if sign not in _SIGNS:
            raise TokenError(f"there is a typing error in this token: {sign!r} is never in one")
    raw = _decode(signs)
    size = int.from_bytes(raw[:_LENGTH_BYTES], "big")
    whole = _LENGTH_BYTES + size + _CHECK_BYTES
    if len(raw) < max(whole, _LENGTH_BYTES + _CHECK_BYTES):
        raise TokenError("this token is cut short: copy all of it")
    payload = raw[_LENGTH_BYTES : _LENGTH_BYTES + size]
    if raw[_LENGTH_BYTES + size :] != _check(payload) or signs != _armour(raw):
        raise TokenError("there is a typing error in this token: copy it again")
    return payload


def _armour(raw: bytes) -> str:
    return b32encode(raw).decode().lower().rstrip("=")


def _decode(signs: str) -> bytes:
    """Base32 without its padding; the odd sign that a cut leaves is no byte yet."""
    if len(signs) % 8 in (1, 3, 6):
        signs = signs[:-1]
    return b32decode(signs.upper() + "=" * (-len(signs) % 8))


def _check(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECK_BYTES]
