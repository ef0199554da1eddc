"""Reports: how this device is, what happens on it, and how the jobs that it coordinates are."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import trio

from agent.control.backend import View
from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import HELD

STATE_S: Final = 5.0  # at most so often
FACTS_S: Final = 60.0  # and where nothing but measurements changed: each is half a kilobyte
STATES_MAX: Final = 1000  # jobs whose last state is remembered, so that none is told twice
SPARE: Final = 2  # of what may be on its way: reports are lost rather than waited for
QUEUED_MAX: Final = 256  # jobs to look at


class Reports:
    """To each broker with `report`. `state` gives this device's and what is measured of it, `job`
    one that it coordinates."""

    def __init__(
        self,
        brokers: Brokers,
        peer: str,
        state: Callable[[], tuple[View, View]],
        job: Callable[[str], View | None],
    ) -> None:
        self._brokers = brokers
        self._peer = peer
        self._state = state
        self._job = job
        self._changed = trio.Event()
        self._jobs: dict[str, None] = {}  # that something happened to
        self._states: dict[str, str] = {}  # of jobs, as they were told
        # This device's, as each broker has it: when it was told, and what of it is no measurement.
        self._sent: dict[str, tuple[float, View, View]] = {}

    def connected(self, broker: str) -> None:
        self._sent.pop(broker, None)
        self._changed.set()

    def told(self, event: View) -> None:
        """Something happened: pass it on as it is, and see what became of its job."""
        self._publish("event", {**event, "peer": event["peer"] or self._peer})
        job = event["job"]
        if job and len(self._jobs) < QUEUED_MAX:
            self._jobs[job] = None
        self._changed.set()

    async def run(self) -> None:
        while True:
            with trio.move_on_after(STATE_S):
                await self._changed.wait()
            self._changed = trio.Event()
            await trio.sleep(0.1)  # what happens together is told together
            jobs, self._jobs = self._jobs, {}
            for job in jobs:
                self._tell_job(job)
            self._tell_state()
            await trio.sleep(0.4)

    def _tell_state(self) -> None:
        view, measured = self._state()
        now = trio.current_time()
        for broker in self._reported():
            at, told, before = self._sent.get(broker.name, (-FACTS_S, {}, {}))
            due = told != view or (before != measured and now - at >= FACTS_S)
            if due and broker.has_room(SPARE):
                topic = f"{self._brokers.root}/peer/{self._peer}/state"
                payload = _json({**view, **measured})
                message = Outgoing(topic, payload, retain=True, content_type="application/json")
                self._sent[broker.name] = (now, view, measured)
                broker.publish(message, partial(self._ended, broker.name))

    def _ended(self, broker: str, problem: str) -> None:
        if problem == HELD:
            self._sent.pop(broker, None)

    def _tell_job(self, job: str) -> None:
        view = self._job(job)
        if view is None or self._states.get(job) == view["state"]:
            return
        self._states.pop(job, None)
        self._states[job] = view["state"]
        if len(self._states) > STATES_MAX:
            self._states.pop(next(iter(self._states)))
        self._publish(f"job/{job}/state", view, "job/+/state")

    def _publish(self, topic: str, view: dict[str, Any], family: str = "") -> None:
        payload = b""
        for broker in self._reported():
            if broker.has_room(SPARE):
                payload = payload or _json(view)
                message = Outgoing(
                    f"{self._brokers.root}/{topic}",
                    payload,
                    0,
                    content_type="application/json",
                    family=family and f"{self._brokers.root}/{family}",
                )
                broker.publish(message, lambda _: None)

    def _reported(self) -> list[Broker]:
        return [each for each in self._brokers if each.settings.report and each.connected]


def _json(view: View) -> bytes:
    return json.dumps(view, ensure_ascii=False, default=str).encode()
