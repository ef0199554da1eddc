"""Lasts: the latest run of each template, retained at the brokers that are told of this device.

Who coordinates a run tells of it. What a broker could not be told, because it was away, it is told
when it is back, unless a later run has taken the place meanwhile. What stands of a template that is
deleted is taken away where that is seen (agent.mqtt.showing).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import trio

from agent.control.backend import View
from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import HELD, LOST

TEMPLATES_MAX: Final = 256  # whose last run is remembered; of more the longest unused goes
SPARE: Final = 2  # of what may be on its way, for what matters more
AGAIN_S: Final = 5.0  # for a broker that had no room
TOGETHER_S: Final = 0.1  # what happens together is told together


class Lasts:
    """`last` gives the run of a template that a job is, if this device coordinates it: `template`
    names the topic, `created_ms` says which of two runs is the later one."""

    def __init__(self, brokers: Brokers, last: Callable[[str], View | None]) -> None:
        self._brokers = brokers
        self._last = last
        self._changed = trio.Event()
        self._known: dict[str, View] = {}  # by template
        self._owed: dict[str, dict[str, None]] = {}  # to which broker of which templates

    def connected(self) -> None:
        """To some broker, which may have missed something."""
        self._changed.set()

    def told(self, event: View) -> None:
        """Something happened: it may be that a run has another state now."""
        brokers = [broker.name for broker in self._brokers if broker.settings.report]
        view = self._last(event["job"]) if brokers and event["job"] else None
        if view is None:
            return
        name, known = str(view["template"]), self._known.get(str(view["template"]))
        if known is not None and (known == view or known["created_ms"] > view["created_ms"]):
            return
        self._known.pop(name, None)
        self._known[name] = view
        if len(self._known) > TEMPLATES_MAX:
            del self._known[next(iter(self._known))]
        for broker in brokers:
            self._owed.setdefault(broker, {})[name] = None
        self._changed.set()

    async def run(self) -> None:
        while True:
            with trio.move_on_after(AGAIN_S if any(self._owed.values()) else float("inf")):
                await self._changed.wait()
            self._changed = trio.Event()
            await trio.sleep(TOGETHER_S)
            for broker in self._brokers:
                if broker.connected:
                    self._pay(broker)

    def _pay(self, broker: Broker) -> None:
        owed = self._owed.get(broker.name, {})
        for name in list(owed):
            if not broker.has_room(SPARE):
                return
            view = self._known.get(name)
            if view is None or self._last(view["job"]) is None or self._tell(broker, name, view):
                del owed[name]

    def _tell(self, broker: Broker, name: str, view: View) -> bool:
        def done(problem: str) -> None:
            if problem in (LOST, HELD):
                self._owed.setdefault(broker.name, {})[name] = None
                self._changed.set()

        topic = f"{self._brokers.root}/template/{name}/last"
        payload = json.dumps(view, ensure_ascii=False).encode()
        message = Outgoing(topic, payload, retain=True, content_type="application/json")
        return broker.publish(message, done)
