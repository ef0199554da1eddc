"""`shoal logs`: what the tasks of a job wrote, wherever they ran."""

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import suppress
from typing import Any, Final

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import FAILED, NOT_FOUND, OK, USAGE, CliError
from agent.cli.following import Output
from agent.cli.missing import Missing
from agent.cli.tables import note, show_json_line
from agent.client import AgentError
from protocol.moment import parse_moment_s

NO_TAIL: Final = -1  # all of it
MOMENT_FORM: Final = "2027-03-01T06:00:00Z"


def logs(args: Namespace) -> int:
    with connect(args) as client:
        view = client.job(args.job)
        _check(view, args)
        slots = 1 if args.slot is not None else int(view["count"])
        everywhere = view["type"] in ("ops", "daemon")
        output = Output(slots, by_peer=everywhere and args.slot is None)
        since_ms = _since_ms(args.since) if args.since else 0
        lines = client.logs(
            view["id"], args.slot, args.stream, args.tail, args.follow, args.peer or "", since_ms
        )
        missing = Missing(at_once=args.follow)
        try:
            for line in lines:
                if args.json:
                    show_json_line(line)
                else:
                    output.write(line)
                missing.take(line)
        finally:
            output.flush()
            missing.tell()
        if args.follow:
            with suppress(AgentError):  # it was deleted meanwhile
                view = client.job(view["id"])
    _tell_of_what_was_not_kept(view, args)
    return FAILED if missing.some else OK


def _tell_of_what_was_not_kept(view: dict[str, Any], args: Namespace) -> None:
    """Of the output that was asked for, its devices say that some is gone for good."""
    for slot in view["slots"]:
        peer, name = _ran_on(slot)
        where = units.named(name, peer)
        asked = args.slot in (None, slot["slot"]) and (args.peer or where) in (peer, name, where)
        if asked and slot.get("output_note"):
            note(f"of the output on {where}: {slot['output_note']}")


def _check(view: dict[str, Any], args: Namespace) -> None:
    """That there is what is asked for: a job without output is silent, too. Raises CliError."""
    slots, ran = int(view["count"]), [*view["slots"], *view.get("executions", ())]
    if args.slot is not None and args.slot not in {*range(slots), *(e["slot"] for e in ran)}:
        there = "slot 0" if slots == 1 else f"slots 0 to {slots - 1}"
        raise CliError(f"{view['name']} has no slot {args.slot}, but {there}", NOT_FOUND)
    if args.tail < NO_TAIL:
        raise CliError(f"--tail: {args.tail} is out of range; allowed: 0 and more", USAGE)
    where = {units.named(name, peer): (peer, name) for peer, name in map(_ran_on, ran) if peer}
    if args.peer and not args.follow and not any(args.peer in each for each in where.values()):
        on = f"it has run on {', '.join(sorted(where))}" if where else "it has run nowhere yet"
        raise CliError(f"{view['name']} has not run on {args.peer}; {on}", NOT_FOUND)


def _ran_on(place: dict[str, Any]) -> tuple[str, str]:
    """Of a slot or an execution: the device's id and name."""
    peer, name = place.get("executor", place.get("peer")), place.get("executor_name")
    return str(peer or ""), str(name or place.get("peer_name") or "")


def _since_ms(text: str) -> int:
    """A moment (2026-11-26T12:00:00Z), or how long ago (10m)."""
    try:
        if text[:4].isdigit() and text[4:5] == "-":
            return parse_moment_s(text) * 1000
        return int((time.time() - units.parse_duration(text)) * 1000)
    except ValueError as error:
        raise CliError(f"--since: {error}; or a moment: {MOMENT_FORM}", USAGE) from None
