"""A client: one connection to a broker, from CONNECT to its end, in paho's network thread.

Paho is imported here alone, and only where a broker is configured: 2 MB, and some 50 ms (measured).
A client is used once: reconnecting, and what is sent again then, is ours, so nothing of what paho
would keep in memory counts.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from agent.mqtt.backlog import Backlog
from agent.mqtt.message import Outgoing
from agent.mqtt.packet import ASKED_BYTES_MAX, Packet, UnreadableError
from agent.mqtt.refusal import LARGER, LOST, UNSENDABLE, tell
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.trouble import BehindError, ConnectRefused, TakenOverError
from agent.threads import abandonable

if TYPE_CHECKING:
    from paho.mqtt.client import Client as Paho
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

CONNECT_S: Final = 5.0  # for TCP and TLS each; a LAN takes milliseconds
ANSWER_S: Final = 15.0  # for the whole way from a name to CONNACK
IN_FLIGHT_MAX: Final = 20  # PUBLISH without PUBACK; Mosquitto's own bound
UNACKED_MAX: Final = 64  # messages that a broker may send before the first is acknowledged
WAITING_MAX: Final = 256  # messages between paho's thread and the loop; beyond, reading waits
WAITING_BYTES_MAX: Final = 1024**2  # of them: of 33 connections to one broker that is 33 MiB
WAIT_S: Final = 5.0  # for the loop; a message that is not taken by then is not acknowledged either
UNANSWERED_S: Final = 60.0  # for PUBACK and SUBACK; twice the time in which a silent broker is lost
TAKEN_OVER: Final = 142
# Why a broker ends a connection that concerns nothing that was sent (MQTT 5, 2.4): it shuts down,
# is busy, heard nothing for too long, was told to, or is elsewhere.
ASIDE: Final = (137, 139, 141, TAKEN_OVER, 152, 156, 157, 159)
FAILURE: Final = 128  # reason codes from here on are refusals
_log = logging.getLogger("shoal.mqtt")


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """What a broker is to acknowledge."""

    done: Callable[[str], None]
    at: float


class UnansweredError(Exception):
    """The broker acknowledges nothing, and is there all the same."""


class Client:
    """One connection. Its methods belong to the loop; `heard` and the others are called there."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        session: bool,
        will: Will | None,
        heard: Callable[[Client, Packet], None],
        unreadable: Callable[[str], None],
        *,
        anew: bool = False,
    ) -> None:
        self.settings = settings
        self.over = trio.Event()  # the connection is gone, or never came about
        self.why: Exception = ConnectionResetError("the connection was closed")
        self.connected = False
        self.garbled = False  # it ended over something that nobody can read
        self.by_broker = True  # where it ended: perhaps over something that was sent
        self.session_present = False  # the broker has kept something for this client id
        self.dropped = 0  # messages that the loop did not take in time
        self._session = session
        self._anew = anew  # what the broker has kept for the session is to be forgotten
        self._heard = heard
        self._unreadable = unreadable
        self._answered = trio.Event()
        self._refusal: ConnectRefused | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._backlog = Backlog(WAITING_MAX, WAITING_BYTES_MAX)
        self._published: dict[int, Asked] = {}  # by packet id, the oldest first
        self._subscribed: dict[int, Asked] = {}
        self._unsubscribed: dict[int, Asked] = {}
        self._given_up = self._looping = False
        self.limit_bytes = 0  # of a packet, as the broker says; 0: none
        self._in_flight_max = IN_FLIGHT_MAX
        self._retains = True
        self.identifies = False  # it says which subscription a message is for
        self._paho = self._make(client_id, will)

    @property
    def v5(self) -> bool:
        return self.settings.version == "5"

    @property
    def _clean(self) -> bool:
        return self._anew or not self._session

    # ---- connecting --------------------------------------------------------------------------

    def _make(self, client_id: str, will: Will | None) -> Paho:
        """Raises LoginError and OSError (ssl.SSLError) for files that cannot be used."""
        from paho.mqtt.client import MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        from agent.mqtt.guarded import Guarded

        client = Guarded(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self.v5 else self._clean,
            protocol=MQTTv5 if self.v5 else MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(2 * IN_FLIGHT_MAX)  # ours is the lower bound
        if login := self.settings.login():
            client.username_pw_set(*login)
        if self.settings.tls:
            client.tls_set_context(_tls(self.settings))
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_packet = self._on_packet
        client.on_unreadable = self._on_unreadable
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_thread_end = self._on_thread_end
        return client

    async def connect(self) -> None:
        """Raises what `trouble.explain` has a sentence for."""
        try:
            with trio.fail_after(ANSWER_S):
                await abandonable(self._connect)
                self._looping = True
                self._paho.loop_start()
                await self._answered.wait()
        except trio.TooSlowError:
            raise TimeoutError from None
        finally:
            if not self.connected:
                self._given_up = True
                self.close()
        if self._refusal is not None:
            raise self._refusal
        if not self.connected:
            raise self.why

    def _connect(self) -> None:
        """In a thread; where nobody waits for it any more, nothing is left open."""
        self._paho.connect(
            self.settings.host,
            self.settings.port,
            keepalive=self.settings.keepalive_s,
            **self._greeting(),
        )
        _hurry(self._paho)
        if self._given_up:
            self._close()

    def _greeting(self) -> dict[str, Any]:
        if not self.v5:
            return {}
        from paho.mqtt.packettypes import PacketTypes

        properties = _properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = UNACKED_MAX
        properties.MaximumPacketSize = ASKED_BYTES_MAX
        if self._session:
            properties.SessionExpiryInterval = self.settings.session_s
        return {"clean_start": self._clean, "properties": properties}

    async def lasting(self) -> None:
        """Until it is over. Pings may be answered by somebody before the broker: what has waited
        for an acknowledgement too long ends it, and is lost."""
        while not self.over.is_set():
            with trio.move_on_after(UNANSWERED_S / 4):
                await self.over.wait()
            oldest = [next(iter(each.values())).at for each in self._asked if each]
            if oldest and trio.current_time() - min(oldest) > UNANSWERED_S:
                text = f"it has not acknowledged a message for {UNANSWERED_S:.0f} seconds"
                self.by_broker = False
                self._end(UnansweredError(text))
                self.close()

    @property
    def _asked(self) -> tuple[dict[int, Asked], ...]:
        return self._published, self._subscribed, self._unsubscribed

    async def disconnect(self) -> None:
        """A goodbye, after which the broker publishes no will."""
        self.by_broker = False
        with contextlib.suppress(Exception):
            self._paho.disconnect()
        with trio.move_on_after(2.0):
            await self.over.wait()
        self.close()

    def close(self) -> None:
        """At once and without a goodbye, so that the broker publishes the will. The network thread
        ends by itself."""
        if not self.over.is_set():
            self.by_broker = False
        self.connected = False
        if self._looping:
            _shut(self._paho)
        else:
            self._close()
        self._end(None)

    def _close(self) -> None:
        from agent.mqtt.guarded import close

        close(self._paho)

    # ---- speaking ----------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more messages may be published now."""
        return max(0, self._in_flight_max - len(self._published)) if self.connected else 0

    @property
    def window(self) -> int:
        """How many may be on their way at once."""
        return self._in_flight_max

    def publish(self, message: Outgoing, done: Callable[[str], None]) -> bool:
        """`done` is called in the loop, once: with "" when the broker has it, else with LOST or why
        it was refused.

        False where there is no connection or too much on its way; then `done` is not called.
        """
        if not self.room:
            return False
        if self.limit_bytes and message.size_bytes > self.limit_bytes:
            self._token.run_sync_soon(tell, done, LARGER.format(self.limit_bytes))
            return True
        try:
            info = self._paho.publish(
                message.topic,
                message.payload,
                qos=message.qos,
                retain=message.retain and self._retains,
                properties=self._properties(message),
            )
        except Exception as error:  # what paho thinks no message; it says so in many ways
            self._token.run_sync_soon(tell, done, UNSENDABLE.format(error))
            return True
        if info.rc != 0:
            return False
        self._published[info.mid] = Asked(done, trio.current_time())
        return True

    def _properties(self, message: Outgoing) -> Properties | None:
        if not self.v5:
            return None
        from paho.mqtt.packettypes import PacketTypes

        properties = _properties(PacketTypes.PUBLISH)
        if message.user_properties:
            properties.UserProperty = list(message.user_properties)
        if message.correlation is not None:
            properties.CorrelationData = message.correlation
        if message.content_type:
            properties.ContentType = message.content_type
        if message.expiry_s:
            properties.MessageExpiryInterval = message.expiry_s
        return properties

    def subscribe(
        self,
        topic_filter: str,
        qos: int,
        number: int,
        done: Callable[[str], None],
        retained: bool = False,
    ) -> None:
        """`done` hears "" or why not; `number` comes with each message where `identifies`.
        `retained`: what is retained comes, whether or not this is subscribed to already."""
        if not self.connected:
            return
        if self.v5:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.subscribeoptions import SubscribeOptions

            properties = _properties(PacketTypes.SUBSCRIBE)
            if self.identifies:
                properties.SubscriptionIdentifier = number
            # What is retained comes with a session's first subscription, not with each connection.
            options = SubscribeOptions(
                qos=qos,
                retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
                if retained
                else SubscribeOptions.RETAIN_SEND_IF_NEW_SUB,
            )
            rc, mid = self._paho.subscribe(topic_filter, options=options, properties=properties)
        else:
            rc, mid = self._paho.subscribe(topic_filter, qos)
        if rc == 0 and mid is not None:
            self._subscribed[mid] = Asked(done, trio.current_time())

    def unsubscribe(self, topic_filter: str, done: Callable[[str], None]) -> None:
        """`done` hears "" or why not."""
        if self.connected:
            rc, mid = self._paho.unsubscribe(topic_filter)
            if rc == 0 and mid is not None:
                self._unsubscribed[mid] = Asked(done, trio.current_time())

    def ack(self, packet_id: int) -> None:
        if self.connected:
            self._paho.ack(packet_id, 1)

    # ---- in paho's thread --------------------------------------------------------------------

    def _soon(self, what: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(what, *arguments)

    def _on_connect(
        self, client: Paho, _: Any, flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._soon(self._connected, reason, properties, bool(flags.session_present))

    def _on_disconnect(
        self, client: Paho, _: Any, flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        # Paho gives such a reason itself where it has had no answer to a ping.
        self.by_broker = self.by_broker and reason.value not in ASIDE
        if flags.is_disconnect_packet_from_server:
            taken = reason.value == TAKEN_OVER
            said = ConnectionResetError(f"the broker says: {str(reason).lower()}")
            self._soon(self._end, TakenOverError() if taken else said)

    def _on_thread_end(self, error: Exception | None) -> None:
        """The loop may be about to use what wakes the thread, unless that is over as well."""
        from agent.mqtt.guarded import GarbledError

        self.garbled = isinstance(error, GarbledError)
        try:
            self._token.run_sync_soon(self._ended, error)
        except trio.RunFinishedError:
            _release(self._paho)

    def _on_packet(self, packet: Packet) -> None:
        """Waits for the loop where that is behind: the broker keeps what is not read yet. From the
        first on that is not taken none is, and the connection ends: all come again, in order."""
        if not self.dropped and self._backlog.add(packet.size_bytes, WAIT_S):
            self._soon(self._take, packet)
            return
        self.dropped += 1
        if self.dropped == 1:
            self._soon(self._behind)

    def _on_unreadable(self, error: UnreadableError) -> None:
        self._soon(tell, self._unreadable, str(error))

    def _on_publish(
        self, client: Paho, _: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._soon(self._done, self._published, mid, reason)

    def _on_subscribe(
        self, client: Paho, _: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        self._soon(self._done, self._subscribed, mid, reasons[0] if reasons else None)

    def _on_unsubscribe(
        self, client: Paho, _: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        self._soon(self._done, self._unsubscribed, mid, reasons[0] if reasons else None)

    # ---- back in the loop: nothing here may raise, trio would end ------------------------------

    def _connected(
        self, reason: ReasonCode, properties: Properties | None, session_present: bool
    ) -> None:
        if reason.value >= FAILURE:
            self._refusal = ConnectRefused(reason.value, str(reason))
        elif not self._given_up:
            self.connected, self.session_present = True, session_present
            self.limit_bytes = int(getattr(properties, "MaximumPacketSize", 0))
            said = int(getattr(properties, "ReceiveMaximum", IN_FLIGHT_MAX))
            self._in_flight_max = max(1, min(IN_FLIGHT_MAX, said))
            self._retains = bool(getattr(properties, "RetainAvailable", 1))
            there = getattr(properties, "SubscriptionIdentifierAvailable", 1)
            self.identifies = self.v5 and bool(there)
        self._answered.set()

    def _take(self, packet: Packet) -> None:
        """Of a connection that is over, what a session will be sent again with the next one: heard
        here as well, it would be two, of which this could not be acknowledged."""
        self._backlog.remove(packet.size_bytes)
        if self.over.is_set() and self._session and packet.qos:
            return
        try:
            self._heard(self, packet)
        except Exception:
            _log.exception("a message from %s", self.settings.host)

    def _behind(self) -> None:
        self.by_broker = False
        self._end(BehindError(f"messages were not taken for {WAIT_S:.0f} seconds"))
        self.close()

    def _done(self, waiting: dict[int, Asked], mid: int, reason: ReasonCode | None) -> None:
        asked = waiting.pop(mid, None)
        refused = reason is not None and reason.value >= FAILURE
        if asked is not None:
            tell(asked.done, str(reason).lower() if refused else "")

    def _ended(self, error: Exception | None) -> None:
        self._end(error)
        _release(self._paho)

    def _end(self, error: Exception | None) -> None:
        if self.over.is_set():
            return
        self.connected = False
        self.why = error or self.why
        self.over.set()
        self._answered.set()
        lost, self._published = list(self._published.values()), {}
        for asked in lost:
            tell(asked.done, LOST)


def _hurry(client: Paho) -> None:
    """Paho leaves Nagle's algorithm on, as Mosquitto does: then a small message waits until the one
    before it is acknowledged, and that up to 40 ms until there is something to send along with it.
    A result of a message took 30 ms to its listener instead of 55 (measured)."""
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[attr-defined]


def _release(client: Paho) -> None:
    """The sockets that wake its thread, which has ended: paho leaves them to the collector."""
    client._reset_sockets(sockpair_only=True)


def _shut(client: Paho) -> None:
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            # Wakes its thread, which closes it: a number that was closed here could be another's.
            sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


class _ClosingSocket(ssl.SSLSocket):
    """Paho leaves one open whose handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    context.sslsocket_class = _ClosingSocket
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    return context


def _properties(kind: int) -> Properties:
    from paho.mqtt.properties import Properties

    return Properties(kind)  # type: ignore[no-untyped-call]
