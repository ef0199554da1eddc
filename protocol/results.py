"""Results: the record that is made of how an execution's task ended, and that in words."""

from __future__ import annotations

from dataclasses import replace

from protocol.bounds import clipped
from protocol.events import TaskEnded
from protocol.execution import Execution, State, verdict_of
from protocol.ids import PeerId
from protocol.records import Result, Verdict
from protocol.resultmessage import kept_output

TAIL_BYTES = 2048  # of each stream, kept in the result itself


def result_of(execution: Execution, event: TaskEnded, executor: PeerId) -> Result:
    """Of one that has ended, whose state and times say so already."""
    verdict = verdict_of(event.exit_code)
    if execution.service and verdict is Verdict.SUCCESS:
        verdict = Verdict.FAILURE  # a service that ends has failed, however well it ended
    stdout = event.stdout_tail[-TAIL_BYTES:]
    if execution.asked:
        stdout = kept_output(event.stdout, event.stdout_bytes, stdout)
    return Result(
        job=execution.job,
        revision=execution.revision,
        slot=execution.slot,
        fence=execution.fence,
        executor=executor,
        verdict=verdict,
        exit_code=-1 if event.exit_code is None else event.exit_code,
        reason=event.reason[:500],
        started_ms=execution.started_ms,
        ended_ms=execution.ended_ms,
        duration_ms=event.duration_ms,
        stdout_tail=stdout,
        stderr_tail=event.stderr_tail[-TAIL_BYTES:],
        unknown=execution.state is State.UNKNOWN,
        archive=event.archive,
        archive_bytes=event.archive_bytes,
        archive_note=clipped(event.archive_note),
        untouched=not execution.touched,
        published=clipped(event.published),
        output_note=clipped(event.output_note),
    )


def unpublished(event: TaskEnded) -> TaskEnded:
    """What was to be published and is not has not succeeded. That is no failure of the task: the
    next device may reach what this one did not. A task that failed by itself has failed first."""
    if event.exit_code == 0:
        return replace(event, exit_code=None, reason=event.unpublished)
    note = f"{event.archive_note}; {event.unpublished}" if event.archive_note else event.unpublished
    return replace(event, archive_note=note)


def how_it_ended(event: TaskEnded) -> str:
    """How it ended, to be put behind that it did."""
    code = "" if event.exit_code is None else f" with exit code {event.exit_code}"
    return f"{code}: {event.reason}" if event.reason else code
