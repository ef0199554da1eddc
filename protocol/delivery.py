"""Delivery: results on their way to those who answer for their jobs, until one has it on disk."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.contacts import Contacts
from protocol.effects import Effect, Save, Send
from protocol.execution import Execution
from protocol.executions import Executions
from protocol.ids import PeerId
from protocol.messages import ResultAck, ResultOffer

HINTS_MAX = 4  # of another coordinator that one result follows at once; then it keeps its pauses


@dataclass(slots=True)
class Delivery:
    """Offers what is owed, with growing pauses."""

    config: CoordinationConfig
    executions: Executions
    contacts: Contacts

    def offer(self, execution: Execution, now: Now) -> list[Effect]:
        """Bring it to one of them, and again after a pause."""
        target = self.contacts.target(execution)
        # Whoever awarded it knows that, unless its own memory fails it.
        known = target == execution.fence.coordinator and not execution.tries
        award = b"" if known else execution.assignment_data
        wait = min(self.config.resend_first_s * 2**execution.tries, self.config.resend_max_s)
        execution.tries = min(execution.tries + 1, 16)
        execution.next_at = now.mono + wait
        return [Send(target, ResultOffer(execution.result_data, award))]

    def on_result_ack(self, sender: PeerId, ack: ResultAck) -> list[Effect]:
        """Its result has arrived, or is to go elsewhere; only whom it was offered to can say so."""
        effects: list[Effect] = []
        for execution in self.executions.live:
            mine = (execution.job, execution.slot, execution.fence) == (
                ack.job,
                ack.slot,
                ack.fence,
            )
            if not mine or not execution.owes or not execution.answers_to(sender):
                continue
            if ack.status in ("accepted", "superseded"):
                execution.delivered = True
                execution.next_at = NEVER
                effects.append(Save((execution.row(),), lazy=True))
            elif ack.coordinator not in (None, sender):
                execution.coordinator = ack.coordinator
                # Two who each hold the other for the coordinator would pass it to and fro.
                if execution.hints < HINTS_MAX:
                    execution.hints, execution.tries = execution.hints + 1, 0
                    execution.next_at = 0.0
        return effects
