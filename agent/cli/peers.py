"""`shoal peers`: the devices of the shoal as this one knows them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json, show_table


def peers(args: Namespace) -> int:
    with connect(args) as client:
        found = client.peers()
    if args.json:
        show_json({"peers": found})
        return OK
    found.sort(key=lambda peer: (not peer["self"], peer["name"], peer["id"]))
    show_table(
        ("NAME", "PEER", "STATE", "SINCE", "CPU", "MEMORY", "LABELS", "VERSION"),
        [_row(peer) for peer in found],
    )
    return OK


def _row(peer: dict[str, Any]) -> tuple[str, ...]:
    state = "this device" if peer["self"] else str(peer["state"])
    if state == "alive" and not peer["connected"]:
        state = "alive, not connected"
    if peer.get("reason"):
        state += f" ({peer['reason']})"
    since = peer.get("since_s")
    labels = ", ".join(f"{key}={value}" for key, value in sorted(peer["labels"].items()))
    return (
        units.named(peer["name"], peer["id"]),
        units.short_peer(peer["id"]),
        state,
        "-" if since is None else units.duration(since),
        units.cores(peer["cpu_m"]) if "cpu_m" in peer else "-",
        units.size(peer["memory_bytes"]) if "memory_bytes" in peer else "-",
        labels or "-",
        str(peer["version"]) or "-",
    )
