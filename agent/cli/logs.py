"""`shoal logs`: what the tasks of a job wrote, wherever they ran."""

from __future__ import annotations

import time
from argparse import Namespace

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import OK, USAGE, CliError
from agent.cli.following import Output
from agent.cli.tables import show_json_line
from protocol.moment import parse_moment_s


def logs(args: Namespace) -> int:
    with connect(args) as client:
        view = client.job(args.job)
        slots = 1 if args.slot is not None else int(view["count"])
        everywhere = view["type"] in ("ops", "daemon")
        output = Output(slots, by_peer=everywhere and args.slot is None)
        since_ms = _since_ms(args.since) if args.since else 0
        lines = client.logs(
            view["id"], args.slot, args.stream, args.tail, args.follow, args.peer or "", since_ms
        )
        for line in lines:
            if args.json:
                show_json_line(line)
            else:
                output.write(line)
        output.flush()
    return OK


def _since_ms(text: str) -> int:
    """A moment (2026-11-26T12:00:00Z), or how long ago (10m)."""
    try:
        if "T" in text.upper():
            return parse_moment_s(text) * 1000
        return int((time.time() - units.parse_duration(text)) * 1000)
    except ValueError as error:
        raise CliError(f"--since: {error}", USAGE) from None
