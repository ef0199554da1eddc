"""The shape of a job view: what views.py makes of a job, and what a peer's report has to hold.

Whoever shows a view to a person relies on these fields, wherever it came from. A newer version may
add others; they are passed on as they came.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import msgspec

from protocol.errors import RemoteProtocolError
from protocol.ids import JobId, PeerId
from protocol.tree import Plain


class SlotShape(TypedDict):
    slot: int
    state: str
    executor: str
    executor_name: str
    attempt: int
    term: int
    exit_code: int | None
    verdict: str
    reason: str
    failures: int
    execution: str
    started_ms: int
    ended_ms: int
    duration_ms: int
    stdout_tail: str
    stderr_tail: str
    archive: NotRequired[str]  # the SHA-256 of its result files; empty where there are none
    archive_bytes: NotRequired[int]
    archive_note: NotRequired[str]
    ports: NotRequired[dict[str, int]]  # of its device, by the names in the job file
    published: NotRequired[str]  # where else they are; empty where nowhere
    output_note: NotRequired[str]  # what of its output is not kept


class ExecutionShape(TypedDict):
    id: str
    slot: int
    peer: str
    peer_name: str
    state: str
    attempt: int
    term: int
    exit_code: int | None
    reason: str
    started_ms: int
    ended_ms: int
    ports: NotRequired[dict[str, int]]


class AnswerShape(TypedDict):
    peer: str
    name: str
    answer: str
    score: int
    facts: dict[str, int]
    reason: str
    awarded: list[int]


class RoundShape(TypedDict):
    round: int
    at_ms: int
    slots: int
    asked: list[AnswerShape]
    note: str


class PastShape(TypedDict):
    id: str
    exit_code: int | None
    reason: str
    started_ms: int
    ended_ms: int


class PartShape(TypedDict):
    """What one peer does for a standing job."""

    peer: PeerId
    peer_name: str
    state: str
    reason: str
    revision: str
    generation: int
    control: int
    execution: str
    attempt: int
    restarts: int
    exit_code: int | None
    started_ms: int
    ended_ms: int
    past: list[PastShape]
    ports: NotRequired[dict[str, int]]


class RunShape(TypedDict):
    job: JobId
    slot_ms: int
    state: str
    on: list[str]


class ScheduleShape(TypedDict):
    cron: str
    zone: str
    next_ms: int
    problem: str
    runs: list[RunShape]


class HearingShape(TypedDict):
    """What one peer hears of a trigger, and what became of it since its agent started."""

    peer: PeerId
    peer_name: str
    hears: bool
    elected: bool
    problem: str
    waiting: int
    heard: int
    filtered: int
    fired: int
    refused: dict[str, int]
    unanswered: dict[str, int]
    last_fired_ms: int


class TriggerShape(TypedDict):
    broker: str
    topic: str
    keyed: bool
    hearers: list[str]
    devices: list[HearingShape]


class JobShape(TypedDict):
    """The last four only where details were asked for; `parts` of a standing job, `schedule` of
    one that fires others, `source` of what was fired, `trigger` of a template that messages run."""

    id: JobId
    name: str
    namespace: str
    type: str
    state: str
    reason: str
    created_ms: int
    ended_ms: int
    coordinator: PeerId
    coordinator_name: str
    term: int
    revision: str
    generation: int
    control: int
    count: int
    desired: str
    author: PeerId
    author_name: str
    holders: list[PeerId]
    slots: list[SlotShape]
    parts: NotRequired[list[PartShape]]
    schedule: NotRequired[ScheduleShape]
    source: NotRequired[JobId]
    trigger: NotRequired[TriggerShape]
    spec: NotRequired[dict[str, object]]
    executions: NotRequired[list[ExecutionShape]]
    why: NotRequired[list[RoundShape]]


def checked_view(view: dict[str, Plain]) -> dict[str, Plain]:
    """The view itself, once it has every field in its type. Raises RemoteProtocolError."""
    try:
        msgspec.convert(view, JobShape)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"not a view of a job: {error}") from None
    return view
