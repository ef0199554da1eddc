"""`shoal job list|describe|executions`: jobs as the shoal knows them."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.tables import note, show_json, show_pairs, show_table
from agent.client import AgentError, Client
from agent.printable import clean


def list_jobs(args: Namespace) -> int:
    filters = {
        name: value
        for name in ("state", "type", "namespace", "name")
        if (value := getattr(args, name))
    }
    with connect(args) as client:
        found = client.jobs(args.prefix, args.limit, **filters)
    if "type" not in filters and not args.prefix:  # those have a list of their own
        found["jobs"] = [view for view in found["jobs"] if view["type"] != "template"]
    if args.json:
        show_json(found)
        return OK
    rows = [
        (
            str(view["name"]),
            units.short_job(view["id"]),
            str(view["type"]),
            state(view),
            units.age(view["created_ms"]),
            ", ".join(_where(view)) or "-",
        )
        for view in found["jobs"]
    ]
    show_table(("NAME", "JOB", "TYPE", "STATE", "AGE", "ON"), rows)
    if found["silent"]:
        names = ", ".join(found["silent"])
        note(f"no answer from {names}; there may be jobs that only they know")
    return OK


def describe(args: Namespace) -> int:
    with connect(args) as client:
        view = client.job(args.job)
        _look_for_files(client, view)
    if args.json:
        show_json(view)
        return OK
    author = units.named(view.get("author_name", ""), view["author"])
    coordinator = units.named(view.get("coordinator_name", ""), view["coordinator"])
    daemon = "parts" in view and view["type"] != "service"  # nobody coordinates those
    led = [("Coordinator", f"{coordinator}, term {view['term']}")]
    show_pairs(
        [
            ("Name", view["name"]),
            ("Job", view["id"]),
            ("Namespace", view["namespace"]),
            ("Type", view["type"]),
            ("State", state(view)),
            ("Wanted", str(view["desired"])),
            ("Submitted", f"{units.age(view['created_ms'])} ago by {author}"),
            *([] if daemon or not view["term"] else led),
            ("Revision", f"{units.short_job(view['revision'])}, generation {view['generation']}"),
        ]
    )
    if "schedule" in view:
        print()
        _show_schedule(view["schedule"])
    elif daemon and view["type"] != "template":
        print()
        _show_parts(view["parts"])
    elif view["slots"]:
        print()
        _show_slots(view)
    if view.get("spec"):
        print("\n" + json.dumps(view["spec"], indent=2))  # ASCII: nothing in it moves a cursor
    return OK


def where(args: Namespace) -> int:
    """Where it runs, and at which addresses and ports it is reached there."""
    with connect(args) as client:
        view = client.job(args.job)
        peers = {peer["id"]: peer for peer in client.peers()}
    places = [
        (
            str(part.get("slot", "-")),
            str(part.get("executor") or part.get("peer") or ""),
            dict(part.get("ports") or {}),
        )
        for part in view.get("slots") or view.get("parts") or []
        if part["state"] == "running"
    ]
    network = ((view.get("spec") or {}).get("Tasks") or [{}])[0].get("Network") or {}
    named = [(port["Name"], port.get("Static", 0)) for port in network.get("Ports", [])]
    found = [
        {
            "slot": slot,
            "peer": peer,
            "peer_name": peers.get(peer, {}).get("name", ""),
            "hosts": _hosts(peers.get(peer, {}).get("addresses", [])),
            # What the device has chosen counts; that is told a moment after the start.
            "ports": {name: chosen.get(name, static) or None for name, static in named},
        }
        for slot, peer, chosen in places
    ]
    if args.json:
        show_json(found)
        return OK
    rows = []
    for place in found:
        host = place["hosts"][0] if place["hosts"] else "?"
        ports = place["ports"].items()
        reached = [f"{name} {_address(host, port)}" for name, port in ports] or place["hosts"]
        rows.append((place["slot"], place["peer_name"] or place["peer"], ", ".join(reached) or "-"))
    show_table(("SLOT", "ON", "AT"), rows)
    if not rows:
        note(f"{view['name']} runs nowhere just now; see: shoal job describe {args.job}")
    return OK


def _hosts(addresses: list[str]) -> list[str]:
    """Of multiaddrs: /ip4/192.0.2.1/tcp/4747 is at 192.0.2.1."""
    words = [address.split("/") for address in addresses]
    return list(dict.fromkeys(part[2] for part in words if len(part) > 2))


def _address(host: str, port: int | None) -> str:
    number = str(port) if port is not None else "(not known yet)"
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _show_slots(view: dict[str, Any]) -> None:
    service = "parts" in view
    show_table(
        ("SLOT", "STATE", "ON", "ATTEMPT", "RESTARTS" if service else "EXIT", "REASON"),
        [
            (
                _place(view, slot),
                str(slot["state"]),
                _executor(slot),
                str(slot["attempt"]),
                str(slot["failures"]) if service else _code(slot),
                str(slot.get("reason") or "-"),
            )
            for slot in view["slots"]
        ],
    )
    for slot in view["slots"]:
        if slot.get("archive_note"):
            print(clean(f"Files left out of {_place(view, slot)}: {slot['archive_note']}"))
    for slot in view["slots"]:
        if slot.get("output_note"):
            print(clean(f"Output of {_place(view, slot)}: {slot['output_note']}"))
    for slot in view["slots"]:
        if slot.get("published"):
            print(clean(f"Published of {_place(view, slot)}: {slot['published']}"))
    for slot in view["slots"]:
        if slot.get("archive_missing"):
            whose = f"{_place(view, slot)} on {_executor(slot)}"
            print(clean(f"Files of {whose}: {slot['archive_missing']}"))
    there = [slot for slot in view["slots"] if not slot.get("archive_missing")]
    kept = sum(int(slot.get("archive_bytes", 0)) for slot in there)
    if kept:
        print(f"Files kept: {units.size(kept)}; `shoal job get` fetches them")


def _look_for_files(client: Client, view: dict[str, Any]) -> None:
    """Note at the slots whose files cannot be had why that is, as `archive_missing`."""
    if not any(slot.get("archive") for slot in view.get("slots") or []):
        return
    try:
        found = {each["slot"]: each["reason"] for each in client.missing(view["id"])}
    except AgentError:  # it may be of an earlier version, or busy: `shoal job get` says it, too
        return
    for slot in view["slots"]:
        if slot["slot"] in found:
            slot["archive_missing"] = found[slot["slot"]]


def _place(view: dict[str, Any], entry: dict[str, Any]) -> str:
    """The slot's number; those of an ops job are peers', and say nothing to people."""
    return "-" if view["type"] == "ops" else str(entry["slot"])


def _show_schedule(schedule: dict[str, Any]) -> None:
    """When it runs next, and what became of its last runs."""
    next_ms = schedule["next_ms"]
    when = f"{schedule['cron']} ({schedule['zone']})"
    show_pairs([("When", when), ("Next", units.moment(next_ms) if next_ms else "-")])
    print()
    show_table(
        ("DUE", "JOB", "STATE", "ON"),
        [
            (
                units.moment(run["slot_ms"]),
                units.short_job(run["job"]),
                str(run["state"]),
                ", ".join(map(str, run["on"])) or "-",
            )
            for run in schedule["runs"]
        ],
    )


def _show_parts(parts: list[dict[str, Any]]) -> None:
    """What each peer that answered does for a standing job."""
    show_table(
        ("ON", "STATE", "REVISION", "RESTARTS", "EXIT", "REASON"),
        [
            (
                units.named(part["peer_name"], part["peer"]),
                "not here" if part["state"] == "absent" else str(part["state"]),
                units.short_job(part["revision"]) if part["revision"] else "-",
                str(part["restarts"]),
                _code(part),
                str(part["reason"] or "-"),
            )
            for part in parts
        ],
    )


def executions(args: Namespace) -> int:
    with connect(args) as client:
        view = client.job(args.job)
    if args.json:
        show_json({"job": view["id"], "executions": view["executions"]})
        return OK
    show_table(
        ("EXECUTION", "SLOT", "ATTEMPT", "ON", "STATE", "EXIT", "TOOK", "REASON"),
        [
            (
                units.short_job(entry["id"]),
                _place(view, entry),
                f"{entry['term']}.{entry['attempt']}",
                units.named(entry.get("peer_name", ""), entry["peer"]),
                str(entry["state"]),
                _code(entry),
                _took(entry),
                str(entry.get("reason") or "-"),
            )
            for entry in view["executions"]
        ],
    )
    return OK


def state(view: dict[str, Any]) -> str:
    """A job's state with how far its slots are: `running (2 of 3 done)`."""
    text = str(view["state"])
    slots = view.get("slots") or []
    if "parts" in view:
        active = sum(slot["state"] in ("starting", "running") for slot in slots)
        text += f" ({active} of {view['count']})" if view["state"] == "running" else ""
    elif view["state"] in ("pending", "running") and len(slots) > 1:
        counted = Counter(slot["state"] for slot in slots)
        text += f" ({counted['completed']} of {len(slots)} done)"
    codes = sorted({slot["exit_code"] for slot in slots if slot.get("exit_code")})
    if view["state"] == "failed" and codes:
        text += f" ({', '.join(map(str, codes))})"
    if view["state"] == "scheduled" and view["schedule"]["next_ms"]:
        text += f", next {units.moment(view['schedule']['next_ms'])}"
    short = view["type"] == "service" and view["state"] == "running"
    if (view["state"] in ("pending", "failed", "scheduled") or short) and view.get("reason"):
        text += f": {view['reason']}"
    return text


def _where(view: dict[str, Any]) -> list[str]:
    here = [slot for slot in view.get("slots") or [] if slot["executor"]]
    if "parts" in view:
        here = [slot for slot in here if slot["state"] in ("starting", "running", "stopping")]
    found = list(dict.fromkeys(_executor(slot) for slot in here))
    if "parts" in view:
        found.sort()  # a standing job's slots are in no order of their own
    return found if len(found) <= 3 else [*found[:3], f"{len(found) - 3} more"]


def _executor(slot: dict[str, Any]) -> str:
    if not slot.get("executor"):
        return "-"
    return units.named(slot.get("executor_name", ""), slot["executor"])


def _code(entry: dict[str, Any]) -> str:
    return "-" if entry.get("exit_code") is None else str(entry["exit_code"])


def _took(entry: dict[str, Any]) -> str:
    if not entry.get("started_ms"):
        return "-"
    if not entry.get("ended_ms"):
        return units.age(entry["started_ms"])
    return units.duration((entry["ended_ms"] - entry["started_ms"]) / 1000)
