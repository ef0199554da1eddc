"""A connection that stands until something is sent that its broker ends it over; for tests."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import trio

from agent.mqtt import session
from agent.mqtt.message import Outgoing
from agent.mqtt.session import Session
from agent.mqtt.settings import BrokerSettings

WAY_S = 0.01
LOST = "the connection was lost"


class Broker:
    """What it takes, and over what it `ends` the connection: `took` has what it took, and when."""

    def __init__(self, ends: Callable[[Outgoing], bool], says: str | None = None) -> None:
        self.ends = ends
        self.says = says  # of what it ends the connection over, before that; None: nothing
        self.took: list[tuple[float, Outgoing]] = []
        self.connections: list[float] = []  # when each came about
        self.together: list[int] = []  # how many were on their way as each ended


class Fragile:
    """In the place of a Client."""

    window = 20
    limit_bytes = 0
    session_present = garbled = False
    by_broker = True

    def __init__(self, broker: Broker) -> None:
        self.connected = False
        self.why: Exception = ConnectionResetError("the connection was closed")
        self._broker = broker
        self._way: list[tuple[Outgoing, Callable[[str], None]]] = []
        self._sent = trio.Event()

    @property
    def room(self) -> int:
        return self.window - len(self._way) if self.connected else 0

    async def connect(self) -> None:
        self.connected = True
        self._broker.connections.append(trio.current_time())

    def publish(self, message: Outgoing, done: Callable[[str], None]) -> bool:
        if not self.room:
            return False
        self._way.append((message, done))
        self._sent.set()
        return True

    async def lasting(self) -> None:
        while self.connected:
            await self._sent.wait()
            self._sent = trio.Event()
            while self._way and self.connected:
                await trio.sleep(WAY_S)
                self._receive()

    def _receive(self) -> None:
        message, done = self._way[0]
        ends = self._broker.ends(message)
        if not ends:
            self._broker.took.append((trio.current_time(), message))
        if ends:
            self._broker.together.append(len(self._way))
        says = self._broker.says if ends else ""
        if says is not None:
            del self._way[0]
            done(says)
        if ends:
            self._end()

    def _end(self) -> None:
        self.connected = False
        self._sent.set()
        lost, self._way = self._way, []
        for _, done in lost:
            done(LOST)

    def close(self) -> None:
        if self.connected:
            self.by_broker = False
            self._end()


def session_at(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, changed: Callable[[bool], None]
) -> Session:
    """A main session with its real pauses; `changed` hears whether it is connected."""
    monkeypatch.setattr(session, "Client", lambda *_, **__: Fragile(broker))
    told: Any = lambda made, _: changed(made.connected)  # noqa: E731
    return Session(
        "home",
        BrokerSettings("mqtt://x"),
        "me",
        persistent=False,
        will=None,
        changed=told,
        denied=lambda *_: None,
        unreadable=lambda _: None,
        rng=Random(1),
    )
