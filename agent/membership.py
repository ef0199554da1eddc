"""The membership file: this device's certificate and what it needs to find its shoal again.

One file, so that certificate, shoal name, first addresses and initial labels change together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent import durable
from agent.identity import IdentityKeyring, load_identity
from protocol.errors import RemoteProtocolError, ShoalError
from protocol.ids import PeerId, ShoalId
from protocol.records import Certificate, Departure, Keyring, Role
from protocol.wire import decode_as, dumps, open_sealed, seal

MEMBERSHIP_FILE = "membership"
NAME_LENGTH_MAX = 63  # a DNS label's, so that a host name always fits
# Nothing but revocation ends a membership in practice: devices sit on masts and in walls for a
# decade, often without a clock that could be trusted, and there is nobody to renew them.
CERTIFICATE_MS = 10 * 365 * 86_400 * 1000
# A board without a clock starts in 1970: a certificate issued then would be over once it knows the
# time. None of ours is older than the first release.
EARLIEST_MS = 1_767_225_600_000  # 2026-01-01 UTC

_HEADER = b"shoal membership 1\n"
_DIGEST_BYTES = 8  # against damage, not against people: the certificate is signed
_NAME_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class MembershipError(ShoalError):
    """This device's membership cannot be used; the text is for a person and says the way out."""


class MembershipDamaged(MembershipError):
    """The file is there and says nothing any more."""


class Membership(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What the file holds; `certificate` is the sealed one."""

    shoal: ShoalId
    shoal_name: str
    certificate: bytes
    addresses: tuple[str, ...] = ()  # of peers to start from, with /p2p
    labels: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Member:
    """This device as a member: its keyring, the file's content and the certificate, opened."""

    keyring: IdentityKeyring
    membership: Membership
    certificate: Certificate


def load_member(data_dir: Path) -> Member:
    """Read identity and membership of this device. Raises IdentityError and MembershipError."""
    identity = load_identity(data_dir)
    membership = read_membership(data_dir)
    if membership is None:
        raise MembershipError(
            f"the device in {data_dir} belongs to no shoal yet: `shoal init` starts one, "
            "`shoal join TOKEN` joins one"
        )
    keyring = identity.member_of(membership.shoal, membership.certificate)
    try:
        certificate = check_certificate(membership.certificate, keyring)
    except RemoteProtocolError as error:
        raise MembershipError(
            f"the certificate in {data_dir / MEMBERSHIP_FILE} is not this device's ({error}): "
            "join again with `shoal join TOKEN`"
        ) from None
    return Member(keyring, membership, certificate)


def read_membership(data_dir: Path) -> Membership | None:
    """Read the file; None where this device belongs to no shoal.

    Raises MembershipError, MembershipDamaged where there is nothing left to read.
    """
    path = data_dir / MEMBERSHIP_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MembershipError(f"{path} cannot be read: {error.strerror}") from None
    digest, payload = data[len(_HEADER) :][:_DIGEST_BYTES], data[len(_HEADER) + _DIGEST_BYTES :]
    try:
        if not data.startswith(_HEADER) or digest != _digest(payload):
            raise RemoteProtocolError("damaged")
        return decode_as(payload, Membership)
    except RemoteProtocolError:
        raise MembershipDamaged(
            f"{path} is damaged: join again with `shoal join TOKEN`, or `shoal recover BACKUP` "
            "where nobody is left to invite; the identity is kept"
        ) from None


def write_membership(data_dir: Path, membership: Membership, *, first: bool = False) -> None:
    """Save durably. `first`: never over one that exists. Raises MembershipError."""
    payload = dumps(msgspec.to_builtins(membership, builtin_types=(bytes,)))
    put = durable.create if first else durable.write
    try:
        durable.make_directory(data_dir)
        put(data_dir / MEMBERSHIP_FILE, _HEADER + _digest(payload) + payload)
    except FileExistsError:
        raise MembershipError(f"the device in {data_dir} belongs to a shoal already") from None
    except OSError as error:
        raise MembershipError(f"{data_dir} cannot be written: {error.strerror}") from None


def issue_certificate(
    peer: PeerId,
    name: str,
    roles: Iterable[Role],
    issuer: Keyring,
    wall_ms: int,
    *,
    namespaces: tuple[str, ...] = ("*",),
) -> bytes:
    """Seal a certificate for `peer`; roles in the order of the enumeration.

    `issuer` is the shoal root (a keyring whose peer is its shoal) or a member with `admit`.
    """
    issued_ms = max(wall_ms, EARLIEST_MS)
    wanted = frozenset(roles)
    certificate = Certificate(
        shoal=issuer.shoal,
        peer=peer,
        name=name,
        roles=tuple(role.value for role in Role if role in wanted),
        namespaces=namespaces,
        issued_ms=issued_ms,
        expires_ms=issued_ms + CERTIFICATE_MS,
    )
    return seal(
        certificate, issuer, b"" if str(issuer.peer) == issuer.shoal else issuer.certificate
    )


def check_certificate(data: bytes, keyring: IdentityKeyring) -> Certificate:
    """Open the sealed certificate of `keyring`'s own peer and shoal, as others will see it.

    Raises RemoteProtocolError where peers would not accept what is signed under it.
    """
    mine = keyring.member_of(keyring.shoal, data)
    probe = open_sealed(seal(Departure(peer=mine.peer, incarnation=0), mine), mine)
    if probe.certificate is None:
        raise RemoteProtocolError("the shoal root itself is no member")
    return probe.certificate


def device_name(text: str) -> str:
    """A name for a device out of any text, a host name for one: what does not fit is replaced."""
    name = "".join(sign if sign in _NAME_SIGNS else "-" for sign in text.strip())
    return name.strip("-._")[:NAME_LENGTH_MAX] or "device"


def name_problem(name: str) -> str:
    """Why `name` cannot name a shoal or a device, as a sentence; empty where it can."""
    if not name:
        return "a name is needed"
    if len(name) > NAME_LENGTH_MAX:
        return f"a name has at most {NAME_LENGTH_MAX} characters"
    if not set(name) <= _NAME_SIGNS or not name[0].isalnum():
        return (
            f"{name!r} cannot be a name: letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return ""


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_DIGEST_BYTES]
