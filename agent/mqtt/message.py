"""Messages as they come from a broker and go to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Properties = tuple[tuple[str, str], ...]  # MQTT 5 user properties, in order


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that a subscription heard.

    `ack` is to be called once what follows from it is durable: only then the broker is told that
    it arrived (QoS 1), and before that it comes again with the next connection of a session.
    Calling it again, or after the connection it came by is gone, does nothing.
    """

    broker: str
    topic: str
    payload: bytes
    qos: int  # 0 or 1
    retain: bool  # kept by the broker from earlier; not one that was sent just now
    dup: bool  # the broker has sent it before; what is False may still have come before
    packet_id: int
    ack: Callable[[], None]
    user_properties: Properties = ()  # this and what follows: MQTT 5 alone
    correlation: bytes | None = None
    response_topic: str = ""
    content_type: str = ""
    left_out_bytes: int = 0  # of a payload that was too long to be kept; it is empty here then

    def user_property(self, name: str) -> str:
        """The first of that name; empty where there is none."""
        return next((value for key, value in self.user_properties if key == name), "")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish; what MQTT 3.1.1 has no place for is left out there."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    user_properties: Properties = ()
    correlation: bytes | None = None
    content_type: str = ""
    expiry_s: int = 0  # the broker drops it after so long, a retained one as well; 0: never
    family: str = ""  # what stands for its topic where each message has another: see `kin`

    @property
    def kin(self) -> str:
        """What it has in common with others, one of which a broker may not take for its topic."""
        return self.family or self.topic

    @property
    def size_bytes(self) -> int:
        """Of its packet, and a few more."""
        texts = [self.topic, self.content_type, *(t for pair in self.user_properties for t in pair)]
        properties = sum(len(text.encode()) + 3 for text in texts)
        return _FIXED_BYTES + len(self.payload) + len(self.correlation or b"") + properties


_FIXED_BYTES: Final = 32  # the lengths, the packet identifier, kinds of properties, the expiry
