"""`shoal exec`: a command once on every device that matches, its output as it comes."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Final

from agent.cli import units
from agent.cli.connecting import connect
from agent.cli.ending import ASK_FROM, confirmed
from agent.cli.exitcodes import FAILED, USAGE, CliError
from agent.cli.following import Following
from agent.cli.peers import matching
from agent.cli.runs import by_flag, label, variable
from agent.cli.tables import note
from agent.client import AgentError
from agent.printable import clean

PRESENT: Final = ("alive", "suspect")
NAMED_MAX: Final = 8
ENGINE: Final = "process"


def run(args: Namespace) -> int:
    """Ends with the worst exit code of all devices; one that gave none counts as 125."""
    from agent.cli.shipping import as_input, check_command, collect, pack

    _check(args)
    shipped = collect(args.file, args.directory)
    check_command(args.command, shipped)
    spec = _spec(args)
    with connect(args) as client:
        peers = [peer for peer in client.peers() if _takes_part(peer)]
        names = sorted(_name(peer) for peer in matching(peers, args.where))
        if not args.yes and len(names) > ASK_FROM:
            what = f"run {args.command[0]} on {units.plural(len(names), 'device')}"
            if not confirmed(what):
                note("nothing was done")
                return FAILED
        if names and not args.json:
            note(clean(f"on {units.plural(len(names), 'device')}: {_some(names)}"))
        try:
            if shipped:
                spec["Tasks"][0]["InputSources"] = [as_input(client.put_archive(pack(shipped)))]
            lines = client.run(spec, args.key or "", logs=True)
            following = Following(
                client, lines, len(names), quiet=False, json=args.json, by_peer=True
            )
            return following.to_end()
        except AgentError as error:
            raise by_flag(error) from None


def _check(args: Namespace) -> None:
    if not args.command:
        message = "what is to be run? shoal exec --where role=sensor -- COMMAND [ARGUMENT ...]"
        raise CliError(message, USAGE)
    if bool(args.where) == args.all:
        message = (
            "on which devices? --where LABEL=VALUE names those with a label, --all means every one"
        )
        raise CliError("either --where or --all, not both" if args.all else message, USAGE)


def _spec(args: Namespace) -> dict[str, Any]:
    """The ops job that it means; the agent checks it, and decides who is on its list."""
    from protocol.constraints import parse_constraints
    from protocol.errors import JobSpecError

    task: dict[str, Any] = {
        "Name": "main",
        "Engine": {"Type": ENGINE, "Params": {"Command": list(args.command)}},
    }
    if args.timeout:
        task["Timeouts"] = {"ExecutionTimeout": args.timeout}
    if args.env:
        task["Env"] = dict(variable(text) for text in args.env)
    spec: dict[str, Any] = {"Type": "ops", "Name": label(args.command), "Tasks": [task]}
    try:
        wanted = [each for text in args.where for each in parse_constraints(text, "--where")]
    except JobSpecError as error:
        raise CliError(str(error), USAGE) from None
    if wanted:
        spec["Constraints"] = [each.to_plain() for each in sorted(set(wanted))]
    return spec


def _takes_part(peer: dict[str, Any]) -> bool:
    return peer["state"] in PRESENT and ENGINE in peer["engines"]


def _name(peer: dict[str, Any]) -> str:
    return units.named(peer["name"], peer["id"])


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
