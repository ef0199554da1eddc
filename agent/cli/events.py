"""`shoal events`: what happened, as this device saw it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.tables import show_json_line
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


def _show(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json_line(event)
        return
    job = f"  {units.short_job(event['job'])}" if event.get("job") else ""
    print(f"{units.clock(event['at_ms'])}{job}  {clean(event['text'])}", flush=True)
