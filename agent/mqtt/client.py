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
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import trio

from agent.mqtt.message import Outgoing
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.trouble import ConnectRefused
from agent.threads import abandonable

if TYPE_CHECKING:
    from paho.mqtt.client import Client as Paho
    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

CONNECT_S: Final = 5.0  # for TCP and TLS each; a LAN takes milliseconds
ANSWER_S: Final = 15.0  # for the whole way from a name to CONNACK
IN_FLIGHT_MAX: Final = 20  # PUBLISH without PUBACK; Mosquitto's own bound
UNACKED_MAX: Final = 64  # messages that a broker may send before the first is acknowledged
WAITING_MAX: Final = 256  # messages between paho's thread and the loop; beyond, reading waits
WAIT_S: Final = 5.0  # for the loop; a message that is not taken by then is not acknowledged either
PACKET_BYTES_MAX: Final = 2 * 1024**2  # asked of a broker of MQTT 5
SESSION_S: Final = 86_400  # a broker keeps messages for a persistent session that long (MQTT 5)
FAILURE: Final = 128  # reason codes from here on are refusals
LOST: Final = "the connection was lost"  # the end of a message that may have arrived or not
_log = logging.getLogger("shoal.mqtt")


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes


class Client:
    """One connection. Its methods belong to the loop; `heard` and the others are called there."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        session: bool,
        will: Will | None,
        heard: Callable[[Client, MQTTMessage], None],
    ) -> None:
        self.settings = settings
        self.over = trio.Event()  # the connection is gone, or never came about
        self.why: Exception = ConnectionResetError("the connection was closed")
        self.connected = False
        self.session_present = False  # the broker has kept something for this client id
        self.dropped = 0  # messages that the loop did not take in time
        self._session = session
        self._heard = heard
        self._answered = trio.Event()
        self._refusal: ConnectRefused | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._room = threading.BoundedSemaphore(WAITING_MAX)
        self._published: dict[int, Callable[[str], None]] = {}  # by packet id
        self._subscribed: dict[int, Callable[[str], None]] = {}
        self._given_up = self._looping = False
        self._limit_bytes = 0  # of a packet, as the broker says; 0: none
        self._in_flight_max = IN_FLIGHT_MAX
        self._retains = True
        self.identifies = False  # it says which subscription a message is for
        self._paho = self._make(client_id, will)

    @property
    def v5(self) -> bool:
        return self.settings.version == "5"

    # ---- connecting --------------------------------------------------------------------------

    def _make(self, client_id: str, will: Will | None) -> Paho:
        """Raises LoginError and OSError (ssl.SSLError) for files that cannot be used."""
        from paho.mqtt.client import MQTTv5, MQTTv311
        from paho.mqtt.enums import CallbackAPIVersion

        client = _guarded()(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self.v5 else not self._session,
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
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_thread_end = self._on_thread_end  # type: ignore[attr-defined]
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
        if self._given_up:
            _close(self._paho)

    def _greeting(self) -> dict[str, Any]:
        if not self.v5:
            return {}
        from paho.mqtt.packettypes import PacketTypes

        properties = _properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = UNACKED_MAX
        properties.MaximumPacketSize = PACKET_BYTES_MAX
        if self._session:
            properties.SessionExpiryInterval = SESSION_S
        return {"clean_start": not self._session, "properties": properties}

    async def disconnect(self) -> None:
        """A goodbye, after which the broker publishes no will."""
        with contextlib.suppress(Exception):
            self._paho.disconnect()
        with trio.move_on_after(2.0):
            await self.over.wait()
        self.close()

    def close(self) -> None:
        """At once and without a goodbye, so that the broker publishes the will. The network thread
        ends by itself."""
        self.connected = False
        if self._looping:
            _shut(self._paho)
        else:
            _close(self._paho)
        self._end(None)

    # ---- speaking ----------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more messages may be published now."""
        return max(0, self._in_flight_max - len(self._published)) if self.connected else 0

    def publish(self, message: Outgoing, done: Callable[[str], None]) -> bool:
        """`done` is called in the loop, once: with "" when the broker has it, else with LOST or why
        it was refused.

        False where there is no connection or too much on its way; then `done` is not called.
        """
        if not self.room:
            return False
        if self._limit_bytes and len(message.payload) + 1024 > self._limit_bytes:
            refusal = f"larger than the {self._limit_bytes} bytes that the broker takes"
            self._token.run_sync_soon(done, refusal)
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
            self._token.run_sync_soon(done, f"it cannot be sent: {error}")
            return True
        if info.rc != 0:
            return False
        self._published[info.mid] = done
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
        self, topic_filter: str, qos: int, number: int, done: Callable[[str], None]
    ) -> None:
        """`done` hears "" or why not; `number` comes with each message where `identifies`."""
        if not self.connected:
            return
        if self.v5:
            from paho.mqtt.packettypes import PacketTypes
            from paho.mqtt.subscribeoptions import SubscribeOptions

            properties = _properties(PacketTypes.SUBSCRIBE)
            if self.identifies:
                properties.SubscriptionIdentifier = number
            rc, mid = self._paho.subscribe(
                topic_filter, options=SubscribeOptions(qos=qos), properties=properties
            )
        else:
            rc, mid = self._paho.subscribe(topic_filter, qos)
        if rc == 0 and mid is not None:
            self._subscribed[mid] = done

    def unsubscribe(self, topic_filter: str) -> None:
        if self.connected:
            self._paho.unsubscribe(topic_filter)

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
        if flags.is_disconnect_packet_from_server:
            self._soon(self._end, ConnectionResetError(f"the broker says: {str(reason).lower()}"))

    def _on_thread_end(self, error: Exception | None) -> None:
        self._soon(self._end, error)
        try:
            self._token.run_sync_soon(self._clear)
        except trio.RunFinishedError:
            self._clear()

    def _clear(self) -> None:
        """Paho leaves what wakes its thread to the garbage collector. In the loop, like publishing,
        which uses it."""
        self._paho._reset_sockets(sockpair_only=True)

    def _on_message(self, client: Paho, _: Any, message: MQTTMessage) -> None:
        """Waits for the loop where that is behind: the broker keeps what is not read yet."""
        if self._room.acquire(timeout=WAIT_S):
            self._soon(self._take, message)
        else:
            self.dropped += 1

    def _on_publish(
        self, client: Paho, _: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._soon(self._done, self._published, mid, reason)

    def _on_subscribe(
        self, client: Paho, _: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        self._soon(self._done, self._subscribed, mid, reasons[0] if reasons else None)

    # ---- back in the loop: nothing here may raise, trio would end ------------------------------

    def _connected(
        self, reason: ReasonCode, properties: Properties | None, session_present: bool
    ) -> None:
        if reason.value >= FAILURE:
            self._refusal = ConnectRefused(reason.value, str(reason))
        elif not self._given_up:
            self.connected, self.session_present = True, session_present
            self._limit_bytes = int(getattr(properties, "MaximumPacketSize", 0))
            said = int(getattr(properties, "ReceiveMaximum", IN_FLIGHT_MAX))
            self._in_flight_max = max(1, min(IN_FLIGHT_MAX, said))
            self._retains = bool(getattr(properties, "RetainAvailable", 1))
            there = getattr(properties, "SubscriptionIdentifierAvailable", 1)
            self.identifies = self.v5 and bool(there)
        self._answered.set()

    def _take(self, message: MQTTMessage) -> None:
        self._room.release()
        try:
            self._heard(self, message)
        except Exception:
            _log.exception("a message from %s", self.settings.host)

    def _done(
        self, waiting: dict[int, Callable[[str], None]], mid: int, reason: ReasonCode | None
    ) -> None:
        done = waiting.pop(mid, None)
        refused = reason is not None and reason.value >= FAILURE
        _call(done, str(reason).lower() if refused else "")

    def _end(self, error: Exception | None) -> None:
        if self.over.is_set():
            return
        self.connected = False
        self.why = error or self.why
        self.over.set()
        self._answered.set()
        lost, self._published = list(self._published.values()), {}
        for done in lost:
            _call(done, LOST)


def _call(done: Callable[[str], None] | None, reason: str) -> None:
    if done is not None:
        try:
            done(reason)
        except Exception:
            _log.exception("a message's end")


def _close(client: Paho) -> None:
    """Where nobody reads from it any more."""
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()


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


@lru_cache(maxsize=1)
def _guarded() -> type[Paho]:
    """Paho's client, whose thread says how it ended, also where a broker sends what it cannot read.
    At the top of the module it would import paho."""
    from paho.mqtt.client import Client as Paho
    from paho.mqtt.enums import MQTTErrorCode

    class Guarded(Paho):
        on_thread_end: Callable[[Exception | None], None]

        def loop_forever(
            self, timeout: float = 1.0, retry_first_connection: bool = False
        ) -> MQTTErrorCode:
            error: Exception | None = None
            code = MQTTErrorCode.MQTT_ERR_UNKNOWN
            try:
                code = super().loop_forever(timeout, retry_first_connection)
            except Exception as raised:
                error = raised
            finally:
                _close(self)
                self.on_thread_end(error)
            return code

    return Guarded
