"""`shoal job run --dry-run`: what a job file would change, and where it would run."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from agent.cli import units
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json, show_table
from agent.cli.versions import told
from agent.client import Client
from agent.printable import clean

if TYPE_CHECKING:
    from protocol.job import JobSpec
    from protocol.tree import Plain


def dry_run(client: Client, spec: JobSpec, args: Namespace) -> int:
    """Ask, and change nothing."""
    present = _present(client, spec) if spec.standing else None
    changes = _changes(present, spec) if present is not None else []
    places = [_place(peer, spec) for peer in client.peers()]
    if args.json:
        shown: dict[str, Any] = {
            "exists": present is not None,
            "generation": present["generation"] if present is not None else 0,
            "unchanged": present is not None and not changes and _runs(present),
            "changes": changes,
            "peers": places,
        }
        show_json(shown)
        return OK
    print(_headline(spec, present, changes))
    for change in changes:
        print(clean(f"  {told(change['path'], change['before'], change['after'])}"))
    print()
    rows = [(place["name"], place["reason"] or "fits") for place in places]
    show_table(("DEVICE", "WOULD IT RUN THERE"), rows)
    return OK


def _headline(spec: JobSpec, present: dict[str, Any] | None, changes: list[Any]) -> str:
    if present is None:
        return f"{spec.name}: a new {spec.type} job; nothing was submitted"
    generation = present["generation"]
    if not _runs(present):
        was = present["desired"]
        return f"{spec.name}: {was}; it would run again, as generation {generation + 1}"
    if not changes:
        return f"{spec.name}: nothing would change"
    fields = units.plural(len(changes), "field")
    return f"{spec.name}: generation {generation} would become {generation + 1}, {fields} changed:"


def _runs(present: dict[str, Any]) -> bool:
    return bool(present["desired"] == "running")


def _present(client: Client, spec: JobSpec) -> dict[str, Any] | None:
    """The standing job of that name, unless it is deleted."""
    found = client.jobs("", 1000, detail=True, name=spec.name, namespace=spec.namespace)
    standing = [view for view in found["jobs"] if "parts" in view]
    return standing[0] if standing else None


def _changes(present: dict[str, Any], spec: JobSpec) -> list[dict[str, Any]]:
    from protocol.specdiff import differences

    before: Plain = present["spec"]
    after: Plain = dict(spec.to_plain())
    return [
        {"path": each.path, "before": each.before, "after": each.after}
        for each in differences(before, after)
    ]


def _place(peer: dict[str, Any], spec: JobSpec) -> dict[str, Any]:
    """Whether a device fits as far as is known from here: its owner may still say no."""
    from protocol.bidding import why_unfit
    from protocol.labels import matched_labels
    from protocol.led import needs_of
    from protocol.resources import Resources

    name = units.named(peer["name"], peer["id"])
    if not peer["self"] and peer["state"] != "alive":
        return {"peer": peer["id"], "name": name, "reason": f"it is {peer['state']}"}
    if "cpu_m" not in peer:
        return {"peer": peer["id"], "name": name, "reason": "nothing is known of it yet"}
    offers = Resources(peer["cpu_m"], peer["memory_bytes"], peer["disk_bytes"], peer["gpus"])
    labels = matched_labels(peer["labels"], peer["id"], peer["name"])
    reason = why_unfit(needs_of(spec), tuple(peer["engines"]), labels, offers)
    if not reason and peer.get("draining") and spec.type.counted:
        reason = "it is draining"
    return {"peer": peer["id"], "name": name, "reason": reason}
