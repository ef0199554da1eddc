"""`shoal job stop|delete`: ending jobs, on one device or on many."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any, Final

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.exitcodes import FAILED, OK, USAGE, CliError
from agent.cli.tables import note, show_json
from agent.client import AgentError, Client

ASK_FROM: Final = 10  # devices: ending something on more of them is asked about first
ACTIVE: Final = ("starting", "running", "publishing", "restarting")
NAMED_MAX: Final = 5


def stop(args: Namespace) -> int:
    """End all that are named; the first refusal decides the exit code, the others still end."""
    return _end(args, "stop", lambda client, job: client.stop(job))


def delete(args: Namespace) -> int:
    """The same for good: nothing is kept of a daemon but that its name was deleted."""
    return _end(args, "delete", lambda client, job: client.delete(job))


def _end(args: Namespace, verb: str, act: Callable[[Client, str], dict[str, Any]]) -> int:
    answers, refused = [], None
    with connect(args) as client:
        if not args.yes and not _agreed(client, args.job, verb):
            note("nothing was done")
            return FAILED
        for job in args.job:
            try:
                answers.append(act(client, job))
            except AgentError as error:
                if error.status == 0:
                    raise
                note(str(error))
                refused = refused or error
                continue
            if not args.json:
                note(f"{job}: {told(answers[-1], verb)}")
    if args.json:
        show_json({"stopped" if verb == "stop" else "deleted": answers})
    if refused is not None:
        from agent.cli.entry import code_of

        return code_of(refused)
    return OK


def _agreed(client: Client, jobs: list[str], verb: str) -> bool:
    """Whether whoever typed it means it, where it touches many devices. Raises CliError."""
    devices: dict[str, None] = {}
    for job in jobs:
        try:
            view = client.job(job)
        except AgentError as error:
            if error.status == 0:
                raise
            continue  # it is refused below, with its reason
        for slot in view["slots"]:
            if slot["executor"] and slot["state"] in ACTIVE:
                devices[slot["executor"]] = None
    if len(devices) <= ASK_FROM:
        return True
    return confirmed(f"{verb} {', '.join(jobs)} on {len(devices)} devices")


def confirmed(what: str) -> bool:
    """Ask whoever typed it. Raises CliError where nobody is there to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CliError(f"this would {what}, and nobody is here to ask: add --yes", USAGE)
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def told(answer: dict[str, Any], verb: str) -> str:
    """What it brought about, in a sentence."""
    if answer.get("note"):
        return str(answer["note"])
    if "quiet" not in answer:
        return "stopping"
    ended = "deleted" if verb == "delete" else "stopped"
    parts = [f"{ended} on {units.plural(int(answer['quiet']), 'device')}"]
    if answer["stopping"]:
        parts.append(f"still stopping on {_names(answer['stopping'])}")
    if answer["unheard"]:
        parts.append(f"not heard of yet by {_names(answer['unheard'])}")
    return "; ".join(parts)


def _names(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
