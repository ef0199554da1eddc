"""`shoal logs`: what the tasks of a job wrote, wherever they ran."""

from __future__ import annotations

from argparse import Namespace

from agent.cli.connecting import connect
from agent.cli.exitcodes import OK
from agent.cli.following import Output
from agent.cli.tables import show_json_line


def logs(args: Namespace) -> int:
    with connect(args) as client:
        view = client.job(args.job)
        slots = 1 if args.slot is not None else int(view["count"])
        everywhere = view["type"] in ("ops", "daemon")
        output = Output(slots, by_peer=everywhere and args.slot is None)
        lines = client.logs(view["id"], args.slot, args.stream, args.tail, args.follow)
        for line in lines:
            if args.json:
                show_json_line(line)
            else:
                output.write(line)
        output.flush()
    return OK
