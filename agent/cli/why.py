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
    if not view["why"]:
        print("nobody has been asked yet")
    for entry in view["why"]:
        _show_round(entry)
    return OK


def _show_round(entry: dict[str, Any]) -> None:
    asked = entry["asked"]
    bids = sum(peer["answer"] == "bid" for peer in asked)
    slots = ", ".join(str(slot) for slot in entry["slots"])
    print(
        f"\nround {entry['round']} at {units.clock(entry['at_ms'])}, for slot {slots}: "
        f"{units.plural(len(asked), 'peer')}, {units.plural(bids, 'bid')}"
    )
    width = max((len(_name(peer)) for peer in asked), default=0)
    for peer in sorted(asked, key=_rank):
        print(f"  {_name(peer).ljust(width)}  {clean(_answer(peer))}")
        if hint := what_would_fit(peer):
            print(f"  {''.ljust(width)}  -> {clean(hint)}")
    if entry.get("note"):
        print(f"  {clean(entry['note'])}")


def _rank(peer: dict[str, Any]) -> tuple[bool, int, str]:
    """Winners, then bids from the best down, then the others by name."""
    return (not peer.get("awarded"), -(peer.get("score") or -1), _name(peer))


def _name(peer: dict[str, Any]) -> str:
    return units.named(peer.get("name", ""), peer["peer"])


def _answer(peer: dict[str, Any]) -> str:
    match peer["answer"]:
        case "bid":
            won = ", awarded" if peer.get("awarded") else ""
            facts = _facts(peer.get("facts") or {})
            reason = f"; {peer['reason']}" if peer.get("reason") else ""
            return f"bid {peer['score']}{won}" + (f": {facts}" if facts else "") + reason
        case "silent":
            return "did not answer"
        case "filtered":
            return f"was not asked: {peer.get('reason') or 'it does not match'}"
        case other:
            return f"{other}: {peer.get('reason') or 'no reason given'}"


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(
        _FACTS[name](value) if name in _FACTS else f"{name.replace('_', ' ')} {value}"
        for name, value in facts.items()
        if value is not None and value not in ("", False)
    )


_FACTS: Final[dict[str, Callable[[Any], str]]] = {
    "cpu_m": lambda value: f"{units.cores(value)} cores free",
    "free_cpu_m": lambda value: f"{units.cores(value)} cores free",
    "cpu_free_m": lambda value: f"{units.cores(value)} cores free",
    "memory_bytes": lambda value: f"{units.size(value)} memory free",
    "free_memory_bytes": lambda value: f"{units.size(value)} memory free",
    "memory_free_bytes": lambda value: f"{units.size(value)} memory free",
    "disk_bytes": lambda value: f"{units.size(value)} disk free",
    "free_disk_bytes": lambda value: f"{units.size(value)} disk free",
    "disk_free_bytes": lambda value: f"{units.size(value)} disk free",
    "temperature_c": lambda value: f"{value} °C",
    "battery_percent": lambda value: f"battery {value} %",
    "load_percent": lambda value: f"load {value} %",
    "queue": lambda value: f"{value} waiting",
    "inputs_here": lambda value: "has the inputs",
}


def what_would_fit(peer: dict[str, Any]) -> str:
    """What to change so that this peer would take it; empty where nobody can say."""
    if peer["answer"] not in ("refused", "filtered", "declined"):
        return ""
    hints = []
    for part in str(peer.get("reason") or "").split("; "):
        for pattern, hint in _HINTS:
            if match := pattern.search(part):
                hints.append(match.expand(hint))
                break
    return "; ".join(dict.fromkeys(hints))


# Reasons are the protocol's sentences: resources.shortfall, constraints.explain and the policy's.
_HINTS: Final = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (r"(cpu|memory|disk|gpu): needs (\S+), 0m? free", r"wait until \1 is free there"),
        (r"(cpu|memory|disk): needs (\S+), (\S+) free", r"fits with --\1 \3, or once more is free"),
        (
            r"label (\S+): wanted '([^']*)'",
            r"fits without that constraint, or with `labels = {\1 = \"\2\"}` on that device",
        ),
        (
            r"label (\S+): wanted",
            r"fits without the constraint on \1, or with another label on that device",
        ),
        (r"(?i)temperature|too hot", "fits once it has cooled, see accept.temperature_max_c there"),
        (r"(?i)battery", "fits once it is charged, see accept.battery_min_percent there"),
        (r"(?i)\brole\b", "its owner decides in accept.roles there"),
        (r"(?i)namespace", "its owner decides in accept.namespaces there"),
        (r"(?i)author", "its owner decides in accept.authors there"),
        (r"(?i)engine", "fits with an engine that it has, see `shoal peers --json`"),
        (r"(?i)timeout|too long", "fits with a shorter --timeout, or accept.job_timeout_max_s"),
        (r"(?i)executions|too many", "fits once others have ended, see accept.executions_max"),
    )
)
