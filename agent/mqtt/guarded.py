"""Guarded: paho's client, with what comes from a broker held to bounds, and an end that is told.

Importing this imports paho, which is left until there is a broker (agent.mqtt.client).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion

from agent.mqtt.packet import BYTES_MAX, Head, Packet, UnreadableError, read

CHUNK_BYTES: Final = 256 * 1024  # of one read: paho would ask the kernel for all of a packet


class GarbledError(Exception):
    """What the broker sends cannot be read, and it would send it again."""


class Guarded(Paho):
    """`on_packet` hears each message, `on_unreadable` why one was none, `on_thread_end` the end of
    the network thread; all in that thread."""

    on_packet: Callable[[Packet], None]
    on_unreadable: Callable[[UnreadableError], None]
    on_thread_end: Callable[[Exception | None], None]

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        error: Exception | None = None
        code = MQTTErrorCode.MQTT_ERR_UNKNOWN
        try:
            code = super().loop_forever(timeout, retry_first_connection)
            if code == MQTTErrorCode.MQTT_ERR_PROTOCOL:
                error = GarbledError("it sends what is no MQTT")
        except OSError as raised:
            error = raised
        except Exception as raised:
            error = GarbledError(f"it sends what cannot be read: {raised!r}")
        finally:
            close(self)
            self.on_thread_end(error)
        return code

    def _sock_recv(self, bufsize: int) -> bytes:
        """Of a packet over the bound, its beginning alone is kept."""
        packet = self._in_packet
        over = packet["have_remaining"] and packet["remaining_length"] > BYTES_MAX
        if over and not isinstance(packet["packet"], Head):
            packet["packet"] = Head()
        return super()._sock_recv(min(bufsize, CHUNK_BYTES))

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        v5 = self._protocol == MQTTProtocolVersion.MQTTv5
        try:
            message = read(
                packet["command"], bytes(packet["packet"]), packet["remaining_length"], v5
            )
        except UnreadableError as error:
            self.on_unreadable(error)
            return self._send_puback(error.packet_id) if error.packet_id else _GOOD
        if message.qos > 1:  # no subscription of ours asks for it
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.on_packet(message)
        return _GOOD


_GOOD: Final = MQTTErrorCode.MQTT_ERR_SUCCESS


def close(client: Paho) -> None:
    """Where nobody reads from it any more."""
    sock = client.socket()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()
