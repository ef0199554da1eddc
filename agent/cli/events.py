"""`shoal events`: what happened, as this device saw it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json, show_json_line
from agent.printable import clean


def events(args: Namespace) -> int:
    with connect(args) as client:
        if args.follow:
            for event in client.follow_events(args.since, args.job):
                _show(event, args.json)
        else:
            for event in client.events(args.since, args.job):
                _show(event, args.json)
    return OK


def history(args: Namespace) -> int:
    """A job's submission and attempts, as told by who knows, between this device's events."""
    with connect(args) as client:
        view = client.job(args.job)
        told = client.events(0, view["id"])
    moments = [*_moments(view), *({"at_ms": e["at_ms"], "text": e["text"]} for e in told)]
    moments.sort(key=lambda moment: int(moment["at_ms"]))  # stable: what was told stays in order
    if args.json:
        show_json({"job": view["id"], "history": moments})
        return OK
    for moment in moments:
        print(f"{units.clock(moment['at_ms'])}  {clean(moment['text'])}")
    return OK


def _moments(view: dict[str, Any]) -> list[dict[str, Any]]:
    author = units.named(view.get("author_name", ""), view["author"])
    found = [{"at_ms": view["created_ms"], "text": f"{view['name']} submitted by {author}"}]
    for each in view["executions"]:
        where = units.named(each.get("peer_name", ""), each["peer"])
        slot = "" if view["type"] == "ops" else f"slot {each['slot']}, "  # a hash, of no use
        attempt = f"{slot}attempt {each['attempt']}, on {where}"
        if each.get("started_ms"):
            found.append({"at_ms": each["started_ms"], "text": f"{attempt}: started"})
        if each.get("ended_ms"):
            code = f" with exit code {each['exit_code']}" if each["exit_code"] is not None else ""
            why = f": {each['reason']}" if each.get("reason") else ""
            text = f"{attempt}: {each['state']}{code}{why}"
            found.append({"at_ms": each["ended_ms"], "text": text})
    return found


def _show(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json_line(event)
        return
    job = f"  {units.short_job(event['job'])}" if event.get("job") else ""
    print(f"{units.clock(event['at_ms'])}{job}  {clean(event['text'])}", flush=True)
