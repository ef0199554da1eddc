"""Keys of simulated peers: keyed hashes in place of signatures, certificates by a shoal root."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from dataclasses import dataclass, field
from typing import Final

from protocol.ids import PeerId, ShoalId
from protocol.opened import Opened
from protocol.records import Certificate, Role
from protocol.wire import seal

SIGNATURE_BYTES: Final = 64  # as Ed25519's, so that frames are as long as real ones
EVERY_ROLE: Final = (Role.COMPUTE, Role.SUBMIT)


@dataclass(slots=True)
class SimKeyring:
    """Signs with a hash keyed by the signer's name: cheap, and forged by nobody in here."""

    peer: PeerId
    shoal: ShoalId
    certificate: bytes = b""
    issued: Certificate | None = None  # what `certificate` says
    opened: Opened = field(default_factory=Opened)

    def sign(self, data: bytes) -> bytes:
        return _signature(self.peer, data)

    def verify(self, signer: str, data: bytes, signature: bytes) -> bool:
        return signature == _signature(signer, data)


@dataclass(slots=True)
class Root:
    """The shoal's root key: it issues every certificate."""

    name: str
    keyring: SimKeyring = field(init=False)

    def __post_init__(self) -> None:
        name = peer_name(f"{self.name}/root")
        self.keyring = SimKeyring(name, ShoalId(name))

    def member(self, index: int, roles: tuple[str, ...] = EVERY_ROLE) -> SimKeyring:
        """The keyring of the device with this number, with these roles in every namespace."""
        peer = peer_name(f"{self.name}/{index}")
        keyring = SimKeyring(peer, self.keyring.shoal, opened=self.keyring.opened)
        keyring.issued = Certificate(
            shoal=self.keyring.shoal,
            peer=peer,
            name=f"pi-{index}",
            roles=roles,
            namespaces=("*",),
            issued_ms=0,
            expires_ms=4_102_444_800_000,  # the year 2100
        )
        keyring.certificate = seal(keyring.issued, self.keyring, b"")
        return keyring


def peer_name(text: str) -> PeerId:
    """A name as long as libp2p's text form of an Ed25519 key, and as random in its order."""
    digest = hashlib.blake2b(text.encode(), digest_size=28, person=b"shoal/sim/peer").digest()
    return PeerId("12D3KooW" + b32encode(digest).decode().rstrip("=")[:44])


def _signature(signer: str, data: bytes) -> bytes:
    key = hashlib.blake2b(signer.encode(), digest_size=32).digest()
    return hashlib.blake2b(data, key=key, digest_size=SIGNATURE_BYTES).digest()
