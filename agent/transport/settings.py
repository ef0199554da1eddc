"""Every number the transport lives by: its default, and why that default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

MESSAGE_PROTOCOL: Final = "/shoal/msg/1"
JOIN_PROTOCOL: Final = "/shoal/join/1"
ARCHIVE_PROTOCOL: Final = "/shoal/archive/1"
LOG_PROTOCOL: Final = "/shoal/log/1"
SPLICE_PROTOCOL: Final = "/shoal/splice/1"

LEAF_BACKOFF_S: Final = (
    300.0  # backoff_max_s of a leaf: a dial in vain is three packets it pays for
)


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Where to listen and what to allow. Durations are seconds, sizes are bytes."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4001",)  # 4001 is libp2p's usual port
    announce: tuple[str, ...] = ()  # instead of what the interfaces say: a port forwarding, a name
    version: str = "0"  # of this program, told in the Hello
    gossip: bool = True  # a leaf on a metered link stays out of the mesh (DESIGN 5)
    leaf: bool = False  # dials what discovery finds only while it is connected to nobody

    connections_max: int = 32  # DESIGN 5: we dial no more than this; others on demand
    connections_spare: int = 16  # inbound beyond the above, before a Hello is answered "busy"
    guests_max: int = 16  # connections without a verified Hello: joining, pinging, strangers
    guest_s: float = 60.0  # a join takes seconds; a stranger has no business for longer
    idle_s: float = 60.0  # an on-demand connection without a frame for so long is closed
    handshakes_max: int = 128  # sockets that have not finished Noise; the oldest makes room
    handshakes_per_source: int = 64  # twenty agents of one test machine dial at once
    handshake_s: float = 10.0  # 10 ms on a LAN; a Pi with all its CPU taken needs seconds
    hello_s: float = 10.0  # includes the probe of a former boot
    probe_s: float = 2.0  # a former boot that does not answer within this is gone
    together_s: float = 5.0  # two connections this close in time are one simultaneous dial

    outbox_frames_max: int = 1024  # per peer; beyond it frames are dropped, as a network would
    outbox_bytes_max: int = 4 * 1024 * 1024
    pending_frames_max: int = 16  # per peer that is being dialled on demand
    pending_peers_max: int = 64
    addresses_max: int = 8  # per peer; more is a peer that wants us to dial around
    peers_known_max: int = 4096  # whose addresses are remembered

    dial_s: float = 5.0  # for one TCP connection: a SYN is resent after 1 s and 3 s
    dial_stagger_s: float = 0.1  # happy eyeballs (RFC 8305 says 0.25; LAN addresses answer at once)
    dials_max: int = 8  # at a time: each costs ~10 ms of CPU for the handshake
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    refused_again_s: float = 0.5  # DESIGN 5: refused twice half a second apart is death

    splices_max: int = 32  # streams joined for others at one time
    splice_bytes_s: float = 512 * 1024.0  # of each, both ways: a log read along, an archive in 30 s
    splice_idle_s: float = 120.0  # a log that is followed may say nothing for so long

    gossip_bytes_max: int = 4096  # of one rumour; everything larger goes over streams
    gossip_rate: float = 20.0  # a second and peer: one costs ~10 ms of CPU (measured)
    gossip_burst: int = 60

    def on_metered_link(self) -> Self:
        """The same for a leaf."""
        return replace(self, gossip=False, leaf=True, backoff_max_s=LEAF_BACKOFF_S)
