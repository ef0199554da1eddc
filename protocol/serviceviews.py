"""Views of services: who holds its slots tells what they are to do, who runs one how that goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.clock import NEVER, Now
from protocol.execution import Execution, State
from protocol.executor import Executor
from protocol.heldservice import HeldService
from protocol.ids import PeerId
from protocol.led import Led
from protocol.records import Keyring
from protocol.standingjob import StandingJob
from protocol.standingviews import View, absent_part, record_view, settled
from protocol.story import Story
from protocol.views import job_view

PAST_MAX: Final = 8  # ended executions of one service that a peer tells of

Name = Callable[[PeerId], str]


@dataclass(frozen=True, slots=True)
class Known:
    """What this peer knows of one service beside its records."""

    held: HeldService | None
    led: Led | None
    story: Story | None
    executor: Executor


def service_view(
    record: StandingJob, known: Known, name: Name, keyring: Keyring, detail: bool, now: Now
) -> View:
    """One service as this peer sees it, to be joined with what others see."""
    me = keyring.peer
    mine = [e for e in known.executor.executions.values() if e.job == record.id]
    current = [e for e in mine if not e.ended]
    ended = [e for e in mine if e.ended][-PAST_MAX:] if detail else []
    view = record_view(record, me, name, now)
    view["count"] = record.job.count if record.job is not None else 1
    view["why"] = []
    if known.held is not None:
        job = job_view(known.held, known.led, known.story, name, keyring, detail=True)
        for key in ("term", "coordinator", "coordinator_name", "holders", "slots", "why"):
            view[key] = job[key]
        view["reason"] = view["reason"] or _update(known.held)
    view["executions"] = [_execution(each, me, name, now) for each in (*ended, *current)]
    view["parts"] = [_part(record, current, me, name)]
    if detail:
        view["spec"] = record.job.to_plain() if record.job is not None else {}
    else:
        del view["why"]
    return settled(view)


def _update(held: HeldService) -> str:
    """What became of the latest revision, where it is not what runs."""
    if not held.failed:
        return ""
    if held.paused:
        return "the update is paused: the latest revision ended early"
    return "gone back: the latest revision ended early"


def _part(record: StandingJob, current: list[Execution], me: PeerId, name: Name) -> View:
    part = absent_part(record, me, name)
    if not current:
        return part
    execution = current[0]
    return {
        **part,
        "state": "stopping" if execution.stopping else _state(execution),
        "reason": execution.stopping or execution.sick,
        "revision": execution.revision,
        "execution": execution.id,
        "attempt": execution.fence.attempt,
        "restarts": execution.run,
        "started_ms": execution.started_ms,
    }


def _state(execution: Execution) -> str:
    return "restarting" if execution.state is State.PENDING else execution.state.value


def _execution(execution: Execution, me: PeerId, name: Name, now: Now) -> View:
    reason = execution.stopping or execution.sick or execution.doing
    if execution.state is State.PENDING and execution.start_at < NEVER:
        reason = f"started again in {max(0, round(execution.start_at - now.mono))} s"
    return {
        "id": execution.id,
        "slot": execution.slot,
        "peer": me,
        "peer_name": name(me),
        "state": "stopping" if execution.stopping and not execution.ended else _state(execution),
        "attempt": execution.fence.attempt,
        "term": execution.fence.term,
        "exit_code": None,
        "reason": reason,
        "started_ms": execution.started_ms,
        "ended_ms": execution.ended_ms,
        "restarts": execution.run,
        "ports": {**dict(execution.ports)},
    }
