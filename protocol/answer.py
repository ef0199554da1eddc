"""An answer: what whoever asked hears of a run that has ended, or of a message that ran nothing.

It is made of signed records alone, so that two who answer one question say the same.
"""

from __future__ import annotations

import json
from typing import Final

from protocol.acceptance import end_of
from protocol.authority import verified_result
from protocol.bounds import TAIL_BYTES_MAX
from protocol.heldjob import HeldJob, Slot
from protocol.ids import JobId, PeerId, Revision
from protocol.outbox import Message
from protocol.question import Question
from protocol.records import Acceptance, Fence, Keyring, Result, Verdict
from protocol.resultmessage import CONTENT_TYPES, OUTCOMES, about_result
from protocol.wire import dumps

REFUSED: Final = "refused"
SLOTS_MAX: Final = 32  # of a run's slots that are told of
STDOUT_BYTES_MAX: Final = 64 * 1024  # of all slots together, as of a result


def answer_id(run: JobId) -> str:
    return f"{run}:answer"


def answer_message(held: HeldJob, question: Question, keyring: Keyring) -> Message:
    """How an ended run ended, with the output of its slots; of several the one that tells most, the
    first that did not succeed, stands for all, and they follow."""
    slots = [slot for slot in held.slots if slot.acceptance is not None]
    first = next((slot for slot in slots if _choice(slot).verdict != Verdict.SUCCESS), slots[0])
    state, id = end_of(held), answer_id(held.id)
    error = "" if state == "completed" else _error(held, first, keyring)
    body = {"id": id, "state": state, "error": error, **_about(held, first, keyring)}
    body["id"] = id  # and not the execution's
    if len(slots) > 1:
        body["slots"] = _slots(held, slots, keyring)
    truncated = bool(body["truncated"])
    return _message(question, held.id, id, state, str(body["outcome"]), body, truncated)


def refusal_message(run: JobId, template: str, reason: str, question: Question) -> Message:
    """A message that was to be this run, and ran nothing."""
    id = f"{run}:{REFUSED}"
    about = _nothing(run, template, 0, REFUSED, reason)
    body = {"id": id, "state": REFUSED, "error": reason, **about}
    body |= {"id": id, "job": ""}
    return _message(question, run, id, REFUSED, REFUSED, body, False)


def _message(
    question: Question,
    run: JobId,
    id: str,
    state: str,
    outcome: str,
    body: dict[str, object],
    truncated: bool,
) -> Message:
    properties = [("id", id), ("state", state), ("outcome", outcome)]
    properties += [("truncated", "true")] if truncated else []
    return Message(
        id=id,
        broker=question.broker,
        job=run,
        topic=question.reply,
        payload=json.dumps(body, ensure_ascii=False).encode(),
        content_type=CONTENT_TYPES["json"],
        properties=tuple(properties),
        correlation=question.correlation,
        answer=True,
    )


def _slots(held: HeldJob, slots: list[Slot], keyring: Keyring) -> list[dict[str, object]]:
    """As many as there is room for; what their output has no room for is left out."""
    told, room = [], STDOUT_BYTES_MAX
    for slot in slots[:SLOTS_MAX]:
        about = _about(held, slot, keyring)
        size = len(dumps(str(about["stdout"])))
        if size > room:
            about |= {"stdout": "", "truncated": True}
        room -= min(room, size)
        told.append(about)
    return told


def _about(held: HeldJob, slot: Slot, keyring: Keyring) -> dict[str, object]:
    choice = _choice(slot)
    if not choice.result:
        outcome = OUTCOMES[Verdict(choice.verdict)]
        return _nothing(held.id, held.job.name, slot.index, outcome, choice.reason)
    result = verified_result(choice.result, keyring)
    execution = held.execution_at(slot, choice.fence)
    stdout = result.stdout_tail
    truncated = len(stdout) >= TAIL_BYTES_MAX  # see resultmessage.kept_output
    count = None if truncated else len(stdout)
    about = about_result(result, execution, held.job.name, count, truncated)
    return {**about, "stdout": stdout.decode("utf-8", "replace")}


def _nothing(run: JobId, name: str, slot: int, outcome: str, reason: str) -> dict[str, object]:
    """The same fields, of what no execution has a result of."""
    nobody = Result(
        job=run,
        revision=Revision(""),
        slot=slot,
        fence=Fence(0, PeerId(""), 0),
        executor=PeerId(""),
        verdict=Verdict.FAULT,
        exit_code=-1,
        reason=reason,
        started_ms=0,
        ended_ms=0,
        duration_ms=0,
    )
    return {**about_result(nobody, "", name, 0, False), "outcome": outcome, "stdout": ""}


def _error(held: HeldJob, slot: Slot, keyring: Keyring) -> str:
    """A sentence for people."""
    choice = _choice(slot)
    if not choice.result:
        return choice.reason or "it ended without a result"
    result = verified_result(choice.result, keyring)
    return choice.reason or result.reason or f"exit code {result.exit_code}"


def _choice(slot: Slot) -> Acceptance:
    assert slot.acceptance is not None, slot.index
    return slot.acceptance
