"""The executor: this device's executions, from award to forgetting, put together for the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from protocol.awards import Awards
from protocol.bidding import Bidder
from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.contacts import Contacts
from protocol.delivery import Delivery
from protocol.effects import Bucket, Effect, RemoveTask, Save, StopTask
from protocol.errors import RemoteProtocolError
from protocol.events import Booted
from protocol.execution import Fences, Row, State, restore_execution
from protocol.executions import Executions
from protocol.ids import JobId, PeerId
from protocol.lifecycle import CUT_OFF, Lifecycle
from protocol.opsjournal import OpsJournal
from protocol.publishing import Publishing
from protocol.records import Keyring
from protocol.renewals import Renewals
from protocol.resources import Resources
from protocol.restarts import Restarts
from protocol.retention import Retention
from protocol.unread import Unread


@dataclass(slots=True)
class Executor:
    """All executions of this device. Ended ones are kept until their time or number is up.

    Its parts each have one side of their lives; here is what goes through all of them.
    """

    keyring: Keyring
    config: CoordinationConfig
    bidder: Bidder
    reachable: Callable[[PeerId], bool]
    journal: OpsJournal
    restarts: Restarts
    over: Callable[[JobId, int], str]  # why a service of this generation is not to run (any more)
    first_rank: Callable[[JobId], PeerId | None]  # who would coordinate a service without holders
    alone_since: Callable[[], float]  # monotonic; NEVER while any other is connected, or none known
    publishing: Publishing
    executions: Executions = field(default_factory=Executions)
    contacts: Contacts = field(init=False)
    delivery: Delivery = field(init=False)
    lifecycle: Lifecycle = field(init=False)
    renewals: Renewals = field(init=False)
    retention: Retention = field(init=False)
    awards: Awards = field(init=False)

    def __post_init__(self) -> None:
        self.contacts = Contacts(self.executions, self.reachable, self.first_rank)
        self.delivery = Delivery(self.config, self.executions, self.contacts)
        self.lifecycle = Lifecycle(
            self.keyring,
            self.config,
            self.bidder,
            self.journal,
            self.restarts,
            self.publishing,
            self.executions,
            self.delivery,
        )
        self.renewals = Renewals(
            self.config, self.executions, self.contacts, self.lifecycle, self.alone_since
        )
        self.retention = Retention(self.config, self.executions, self.publishing)
        self.awards = Awards(
            self.keyring,
            self.config,
            self.bidder,
            self.journal,
            self.over,
            self.alone_since,
            self.executions,
            self.lifecycle,
            self.retention,
        )

    @property
    def reserved(self) -> Resources:
        return self.bidder.reserved

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        self.awards.fences = Fences.restore(disk.get("fence", {}), unreadable)
        self.journal.restore(disk.get("ops", {}), unreadable)
        rows = disk.get("execution", {})
        unread: list[str] = []
        for key in sorted(rows):
            try:
                execution = restore_execution(rows[key], self.keyring)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("execution", key, str(error)))
                unread.append(key)
                continue
            execution.touched = True  # for all that is known
            self.executions[execution.id] = execution
        self.retention.restore(disk.get("meta", {}), unread)
        return unreadable

    def boot(self, event: Booted, now: Now, *, spare: bool = False) -> list[Effect]:
        """Adopt what still runs, learn what ended meanwhile, say what was lost. With `spare` what
        ended and is known to nobody may be of a row that cannot be read, and stays."""
        found = {task.execution: task for task in event.found}
        effects: list[Effect] = []
        for execution in self.executions.open:
            execution.next_at = execution.heard_at = execution.began_at = now.mono
        # What is not begun has nothing to adopt, and may begin by the end of an older one.
        begun = [e for e in self.executions.open if e.state is not State.PENDING or e.id in found]
        for execution in begun:
            effects += self.lifecycle.adopt(execution, found.pop(execution.id, None), now)
        for execution in self.executions.pending:
            effects += self.lifecycle.make_due(execution, now)
        for execution in self.executions.live:
            if execution.owes:
                execution.next_at = now.mono
        for task in found.values():
            if task.running:  # also one that was given up for lost in an earlier life
                effects.append(StopTask(task.execution, "nothing is known of it"))
            elif not (
                spare
                or task.execution in self.executions
                or task.execution in self.retention.unread
            ):
                effects.append(RemoveTask(task.execution))
        return effects

    def review(self, job: JobId, now: Now) -> list[Effect]:
        """The records of a service changed: what is over stops, and owes nobody anything."""
        rows: list[Row] = []
        effects: list[Effect] = []
        for execution in [e for e in self.executions.values() if e.job == job and e.service]:
            reason = self.over(job, execution.generation)
            if reason and not execution.ended and not execution.stopping:
                row, stopped = self.lifecycle.halt(execution, reason, now)
                rows.append(row)
                effects += stopped
            elif reason and execution.owes:
                execution.delivered, execution.next_at = True, NEVER
                rows.append(execution.row())
        return [Save(tuple(rows)), *effects] if rows else effects

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        times = [self.bidder.deadline]
        for execution in self.executions.live:
            times.append(execution.next_at)
            if not execution.ended:
                times += [execution.start_at, self.renewals.cut_off_at(execution)]
            if execution.state is State.STARTING:
                times.append(execution.start_by)
        return min(times)

    def on_deadline(self, now: Now) -> list[Effect]:
        self.bidder.expire(now.mono)
        effects: list[Effect] = []
        for execution in self.executions.live:
            if execution.owes and execution.next_at <= now.mono:
                effects += self.delivery.offer(execution, now)
        for execution in self.executions.open:
            if execution.state is State.STARTING and execution.start_by <= now.mono:
                effects += self.lifecycle.never_started(execution, now)
            elif self.renewals.cut_off_at(execution) <= now.mono:
                row, stopped = self.lifecycle.halt(execution, CUT_OFF, now)
                effects += [Save((row,)), *stopped]
        effects += self.lifecycle.start_due(now)
        return [*effects, *self.renewals.renew(now), *self.bidder.call(now.mono)]
