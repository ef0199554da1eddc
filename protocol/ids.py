"""Identities: how peers, jobs, revisions and executions are named, and who ranks first for a key.

Every derived id is 160 bits of SHA-256 in lower-case base32: 32 characters, no padding, the same
text on the wire, on disk, in the API and in a person's terminal.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterable
from typing import Annotated, NewType

from msgspec import Meta

# The patterns bind what peers send (wire.py): an id is safe as a file name, in a topic, on a
# terminal. A name of ours for a peer may be shorter than libp2p's 52 characters, as in simulations.
_Peer = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
_Derived = Annotated[str, Meta(pattern=r"\A[a-z2-7]{32}\Z")]

PeerId = NewType("PeerId", _Peer)  # libp2p's base58 text form of an Ed25519 identity key
ShoalId = NewType("ShoalId", _Peer)  # the shoal root key, in the same form as a peer id
JobId = NewType("JobId", _Derived)
Revision = NewType("Revision", _Derived)  # hash of one spec record's bytes
ExecutionId = NewType("ExecutionId", _Derived)

ID_BYTES = 20  # 160 bits is 32 base32 characters exactly
ID_CHARS = 32
PEER_SLOT_MIN = 1 << 47  # from here on a slot is a peer's; below are those that Count numbers


def derive(domain: str, *parts: str | bytes) -> str:
    """Hash `parts` under `domain` into an id, lengths too, so that they cannot run together."""
    return b32encode(_digest(domain, *parts)[:ID_BYTES]).decode().lower()


def _digest(domain: str, *parts: str | bytes) -> bytes:
    h = hashlib.sha256(domain.encode())
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        h.update(len(raw).to_bytes(8, "big"))
        h.update(raw)
    return h.digest()


def job_id(shoal: ShoalId, namespace: str, kind: str, key: str) -> JobId:
    """Name a job. The owner takes no part, so two islands that run one file mean one job."""
    return JobId(derive("shoal/job/1", shoal, namespace, kind, key))


def revision_of(spec_body: bytes) -> Revision:
    """Name one spec record by its signed bytes."""
    return Revision(derive("shoal/revision/1", spec_body))


def execution_id(
    revision: Revision, slot: int, term: int, coordinator: PeerId, attempt: int, run: int = 0
) -> ExecutionId:
    """Name one attempt; the same award resent names the same execution. `run` counts how often a
    service's attempt was started again where it was.

    In a peer's own slot there is one attempt, whoever awards it: the fence takes no part.
    """
    if slot >= PEER_SLOT_MIN:
        term, coordinator, attempt = 0, PeerId(""), 0
    tries = str(attempt) if not run else f"{attempt}.{run}"
    return ExecutionId(
        derive("shoal/execution/1", revision, str(slot), str(term), coordinator, tries)
    )


def peer_slot(job: JobId, peer: PeerId) -> int:
    """The slot of a peer in a job whose slots are peers.

    By hash, so that two islands that list peers for one job mean the same slot by the same peer,
    and different ones by different peers: of 10,000 peers two collide in one job of three million.
    """
    return PEER_SLOT_MIN | int.from_bytes(_digest("shoal/peer-slot/1", job, peer)[:6], "big") >> 1


def rendezvous(key: str, peers: Iterable[PeerId]) -> list[PeerId]:
    """Rank `peers` for `key`, highest hash first (Thaler and Ravishankar 1998).

    All who know the same peers agree on the order, and a peer that leaves moves nobody else.
    """
    prefix = hashlib.blake2b(key.encode(), digest_size=16)
    ranked: list[tuple[bytes, PeerId]] = []
    for peer in peers:
        h = prefix.copy()
        h.update(peer.encode())
        ranked.append((h.digest(), peer))
    ranked.sort(reverse=True)
    return [peer for _, peer in ranked]


def outranks(key: str, peer: PeerId, other: PeerId) -> bool:
    """Whether `peer` comes before `other` in a rendezvous: two hashes, whoever else is ranked."""
    return rendezvous(key, (peer, other))[0] == peer
