"""Overruns: messages that a broker says it has dropped, having had no room for them.

A broker keeps only so many for a client that is away, or slower than they come (Mosquitto 1,000
more than are on their way: max_queued_messages). What is more it drops, though it has acknowledged
it to who sent it, and tells nobody; but Mosquitto counts them, of all clients together, in a topic
that is retained and begins anew with its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import trio

from agent.mqtt.broker import Broker
from agent.mqtt.message import Incoming
from agent.mqtt.trouble import Told
from protocol.effects import Tell

DROPPED: Final = "$SYS/broker/publish/messages/dropped"  # mosquitto(8), Broker Status
COUNT_MAX: Final = 2**63 - 1  # an unsigned long; nothing else is one
FIX: Final = (
    "Mosquitto: max_queued_messages in its configuration, more than come in the largest burst, and "
    "start it again; its log says for whom they were"
)


class Overruns:
    """Hears it of each of these brokers, where they count and let this device know."""

    def __init__(self, brokers: Iterable[Broker], tell: Callable[[Tell], None]) -> None:
        self._tell = tell
        self._told = Told(trio.current_time)
        self._dropped: dict[str, int] = {}
        for broker in brokers:
            broker.subscribe(DROPPED, 0, partial(self._on_count, broker.name), needed=False)

    def dropped(self, broker: str) -> int:
        """How many since the broker was started, of whichever client."""
        return self._dropped.get(broker, 0)

    def counting(self) -> dict[str, int]:
        """The same of those brokers that have said so."""
        return dict(self._dropped)

    def _on_count(self, broker: str, message: Incoming) -> None:
        message.ack()
        try:
            count = int(message.payload)
        except ValueError:
            return
        if not 0 <= count <= COUNT_MAX:
            return
        before = self._dropped.get(broker, count)
        self._dropped[broker] = count
        if count > before and self._told.fresh(broker):
            text = f"broker {broker}: {text_of(count)}; {FIX}"
            self._tell(Tell("mqtt.overrun", text, fields={"broker": broker, "dropped": count}))


def text_of(count: int) -> str:
    return f"it has dropped {count} messages since its start, as it keeps only so many for a client"
