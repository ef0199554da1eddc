"""Views of standing jobs: each peer tells its own part; whoever asks puts the parts together."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final, cast

from protocol.clock import NEVER, Now
from protocol.daemon import Daemon
from protocol.daemons import Daemons
from protocol.execution import State
from protocol.ids import PeerId
from protocol.records import Desired
from protocol.schedules import Schedules
from protocol.scheduleviews import joined_schedules, schedule_view
from protocol.slotviews import ACTIVE, executions_of_both, slots_settled, views_in
from protocol.standingjob import StandingJob
from protocol.tree import Plain
from protocol.triggerviews import joined_triggers, own_trigger
from protocol.versions import Version

View = dict[str, Plain]
Name = Callable[[PeerId], str]

BELONGS: Final = (*ACTIVE, "waiting", "restarting")  # states of a part that is to run


def standing_view(
    held: StandingJob, daemons: Daemons, schedules: Schedules, name: Name, detail: bool, now: Now
) -> View:
    """One standing job as this peer sees it: the records, and its own part alone."""
    view = record_view(held, daemons.me, name, now)
    view["parts"] = [part_of(held, daemons, name, now)]
    if held.job is not None and held.job.schedule is not None:
        view["schedule"] = schedule_view(held, held.job.schedule, schedules, name, now)
    if detail:
        view["spec"] = held.job.to_plain() if held.job is not None else {}
        view["executions"] = []
        view["why"] = []
    return settled(view)


def record_view(held: StandingJob, me: PeerId, name: Name, now: Now) -> View:
    """What its records say of a standing job."""
    author = held.author or held.control_author or me
    return {
        "id": held.id,
        "name": held.name,
        "namespace": held.namespace,
        "type": held.kind,
        "state": "",
        "reason": held.unreadable,
        "created_ms": held.since_ms,
        "ended_ms": 0,
        "coordinator": author,
        "coordinator_name": name(author),
        "term": 0,
        "revision": held.revision or "",
        "generation": held.generation,
        "control": held.number,
        "count": 1,
        "desired": "expired" if held.expired(now) else held.desired.name.lower(),
        "author": author,
        "author_name": name(author),
        "holders": [],
        "slots": [],
        "parts": [],
    }


def absent_part(held: StandingJob, me: PeerId, name: Name) -> View:
    """The part of a peer that has heard of the job, and runs nothing of it."""
    return {
        "peer": me,
        "peer_name": name(me),
        "state": "absent",
        "reason": "",
        "revision": "",
        "generation": held.generation,
        "control": held.number,
        "execution": "",
        "attempt": 0,
        "restarts": 0,
        "exit_code": None,
        "started_ms": 0,
        "ended_ms": 0,
        "past": [],
    }


def part_of(held: StandingJob, daemons: Daemons, name: Name, now: Now) -> View:
    """What this peer has to say of the job: what runs, or why nothing does."""
    daemon, reason = daemons.daemons.get(held.id), daemons.unfit.get(held.id, "")
    part: View = {**absent_part(held, daemons.me, name), "reason": reason}
    if daemon is None:
        return part
    past = daemon.past[-1] if daemon.past and not daemon.active else None
    return {
        **part,
        "state": _state(daemon),
        "reason": reason or _reason(daemon, now),
        "revision": daemon.now.revision,
        "execution": daemon.execution(daemons.me) if daemon.attempt else "",
        "attempt": daemon.attempt,
        "restarts": daemon.restarts,
        "exit_code": past[1] if past is not None and past[1] >= 0 else None,
        "started_ms": daemon.started_ms,
        "ended_ms": past[4] if past is not None else 0,
        "ports": {**dict(daemon.ports)} if daemon.active else {},
        "past": [
            {"id": key, "exit_code": None if code < 0 else code, "reason": why,
             "started_ms": started, "ended_ms": ended}
            for key, code, why, started, ended in daemon.past
        ],
    }  # fmt: skip


def _state(daemon: Daemon) -> str:
    if daemon.active:
        return "stopping" if daemon.stopping else daemon.state.value
    if daemon.parked:
        return "stopped"
    if daemon.waiting:
        return "waiting"
    return "restarting" if daemon.state in (State.COMPLETED, State.FAILED) else "starting"


def _reason(daemon: Daemon, now: Now) -> str:
    """Why it is not simply running."""
    if daemon.active and daemon.stopping:
        return daemon.stopping
    if daemon.active and daemon.state is State.STARTING and daemon.doing:
        return daemon.doing
    if daemon.active:
        if daemon.switch_to is not None and daemon.switch_to != daemon.now.revision:
            return f"changes to the next revision in {_seconds_to(daemon.switch_at, now)} s"
        gone_back = daemon.refused is not None and daemon.refused != daemon.now.revision
        if not daemon.passing:
            return daemon.sick or "its checks have not passed yet"
        return "gone back: a later revision ended early here" if gone_back else ""
    if daemon.waiting:
        return daemon.waiting
    if daemon.parked or not daemon.past:
        return ""
    _, code, why, _, _ = daemon.past[-1]
    how = f"ended with exit code {code}" if code >= 0 else "ended"
    again = _seconds_to(daemon.next_at, now)
    return f"{how}{f': {why}' if why else ''}; started again in {again} s"


def _seconds_to(due: float, now: Now) -> int:
    return max(0, ceil(due - now.mono)) if due < NEVER else 0


# ---- putting parts together ---------------------------------------------------------------------


def joined(one: View, other: View) -> View:
    """Two peers' views of one job: the head that knows more, and the parts of both."""
    head, rest = (one, other) if _rank(one) >= _rank(other) else (other, one)
    parts: dict[str, View] = {}
    for part in (*views_in(rest["parts"]), *views_in(head["parts"])):
        parts[str(part["peer"])] = part
    joint: View = {**head, "parts": [parts[peer] for peer in sorted(parts)]}
    if one["type"] == other["type"] == "service":
        joint["executions"] = executions_of_both(one, other)
    for field, join in (("schedule", joined_schedules), ("trigger", joined_triggers)):
        if field in head and field in rest:
            joint[field] = join(cast(View, head[field]), cast(View, rest[field]))
    if "schedule" in head and head["reason"] == cast(View, head["schedule"])["problem"]:
        joint["reason"] = ""  # it is told anew, if it is the problem of all
    return joint


def own_part(view: View, sender: PeerId) -> View:
    """As far as the sender may speak: of itself."""
    parts: list[Plain] = [part for part in views_in(view["parts"]) if part["peer"] == sender]
    view = {**view, "parts": parts}
    if view["type"] == "service":
        told = views_in(view.get("executions", []))
        view["executions"] = [each for each in told if each["peer"] == sender]
    if "trigger" in view:
        view["trigger"] = own_trigger(cast(View, view["trigger"]), sender)
    return view


def _rank(view: View) -> tuple[int, int, str, int, bool, int]:
    """Of a service's holders the one counts that knows of the latest takeover, says why what waits
    does, and whom it asked."""
    records = (cast(int, view["control"]), cast(int, view["generation"]), str(view["revision"]))
    rounds = views_in(view.get("why", []))
    return (*records, cast(int, view["term"]), bool(view["reason"]), len(rounds))


def settled(view: View) -> View:
    """With the state that follows from its parts, a slot for each that is to run, and why not."""
    if view["type"] == "service":
        return slots_settled(view)
    parts = views_in(view["parts"])
    here = [part for part in parts if part["state"] != "absent"]
    view = {**view, "slots": [_slot(index, part) for index, part in enumerate(here)]}
    view["count"] = max(1, len([part for part in parts if part["state"] in BELONGS]))
    view["state"], reason = _whole(view, parts)
    view["reason"] = view["reason"] or reason
    if "why" in view:
        view["executions"] = [
            each for index, part in enumerate(here) for each in _executions(index, part)
        ]
        view["why"] = [_round(parts)]
    return view


def _whole(view: View, parts: list[View]) -> tuple[str, str]:
    desired = str(view["desired"])
    running = any(part["state"] in ACTIVE for part in parts)
    if desired != "running":
        ended = "stopped" if desired in ("stopped", "expired") else "deleted"
        reason = "it has expired (NotAfter)" if desired == "expired" else ""
        return ("stopping" if running else ended), reason
    if running:
        return "running", ""
    if view["type"] == "template":
        return "ready", ""
    if "schedule" in view:
        return "scheduled", str(cast(View, view["schedule"])["problem"])
    reasons = [str(part["reason"]) for part in parts if part["reason"]]
    return "pending", reasons[0] if reasons else "no peer that answered matches"


def _slot(index: int, part: View) -> View:
    return {
        "slot": index,
        "state": part["state"],
        "executor": part["peer"],
        "executor_name": part["peer_name"],
        "attempt": part["attempt"],
        "term": 0,
        "exit_code": part["exit_code"],
        "verdict": "",
        "reason": part["reason"],
        "failures": part["restarts"],
        "execution": part["execution"],
        "started_ms": part["started_ms"],
        "ended_ms": part["ended_ms"],
        "duration_ms": 0,
        "stdout_tail": "",
        "stderr_tail": "",
        "ports": part.get("ports", {}),
    }


def _executions(index: int, part: View) -> list[View]:
    """The starts that are remembered, the present one last."""
    same: View = {
        "slot": index,
        "peer": part["peer"],
        "peer_name": part["peer_name"],
        "attempt": part["attempt"],
        "term": 0,
    }
    past = views_in(part["past"])
    count = cast(int, part["attempt"]) - len(past) + (part["state"] not in ACTIVE)
    found: list[View] = [
        {**same, **each, "state": "ended", "attempt": count + at} for at, each in enumerate(past)
    ]
    if part["state"] in ACTIVE:
        keys = ("state", "exit_code", "reason", "started_ms", "ended_ms")
        found.append({**same, "id": part["execution"], **{key: part[key] for key in keys}})
    return found


def _round(parts: list[View]) -> View:
    """`job why`: who runs it, and who does not because of what."""
    asked: list[Plain] = [
        {
            "peer": part["peer"],
            "name": part["peer_name"],
            "answer": str(part["state"]) if part["state"] in BELONGS else "refused",
            "score": 0,
            "facts": {},
            "reason": part["reason"],
            "awarded": [],
        }
        for part in parts
    ]
    return {"round": 1, "at_ms": 0, "slots": len(parts), "asked": asked, "note": ""}


def effect_of(view: View | None, number: int) -> tuple[list[str], list[str], list[str]]:
    """What a control record has brought about, by names of peers: where nothing of the job runs
    (any more), where it is still being stopped, and who has not heard of it."""
    quiet: list[str] = []
    stopping: list[str] = []
    unheard: list[str] = []
    for part in views_in(view["parts"]) if view is not None else []:
        heard = cast(int, part["control"]) >= number
        where = stopping if part["state"] in ACTIVE else quiet
        (where if heard else unheard).append(str(part["peer_name"]))
    return quiet, stopping, unheard


def version_view(version: Version, name: Name) -> View:
    """One spec of a job's past or present."""
    return {
        "generation": version.generation,
        "revision": version.revision,
        "author": version.author,
        "author_name": name(version.author),
        "since_ms": version.since_ms,
        "spec": None if version.spec is None else version.spec.to_plain(),
    }


def listed(held: StandingJob, daemons: Daemons, prefix: str) -> bool:
    """Whether a list shows it: what is deleted is gone for people who do not ask for its id."""
    daemon = daemons.daemons.get(held.id)
    gone = held.desired is Desired.DELETED and (daemon is None or not daemon.active)
    return held.id.startswith(prefix) and (bool(prefix) or not gone)
