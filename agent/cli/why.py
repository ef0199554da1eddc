"""`shoal why`: every peer that was asked, its bid or its reason, and what would make it fit."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from typing import Any, Final

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json
from agent.printable import clean


def why(args: Namespace) -> int:
    with connect(args) as client:
        view = client.job(args.job)
    if args.json:
        show_json({"job": view["id"], "name": view["name"], "why": view["why"]})
        return OK
    print(clean(f"{view['name']} {units.short_job(view['id'])}: {view['state']}"))
    if view["state"] == "scheduled":
        _show_next(view)
        return OK
    if "parts" in view and view["type"] != "service":
        _show_parts(view["why"])
        return OK
    if not view["why"]:
        print("nobody has been asked yet")
    for entry in view["why"]:
        _show_round(entry)
    return OK


def _show_next(view: dict[str, Any]) -> None:
    """A schedule is fired, and each run is a job of its own."""
    schedule = view["schedule"]
    if view.get("reason"):
        print(f"  {clean(view['reason'])}")
    elif schedule["next_ms"]:
        print(f"  its next run is due at {units.moment(schedule['next_ms'])}")
    for run in schedule["runs"][:1]:
        short = units.short_job(run["job"])
        print(f"  its last run is {clean(run['state'])}: `shoal why {short}`")


def _show_parts(rounds: list[dict[str, Any]]) -> None:
    """Of a daemon each peer decides for itself: nobody bids."""
    asked = [peer for entry in rounds for peer in entry["asked"]]
    width = max((len(_name(peer)) for peer in asked), default=0)
    for peer in sorted(asked, key=_name):
        reason = peer["reason"]
        if peer["answer"] == "refused":
            text = f"not here: {reason or 'nothing was started'}"
        else:
            text = f"{peer['answer']}{f': {reason}' if reason else ''}"
        print(f"  {_name(peer).ljust(width)}  {clean(text)}")
        if hint := what_would_fit(peer):
            print(f"  {''.ljust(width)}  -> {clean(hint)}")


def _show_round(entry: dict[str, Any]) -> None:
    asked = entry["asked"]
    listed = sum(peer["answer"] == "listed" for peer in asked)
    bids = sum(peer["answer"] == "bid" for peer in asked)
    if listed:
        print(
            f"\nlist frozen at {units.clock(entry['at_ms'])}: "
            f"{listed} of {units.plural(len(asked), 'peer')}"
        )
    else:
        print(_head(entry, bids))
    width = max((len(_name(peer)) for peer in asked), default=0)
    for peer in sorted(asked, key=_rank):
        print(f"  {_name(peer).ljust(width)}  {clean(_answer(peer))}")
        if hint := what_would_fit(peer):
            print(f"  {''.ljust(width)}  -> {clean(hint)}")
    if entry.get("note"):
        print(f"  {clean(entry['note'])}")


def _head(entry: dict[str, Any], bids: int) -> str:
    return (
        f"\nround {entry['round']} at {units.clock(entry['at_ms'])}, "
        f"for {units.plural(int(entry['slots']), 'slot')}: "
        f"{units.plural(len(entry['asked']), 'peer')}, {units.plural(bids, 'bid')}"
    )


def _rank(peer: dict[str, Any]) -> tuple[bool, int, str]:
    """Winners, then bids from the best down, then the others by name."""
    return (not peer.get("awarded"), -(peer.get("score") or -1), _name(peer))


def _name(peer: dict[str, Any]) -> str:
    return units.named(peer.get("name", ""), peer["peer"])


def _answer(peer: dict[str, Any]) -> str:
    match peer["answer"]:
        case "bid":
            slots = ", ".join(str(slot) for slot in peer.get("awarded") or ())
            won = f", awarded slot {slots}" if slots else ""
            facts = _facts(peer.get("facts") or {})
            reason = f"; {peer['reason']}" if peer.get("reason") else ""
            return f"bid {peer['score']}{won}" + (f": {facts}" if facts else "") + reason
        case "listed":
            return "is on the list"
        case "silent":
            return "did not answer"
        case "filtered":
            return f"was not asked: {peer.get('reason') or 'it does not match'}"
        case other:
            return f"{other}: {peer.get('reason') or 'no reason given'}"


def _facts(facts: dict[str, Any]) -> str:
    """What a bid rests on (protocol.messages.Facts); names that are new to us as they are."""
    parts = [
        _FACTS[name](value) if name in _FACTS else f"{name.replace('_', ' ')} {value}"
        for name, value in facts.items()
    ]
    return ", ".join(part for part in parts if part)


_FACTS: Final[dict[str, Callable[[Any], str]]] = {
    "cpu_free_m": lambda value: f"{units.cores(value)} cores free",
    "memory_free_bytes": lambda value: f"{units.size(value)} memory free",
    "disk_free_bytes": lambda value: f"{units.size(value)} disk free",
    "load_permille": lambda value: f"load {value / 10:.0f} %",
    "running": lambda value: f"{value} running" if value else "",
    "inputs_here": lambda value: "has the inputs" if value else "",
    "temperature_mc": lambda value: f"{value / 1000:.0f} °C",
    "battery_percent": lambda value: f"battery {value} %",
    "mains": lambda value: "" if value else "on battery",
}


def what_would_fit(peer: dict[str, Any]) -> str:
    """What to change so that this peer would take it; empty where nobody can say."""
    hints = []
    for part in str(peer.get("reason") or "").split("; "):
        for pattern, hint in _HINTS:
            if match := pattern.search(part):
                hints.append(match.expand(hint))
                break
    return "; ".join(dict.fromkeys(hints))


# Reasons are the protocol's sentences: resources.shortfall, constraints.explain, policy's lines.
_HINTS: Final = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (r"(cpu|memory|disk): needs (\S+), (\S+) offered", r"fits with --\1 \3"),
        (r"gpu: needs (\S+), (\S+) offered", r"fits with \2 GPUs"),
        (r"(cpu|memory|disk|gpu): needs (\S+), 0m? free", r"fits once \1 is free there"),
        (r"(cpu|memory|disk): needs (\S+), (\S+) free", r"fits with --\1 \3, or once more is free"),
        (r"executions run here already", "fits once others have ended, see accept.executions_max"),
        (
            r"label (\S+): wanted '([^']*)'",
            r"fits without that constraint, or with the label \1=\2 on that device",
        ),
        (r"label (\S+): wanted", r"fits without the constraint on \1, or with another label there"),
        (
            r"engine wasm is not here",
            "fits with an engine that it has, or with wasmtime there: sudo scripts/install --wasm "
            "where it is a service, else pip install 'shoal[wasm]'",
        ),
        (
            r"engine docker is not here",
            "fits with an engine that it has, or with a docker there that the agent may use: sudo "
            "scripts/install --docker where it is a service",
        ),
        (r"engine \S+ is not here", "fits with an engine that it has"),
        (
            r"no MQTT broker (\S+) is configured here",
            r"fits once [mqtt.brokers.\1] stands in that device's configuration",
        ),
        (r"results wait for broker (\S+),", r"fits once broker \1 is back and has taken them"),
        (r"draining", "fits once its owner runs `shoal peer undrain` there"),
        (r"\[accept\] temperature_max_c", r"fits once it has cooled, see accept.temperature_max_c"),
        (r"\[accept\] mains_only", "fits once it is on mains power again"),
        (r"\[accept\] battery_min_percent = (\d+)", r"fits once it is charged to \1 %"),
        (r"does not know the time", "fits once it has the time from a network, within its hours"),
        (r"\[accept\] hours = \[(.*)\]", r"fits within its hours: \1"),
        (r"\[accept\] types = \[(.*)\]", r"fits as a job of type \1"),
        (r"\[accept\] engines = \[(.*)\]", r"fits with engine \1"),
        (r"\[accept\] namespaces = \[(.*)\]", r"fits in namespace \1"),
        (r"\[accept\] authors", "fits from a device its owner trusts, see accept.authors there"),
        (r"\[accept\] roles = \[(.*)\]", r"fits from a device with role \1"),
        (
            r"policy: (\S+ \S+) is not allowed here \(\[accept\] (\w+)",
            r"fits without \1, or once its owner adds it to accept.\2 there",
        ),
        (r"\[accept\] job_timeout_max_s = (\d+)", r"fits with --timeout \1 or less"),
    )
)
