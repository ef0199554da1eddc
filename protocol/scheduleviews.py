"""Views of schedules: when one fires next, and the latest of its runs that somebody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from protocol.clock import Now
from protocol.derived import slot_of
from protocol.heldjob import HeldJob
from protocol.ids import PeerId
from protocol.records import Desired, Verdict
from protocol.schedule import Schedule
from protocol.schedules import Schedules
from protocol.standingjob import StandingJob
from protocol.tree import Plain

RUNS_SHOWN: Final = 10

View = dict[str, Plain]
Name = Callable[[PeerId], str]


def schedule_view(
    held: StandingJob, schedule: Schedule, schedules: Schedules, name: Name, now: Now
) -> View:
    """As this peer sees it; `next_ms` is zero where nothing is to be fired any more."""
    watch = schedules.watches.get(held.id)
    running = held.wanted(now) is not None
    return {
        "cron": schedule.cron,
        "zone": schedule.zone,
        "next_ms": 1000 * schedules.next_s(schedule, now) if running else 0,
        "problem": watch.problem if watch is not None else "",
        "runs": [_run(run, name) for run in schedules.runs(held.id)[:RUNS_SHOWN]],
    }


def _run(run: HeldJob, name: Name) -> View:
    peers = [slot.assignment.executor for slot in run.slots if slot.assignment is not None]
    names: list[Plain] = [name(peer) for peer in dict.fromkeys(peers)]
    return {
        "job": run.id,
        "slot_ms": 1000 * slot_of(run.spec),
        "state": ended_as(run) or "running",
        "on": names[:RUNS_SHOWN],
    }


def ended_as(run: HeldJob) -> str:
    """How its slots ended, empty where not all have."""
    if not run.done:
        return ""
    verdicts = [slot.acceptance.verdict for slot in run.slots if slot.acceptance is not None]
    if all(verdict == Verdict.SUCCESS for verdict in verdicts):
        return "completed"
    return "stopped" if run.desired is not Desired.RUNNING else "failed"


def joined_schedules(mine: View, theirs: View) -> View:
    """The runs that either peer knows, the latest first; and what keeps both from firing."""
    runs: dict[str, View] = {}
    for run in (*_views(mine["runs"]), *_views(theirs["runs"])):
        known = runs.get(str(run["job"]))
        if known is None or known["state"] == "running":  # who has heard of its end tells more
            runs[str(run["job"])] = run
    latest = sorted(runs.values(), key=lambda run: (-cast(int, run["slot_ms"]), str(run["job"])))
    shown: list[Plain] = [*latest[:RUNS_SHOWN]]
    next_ms = [cast(int, view["next_ms"]) for view in (mine, theirs) if view["next_ms"]]
    return {
        **mine,
        "next_ms": min(next_ms, default=0),
        "problem": mine["problem"] if theirs["problem"] else "",
        "runs": shown,
    }


def _views(value: Plain) -> list[View]:
    return cast("list[View]", value)
