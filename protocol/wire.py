"""Bytes to values and back: deterministic CBOR behind a structural scan, and sealed records.

A frame is one message; a sealed record is `[body, author, signature, certificate]`, where `body`
is the record's CBOR as its author wrote it. Signatures are verified over the received bytes,
never over a re-encoding. `wire.cddl` describes all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args, get_origin, overload

import cbor2
import msgspec

from protocol.bounds import Signature
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import Message
from protocol.records import Certificate, Keyring, Record, Role, Unknown

FRAME_BYTES_MAX: Final = 128 * 1024
RECORD_BYTES_MAX: Final = 96 * 1024  # a spec of 64 KiB, its certificate chain and room to grow
DEPTH_MAX: Final = 8
ITEMS_MAX: Final = 8192
CHAIN_MAX: Final = 2  # root -> (optional) admit key -> peer
SIGNATURE_CONTEXT: Final = b"shoal/record/1\0"  # no signature of ours can be replayed elsewhere

_MINIMUM = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}  # RFC 8949 4.2.1: shortest form only

Plain = None | bool | int | str | bytes | list["Plain"] | dict[str, "Plain"]
T = TypeVar("T")


class Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A signed record as it travels. It never grows: who relays it could fill the rest."""

    body: bytes
    author: PeerId
    signature: Signature
    certificate: bytes  # the author's own envelope; empty where the shoal root signs


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record whose signature and certificate chain were verified, with the bytes it came in."""

    record: Record | Unknown
    author: PeerId
    certificate: Certificate | None  # None: signed by the shoal root itself
    body: bytes
    data: bytes
    links: int = 0  # certificates between it and the shoal root

    def author_holds(self, role: Role, namespace: str | None = None) -> bool:
        return self.certificate is not None and self.certificate.holds(role, namespace)


def scan(data: bytes, bytes_max: int = FRAME_BYTES_MAX) -> None:
    """Refuse everything but plain deterministic CBOR: no tags, floats, indefinite lengths, rests.

    Cheap and iterative, before any decoder sees the bytes: cbor2 alone compiles regular
    expressions, builds cycles and takes 75 MiB for 1 MB of empty maps. Map keys are text, sorted
    by their encoding, none twice (RFC 8949 4.2.1): one value has one encoding.
    Raises RemoteProtocolError.
    """
    size = len(data)
    if size > bytes_max:
        raise RemoteProtocolError(f"{size} bytes are over the limit of {bytes_max}")
    at = items = 0
    pending = [1]  # items to come at each depth; a map counts up, from -2n-1 to -1
    keys: list[bytes] = []  # the last key read of each open map
    while pending:
        left = pending[-1]
        if left == 0 or left == -1:
            pending.pop()
            if left:
                keys.pop()
            continue
        pending[-1] = left - 1 if left > 0 else left + 1
        items += 1
        start = at
        if at >= size or items > ITEMS_MAX:
            raise RemoteProtocolError(f"ends in the middle, or has more than {ITEMS_MAX} items")
        major, argument = data[at] >> 5, data[at] & 31
        at += 1
        if argument > 23:
            argument, at = _argument(data, at, major, argument)
        if major == 2 or major == 3:
            at += argument
            if at > size:
                raise RemoteProtocolError("a string runs past the end")
        elif major > 3:
            _check_structure(major, argument, len(pending))
            if major == 4:
                pending.append(argument)
            elif major == 5:
                pending.append(-2 * argument - 1)
                keys.append(b"")
        if left < 0 and left & 1:
            _check_key(major, data[start:at], keys)
    if at != size:
        raise RemoteProtocolError(f"{size - at} bytes follow the end")


def _argument(data: bytes, at: int, major: int, low: int) -> tuple[int, int]:
    """Read a head's argument of 1, 2, 4 or 8 bytes at `at`: (argument, offset behind it)."""
    if low > 27 or major == 7:
        raise RemoteProtocolError("indefinite lengths, floats and reserved values are not used")
    end = at + (1 << (low - 24))
    argument = int.from_bytes(data[at:end], "big")
    if end > len(data):
        raise RemoteProtocolError("ends in the middle")
    if argument < _MINIMUM[low]:
        raise RemoteProtocolError("a length or number is not in its shortest form")
    return argument, end


def _check_structure(major: int, argument: int, depth: int) -> None:
    """Bound an array or a map; refuse tags and all simple values but false, true and null."""
    if major == 6:
        raise RemoteProtocolError("tags are not used")
    if major == 7:
        if argument not in (20, 21, 22):
            raise RemoteProtocolError("only false, true and null are used of the simple values")
    elif depth > DEPTH_MAX:
        raise RemoteProtocolError(f"nested deeper than {DEPTH_MAX}")
    elif argument > ITEMS_MAX:
        raise RemoteProtocolError(f"more than {ITEMS_MAX} items")


def _check_key(major: int, key: bytes, keys: list[bytes]) -> None:
    """Take the next key of the innermost map, after the one before it in `keys`."""
    if major != 3:
        raise RemoteProtocolError("map keys are text")
    if key <= keys[-1]:
        raise RemoteProtocolError("map keys are sorted, and none comes twice")
    keys[-1] = key


def dumps(value: object) -> bytes:
    """Encode plain values as deterministic CBOR (RFC 8949 4.2.1; all our map keys are text)."""
    return cbor2.dumps(value, canonical=True)


def loads(data: bytes, bytes_max: int = FRAME_BYTES_MAX) -> object:
    """Decode after the scan. Raises RemoteProtocolError for anything but our deterministic form."""
    scan(data, bytes_max)
    try:
        value: object = cbor2.loads(data)
    except (cbor2.CBORDecodeError, UnicodeDecodeError, ValueError) as error:
        raise RemoteProtocolError(f"not CBOR: {error}") from None
    return value


def load_plain(data: bytes, bytes_max: int = FRAME_BYTES_MAX) -> dict[str, Plain]:
    """Decode a map: a job spec's body, a view. Raises RemoteProtocolError."""
    value = loads(data, bytes_max)
    if not isinstance(value, dict):
        raise RemoteProtocolError("a map is needed")
    return value  # with text keys, as the scan has seen


@overload
def load_row(data: bytes, kind: type[T], bytes_max: int = FRAME_BYTES_MAX) -> T: ...
@overload
def load_row(data: bytes, kind: object, bytes_max: int = FRAME_BYTES_MAX) -> Any: ...
def load_row(data: bytes, kind: Any, bytes_max: int = FRAME_BYTES_MAX) -> Any:
    """Decode what an agent wrote to its own disk: a tuple of `kind`, of which a later version may
    have written more fields at the end; after a downgrade they are left unread, as on the wire.
    Raises RemoteProtocolError."""
    value, places = loads(data, bytes_max), get_args(kind)
    if get_origin(kind) is tuple and places[-1] is not Ellipsis and isinstance(value, list):
        value = value[: len(places)]
    return _convert(value, kind)


def _convert(value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(str(error)) from None


def _kind_of(value: object) -> int:
    if not isinstance(value, list) or not value or type(value[0]) is not int or value[0] < 0:
        raise RemoteProtocolError("a message or record is an array that starts with its kind")
    return value[0]


def encode_message(message: msgspec.Struct) -> bytes:
    return dumps(msgspec.to_builtins(message, builtin_types=(bytes,)))


def decode_message(data: bytes) -> Message | None:
    """Decode one frame; None for a kind newer than this version. Raises RemoteProtocolError."""
    value = loads(data)
    kind = _MESSAGES.get(_kind_of(value))
    return None if kind is None else _convert(value, kind)


# By kind rather than by union: msgspec builds a union anew at each call, 20 us of it (measured).
_MESSAGES: Final[dict[object, type[Message]]] = {
    kind.__struct_config__.tag: kind for kind in get_args(Message)
}
_RECORDS: Final[dict[object, type[Record]]] = {
    kind.__struct_config__.tag: kind for kind in get_args(Record)
}


def encode_record(record: Record) -> bytes:
    return dumps(msgspec.to_builtins(record, builtin_types=(bytes,)))


def decode_as(data: bytes, kind: type[T]) -> T:
    """Decode a frame of a stream on which only `kind` can come. Raises RemoteProtocolError."""
    return _convert(loads(data), kind)


def decode_record(body: bytes) -> Record | Unknown:
    """Decode a record's body, an unknown kind as Unknown. Raises RemoteProtocolError."""
    value = loads(body, RECORD_BYTES_MAX)
    number = _kind_of(value)
    kind = _RECORDS.get(number)
    return Unknown(number) if kind is None else _convert(value, kind)


def seal(record: Record, keyring: Keyring, certificate: bytes | None = None) -> bytes:
    """Sign `record`; `certificate` replaces the keyring's own (b"" where the root itself signs)."""
    body = encode_record(record)
    chain = keyring.certificate if certificate is None else certificate
    return dumps([body, keyring.peer, keyring.sign(SIGNATURE_CONTEXT + body), chain])


def open_sealed(data: bytes, keyring: Keyring) -> Sealed:
    """Verify signature and certificate chain up to the shoal root, over the bytes as they came.

    Says nothing of expiry, roles or revocation: those decide about acting, not about storing.
    Raises RemoteProtocolError.
    """
    return _open(data, keyring, CHAIN_MAX)


def _open(data: bytes, keyring: Keyring, links: int) -> Sealed:
    known = keyring.opened.get(data)
    if known is not None and known.links <= links:
        return known
    sealed = _verified(data, keyring, links)
    keyring.opened.put(sealed)
    return sealed


def _verified(data: bytes, keyring: Keyring, links: int) -> Sealed:
    envelope = _convert(loads(data, RECORD_BYTES_MAX), Envelope)
    body, author = envelope.body, envelope.author
    chain = None
    if str(author) == keyring.shoal:
        if envelope.certificate:
            raise RemoteProtocolError("the shoal root needs no certificate")
    else:
        if links == 0:
            raise RemoteProtocolError("certificate chain too long")
        if not envelope.certificate:
            raise RemoteProtocolError(f"nobody of this shoal certifies {author}")
        chain = _open(envelope.certificate, keyring, links - 1)
    certificate = None if chain is None else _certificate_in(chain, author, keyring)
    if not keyring.verify(author, SIGNATURE_CONTEXT + body, envelope.signature):
        raise RemoteProtocolError(f"bad signature by {author}")
    above = 0 if chain is None else chain.links + 1
    return Sealed(decode_record(body), author, certificate, body, data, above)


def certificate_of(
    data: bytes, peer: PeerId, keyring: Keyring, known: Certificate | None
) -> Certificate:
    """The certificate of `peer` that is sealed in `data`; where that is empty, the one `known`.

    Raises RemoteProtocolError.
    """
    if not data and known is None:
        raise RemoteProtocolError(f"no certificate of {peer} is known")
    if data:
        return _certificate_in(open_sealed(data, keyring), peer, keyring)
    assert known is not None
    return known


def _certificate_in(sealed: Sealed, author: PeerId, keyring: Keyring) -> Certificate:
    """The certificate that `sealed` is for `author`."""
    certificate = sealed.record
    if not isinstance(certificate, Certificate):
        raise RemoteProtocolError("not signed under a certificate")
    if sealed.certificate is not None and not sealed.certificate.holds(Role.ADMIT):
        raise RemoteProtocolError(f"{sealed.author} admits without the role")
    if certificate.peer != author or certificate.shoal != keyring.shoal:
        raise RemoteProtocolError("the certificate is another peer's or another shoal's")
    return certificate
