"""Sending: what is published over a session's connections, together or alone.

A message that connections ended under (agent.mqtt.suspects) goes with nothing else on its way: what
comes meanwhile finds no room, until it has been acknowledged and the connection has outlived that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import trio

from agent.mqtt.message import Outgoing
from agent.mqtt.refusal import LOST, refused, tell, unsent
from agent.mqtt.suspects import OUTLIVED_S, Sent, Suspects

Done = Callable[[str], None]


class Connection(Protocol):
    """What is sent over (agent.mqtt.client)."""

    @property
    def room(self) -> int: ...
    @property
    def window(self) -> int: ...
    def publish(self, message: Outgoing, done: Done) -> bool: ...


@dataclass(slots=True)
class Trial:
    """One that goes alone."""

    message: Outgoing
    done: Done
    sent: bool = False
    problem: str = LOST  # as the connection says it
    said: trio.Event = field(default_factory=trio.Event)


class Sending:
    """Of one session: `begin` and `end` with each connection, and `run` while that stands."""

    def __init__(self) -> None:
        self._suspects = Suspects()
        self._connection: Connection | None = None
        self._trial: Trial | None = None
        self._changed = trio.Event()  # a trial waits, or something of what is on its way is over

    @property
    def room(self) -> int:
        """How many more may be published now."""
        connection = self._connection
        return connection.room if connection is not None and self._trial is None else 0

    def publish(self, message: Outgoing, done: Done) -> bool:
        """See Client.publish; `done` may hear HELD as well, or that the broker ends connections
        over it (agent.mqtt.refusal)."""
        connection, now = self._connection, trio.current_time()
        if connection is None or not self.room:
            return False
        if why := self._suspects.refusal(message, now):
            trio.lowlevel.current_trio_token().run_sync_soon(tell, done, why)
            return True
        if self._suspects.alone(message):
            self._trial = Trial(message, done)
            self._changed.set()
            return True
        sent = self._suspects.sent(message, now)
        # Where there was room and it is not taken the connection is ending, perhaps over just this:
        # paho's thread may have sent it, and seen that end, before paho answers.
        return connection.publish(message, partial(self._ended, sent, done))

    def _ended(self, sent: Sent, done: Done, problem: str) -> None:
        now = trio.current_time()
        if refused(problem):
            self._suspects.refused(sent, said=not unsent(problem))
        elif not problem and sent.qos:
            self._suspects.acknowledged(sent, now)
        elif not problem:
            self._suspects.left(sent, now)
        if self._trial is not None:
            self._changed.set()
        tell(done, problem)

    # ---- a connection's life -----------------------------------------------------------------

    def begin(self, connection: Connection) -> None:
        self._connection = connection
        self._suspects.connected(trio.current_time())

    def end(self, by_broker: bool) -> bool:
        """`by_broker`: perhaps over something that was sent. Whether over what it had just
        refused: it is there, and would take the rest."""
        now = trio.current_time()
        self._connection = None
        over_refused = self._suspects.disconnected(now, by_broker)
        trial, self._trial = self._trial, None
        if trial is not None:
            self._end(trial, by_broker, now)
        return over_refused

    def _end(self, trial: Trial, by_broker: bool, now: float) -> None:
        acknowledged = trial.problem == ""
        if trial.sent and by_broker and not refused(trial.problem):
            tell(trial.done, self._suspects.convict(trial.message, acknowledged, now))
        else:
            tell(trial.done, "" if acknowledged else LOST)

    async def run(self) -> None:
        """Let those that are to go alone do so, one by one."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            connection, trial = self._connection, self._trial
            if (
                connection is not None
                and trial is not None
                and connection.room == connection.window
            ):
                await self._try(connection, trial)

    async def _try(self, connection: Connection, trial: Trial) -> None:
        await trio.sleep(OUTLIVED_S)  # what went before it may end the connection as well

        def said(problem: str) -> None:
            trial.problem = problem
            trial.said.set()

        # At QoS 1 in any case: nobody would say of another what became of it.
        trial.sent = connection.publish(replace(trial.message, qos=1), said)
        if trial.sent:
            await trial.said.wait()
        if trial.problem == LOST:
            await trio.sleep_forever()  # it is about to end
        if not trial.problem:
            await trio.sleep(OUTLIVED_S)
            self._suspects.outlived(trial.message)
        self._trial = None
        self._suspects.tried(trio.current_time())
        tell(trial.done, trial.problem)
