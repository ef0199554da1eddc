"""A connection to a broker that publishes and nothing else: MQTT 3.1.1, QoS 1.

umqtt.simple does more and waits for ever: once it has read a byte its socket has no deadline any
more, and a sensor that waits for ever has an empty battery. Runs under CPython, too.
"""

import socket
import struct


class Refused(Exception):
    """The broker does not let us in (MQTT 3.1.1, 3.2.2.3)."""


class Publisher:
    """Raises OSError for everything that the network does, Refused where the broker says no."""

    def __init__(
        self, host, port, client_id, user, password, tls=None, timeout_s=5, keepalive_s=60
    ):
        self._packet_id = 0
        sock = socket.socket()
        sock.settimeout(timeout_s)  # of each read and write, also of those that TLS makes
        try:
            sock.connect(socket.getaddrinfo(host, port)[0][-1])
            if tls:
                self._stream = tls.wrap_socket(sock, server_hostname=host)
            else:
                self._stream = sock.makefile("rwb", 0)
            self._sock = sock
            # A clean session: nothing is to be kept for who only publishes.
            head = b"\x00\x04MQTT\x04\xc2" + struct.pack("!H", keepalive_s)
            self._send(0x10, head + _text(client_id) + _text(user) + _text(password))
            answer = self._receive(0x20)
            if answer[1]:
                raise Refused(f"the broker answers {answer[1]}")
        except Exception:
            sock.close()
            raise

    def publish(self, topic, payload, dup=False):
        """Returns once the broker has it. An ACL that forbids it cannot be told from that."""
        self._packet_id = self._packet_id % 65535 + 1
        packet_id = struct.pack("!H", self._packet_id)
        self._send(0x3A if dup else 0x32, _text(topic) + packet_id + payload)
        if self._receive(0x40) != packet_id:
            raise OSError("acknowledged something else")

    def close(self):
        """With a goodbye, so that no last will is published."""
        try:
            self._send(0xE0, b"")
        finally:
            self._stream.close()
            self._sock.close()

    def _send(self, kind, body):
        packet = bytearray([kind])
        size = len(body)
        while size > 127:
            packet.append(size & 127 | 128)
            size >>= 7
        packet.append(size)
        packet.extend(body)
        sent = 0
        while sent < len(packet):
            sent += self._stream.write(packet[sent:])

    def _receive(self, kind):
        """CONNACK and PUBACK have two bytes; nothing else comes without a subscription."""
        packet = b""
        while len(packet) < 4:
            more = self._stream.read(4 - len(packet))
            if not more:
                raise OSError("the broker closed the connection")
            packet += more
        if packet[0] != kind or packet[1] != 2:
            raise OSError("the broker sent what was not asked for")
        return packet[2:]


def _text(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("!H", len(data)) + data
