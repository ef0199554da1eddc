"""Renewals: an executor's side of leases, and its end where nobody answers for one any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.contacts import BATCH_S, Contacts
from protocol.effects import Effect, Save, Send
from protocol.execution import Execution
from protocol.executions import Executions
from protocol.ids import PeerId
from protocol.lifecycle import Lifecycle
from protocol.messages import Renew, RenewAck, Renewal

RENEWALS_PER_MESSAGE = 32
HOLDERS_MAX = 16  # that one execution knows


@dataclass(slots=True)
class Renewals:
    """Keeps the leases of what has not ended here, and stops what turns out not to be wanted."""

    config: CoordinationConfig
    executions: Executions
    contacts: Contacts
    lifecycle: Lifecycle
    alone_since: Callable[[], float]  # monotonic; NEVER while any other is connected, or none known

    def renew(self, now: Now) -> list[Effect]:
        """Renew what is due, and with it what will be soon; nothing where nothing is due."""
        if all(execution.next_at > now.mono for execution in self.executions.open):
            return []
        by_target: dict[PeerId, list[Renewal]] = {}
        for execution in self.executions.open:
            if execution.next_at > now.mono + BATCH_S:
                continue
            target = self.contacts.target(execution)
            if not execution.answers_to(target):
                execution.holders = (*execution.holders[: HOLDERS_MAX - 1], target)
            known = target == execution.fence.coordinator
            renewal = Renewal(
                execution.job,
                execution.revision,
                execution.slot,
                execution.fence,
                execution.proves,
                b"" if known else execution.assignment_data,
                execution.run,
                execution.ports,
                execution.doing,
            )
            by_target.setdefault(target, []).append(renewal)
            execution.tries = min(execution.tries + 1, 16)
            execution.next_at = now.mono + self.config.renew_s
        return [
            Send(target, Renew(tuple(items[at : at + RENEWALS_PER_MESSAGE])))
            for target, items in by_target.items()
            for at in range(0, len(items), RENEWALS_PER_MESSAGE)
        ]

    def on_renew_ack(self, sender: PeerId, ack: RenewAck, now: Now) -> list[Effect]:
        """What became of leases; only whom they were to be renewed with can say so."""
        effects: list[Effect] = []
        for answer in ack.items:
            for execution in self.executions.open_of(answer.job, answer.slot):
                if execution.fence != answer.fence or execution.stopping:
                    continue
                if not execution.answers_to(sender):
                    continue
                if answer.verdict == "over":
                    why = "superseded: the slot was decided without it"
                    row, stopped = self.lifecycle.halt(execution, why, now)
                    effects += [Save((row,)), *stopped]
                    continue
                if answer.coordinator not in (None, execution.coordinator):
                    execution.coordinator, execution.tries = answer.coordinator, 0
                if answer.verdict == "kept":
                    execution.heard_at, execution.tries = now.mono, 0
                    execution.holders = answer.holders or execution.holders
        return effects

    def cut_off_at(self, execution: Execution) -> float:
        """When it stops of itself because nobody renews its lease, if its job says so."""
        stop_after = execution.spec.disconnect.stop_after_s
        if stop_after is None or execution.stopping:
            return NEVER
        after_s = max(stop_after, 2 * self.config.renew_s)
        heard_at = execution.heard_at
        if execution.service:  # which may be coordinated here
            heard_at = min(heard_at, self.alone_since())
        return heard_at + after_s
