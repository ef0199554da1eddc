"""Admission: whether the first frame of a message stream makes its sender a member here.

The first frame each way is messages.Hello or messages.Goodbye. Noise has proved the peer id; the
Hello's certificate must be for exactly that id, in our shoal, signed by the shoal root or a member
that may admit, and not expired where the wall clock is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.transport.errors import Refused
from protocol.clock import Now
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, ShoalId
from protocol.messages import Goodbye, Hello
from protocol.records import Certificate, Keyring, Role
from protocol.wire import decode_as, decode_record, encode_message, loads, open_sealed

HELLO_BYTES_MAX: Final = 16 * 1024  # two certificates of ~600 bytes, with room for long name lists
BOOT_BYTES: Final = 16
TEXT_MAX: Final = 200
_GOODBYE_HEAD: Final = b"\x18\x65"  # CBOR of Goodbye's tag 101, after the head of its array


@dataclass(frozen=True, slots=True)
class Member:
    """Who stands at the other end of one message stream."""

    certificate: Certificate
    boot: bytes
    version: str


def greeting(keyring: Keyring, boot: bytes, version: str) -> bytes:
    return encode_message(Hello(keyring.certificate, boot, version))


def parting(code: str, text: str) -> bytes:
    return encode_message(Goodbye(code, text[:TEXT_MAX]))


def read_parting(frame: bytes) -> Goodbye | None:
    """The Goodbye that `frame` is, or None for every other message."""
    if frame[1:3] != _GOODBYE_HEAD:
        return None
    try:
        return decode_as(frame, Goodbye)
    except RemoteProtocolError:
        return None


def examine(frame: bytes, peer: PeerId, keyring: Keyring, now: Now) -> Member:
    """Read a first frame. Raises Refused with the code and text that the sender shall hear, and
    RemoteProtocolError for what is no Hello at all."""
    hello = decode_as(frame, Hello)
    if len(hello.boot) != BOOT_BYTES:
        raise RemoteProtocolError(f"a boot id has {BOOT_BYTES} bytes")
    if not hello.certificate:
        raise Refused("not-a-member", "this peer shows no certificate of the shoal")
    certificate = _certificate(hello.certificate, peer, keyring)
    if now.wall_trusted and now.wall_ms > certificate.expires_ms:
        raise Refused("expired", "the membership certificate has expired; join again")
    return Member(certificate, hello.boot, hello.version[:TEXT_MAX])


def _certificate(data: bytes, peer: PeerId, keyring: Keyring) -> Certificate:
    try:
        sealed = open_sealed(data, keyring)
    except RemoteProtocolError as error:
        other = _claimed_shoal(data)
        if other is not None and other != keyring.shoal:
            raise Refused("other-shoal", "this peer belongs to another shoal") from None
        raise Refused("not-a-member", f"the membership certificate is not valid: {error}") from None
    certificate = sealed.record
    if not isinstance(certificate, Certificate):
        raise Refused("not-a-member", "the certificate is another kind of record")
    # open_sealed vouches for the author's chain, not for the author's right to admit.
    if sealed.certificate is not None and not sealed.certificate.holds(Role.ADMIT):
        raise Refused("not-a-member", "the certificate's issuer may not admit")
    if certificate.shoal != keyring.shoal:
        raise Refused("other-shoal", "this peer belongs to another shoal")
    if certificate.peer != peer:
        raise Refused("not-a-member", "the certificate is another peer's")
    return certificate


def _claimed_shoal(data: bytes) -> ShoalId | None:
    """What an unverified certificate says its shoal is: only to tell its owner what is wrong."""
    try:
        fields = loads(data, HELLO_BYTES_MAX)
        body = fields[0] if isinstance(fields, list) and fields else None
        record = decode_record(body) if isinstance(body, bytes) else None
    except RemoteProtocolError:
        return None
    return record.shoal if isinstance(record, Certificate) else None
