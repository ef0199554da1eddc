"""Gossip: rumours over gossipsub, among admitted members only.

What py-libp2p 0.8.1 does, and is cured here:
- an unparsable RPC, a malformed key, a peer id that is none, or a raising validator ends the host;
- streams are opened to and read from whoever connects; the topic's validator comes last, and its
  verdict is cached for 300 s, so that "not admitted yet" would bar a message for good: here the
  check comes first and drops without a verdict;
- message numbers start at the whole second of the start: after a quick restart with the same key
  everything is dropped as seen;
- spam protection drops silently above 10 messages a second, our own included;
- a signed message is delivered again after 120 s;
- the heartbeat is every 120 s, and meshes of degree 3 lose messages and do not heal;
- the subscription and the queue to each peer hold 32 and drop silently.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from agent.transport.counters import Counters
from agent.transport.settings import TransportSettings
from protocol.ids import ShoalId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # libp2p brings stubs that hide trio's own

RPC_BYTES_MAX: Final = 64 * 1024
REMEMBERED_MAX: Final = 16_384  # message ids, some 2 MB: hours at the rate that is allowed
QUEUE: Final = 256  # rumours, either way
PEER_QUEUE_HIGH: Final = 16  # of upstream's 32: control messages share the queue
PACE_S: Final = 0.01
PACE_TURNS: Final = 50
PEER_STREAM_S: Final = 15.0
TOPICS_MAX: Final = 4

logger = logging.getLogger(__name__)


def topic_of(shoal: ShoalId) -> str:
    return f"shoal/{shoal}"


class SafeGossip(GossipSub):
    """GossipSub whose background work survives what peers send."""

    async def heartbeat(self) -> None:
        while True:
            try:
                await super().heartbeat()
            except Exception as error:
                logger.warning("gossip heartbeat: %r", error)
                await trio.sleep(1)

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        await _survive(super().on_peer_subscribed(peer_id, topic))

    async def flush_pending_messages(self, peer_id: ID) -> None:
        await _survive(super().flush_pending_messages(peer_id))

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        """Dial nobody because a PRUNE says so: upstream does, whatever `do_px` is."""


class SafePubsub(Pubsub):
    """Pubsub for one topic, open to admitted peers only; `deliver` must not wait."""

    def __init__(
        self,
        host: BasicHost,
        router: SafeGossip,
        topic: str,
        settings: TransportSettings,
        counters: Counters,
        admitted: Callable[[INetStream], Awaitable[bool]],
        is_member: Callable[[ID], bool],
        offended: Callable[[ID], None],
        deliver: Callable[[bytes], None],
    ) -> None:
        super().__init__(
            host,
            router,
            strict_signing=True,
            max_subscriptions_per_rpc=TOPICS_MAX,
            max_subscriptions_per_peer=TOPICS_MAX,
            max_inbound_rpc_size=RPC_BYTES_MAX,
            allowed_topics={topic},
        )
        self.counter = time.time_ns()  # numbers never repeat across restarts
        self._topic = topic
        self._settings = settings
        self._counters = counters
        self._admitted = admitted
        self._is_member = is_member
        self._offended = offended
        self._deliver = deliver
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._buckets: dict[ID, tuple[float, float]] = {}  # peer: (tokens, when)

    async def stream_handler(self, stream: INetStream) -> None:
        """Peers open their gossip stream as soon as they connect: wait for their Hello a while."""
        if await self._admitted(stream):
            await super().stream_handler(stream)
        else:
            self._counters.count("refused.gossip-stream")
            await stream.reset()

    async def continuously_read_stream(self, stream: INetStream) -> None:
        try:
            await super().continuously_read_stream(stream)
        except Exception as error:
            self._blame(stream.muxed_conn.peer_id, error)
            await _survive(stream.reset())
            self._handle_dead_peer(stream.muxed_conn.peer_id)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        if self._is_member(peer_id):
            await super()._handle_new_peer(peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        mine = msg_forwarder == self.my_id
        try:
            if mine or self._acceptable(msg_forwarder, msg):
                await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            if mine:
                raise
            self._blame(msg_forwarder, error)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Called once a message's signature held. Replaces upstream's channel of 32."""
        self._remembered[self.get_message_id(publish_message)] = None
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        if publish_message.from_id != self.my_id.to_bytes():
            self._deliver(publish_message.data)

    def _acceptable(self, forwarder: ID, msg: rpc_pb2.Message) -> bool:
        """The cheap checks, before any signature is verified (100 us)."""
        if not self._is_member(forwarder):
            self._counters.count("refused.gossip")
        elif len(msg.data) > self._settings.gossip_bytes_max or list(msg.topicIDs) != [self._topic]:
            self._blame(forwarder, ValueError("a rumour that is too long or on other topics"))
        elif self.get_message_id(msg) in self._remembered:
            self._counters.count("drop.gossip-seen")
        elif not self._within_rate(forwarder):
            self._counters.count("drop.gossip-rate")
        else:
            self._counters.gossip_in += 1
            self._counters.gossip_bytes_in += len(msg.data)
            return True
        return False

    def _within_rate(self, peer: ID) -> bool:
        now, burst = trio.current_time(), float(self._settings.gossip_burst)
        tokens, then = self._buckets.get(peer, (burst, now))
        tokens = min(burst, tokens + (now - then) * self._settings.gossip_rate)
        self._buckets[peer] = (max(tokens - 1, 0.0), now)
        return tokens >= 1

    def _blame(self, peer: ID, error: Exception) -> None:
        self._counters.count("malformed.gossip")
        self._offended(peer)
        logger.info("gossip of %s: %r", peer, error)

    async def drop(self, peer: ID) -> None:
        """The peer's connection is gone, or is being replaced."""
        stream = self.peers.get(peer)
        self._buckets.pop(peer, None)
        self._handle_dead_peer(peer)
        if stream is not None:
            await _survive(stream.reset())


class Gossip:
    """One topic, with bounded queues in and out."""

    def __init__(
        self,
        host: BasicHost,
        shoal: ShoalId,
        settings: TransportSettings,
        counters: Counters,
        admitted: Callable[[INetStream], Awaitable[bool]],
        is_member: Callable[[ID], bool],
        offended: Callable[[ID], None],
    ) -> None:
        self._topic = topic_of(shoal)
        self._settings = settings
        self._counters = counters
        self._in_send, self.received = trio.open_memory_channel[bytes](QUEUE)
        self._out_send, self._out = trio.open_memory_channel[bytes](QUEUE)
        self._router = SafeGossip(
            # 1.2 doubles the RPCs of small messages; others default to it, so it is spoken too.
            protocols=[PROTOCOL_ID_V11, PROTOCOL_ID_V12],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,
            spam_protection_enabled=False,
            adaptive_gossip_enabled=False,  # it moves degree and heartbeat by its own figures
            eclipse_protection_enabled=False,  # it grafts beyond the degree for want of networks
        )
        self._pubsub = SafePubsub(
            host,
            self._router,
            self._topic,
            settings,
            counters,
            admitted,
            is_member,
            offended,
            self._on_rumour,
        )
        # Upstream would open a gossip stream to whoever connects.
        host.get_network().notifees.clear()  # type: ignore[attr-defined]

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with background_trio_service(self._router), background_trio_service(self._pubsub):
            await self._pubsub.wait_until_ready()
            await self._pubsub.subscribe(self._topic)
            task_status.started()
            async for frame in self._out:
                await _survive(self._publish(frame))

    def publish(self, frame: bytes) -> bool:
        """Queue a rumour; False where it was dropped, and counted."""
        if len(frame) > self._settings.gossip_bytes_max:
            self._counters.count("drop.gossip-too-long")
            return False
        try:
            self._out_send.send_nowait(frame)
        except trio.WouldBlock:
            self._counters.count("drop.gossip-full")
            return False
        return True

    async def admit(self, peer: ID) -> None:
        """A connection to this member stands: open our gossip stream on it."""
        await _survive(self._pubsub.ensure_peer_stream(peer, PEER_STREAM_S))

    async def drop(self, peer: ID) -> None:
        await self._pubsub.drop(peer)

    async def _publish(self, frame: bytes) -> None:
        self._counters.gossip_out += 1
        self._counters.gossip_bytes_out += len(frame)
        await self._pubsub.publish(self._topic, frame)
        for _ in range(PACE_TURNS):  # full queues drop silently; a stuck peer holds us up no longer
            if all(len(queue) <= PEER_QUEUE_HIGH for queue in self._pubsub.peer_queues.values()):
                break
            await trio.sleep(PACE_S)

    def _on_rumour(self, frame: bytes) -> None:
        try:
            self._in_send.send_nowait(frame)
        except trio.WouldBlock:
            self._counters.count("drop.gossip-in")


async def _survive(call: Awaitable[bool | None]) -> None:
    try:
        await call
    except Exception as error:
        logger.info("gossip: %r", error)
