"""Identities for tests: one shoal root and members of it, made from fixed seeds."""

from __future__ import annotations

import hashlib
import time

from agent import peerid
from agent.identity import IdentityKeyring
from protocol.ids import ShoalId
from protocol.records import Certificate, Keyring, Role
from protocol.wire import seal

DAY_MS = 86_400_000


def seed(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def root(name: str = "root") -> IdentityKeyring:
    """A shoal root: a keyring whose peer is its shoal."""
    key = IdentityKeyring(seed(name))
    return key.member_of(ShoalId(key.peer), b"")


def certificate(
    name: str,
    issuer: Keyring,
    roles: tuple[Role, ...] = (Role.COMPUTE, Role.SUBMIT),
    expires_ms: int | None = None,
) -> bytes:
    now_ms = int(time.time() * 1000)
    record = Certificate(
        shoal=issuer.shoal,
        peer=IdentityKeyring(seed(name)).peer,
        name=name,
        roles=tuple(roles),
        namespaces=("*",),
        issued_ms=now_ms - DAY_MS,
        expires_ms=now_ms + DAY_MS if expires_ms is None else expires_ms,
    )
    return seal(record, issuer, b"" if issuer.peer == issuer.shoal else None)


def peer_bytes(name: str) -> bytes:
    """The binary form of a peer id: a multihash."""
    public = peerid.decode(IdentityKeyring(seed(name)).peer)
    return bytes.fromhex("002408011220") + public


def member(name: str, issuer: IdentityKeyring | None = None) -> IdentityKeyring:
    """The keyring of a member of the issuer's shoal."""
    issuer = root() if issuer is None else issuer
    return IdentityKeyring(seed(name)).member_of(issuer.shoal, certificate(name, issuer))
