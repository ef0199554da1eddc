"""A service's slots for people, put together of what those say who hold them and who run them."""

from __future__ import annotations

from typing import Final, cast

from protocol.tree import Plain

View = dict[str, Plain]

ACTIVE: Final = ("starting", "running", "stopping")


def views_in(value: Plain) -> list[View]:
    return cast("list[View]", value)


def executions_of_both(one: View, other: View) -> list[Plain]:
    """Each peer tells of its own; what is told of one execution is told by one peer."""
    found: dict[str, View] = {}
    for each in (*views_in(one["executions"]), *views_in(other["executions"])):
        found[str(each["id"])] = each
    told: list[Plain] = []
    told += [found[key] for key in sorted(found, key=lambda key: _place(found[key]))]
    return told


def _place(execution: View) -> tuple[int, tuple[int, int, int]]:
    return cast(int, execution["slot"]), _height(execution)


def slots_settled(view: View) -> View:
    """With each slot as whoever runs it says, and the state that follows from them."""
    count = cast(int, view["count"])
    executions = views_in(view["executions"])
    slots = [_overlaid(slot, executions) for slot in views_in(view["slots"])[:count]]
    view = {**view, "slots": list(slots)}
    running = [slot for slot in slots if slot["state"] == "running"]
    desired = str(view["desired"])
    if desired != "running":
        stopping = any(part["state"] in ACTIVE for part in views_in(view["parts"]))
        ended = "deleted" if desired == "deleted" else "stopped"
        reason = "it has expired (NotAfter)" if desired == "expired" else ""
        return {**view, "state": "stopping" if stopping else ended, "reason": reason}
    view["state"] = "running" if running else "pending"
    if len(running) < count:
        reasons = [str(slot["reason"]) for slot in slots if slot["state"] != "running"]
        found = [reason for reason in reasons if reason]
        view["reason"] = found[0] if found else view["reason"]
    if not slots:
        view["reason"] = view["reason"] or "no peer that answered coordinates it"
    return view


def _overlaid(slot: View, executions: list[View]) -> View:
    mine = [
        each
        for each in executions
        if each["slot"] == slot["slot"] and each["state"] in (*ACTIVE, "restarting")
    ]
    if not mine:
        return slot
    latest = max(mine, key=_height)
    if _height(latest)[:2] < (cast(int, slot["term"]), cast(int, slot["attempt"])):
        return slot  # it was awarded anew since
    return {
        **slot,
        "state": latest["state"],
        "executor": latest["peer"],
        "executor_name": latest["peer_name"],
        "execution": latest["id"],
        "failures": latest["restarts"],
        "started_ms": latest["started_ms"],
        "reason": latest["reason"],
        "ports": latest.get("ports", {}),
    }


def _height(execution: View) -> tuple[int, int, int]:
    attempt, term = cast(int, execution["attempt"]), cast(int, execution["term"])
    return (term, attempt, cast(int, execution.get("restarts", 0)))
