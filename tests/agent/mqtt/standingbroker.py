"""A broker that is connected, and does with messages what the test says; for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from agent.mqtt.broker import has_room
from agent.mqtt.message import Incoming, Outgoing
from agent.mqtt.settings import BrokerSettings


class StandingBroker:
    """Acknowledges what it is given, unless it `holds`; what it has stands in `retained`."""

    def __init__(self, name: str = "home", **settings: Any) -> None:
        self.name = name
        self.settings = BrokerSettings("mqtt://x", **settings)
        self.connected = True
        self.room = self.window = 20
        self.holds = False
        self.refuses: dict[str, str] = {}  # topics, and why
        self.published: list[Outgoing] = []
        self.retained: dict[str, bytes] = {}
        self.held: list[tuple[Outgoing, Callable[[str], None]]] = []
        self.subscriptions: dict[str, Callable[[Incoming], None]] = {}

    def has_room(self, spare: int) -> bool:
        return has_room(self.room, self.window, spare)

    def publish(self, message: Outgoing, done: Callable[[str], None]) -> bool:
        self.published.append(message)
        self.held.append((message, done))
        if not self.holds:
            self.let_go()
        return True

    def let_go(self, problem: str = "") -> None:
        """What is on its way arrives, or ends so."""
        held, self.held = self.held, []
        for message, done in held:
            why = problem or self.refuses.get(message.topic, "")
            if not why and message.payload:
                self.retained[message.topic] = message.payload
            elif not why:
                self.retained.pop(message.topic, None)
            done(why)

    def subscribe(
        self,
        topic_filter: str,
        qos: int,
        handler: Callable[[Incoming], None],
        session: str = "",
        needed: bool = True,
    ) -> Any:
        self.subscriptions[topic_filter] = handler
        if (kept := self.retained.get(topic_filter)) is not None:
            token = trio.lowlevel.current_trio_token()
            token.run_sync_soon(self._pass_on, topic_filter, kept)
        return Closing(lambda: self.subscriptions.pop(topic_filter))

    def _pass_on(self, topic: str, kept: bytes) -> None:
        if topic in self.subscriptions:
            self.say(topic, kept, retain=True)

    def say(self, topic: str, payload: bytes, topic_filter: str = "", retain: bool = False) -> bool:
        """Somebody publishes; whether it was acknowledged."""
        acked: list[bool] = []
        message = Incoming(
            self.name, topic, payload, 0, retain, False, 1, lambda: acked.append(True)
        )
        self.subscriptions[topic_filter or topic](message)
        return bool(acked)


class Closing:
    def __init__(self, close: Callable[[], object]) -> None:
        self.close = close


class StandingBrokers(list[StandingBroker]):
    root = "shoal/lab"

    def named(self, name: str) -> StandingBroker | None:
        return next((each for each in self if each.name == name), None)
