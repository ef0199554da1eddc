"""Fakes: a shoal whose keys cost nothing, for tests that do not test cryptography.

A signature is a keyed hash under the signer's name. Whoever knows the name could forge it; that a
changed byte or another signer is noticed is all that these tests need.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from protocol.ids import PeerId, ShoalId
from protocol.opened import Opened
from protocol.records import Certificate, Role
from protocol.wire import seal

SHOAL = ShoalId("shoal")
YEAR_MS = 365 * 86_400_000


@dataclass(frozen=True)
class FakeKeyring:
    """One peer's keys; the shoal root's where `peer` and `shoal` are one text."""

    peer: PeerId
    shoal: ShoalId
    certificate: bytes = b""
    opened: Opened = field(default_factory=Opened, compare=False)

    def sign(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self.peer.encode(), digest_size=16).digest()

    def verify(self, signer: str, data: bytes, signature: bytes) -> bool:
        return hashlib.blake2b(data, key=signer.encode(), digest_size=16).digest() == signature


@dataclass
class FakeShoal:
    """Issues certificates by name; asked twice for one name, it gives the same keyring."""

    id: ShoalId = SHOAL
    keyrings: dict[str, FakeKeyring] = field(default_factory=dict)

    @property
    def root(self) -> FakeKeyring:
        return FakeKeyring(PeerId(self.id), self.id)

    def keyring(
        self,
        name: str,
        *roles: Role,
        namespaces: tuple[str, ...] = ("*",),
        issuer: FakeKeyring | None = None,
    ) -> FakeKeyring:
        """The keyring of the peer `name`: with `compute` and `submit` unless `roles` are given,
        certified by the root unless an `issuer` is."""
        if name not in self.keyrings:
            certificate = Certificate(
                shoal=self.id,
                peer=PeerId(name),
                name=name,
                roles=roles or (Role.COMPUTE, Role.SUBMIT),
                namespaces=namespaces,
                issued_ms=0,
                expires_ms=100 * YEAR_MS,
            )
            sealed = seal(certificate, issuer or self.root)
            self.keyrings[name] = FakeKeyring(PeerId(name), self.id, sealed)
        return self.keyrings[name]
