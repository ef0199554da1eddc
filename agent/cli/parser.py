"""The parser: argparse over the table of commands, built no further than the command line needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from agent.cli.commands import COMMANDS, GROUPS, Command, add_common
from agent.version import VERSION

_EPILOG: Final = """\
JOB is an id, the beginning of one, or a name. Exit codes: 0 done, 1 refused or failed, 2 wrong
usage or file, 3 no agent answers, 4 no such job; `run` ends with the exit code of the task, 125
where it left none.
"""


class _Parser(argparse.ArgumentParser):
    """Tells a mistyped command from what may be meant; argparse lists all that there are."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(action.choices or ())
        if not isinstance(action, argparse._SubParsersAction) or value in choices:
            return super()._check_value(action, value)
        from difflib import get_close_matches

        close = get_close_matches(str(value), choices, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        self.error(f"there is no command {value!r}; {meant}`{self.prog} --help` lists them")


def build(words: Sequence[str] | None) -> argparse.ArgumentParser:
    """The parser for a command line of these words; None builds all of it (for completions)."""
    parser = _Parser(
        prog="shoal",
        description="Run jobs on your devices: no server, no leader.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common(parser, nested=False)
    parser.add_argument(
        "--version", action="version", version=f"shoal {VERSION}", help="print the version and exit"
    )
    top = parser.add_subparsers(title="commands", metavar="COMMAND")
    groups: dict[str, Any] = {}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        wanted = words is None or (name in words and (not group or group in words))
        if not group:
            _add(top, command, name, wanted)
            continue
        if group not in groups:
            nested = top.add_parser(group, help=GROUPS[group].lower(), allow_abbrev=False)
            nested.set_defaults(parser=nested)
            groups[group] = nested.add_subparsers(title=GROUPS[group], metavar="COMMAND")
        _add(groups[group], command, name, wanted)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words after `shoal`. What follows `--` is a task's command line, untouched."""
    ours, task = _split(words)
    args = build(ours).parse_args(ours)
    if task is not None:
        if not hasattr(args, "command") or args.command:
            build(ours).error("what follows -- is the command line of `shoal run` or `shoal exec`")
        args.command = task
    return args


def _split(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    if "--" not in words:
        return list(words), None
    at = list(words).index("--")
    return list(words[:at]), list(words[at + 1 :])


def _add(subparsers: Any, command: Command, name: str, wanted: bool) -> None:
    """Add one command; the arguments only where it can be the one that is meant."""
    parser = subparsers.add_parser(
        name,
        help=command.help,
        description=command.help[0].upper() + command.help[1:] + ".",
        allow_abbrev=False,
        add_help=wanted,
    )
    parser.set_defaults(handler=command.handler)
    if wanted:
        add_common(parser, nested=True)
        command.arguments(parser)
