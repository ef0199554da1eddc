"""`shoal peer`: the devices of the shoal as this one knows them, drained and forgotten."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import note, show_json, show_pairs, show_table
from agent.client import THIS_DEVICE
from agent.printable import clean


def peers(args: Namespace) -> int:
    with connect(args) as client:
        found = client.peers()
    if args.where:
        found = matching(found, args.where)
    if args.json:
        show_json({"peers": found})
        return OK
    found.sort(key=lambda peer: (not peer["self"], peer["name"], peer["id"]))
    names = _columns(args.labels)
    show_table(
        ("NAME", "PEER", "STATE", "SINCE", "CPU", "MEMORY", *_heads(args.labels), "VERSION"),
        [_row(peer, args.labels, names) for peer in found],
    )
    return OK


def describe(args: Namespace) -> int:
    with connect(args) as client:
        peer = client.peer(args.peer or THIS_DEVICE)
    if args.json:
        show_json(peer)
        return OK
    since = _since(peer)
    show_pairs(
        [
            ("Name", peer["name"]),
            ("Peer", peer["id"]),
            ("State", _state(peer) + (f", for {since}" if since != "-" else "")),
            ("Path", _path(peer)),
            ("Addresses", ", ".join(peer["addresses"]) or "none known"),
            ("Roles", ", ".join(peer["roles"]) or "not known"),
            ("Engines", ", ".join(peer["engines"]) or "none"),
            ("Offers", _offer(peer)),
            ("Version", str(peer["version"]) or "not known"),
            ("Incarnation", str(peer["incarnation"])),
        ]
    )
    sources = {label["name"]: label["source"] for label in peer.get("label_sources", ())}
    print("\nLabels")
    for name, value in sorted(peer["labels"].items()):
        source = f"  ({sources[name]})" if name in sources else ""
        print(clean(f"  {name}={value}{source}"))
    if "policy" in peer:
        print("\nTaken here, by the owner's [accept]")
        show_pairs([(f"  {key}", _value(value)) for key, value in peer["policy"].items()])
    return OK


def drain(args: Namespace) -> int:
    return _drain(args, not args.off)


def undrain(args: Namespace) -> int:
    return _drain(args, False)


def forget(args: Namespace) -> int:
    with connect(args) as client:
        answer = client.forget(args.peer)
    if args.json:
        show_json(answer)
    else:
        note(f"{answer['name']} is remembered no longer; if it is alive after all, it comes back")
    return OK


def _drain(args: Namespace, draining: bool) -> int:
    with connect(args) as client:
        answer = client.drain(draining, args.peer or THIS_DEVICE)
    if args.json:
        show_json(answer)
    elif not draining:
        note(f"{answer['name']} takes new work again")
    else:
        running = units.plural(answer["running"], "task")
        note(f"{answer['name']} takes no new batch and service work; {running} running here")
    return OK


def matching(found: list[dict[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Those whose labels satisfy all of the expressions, which are those of --constraint."""
    from protocol.constraints import matches_all, parse_constraints
    from protocol.errors import JobSpecError
    from protocol.labels import matched_labels

    try:
        wanted = [each for text in texts for each in parse_constraints(text, "--where")]
    except JobSpecError as error:
        raise CliError(str(error), USAGE) from None
    labels = [matched_labels(peer["labels"], peer["id"], peer["name"]) for peer in found]
    return [peer for peer, has in zip(found, labels, strict=True) if matches_all(wanted, has)]


def _columns(labels: str | None) -> list[str]:
    return [name.strip() for name in (labels or "").split(",") if name.strip()]


def _heads(labels: str | None) -> list[str]:
    if labels is None:
        return []
    return [name.upper() for name in _columns(labels)] or ["LABELS"]


def _row(peer: dict[str, Any], labels: str | None, names: list[str]) -> tuple[str, ...]:
    shown = [peer["labels"].get(name, "-") for name in names]
    if labels is not None and not names:
        pairs = (f"{key}={value}" for key, value in sorted(peer["labels"].items()))
        shown = [", ".join(pairs) or "-"]
    return (
        units.named(peer["name"], peer["id"]),
        units.short_peer(peer["id"]),
        _state(peer),
        _since(peer),
        units.cores(peer["cpu_m"]) if "cpu_m" in peer else "-",
        units.size(peer["memory_bytes"]) if "memory_bytes" in peer else "-",
        *shown,
        str(peer["version"]) or "-",
    )


def _state(peer: dict[str, Any]) -> str:
    state = "this device" if peer["self"] else str(peer["state"])
    if state == "alive" and not peer["connected"]:
        via = peer.get("via")
        state = f"alive, via {clean(via)}" if via else "alive, not connected"
    if peer.get("draining"):
        state += ", draining"
    if peer.get("reason"):
        state += f" ({peer['reason']})"
    return state


def _since(peer: dict[str, Any]) -> str:
    since = peer.get("since_s")
    return "-" if since is None else units.duration(since)


def _path(peer: dict[str, Any]) -> str:
    if peer["self"]:
        return "-"
    if peer["connected"]:
        return "direct, connected"
    return f"via {clean(peer['via'])}" if peer.get("via") else "none just now"


def _offer(peer: dict[str, Any]) -> str:
    if "cpu_m" not in peer:
        return "not known"
    cores, memory = units.cores(peer["cpu_m"]), units.size(peer["memory_bytes"])
    return f"{cores} cores, {memory} memory, {units.size(peer['disk_bytes'])} disk"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "any"
    return str(value).lower() if isinstance(value, bool) else str(value)
