"""A session: one client id at a broker, kept connected, and what is subscribed to under it.

The session without a name is the broker's main one: it begins anew with each connection, and all
that is published goes through it. Others are kept by the broker while this device is away, so that
what was sent meanwhile, or was not acknowledged, comes when it is back.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from random import Random
from typing import Final

import trio

from agent.mqtt.client import Client, Will
from agent.mqtt.message import Incoming, Outgoing
from agent.mqtt.packet import Packet
from agent.mqtt.sending import Sending
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.suspects import STEADY_S
from agent.mqtt.trouble import Trouble, explain

Handler = Callable[[Incoming], None]
RETRY_FIRST_S: Final = 1.0  # a broker that restarts is back in a second
RETRY_MAX_S: Final = 60.0
UNREADABLE_MAX: Final = 5  # connections that one message may end; then what waits is given up
DENIED_S: Final = 600.0  # until what a broker does not allow is tried again: a person mends it
IDENTIFIER_MAX: Final = 268_435_455  # MQTT 5, 3.8.2.1.2
_log = logging.getLogger("shoal.mqtt")


class Subscription:
    """What one caller subscribed to; `problem` says why the broker does not allow it, `granted`
    that it does, in this connection or an earlier one. What is not `needed` is done without, and
    nobody told, where the broker does not allow it. `retained`: what is retained is still to come,
    whether or not the filter is subscribed to already."""

    def __init__(
        self,
        session: Session,
        topic_filter: str,
        qos: int,
        handler: Handler,
        told: Callable[[str], None] = lambda problem: None,
        needed: bool = True,
        retained: bool = False,
    ) -> None:
        self.needed = needed
        self.retained = retained
        self.told = told  # of what the broker says to it, each time that it is made
        self.topic_filter = topic_filter
        self.qos = qos
        self.handler = handler
        self.problem = ""
        self.granted = False
        self._session = session

    def close(self) -> None:
        self._session.unsubscribe(self)


class Session:
    """Connects, and connects again; nothing that the broker does ends it."""

    def __init__(
        self,
        broker: str,
        settings: BrokerSettings,
        client_id: str,
        *,
        persistent: bool,
        will: Will | None,
        changed: Callable[[Session, Trouble | None], None],
        denied: Callable[[str, str], None],
        unreadable: Callable[[str], None],
        rng: Random,
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.trouble: Trouble | None = None  # why it is not connected
        self.connects = False  # it came about the last time that it was tried
        self.begun_anew = False  # with this connection: the broker had kept nothing
        self.unmatched = 0  # messages nobody here had asked for
        self.received = 0
        self.unreadable = 0  # messages that are none
        self._settings = settings
        self._persistent = persistent
        self._will = will
        self._changed = changed
        self._denied = denied
        self._tell_unreadable = unreadable
        self._garbled = 0  # connections in a row that ended over what cannot be read
        self._rng = rng
        self._client: Client | None = None
        self._sending = Sending()
        self._leaving = self._renewing = False
        self._refused = False  # the last connection ended over what the broker refused by name
        self._subscriptions: list[Subscription] = []
        # To be ended at the broker, and who is to hear of it.
        self._left: dict[str, Callable[[], None]] = {}

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.connected

    async def run(self) -> None:
        failures = 0
        while not self._leaving:
            began = trio.current_time()
            trouble = await self._connection()
            if self._renewing:
                self._renewing = False
                self._changed(self, None)
                continue
            good = self._refused or trio.current_time() - began >= STEADY_S
            failures = 0 if good else failures + 1
            self.trouble = trouble
            self._changed(self, trouble)
            pause = min(RETRY_FIRST_S * 2 ** min(failures - 1, 16), RETRY_MAX_S)
            await trio.sleep(max(pause, RETRY_FIRST_S) * (0.5 + self._rng.random()))

    async def _connection(self) -> Trouble:
        """One connection, from its beginning to its end; what ended it."""
        client: Client | None = None
        reached = self._refused = False
        try:
            client = Client(
                self._settings,
                self.client_id,
                self._persistent,
                self._will,
                self._heard,
                self._count_unreadable,
                anew=self._garbled >= UNREADABLE_MAX,
            )
            self._client = client
            await client.connect()
            self.trouble, reached = None, True
            self.begun_anew = not client.session_present
            self._sending.begin(client)
            for topic_filter in dict.fromkeys(each.topic_filter for each in self._subscriptions):
                self._subscribe(topic_filter, self._retained(topic_filter))
            for topic_filter in self._left if self._persistent else ():
                self._unsubscribe(topic_filter)
            self._changed(self, None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_again)
                nursery.start_soon(self._sending.run)
                await client.lasting()
                nursery.cancel_scope.cancel()
            if not client.garbled:
                self._garbled = 0
            return explain(client.why, self.broker, self._settings)
        except Exception as error:
            return explain(error, self.broker, self._settings)
        finally:
            self._client, self.connects = None, reached
            if client is not None:
                client.close()
                self._garbled += client.garbled
                self._refused = self._sending.end(client.by_broker)

    async def _ask_again(self) -> None:
        """For what was denied: the broker's access list may be another by now."""
        while True:
            await trio.sleep(DENIED_S)
            for topic_filter in dict.fromkeys(
                e.topic_filter for e in self._subscriptions if e.problem
            ):
                self._subscribe(topic_filter, self._retained(topic_filter))

    async def say_goodbye(self, properly: bool = True) -> None:
        """For good: it does not connect again. Else than `properly` the will is published."""
        self._leaving = True
        if self._client is not None and properly:
            await self._client.disconnect()
        elif self._client is not None:
            self._client.close()

    def renew(self) -> None:
        """End this connection, and begin the next at once: what the broker has sent and was not
        acknowledged it sends to that."""
        if self._client is not None and self._client.connected:
            self._renewing = True
            self._client.close()

    # ---- publishing --------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """See Sending.room."""
        return self._sending.room

    @property
    def window(self) -> int:
        """See Client.window."""
        return self._client.window if self._client is not None else 0

    @property
    def limit_bytes(self) -> int:
        return self._client.limit_bytes if self._client is not None else 0

    def publish(self, message: Outgoing, done: Callable[[str], None]) -> bool:
        """See Sending.publish."""
        return self._sending.publish(message, done)

    # ---- subscribing -------------------------------------------------------------------------

    def add(
        self,
        topic_filter: str,
        qos: int,
        handler: Handler,
        told: Callable[[str], None] = lambda problem: None,
        needed: bool = True,
        retained: bool = False,
    ) -> Subscription:
        subscription = Subscription(self, topic_filter, qos, handler, told, needed, retained)
        self._subscriptions.append(subscription)
        self._left.pop(topic_filter, None)
        self._subscribe(topic_filter, retained)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        topic_filter = subscription.topic_filter
        others = self._of(topic_filter)
        if not others:
            self.leave(topic_filter, lambda: None)
        elif max(each.qos for each in others) < subscription.qos:
            self._subscribe(topic_filter)

    def leave(self, topic_filter: str, left: Callable[[], None]) -> None:
        """At once, or with the next connection; see Broker.unsubscribe."""
        if not self._of(topic_filter):
            self._left[topic_filter] = left
            self._unsubscribe(topic_filter)

    def _unsubscribe(self, topic_filter: str) -> None:
        if self._client is None:
            return

        def done(problem: str) -> None:
            left = None if problem else self._left.pop(topic_filter, None)
            if left is not None:
                left()

        self._client.unsubscribe(topic_filter, done)

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(self._subscriptions)

    def _of(self, topic_filter: str) -> list[Subscription]:
        return [each for each in self._subscriptions if each.topic_filter == topic_filter]

    def _retained(self, topic_filter: str) -> bool:
        """Whether a broker has not yet granted one that what is retained is to come with."""
        return any(each.retained for each in self._of(topic_filter))

    def _subscribe(self, topic_filter: str, retained: bool = False) -> None:
        if self._client is None or not self._client.connected:
            return
        qos = max(each.qos for each in self._of(topic_filter))
        asked = self._of(topic_filter) if retained else []

        def done(problem: str) -> None:
            for each in () if problem else asked:
                each.retained = False
            for each in self._of(topic_filter):
                each.problem, each.granted = problem, not problem
                each.told(problem)
            if problem and any(each.needed for each in self._of(topic_filter)):
                self._denied(topic_filter, problem)

        self._client.subscribe(topic_filter, qos, _identifier(topic_filter), done, retained)

    # ---- messages in -------------------------------------------------------------------------

    def _heard(self, client: Client, packet: Packet) -> None:
        self.received += 1
        wanted = self._wanted(packet)
        remaining = len(wanted)

        def acknowledge() -> None:
            """The last of all who heard it."""
            nonlocal remaining
            remaining -= 1
            if remaining <= 0 and packet.qos:
                client.ack(packet.packet_id)

        if not wanted:  # of an earlier life's subscription
            self.unmatched += 1
            acknowledge()
            return
        for subscription in wanted:
            subscription.handler(_incoming(self.broker, packet, _once(acknowledge)))

    def _wanted(self, packet: Packet) -> list[Subscription]:
        """Whom it is for: a broker of MQTT 5 says so, and sends it to each by itself."""
        from paho.mqtt.client import topic_matches_sub

        if numbers := packet.identifiers:
            return [e for e in self._subscriptions if _identifier(e.topic_filter) in numbers]
        return [e for e in self._subscriptions if topic_matches_sub(e.topic_filter, packet.topic)]

    def _count_unreadable(self, why: str) -> None:
        self.unreadable += 1
        self._tell_unreadable(why)


def _identifier(topic_filter: str) -> int:
    """Of a subscription: the same in every life, since a session outlives them."""
    return 1 + zlib.crc32(topic_filter.encode()) % IDENTIFIER_MAX


def _once(what: Callable[[], None]) -> Callable[[], None]:
    called = False

    def call() -> None:
        nonlocal called
        if not called:
            called = True
            what()

    return call


def _incoming(broker: str, packet: Packet, ack: Callable[[], None]) -> Incoming:
    return Incoming(
        broker=broker,
        topic=packet.topic,
        payload=packet.payload,
        qos=packet.qos,
        retain=packet.retain,
        dup=packet.dup,
        packet_id=packet.packet_id,
        ack=ack,
        user_properties=packet.user_properties,
        correlation=packet.correlation,
        response_topic=packet.response_topic,
        content_type=packet.content_type,
        left_out_bytes=packet.left_out_bytes,
    )
