"""Keys of the golden vectors: a shoal whose seeds anybody can write down, and nobody shall use."""

from __future__ import annotations

from agent.identity import IdentityKeyring
from protocol.ids import ShoalId
from protocol.records import Certificate, Role
from protocol.wire import seal

ROOT_SEED = bytes([1]) * 32
ADMIT_SEED = bytes([2]) * 32
PEER_SEED = bytes([3]) * 32  # certified by the root
GUEST_SEED = bytes([4]) * 32  # certified by the admitting peer

ISSUED_MS = 1_760_000_000_000
EXPIRES_MS = ISSUED_MS + 365 * 86_400_000

ROOT = IdentityKeyring(ROOT_SEED)
SHOAL = ShoalId(ROOT.peer)


def _member(
    seed: bytes, name: str, roles: tuple[Role, ...], issuer: IdentityKeyring
) -> IdentityKeyring:
    member = IdentityKeyring(seed)
    certificate = Certificate(
        shoal=SHOAL,
        peer=member.peer,
        name=name,
        roles=roles,
        namespaces=("*",),
        issued_ms=ISSUED_MS,
        expires_ms=EXPIRES_MS,
    )
    return member.member_of(SHOAL, seal(certificate, issuer))


ROOT_KEYRING = ROOT.member_of(SHOAL, b"")
ADMIT = _member(ADMIT_SEED, "porch", (Role.COMPUTE, Role.SUBMIT, Role.ADMIT), ROOT_KEYRING)
PEER = _member(PEER_SEED, "küche", (Role.COMPUTE, Role.SUBMIT, Role.OPERATE), ROOT_KEYRING)
GUEST = _member(GUEST_SEED, "barn", (Role.COMPUTE,), ADMIT)
