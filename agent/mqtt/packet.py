"""Packets: a PUBLISH as it comes over the wire (MQTT 5 and 3.1.1, 3.3), read within bounds.

Ours and not paho's: that one raises on texts which MQTT allows and brokers pass on (U+FEFF), and
needs seconds for many properties. A session's broker sends again what ended the connection, so one
such packet would end every connection from then on. What cannot be read still has a packet
identifier in nearly all cases: it is acknowledged, and the next one comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Of what is longer the payload is left out, and counted: the largest that anybody here looks at is
# what somebody else has retained for Home Assistant (agent.mqtt.retained), and runs take an eighth.
BYTES_MAX: Final = 256 * 1024
# Asked of a broker of MQTT 5, which tells nobody of what it keeps back: a slow link (2 Mbit/s)
# takes a minute for so much, after which a broker that acknowledges nothing is given up.
ASKED_BYTES_MAX: Final = 16 * 1024**2
HEAD_BYTES: Final = 66_000  # of a longer one: to behind the topic (65,535) and the identifier
PROPERTIES_BYTES_MAX: Final = 65_536
_BYTE, _TWO, _FOUR, _NUMBER, _DATA, _TEXT, _PAIR = range(7)
_PROPERTIES: Final = {  # MQTT 5, 2.2.2.2: those that a PUBLISH may have
    1: _BYTE,  # payload format indicator
    2: _FOUR,  # message expiry interval
    3: _TEXT,  # content type
    8: _TEXT,  # response topic
    9: _DATA,  # correlation data
    11: _NUMBER,  # subscription identifier
    35: _TWO,  # topic alias
    38: _PAIR,  # user property
}
_FIXED: Final = {_BYTE: 1, _TWO: 2, _FOUR: 4}


class UnreadableError(Exception):
    """No message; a sentence. It is acknowledged by `packet_id`, which is 0 where there is none."""

    def __init__(self, why: str, packet_id: int) -> None:
        super().__init__(why)
        self.packet_id = packet_id


@dataclass(frozen=True, slots=True)
class Packet:
    """What a PUBLISH holds."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int  # 0 at QoS 0
    identifiers: tuple[int, ...] = ()  # of the subscriptions it is for; this and below: MQTT 5
    user_properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes | None = None
    response_topic: str = ""
    content_type: str = ""
    left_out_bytes: int = 0  # of a payload that is too long to be kept, all of it

    @property
    def size_bytes(self) -> int:
        """Of what is kept of it, about."""
        pairs = (text for pair in self.user_properties for text in pair)
        texts = sum(map(len, (self.topic, self.response_topic, self.content_type, *pairs)))
        return len(self.payload) + len(self.correlation or b"") + texts


class Head(bytearray):
    """The beginning of a packet that is too long to be kept; the rest is read and forgotten."""

    def __iadd__(self, data: bytes) -> Head:  # type: ignore[misc, override]
        self.extend(data[: max(0, HEAD_BYTES - len(self))])
        return self


def read(command: int, body: bytes, length: int, v5: bool) -> Packet:
    """The packet; `command` is its first byte, `length` its remaining length, of which `body` is
    all or the beginning: then without its payload. Raises UnreadableError."""
    reader = _Reader(body)
    qos, whole = command >> 1 & 3, len(body) == length
    try:
        topic = reader.data()
        reader.packet_id = reader.number(2) if qos else 0
        found = _properties(reader) if v5 else {}
        name = reader.text(topic)
    except IndexError:
        too_long = f"a packet of {length} bytes, whose beginning alone is too long"
        raise reader.no("it ends in the middle" if whole else too_long) from None
    if not name:
        raise reader.no("it has no topic")
    return Packet(
        topic=name,
        payload=body[reader.at :] if whole else b"",
        qos=qos,
        retain=bool(command & 1),
        dup=bool(command & 8),
        packet_id=reader.packet_id,
        identifiers=tuple(found.get(11, ())),
        user_properties=tuple(found.get(38, ())),
        correlation=next(iter(found.get(9, ())), None),
        response_topic=next(iter(found.get(8, ())), ""),
        content_type=next(iter(found.get(3, ())), ""),
        left_out_bytes=0 if whole else length - reader.at,
    )


def _properties(reader: _Reader) -> dict[int, list]:  # type: ignore[type-arg]
    length = reader.variable()
    if length > PROPERTIES_BYTES_MAX:
        raise reader.no(f"properties of {length} bytes; allowed: {PROPERTIES_BYTES_MAX}")
    end = reader.at + length
    found: dict[int, list] = {}  # type: ignore[type-arg]
    while reader.at < end:
        kind = reader.variable()
        if kind not in _PROPERTIES:
            raise reader.no(f"property {kind} does not belong to a message")
        found.setdefault(kind, []).append(_value(reader, _PROPERTIES[kind]))
    if reader.at != end:
        raise reader.no("a property that is longer than all of them")
    return found


def _value(reader: _Reader, form: int) -> object:
    if form in _FIXED:
        return reader.number(_FIXED[form])
    if form == _NUMBER:
        return reader.variable()
    first = reader.data()
    if form == _DATA:
        return first
    if form == _TEXT:
        return reader.text(first)
    return reader.text(first), reader.text(reader.data())


class _Reader:
    """A place in a packet. Raises IndexError behind its end."""

    def __init__(self, body: bytes) -> None:
        self.at = 0
        self.packet_id = 0
        self._body = body

    def no(self, why: str) -> UnreadableError:
        return UnreadableError(why, self.packet_id)

    def take(self, count: int) -> bytes:
        if self.at + count > len(self._body):
            raise IndexError
        self.at += count
        return self._body[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def variable(self) -> int:
        """A variable byte integer (MQTT 5, 1.5.5)."""
        value = 0
        for place in range(4):
            byte = self.number(1)
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise self.no("a number of more than four bytes")

    def data(self) -> bytes:
        return self.take(self.number(2))

    def text(self, data: bytes) -> str:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise self.no("a text that is no UTF-8") from None
        if "\0" in text:
            raise self.no("a text with a zero in it")
        return text
