"""From a socket to streams: Noise and nothing else, then our Yamux.

py-libp2p 0.8.1 offers plaintext beside Noise by default, and another peer id was impersonated
through it; it has no gate for peer ids (its ConnectionGate filters addresses); and it ignores the
muxer class that it is given. This upgrader is the one place where connections come into being.
"""

from __future__ import annotations

from collections.abc import Callable

from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.crypto import serialization
from libp2p.crypto.keys import KeyPair, KeyType
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from agent.transport.yamux import PROTOCOL as YAMUX
from agent.transport.yamux import Yamux

NEGOTIATE_S = 10

# A peer is an Ed25519 key here (peerid.py). What reads others is not in memory (diet.py): without
# this, a stranger's key of another kind would fail somewhere inside, and not by name.
for _kind in (KeyType.RSA, KeyType.Secp256k1):
    serialization.key_type_to_public_key_deserializer.pop(_kind.value, None)
    serialization.key_type_to_private_key_deserializer.pop(_kind.value, None)


class Upgrader(TransportUpgrader):
    """`gate` says of each peer id that Noise proved whether it may come in at all; `born` hears of
    each connection before its first stream can exist."""

    def __init__(
        self, key_pair: KeyPair, gate: Callable[[ID], bool], born: Callable[[Yamux], None]
    ) -> None:
        noise = NoiseTransport(key_pair, noise_privkey=create_x25519_key_pair().private_key)
        super().__init__({NOISE: noise}, {TProtocol(YAMUX): Yamux}, NEGOTIATE_S)
        self._gate = gate
        self._born = born

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        secured = await super().upgrade_security(raw_conn, is_initiator, peer_id)
        if not self._gate(secured.get_remote_peer()):
            await secured.close()
            raise SecurityUpgradeFailure("this peer may not connect")
        return secured

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        await self.muxer_multistream.select_transport(conn)  # agrees on Yamux or raises
        muxed = Yamux(conn, peer_id)
        self._born(muxed)
        return muxed
