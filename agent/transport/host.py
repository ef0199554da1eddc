"""The libp2p host: what of py-libp2p 0.8.1 runs here, and each thing of it that is turned off.

Of libp2p this takes the swarm, Noise, multistream-select, identify, ping and (gossip.py) gossipsub.
TCP, Yamux, dialling, connection limits and everything about peers are ours.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from multiaddr import Multiaddr

from agent.transport.counters import Counters
from agent.transport.security import Upgrader

NEGOTIATE_S: Final = 10
_UNLIMITED: Final = 1 << 20  # upstream's limits trim by their own rules; ours are in transport.py

logger = logging.getLogger(__name__)


class NoAutoConnector(AutoConnector):
    """Upstream's dials known peers up to half the high watermark, however low the low one is."""

    async def start(self) -> None:
        return

    async def maybe_connect(self) -> None:
        return


def key_pair_of(seed: bytes) -> KeyPair:
    private = Ed25519PrivateKey.from_bytes(seed)
    return KeyPair(private, private.get_public_key())


def build_host(
    key_pair: KeyPair,
    upgrader: Upgrader,
    addresses: Callable[[], Sequence[str]],
    counters: Counters,
) -> BasicHost:
    """A host without transports of its own: connections are brought to its swarm.

    Swarm: no transports, so that nothing upstream dials (peer exchange in a PRUNE, gossipsub's
    direct peers, the auto-connector, stale addresses); no watermarks, so that nothing is trimmed.
    Host: `addresses` are what identify tells, since upstream tells 0.0.0.0 verbatim; no
    identify-push, by which anybody could fill the peer store; no observed addresses.
    """
    # It logs as errors what strangers do every day; what matters is counted, and logged by us.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    swarm = Swarm(
        peer_id,
        peerstore,
        upgrader,
        transports=[],
        connection_config=ConnectionConfig(
            max_connections=_UNLIMITED,
            high_watermark=_UNLIMITED,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=_UNLIMITED,
        ),
    )

    def announced(_: list[Multiaddr]) -> list[Multiaddr]:
        return [Multiaddr(text) for text in addresses()]

    host = BasicHost(
        swarm,
        default_protocols=OrderedDict[TProtocol, StreamHandlerFn](),
        negotiate_timeout=NEGOTIATE_S,
        addrs_factory=announced,
        disable_identify_address_discovery=True,
    )
    # BasicHost takes an empty mapping for "the defaults", identify-push among them.
    host.multiselect.handlers.clear()
    host.set_stream_handler(IDENTIFY, identify_handler_for(host, use_varint_format=True))
    host.set_stream_handler(PING, PingService(host).handle_ping)
    swarm.auto_connector = NoAutoConnector(swarm)
    # They would identify every peer (5 ms each) and keep what it says of itself for ever.
    swarm.notifees.clear()
    swarm.set_stream_handler(_dispatcher(host, counters))
    return host


def _dispatcher(host: BasicHost, counters: Counters) -> Callable[[INetStream], Awaitable[None]]:
    """Agree on a protocol and run its handler. Any exception that leaves a stream handler ends
    the whole host upstream: nothing leaves this one."""

    async def dispatch(stream: INetStream) -> None:
        try:
            protocol, handler = await host.get_mux().negotiate(
                MultiselectCommunicator(stream), NEGOTIATE_S
            )
            if protocol is None or handler is None:
                await stream.reset()
                return
            stream.set_protocol(protocol)
            await handler(stream)
        except MultiselectError:
            counters.count("refused.negotiation")
            await _reset(stream)
        except Exception as error:
            counters.count("malformed.stream")
            logger.info("stream of %s: %r", stream.muxed_conn.peer_id, error)
            await _reset(stream)

    return dispatch


async def _reset(stream: INetStream) -> None:
    try:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.reset()
    except Exception as error:
        logger.debug("resetting a stream: %r", error)
