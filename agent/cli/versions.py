"""`shoal job versions|rollback`: what a standing job was before, and back to it."""

from __future__ import annotations

import json
from argparse import Namespace
from itertools import pairwise
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.tables import note, show_json, show_table
from agent.printable import clean

SHOWN_MAX = 120  # characters of a value in a terminal


def versions(args: Namespace) -> int:
    with connect(args) as client:
        found = client.versions(args.job)
    if args.json:
        show_json({"versions": found})
        return OK
    if args.diff:
        for newer, older in pairwise(found):
            print(f"generation {older['generation']} -> {newer['generation']}")
            for change in changes(older["spec"], newer["spec"]):
                print(clean(f"  {change}"))
        return OK
    rows = []
    for at, version in enumerate(found):
        before = found[at + 1] if at + 1 < len(found) else None
        changed = len(changes(before["spec"], version["spec"])) if before is not None else None
        rows.append(
            (
                str(version["generation"]),
                units.short_job(version["revision"]),
                f"{units.age(version['since_ms'])} ago",
                units.named(version["author_name"], version["author"]),
                "-" if changed is None else units.plural(changed, "field"),
            )
        )
    show_table(("GENERATION", "REVISION", "SINCE", "BY", "CHANGED"), rows)
    return OK


def rollback(args: Namespace) -> int:
    """An earlier spec becomes the next generation: what every device then runs."""
    with connect(args) as client:
        found = client.versions(args.job)
        earlier = found[1:]
        if args.to is not None:
            earlier = [version for version in earlier if version["generation"] == args.to]
        if not earlier:
            known = ", ".join(str(version["generation"]) for version in found[1:]) or "none"
            raise CliError(f"{args.job}: this device remembers no such version; it has {known}")
        target = earlier[0]
        if target["spec"] is None:
            raise CliError(
                f"generation {target['generation']} needs a later version of shoal", USAGE
            )
        accepted = client.submit(target["spec"])
    if args.json:
        show_json(accepted)
        return OK
    generation = accepted.get("generation", "")
    note(f"{accepted['name']}: generation {target['generation']} runs again as {generation}")
    return OK


def changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    """What differs between two specs, a line each."""
    from protocol.specdiff import differences

    return [told(each.path, each.before, each.after) for each in differences(before, after)]


def told(path: str, before: Any, after: Any) -> str:
    return f"{path}: {_value(before)} -> {_value(after)}"


def _value(value: Any) -> str:
    text = "(not set)" if value is None else json.dumps(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
