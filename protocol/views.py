"""Views: jobs and peers as plain values, for the API and for other peers' questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec

from protocol.acceptance import outcome_of, state_of
from protocol.auction import Answer, Auction
from protocol.authority import verified_result
from protocol.clock import Now
from protocol.heldjob import HeldJob, Slot
from protocol.ids import PeerId
from protocol.led import Led, Phase, Plan
from protocol.messages import Facts
from protocol.moment import format_moment
from protocol.records import Advert, Desired, Keyring, Result, Verdict
from protocol.roster import Peer
from protocol.story import ASKED_MAX, Attempt, Story
from protocol.tree import Plain

View = dict[str, Plain]
Name = Callable[[PeerId], str]


def job_view(
    held: HeldJob, led: Led | None, story: Story | None, name: Name, keyring: Keyring, detail: bool
) -> View:
    """One job as its holder sees it; `detail` adds the spec, the executions and the bidding."""
    slots = [_slot_view(held, slot, _plan(led, slot), name, keyring) for slot in held.slots]
    state, reason = _state(held, slots, story, keyring)
    view: View = {
        "id": held.id,
        "name": held.job.name,
        "namespace": held.spec.namespace,
        "type": held.job.type.value,
        "state": state,
        "reason": reason,
        "created_ms": held.accepted_ms,
        "ended_ms": held.ended_ms,
        "coordinator": held.coordinator,
        "coordinator_name": name(held.coordinator),
        "term": held.term,
        "revision": held.revision,
        "generation": held.spec.generation,
        "control": held.control.number if held.control is not None else 0,
        "count": len(held.slots),
        "desired": held.desired.name.lower(),
        "author": held.author,
        "author_name": name(held.author),
        "holders": list(held.holders),
        "slots": list(slots),
    }
    if held.source is not None:
        view["source"] = held.source
    if not detail:
        return view
    told = story or Story()
    view["spec"] = held.job.to_plain()
    # The records know the latest attempt of each slot; who placed it remembers some of the others.
    remembered = {attempt.execution for attempt in told.attempts}
    known = [
        _known_execution(view_of)
        for slot, view_of in zip(held.slots, slots, strict=True)
        if slot.assignment is not None and view_of["execution"] not in remembered
    ]
    view["executions"] = [*(_attempt_view(attempt, name) for attempt in told.attempts), *known]
    view["why"] = [
        _round_view(number + 1, auction, name) for number, auction in enumerate(told.rounds)
    ]
    return view


def _plan(led: Led | None, slot: Slot) -> Plan | None:
    # Of a service another holder may speak of more slots than there are plans for.
    return led.plans.get(slot.index) if led is not None else None


def _state(
    held: HeldJob, slots: list[View], story: Story | None, keyring: Keyring
) -> tuple[str, str]:
    if held.done:
        state, _ = outcome_of(held, keyring)
        reasons = [str(slot["reason"]) for slot in slots if slot["reason"]]
        return state, reasons[0] if reasons and state != "completed" else ""
    if held.desired is not Desired.RUNNING:
        return "stopping", ""
    if not held.closed:
        return "running", f"open until {format_moment(held.job.not_after_s or 0)}"
    begun = ("running", "publishing", "completed", "failed")
    if any(slot["state"] in begun for slot in slots):
        return "running", ""
    return "pending", story.waiting if story is not None else ""


def _slot_view(held: HeldJob, slot: Slot, plan: Plan | None, name: Name, keyring: Keyring) -> View:
    assignment, acceptance = slot.assignment, slot.acceptance
    executor = assignment.executor if assignment is not None else None
    fence = assignment.fence if assignment is not None else None
    result = _result(slot, keyring)
    reason = plan.reason if plan is not None else ""
    if acceptance is not None:
        state = state_of(acceptance, keyring)
        reason = acceptance.reason or (result.reason if result is not None else "")
        fence = acceptance.fence
        executor = result.executor if result is not None else executor
    elif plan is not None:
        states = {Phase.RUNNING: "running", Phase.OFFERED: "starting"}
        state = states.get(plan.phase, "pending")
        state = "publishing" if state == "running" and plan.publishing else state
        if plan.phase is Phase.RUNNING and plan.doing:
            state, reason = "starting", plan.doing
    else:
        state = "running" if assignment is not None else "pending"
    return {
        "slot": slot.index,
        "state": state,
        "executor": executor or "",
        "executor_name": name(executor) if executor is not None else "",
        "attempt": fence.attempt if fence is not None else 0,
        "term": fence.term if fence is not None else 0,
        "exit_code": result.exit_code if result is not None and result.exit_code >= 0 else None,
        "verdict": Verdict(acceptance.verdict).name.lower() if acceptance is not None else "",
        "reason": reason,
        "failures": plan.failures if plan is not None else 0,
        "execution": _execution_of(held, slot, result),
        "started_ms": result.started_ms if result is not None else 0,
        "ended_ms": result.ended_ms if result is not None else 0,
        "duration_ms": result.duration_ms if result is not None else 0,
        "stdout_tail": result.stdout_tail.decode(errors="replace") if result is not None else "",
        "stderr_tail": result.stderr_tail.decode(errors="replace") if result is not None else "",
        "archive": result.archive if result is not None else "",
        "archive_bytes": result.archive_bytes if result is not None else 0,
        "archive_note": result.archive_note if result is not None else "",
        "ports": {**dict(plan.ports)} if plan is not None and state == "running" else {},
        "published": result.published if result is not None else "",
        "output_note": result.output_note if result is not None else "",
    }


def _result(slot: Slot, keyring: Keyring) -> Result | None:
    if slot.acceptance is None or not slot.acceptance.result:
        return None
    return verified_result(slot.acceptance.result, keyring)


def _execution_of(held: HeldJob, slot: Slot, result: Result | None) -> str:
    """Of the result that counts, where there is one; else the latest attempt."""
    return held.execution_of(slot) if result is None else held.execution_at(slot, result.fence)


def _known_execution(view: View) -> View:
    """From the records alone: a holder that did not place the slot knows its last attempt."""
    keys = ("slot", "state", "attempt", "term", "exit_code", "reason", "started_ms", "ended_ms")
    return {
        "id": view["execution"],
        "peer": view["executor"],
        "peer_name": view["executor_name"],
        **{key: view[key] for key in keys},
    }


def _attempt_view(attempt: Attempt, name: Name) -> View:
    return {
        "id": attempt.execution,
        "slot": attempt.slot,
        "peer": attempt.peer,
        "peer_name": name(attempt.peer),
        "state": attempt.state,
        "attempt": attempt.attempt,
        "term": attempt.term,
        "exit_code": attempt.exit_code,
        "reason": attempt.reason,
        "started_ms": attempt.at_ms,
        "ended_ms": attempt.ended_ms,
    }


def _round_view(number: int, auction: Auction, name: Name) -> View:
    """One round; of very many answers the bids first, then the refusals."""
    ranked = sorted(auction.answers, key=lambda peer: (_RANKS[auction.answers[peer].kind], peer))
    notes = []
    if len(ranked) > ASKED_MAX:
        notes.append(f"{len(ranked) - ASKED_MAX} more answers are not shown")
    if auction.candidates:
        notes.append(f"{len(auction.candidates)} more were not asked")
    return {
        "round": number,
        "at_ms": auction.started_ms,
        "slots": auction.wanted,
        "asked": [
            _answer_view(peer, auction.answers[peer], name) for peer in sorted(ranked[:ASKED_MAX])
        ],
        "note": "; ".join(notes),
    }


_RANKS = {"listed": 0, "bid": 0, "refused": 1, "silent": 2, "filtered": 3}


def _answer_view(peer: PeerId, answer: Answer, name: Name) -> View:
    facts = facts_view(answer.facts) if answer.facts is not None else {}
    return {
        "peer": peer,
        "name": name(peer),
        "answer": answer.kind,
        "score": answer.score,
        "facts": facts,
        "reason": answer.reason,
        "awarded": list(answer.given),
    }


def facts_view(facts: Facts) -> View:
    """Facts by name; what cannot be known is left out."""
    fields = cast(dict[str, int], msgspec.structs.asdict(facts))
    return {key: value for key, value in fields.items() if value >= 0}


def peer_view(peer: Peer, now: Now, via: str = "") -> View:
    """`via`: the name of the neighbour that relays to it, where it is not connected itself."""
    certificate = peer.certificate
    return {
        "id": peer.id,
        "name": peer.name,
        "state": peer.state.value,
        "self": False,
        "connected": peer.connected,
        "via": via,
        "incarnation": peer.incarnation,
        "roles": list(certificate.roles) if certificate is not None else [],
        "since_s": int(max(0.0, now.mono - peer.since)),
        "reason": "",
        **_advert_view(peer.advert),
    }


def own_view(advert: Advert | None, name: str, keyring: Keyring, roles: tuple[str, ...]) -> View:
    view: View = {
        "id": keyring.peer,
        "name": name,
        "state": "alive",
        "self": True,
        "connected": True,
        "via": "",
        "incarnation": advert.incarnation if advert is not None else 0,
        "roles": list(roles),
        "since_s": 0,
        "reason": "",
    }
    return {**view, **_advert_view(advert)}


def _advert_view(advert: Advert | None) -> View:
    if advert is None:
        return {"addresses": [], "labels": {}, "engines": [], "version": "", "draining": False}
    return {
        "addresses": list(advert.addresses),
        "labels": {**advert.labels},
        "engines": list(advert.engines),
        "cpu_m": advert.cpu_m,
        "memory_bytes": advert.memory_bytes,
        "disk_bytes": advert.disk_bytes,
        "gpus": advert.gpus,
        "version": advert.version,
        "draining": advert.draining,
    }
